package sim

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/walsim"
	"github.com/outbox-cdc/outbox-cdc/sink"
)

// probe stands between a relay and its sink. It checks that each keeps its
// contract with the other, and makes some acknowledgements come late and in
// another order, as the contract allows.
type probe struct {
	*sink.Kafka
	oracle    *walsim.Oracle
	relay     *cdc.Relay
	maxEvents int
	maxBytes  int
	held      int // of a hundred acknowledgements
	late      sync.WaitGroup

	mu            sync.Mutex
	rng           *rand.Rand
	events, bytes int // that are not settled
}

// Publish is part of cdc.Sink.
func (p *probe) Publish(ev *decoder.Event, ack cdc.Ack) {
	p.mu.Lock()
	if p.events >= p.maxEvents || p.bytes >= p.maxBytes {
		p.oracle.Breach("another event, with %d events, %d bytes in flight and limits of %d, %d (Invariant 7)", p.events, p.bytes, p.maxEvents, p.maxBytes)
	}
	// What is settled leaves here before it leaves the window.
	if counted := p.relay.Stats().InFlightEvents; counted <= p.events {
		p.oracle.Breach("event %d is published, and %d are counted as in flight (Invariant 1)", p.events+1, counted)
	}
	p.events++
	p.bytes += ev.Size
	late := time.Duration(0)
	if p.rng.IntN(100) < p.held {
		late = time.Duration(1+p.rng.IntN(20)) * time.Millisecond
	}
	p.mu.Unlock()
	p.Kafka.Publish(ev, &watchedAck{probe: p, ack: ack, size: ev.Size, late: late})
}

// ended checks what a relay and its sink that have ended leave behind.
func (p *probe) ended() {
	p.late.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.events != 0 || p.bytes != 0 {
		p.oracle.Breach("%d events, %d bytes were never settled (Invariant 6)", p.events, p.bytes)
	}
}

// watchedAck is the Ack of one event.
type watchedAck struct {
	probe   *probe
	ack     cdc.Ack
	size    int
	late    time.Duration
	settled atomic.Bool
}

// settle checks and counts.
func (a *watchedAck) settle(bytes int) {
	if a.settled.Swap(true) {
		a.probe.oracle.Breach("an event was settled twice (Invariant 6)")
		return
	}
	if bytes != a.size {
		a.probe.oracle.Breach("an event of %d bytes was settled with %d", a.size, bytes)
	}
	a.probe.mu.Lock()
	defer a.probe.mu.Unlock()
	a.probe.events--
	a.probe.bytes -= a.size
}

// Done is part of cdc.Ack.
func (a *watchedAck) Done(bytes int) {
	if a.late == 0 {
		a.settle(bytes)
		a.ack.Done(bytes)
		return
	}
	a.probe.late.Add(1)
	time.AfterFunc(a.late, func() {
		defer a.probe.late.Done()
		a.settle(bytes)
		a.ack.Done(bytes)
	})
}

// Fail is part of cdc.Ack.
func (a *watchedAck) Fail(bytes int, err error) {
	a.settle(bytes)
	a.ack.Fail(bytes, err)
}
