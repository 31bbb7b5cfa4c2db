package sink

import (
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
)

// errNoAnswer is a response that says nothing of a batch that was in the request.
var errNoAnswer = errors.New("the response lacks the partition")

// errUnsure is a refusal of a batch of which an earlier try may be in the log:
// whether its sequence number is used is not known.
var errUnsure = errors.New("a batch was refused of which an earlier try may have been taken")

// settled is what settle hands out once the lock is released.
type settled struct {
	done   list // acknowledged
	failed []failure
}

// failure is what is failed with one error.
type failure struct {
	given lists
	err   error
}

func (o *settled) fail(given lists, err error) {
	if len(given) > 0 {
		o.failed = append(o.failed, failure{given, err})
	}
}

// settle takes the answer to a request, or the error instead of one.
func (k *Kafka) settle(s *sender, batches []*batch, resp *sarama.ProduceResponse, err error) {
	now := time.Now()
	var out settled
	var fatal error
	k.mu.Lock()
	s.sent = now
	k.counters.requests++
	k.onWire -= len(batches)
	lost := err != nil && !errors.Is(err, errTooLarge)
	if lost {
		bytes := 0
		for _, b := range batches {
			bytes += b.messages.bytes
		}
		k.unanswered(s, err, bytes, now)
	} else {
		s.tries, s.retryAt = 0, time.Time{}
	}
	for _, b := range batches {
		b.onWire = false
		p := b.p
		switch v, cause := outcome(b, resp, err); {
		case b.abandoned:
			p.batch = nil
			p.tries = 0
		case v == acked:
			k.acked(p, &out.done, now)
		case v == again:
			k.again(p, cause, lost)
		case v == fenced:
			fatal = cause
		case b.unsure: // Invariant 6: the next batch under its number could be taken for a repeat of it
			fatal = fmt.Errorf("%w: %w", errUnsure, cause)
		default:
			k.refused(p, v, cause, &out)
		}
		k.moveOn(p)
	}
	if fatal != nil {
		given := k.disown(fmt.Errorf("the broker refused the producer: %w", fatal))
		out.fail(given, k.down)
		k.log.Error("outbox.producer_refused", "error", fatal, "events", given.count())
	}
	k.pump()
	if k.closing && k.onWire == 0 {
		k.signalIdle()
	}
	k.mu.Unlock()
	k.deliver(&out, now)
}

// moveOn lets a partition go on after its batch came back.
func (k *Kafka) moveOn(p *partition) {
	if !k.goOver(p.topic) {
		k.schedule(p)
	}
}

// goOver makes a topic use the partitions that were added to it, once nothing
// of it is on its way to the ones before. It tells whether it did.
func (k *Kafka) goOver(t *topic) bool {
	if t.grow == 0 || t.busy() { // Invariant 5
		return false
	}
	t.setCount(t.grow)
	k.want(t) // for the leaders of the new ones
	for _, p := range t.partitions {
		k.schedule(p)
	}
	return true
}

// signalIdle tells Close that nothing is on the wire.
func (k *Kafka) signalIdle() {
	select {
	case <-k.idle:
	default:
		close(k.idle)
	}
}

func (k *Kafka) acked(p *partition, done *list, now time.Time) {
	messages := p.accepted()
	k.counters.inFlight -= messages.n
	k.counters.published += uint64(messages.n)
	k.counters.lastAck = now
	p.topic.published += uint64(messages.n)
	p.topic.bytes += uint64(messages.bytes - messages.n*recordOverhead)
	k.counters.bytes += uint64(messages.bytes - messages.n*recordOverhead)
	done.append(&messages)
}

// again leaves the batch to be sent once more, unchanged: at the earliest when
// its topic's leaders have been looked up, and, unless the whole request got
// lost and the sender rests, after a backoff.
func (k *Kafka) again(p *partition, cause error, lost bool) {
	k.counters.retries[errorName(cause)]++
	k.counters.retried++
	k.want(p.topic)
	p.needs = p.topic.wanted
	p.batch.unsure = p.batch.unsure || lost || !absent(cause)
	if lost {
		return
	}
	p.tries++
	p.rest = true
	time.AfterFunc(backoff(p.tries, k.tune.shortBackoff, k.tune.maxBackoff), func() {
		k.mu.Lock()
		p.rest = false
		k.schedule(p)
		k.mu.Unlock()
	})
	k.trouble("outbox.produce_retry", fmt.Errorf("topic %s, partition %d: %w", p.topic.name, p.id, cause), waitingHint(cause, p.topic.name))
}

// refused halves a batch that the broker will never take, or names its only record guilty.
func (k *Kafka) refused(p *partition, v verdict, cause error, out *settled) {
	b := p.batch
	k.counters.inFlight -= b.messages.n
	if b.old { // the line has started again: it must hear of this from its own copy of the event
		k.counters.failed += uint64(b.messages.n)
		out.fail(lists{p.discard()}, ErrReset)
		return
	}
	if b.messages.n > 1 && v != refusedTopic {
		if t := p.topic; v == refusedSize {
			t.maxBatch = max(min(t.maxBatch, b.messages.bytes)/2, 1)
			k.log.Info("outbox.batch_halved", "topic", t.name, "partition", p.id, "events", b.messages.n, "bytes", b.messages.bytes, "error", cause)
		}
		k.counters.queued += b.messages.n
		p.halve()
		return
	}
	k.counters.queued += b.messages.n
	n := b.messages.n
	p.unsend()
	k.convict(p, n, cause, out)
}

// deliver settles messages, without the lock: acks are the relay's code.
func (k *Kafka) deliver(out *settled, now time.Time) {
	k.latency.observe(&out.done, now.UnixNano())
	out.done.each(func(m *message) {
		m.ack.Done(m.size) // Invariant 6
		m.free()
	})
	for _, f := range out.failed {
		f.given.fail(f.err)
	}
}
