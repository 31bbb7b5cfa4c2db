package cdc_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
	"github.com/outbox-cdc/outbox-cdc/internal/walsim"
)

var (
	errProducer = errors.New("scripted sink: the producer was refused")
	errReset    = errors.New("scripted sink: reset")
)

// scripted is a sink without a broker: each key is a partition, with one batch
// on the wire at a time, which is settled after a while. What it does it draws
// from a seed. It tells the oracle first.
type scripted struct {
	oracle *walsim.Oracle

	mu         sync.Mutex
	changed    sync.Cond // on mu: there is work, or an end to it
	rng        *rand.Rand
	failures   int // how often a batch will fail; the sink is down then until Reset
	poison     int // how often an event will be refused for good
	delay      time.Duration
	stuck      bool // nothing is taken from the queues
	partitions map[string]*partition
	names      []string // of partitions
	down       error
	closed     bool
	resets     int

	events, bytes       int // unsettled
	maxEvents, maxBytes int // most there ever were
	workers             sync.WaitGroup
}

type partition struct {
	queue  []queued
	onWire bool
	dead   bool // stands still behind poison
}

type queued struct {
	event walsim.Event
	size  int
	ack   cdc.Ack
}

// newScripted returns a sink that works; set changes it before it does.
func newScripted(oracle *walsim.Oracle, seed uint64, set func(*scripted)) *scripted {
	s := &scripted{
		oracle: oracle, rng: rand.New(rand.NewPCG(seed, 2)),
		partitions: make(map[string]*partition), delay: 3 * time.Millisecond,
	}
	s.changed.L = &s.mu
	set(s)
	for range 3 {
		s.workers.Go(s.work)
	}
	return s
}

func (s *scripted) Publish(ev *decoder.Event, ack cdc.Ack) {
	value := func(column string) string { return string(ev.Row.Values[ev.Row.Relation.Index(column)]) }
	q := queued{size: ev.Size, ack: ack, event: walsim.Event{
		ID: value("id"), Key: value("aggregate_id"), Type: value("event_type"), Payload: value("payload"),
	}}
	s.mu.Lock()
	if down := s.down; down != nil || s.closed {
		s.mu.Unlock()
		ack.Fail(ev.Size, cmp.Or(down, errReset))
		return
	}
	p := s.partitions[q.event.Key]
	if p == nil {
		p = &partition{}
		s.partitions[q.event.Key] = p
		s.names = append(s.names, q.event.Key)
	}
	p.queue = append(p.queue, q)
	s.events++
	s.bytes += q.size
	s.maxEvents, s.maxBytes = max(s.maxEvents, s.events), max(s.maxBytes, s.bytes)
	s.changed.Signal()
	s.mu.Unlock()
}

// Reset fails what is queued; what is on the wire stays and goes first.
func (s *scripted) Reset() {
	s.mu.Lock()
	s.resets++
	s.down = nil
	given := s.drain()
	for _, p := range s.partitions {
		p.dead = false
	}
	s.mu.Unlock()
	fail(given, errReset)
}

// drain takes everything that is queued.
func (s *scripted) drain() []queued {
	var given []queued
	for _, name := range s.names {
		p := s.partitions[name]
		given = append(given, p.queue...)
		p.queue = nil
	}
	s.forget(given)
	return given
}

func (s *scripted) forget(settled []queued) {
	s.events -= len(settled)
	for _, q := range settled {
		s.bytes -= q.size
	}
}

func fail(given []queued, err error) {
	for _, q := range given {
		q.ack.Fail(q.size, err)
	}
}

// Close fails what is queued and waits for what is on the wire.
func (s *scripted) Close(context.Context) error {
	s.mu.Lock()
	s.closed = true
	given := s.drain()
	s.changed.Broadcast()
	s.mu.Unlock()
	fail(given, errReset)
	s.workers.Wait()
	return nil
}

// release lets a stuck sink go on, fast.
func (s *scripted) release() {
	s.mu.Lock()
	s.stuck, s.delay = false, 10*time.Microsecond
	s.changed.Broadcast()
	s.mu.Unlock()
}

// most returns the most that was ever unsettled.
func (s *scripted) most() (events, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.maxEvents, s.maxBytes
}

// unsettled returns how many events are.
func (s *scripted) unsettled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events
}

// left returns what was not used of the trouble it was to make.
func (s *scripted) left() (failures, poison int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures, s.poison
}

// work carries batches to their end, one at a time.
func (s *scripted) work() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed {
		p := s.pick()
		if p == nil {
			s.changed.Wait()
			continue
		}
		n := 1 + s.rng.IntN(min(len(p.queue), 8))
		batch := p.queue[:n:n]
		p.queue = p.queue[n:]
		p.onWire = true
		delay := time.Duration(s.rng.Int64N(int64(s.delay)))
		resets := s.resets
		s.mu.Unlock()
		<-time.After(delay)
		s.mu.Lock()
		s.settle(p, batch, resets == s.resets)
		p.onWire = false
		s.changed.Broadcast()
	}
}

// pick chooses a partition that has something to send.
func (s *scripted) pick() *partition {
	if s.stuck {
		return nil
	}
	var ready []*partition
	for _, name := range s.names {
		if p := s.partitions[name]; len(p.queue) > 0 && !p.onWire && !p.dead {
			ready = append(ready, p)
		}
	}
	if len(ready) == 0 {
		return nil
	}
	return ready[s.rng.IntN(len(ready))]
}

// settle gives a batch its outcome. It is called with the lock, and gives it
// away while the relay hears of it. fresh tells that there was no Reset since
// the batch was sent: nobody would hear of an older one's poison.
func (s *scripted) settle(p *partition, batch []queued, fresh bool) {
	done, lost, given, cause := batch, 0, []queued(nil), error(nil)
	switch {
	case s.failures > 0 && s.rng.IntN(40) == 0:
		s.failures--
		n := s.rng.IntN(len(batch))
		done, given, cause = batch[:n], batch[n:], errProducer
		lost = s.rng.IntN(len(given) + 1) // the broker has these, but its answer is lost
	case fresh && s.poison > 0 && s.rng.IntN(40) == 0:
		s.poison--
		n := s.rng.IntN(len(batch))
		done, given = batch[:n], batch[n:n+1]
		cause = fault.New(fault.Poison, "publish", fmt.Errorf("event %s is too large", given[0].event.ID), "")
		p.dead = true // what is behind it stands still
		p.queue = append(append([]queued(nil), batch[n+1:]...), p.queue...)
	}
	for _, q := range done {
		s.oracle.Arrived(q.event)
		s.oracle.Acked(q.event.ID)
	}
	for _, q := range given[:lost] {
		s.oracle.Arrived(q.event)
	}
	s.forget(done)
	s.forget(given)
	if cause == errProducer {
		s.down = errProducer
		given = append(slices.Clip(given), s.drain()...)
	}
	s.mu.Unlock()
	for _, i := range rand.Perm(len(done)) {
		done[i].ack.Done(done[i].size)
	}
	fail(given, cause)
	s.mu.Lock()
}
