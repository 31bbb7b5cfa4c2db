package sink

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/IBM/sarama"
)

// sender sends what one broker leads, one request at a time: a broker works on
// one request of a connection at a time anyway. Its goroutine owns the
// connection and the encoder; Kafka.mu guards the rest.
type sender struct {
	k    *Kafka
	id   int32
	wake chan struct{}

	conn     *sarama.Broker
	connAddr string
	encoder  encoder

	ready   []*partition // those with something to send; one that has moved to another leader is passed over
	bytes   int          // of the ready ones
	state   senderState
	sent    time.Time // when the last request was answered
	count   int       // records of the last request
	tries   int       // requests in a row that got no answer
	retryAt time.Time
}

// fewRecords in a request are too few to wait for more.
const fewRecords = 8

type senderState int

const (
	busy      senderState = iota
	idle                  // nothing is ready
	lingering             // more may come
	resting               // after a failure
)

func newSender(k *Kafka, id int32) *sender {
	return &sender{k: k, id: id, wake: make(chan struct{}, 1)}
}

// poke wakes the sender when it waits for what has just come.
func (s *sender) poke() {
	if s.state == idle && s.k.armed || s.state == lingering && s.bytes >= s.k.tune.batchBytes {
		s.state = busy
		s.wake <- struct{}{} // has room: the state changes once per wait
	}
}

func (s *sender) run() {
	defer s.disconnect()
	for {
		batches := s.next()
		if len(batches) == 0 {
			return
		}
		req := s.encoder.request(batches, s.k.codec, s.k.tune.produceTimeout)
		resp, err := s.produce(req)
		s.encoder.release()
		s.k.settle(s, batches, resp, err)
	}
}

// next waits until there is something to send, and takes it. It returns none
// when the sink is closed.
func (s *sender) next() []*batch {
	k := s.k
	k.mu.Lock()
	defer k.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !k.closing {
		state, wait := s.wait(time.Now())
		if state == busy {
			if batches := s.take(); len(batches) > 0 {
				return batches
			}
			continue
		}
		s.state = state
		k.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-k.quit:
		}
		k.mu.Lock()
		if s.state == busy { // it was poked: if the timer came first, the token is left
			select {
			case <-s.wake:
			default:
			}
		}
		s.state = busy
	}
	return nil
}

// wait says what to do now: to send (busy), or how long to wait for what.
//
// An event that comes after quiet is sent at once. While requests carry many
// events, the next one waits the longer the more there were, so that a backlog
// goes out in few large requests.
func (s *sender) wait(now time.Time) (senderState, time.Duration) {
	t := &s.k.tune
	switch {
	case len(s.ready) == 0 || !s.k.armed:
		return idle, time.Hour
	case now.Before(s.retryAt):
		return resting, s.retryAt.Sub(now)
	case s.bytes >= t.batchBytes:
		return busy, 0
	}
	if d := s.sent.Add(min(t.linger, time.Duration(s.count)*t.lingerPerEvent)).Sub(now); d > 0 && s.count >= fewRecords {
		return lingering, d
	}
	return busy, 0
}

// take makes the batches of one request of what is ready.
func (s *sender) take() []*batch {
	k := s.k
	var batches []*batch
	total, left := 0, 0
	for _, p := range s.ready {
		if p.scheduled != s {
			continue // it has moved
		}
		if !p.sendable() { // it was emptied, or its leader is looked up
			p.scheduled = nil
			continue
		}
		if k.oversized(p) {
			p.scheduled = nil
			k.doubt(p)
			continue
		}
		room := k.tune.requestBytes - total
		if total > 0 && first(p) > room {
			s.ready[left] = p
			left++
			continue
		}
		p.scheduled = nil
		fresh := p.batch == nil
		b := p.next(k.producer, room)
		if fresh {
			k.counters.queued -= b.messages.n
			k.counters.inFlight += b.messages.n
		}
		total += b.messages.bytes
		batches = append(batches, b)
	}
	clear(s.ready[left:])
	s.ready, s.bytes, s.count = s.ready[:left], 0, 0
	for _, p := range s.ready {
		s.bytes += p.ready()
	}
	for _, b := range batches {
		s.count += b.messages.n
	}
	k.onWire += len(batches)
	return batches
}

// first is the least that a partition adds to a request.
func first(p *partition) int {
	if p.batch != nil {
		return p.batch.messages.bytes
	}
	return p.queue.head.wire()
}

// produce sends a request and waits for its answer. An error says nothing
// about what became of the batches, unless it is errTooLarge.
func (s *sender) produce(req *sarama.ProduceRequest) (*sarama.ProduceResponse, error) {
	if s.conn != nil && time.Since(s.sent) > s.k.tune.staleConn {
		s.disconnect()
	}
	if err := s.connect(); err != nil {
		return nil, err
	}
	resp, err := s.conn.Produce(req)
	if err == nil {
		return resp, nil
	}
	if _, ok := errors.AsType[sarama.PacketEncodingError](err); ok {
		return nil, fmt.Errorf("%w: %w", errTooLarge, err)
	}
	s.disconnect() // an answer that came late must not be taken for the next one's
	return nil, fmt.Errorf("broker %d at %s: %w", s.id, s.connAddr, err)
}

// errTooLarge is a request that sarama does not encode: it was not sent.
var errTooLarge = errors.New("the request is larger than the client can send")

func (s *sender) connect() error {
	s.k.mu.Lock()
	addr, known := s.k.brokers[s.id]
	s.k.mu.Unlock()
	if s.conn != nil && (addr == s.connAddr || !known) {
		return nil
	}
	s.disconnect()
	if !known {
		return fmt.Errorf("broker %d has left the cluster", s.id)
	}
	conn, err := s.k.open(addr)
	if err != nil {
		return fmt.Errorf("broker %d at %s: %w", s.id, addr, err)
	}
	s.conn, s.connAddr = conn, addr
	return nil
}

func (s *sender) disconnect() {
	if s.conn != nil {
		_ = s.conn.Close() // its errors are of a connection that is given up
		s.conn = nil
	}
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
