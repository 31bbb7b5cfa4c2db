package sink

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/IBM/sarama"
)

// topic is where the records of one topic wait. Kafka.mu guards it.
type topic struct {
	name       string
	id         sarama.Uuid // KIP-516: another one is another topic of that name; zero: not known
	partitions []*partition
	waiting    list  // what has no partition yet: their number is not known, or about to grow
	gate       *gate // nil: the topic of the dead letters
	grow       int   // the number of partitions to go over to once nothing is under way; 0: none
	sticky     int   // where records without a key go, until a batch of it is cut
	maxBatch   int   // bytes of a batch; less after the broker found one too large
	limit      int   // its max.message.bytes; 0: not known

	// Metadata is asked for by raising wanted; an answer to a request that went
	// out at asked sets answered.
	wanted, asked, answered uint64
	askAt                   int64 // not earlier, by Kafka.now
	tries                   int32 // answers in a row that it is not ready
	unready                 bool  // the last answer said to ask again later
	limited                 bool  // limit is what the broker has told, if it tells
	// stuck says that the first of the waiting was refused for good. The others
	// go nowhere behind it (invariant 5).
	stuck    error
	missing  absence
	troubled int64 // since when something has kept it from being ready, by Kafka.now; 0: nothing has

	published, bytes uint64 // acknowledged events, and their keys, values and headers
}

// partition is a queue with at most one batch out of it.
type partition struct {
	topic  *topic
	id     int32
	leader int32 // broker, -1: none known
	queue  list
	// batch was sent, or is about to be, and its outcome is not known: it is
	// sent again unchanged until it is. Nothing else of the partition goes out
	// meanwhile (invariant 5).
	batch *batch
	seq   int32  // sequence number of the next new batch
	needs uint64 // goes on only when topic.answered is this far: a leader looked up after a failure
	tries int    // failures of the batch in a row
	rest  bool   // waits until its next try is due
	// doubted is that an oversized event waits for the limit to be read again.
	doubted bool
	// suspects is the length of the queue's front that was part of a refused
	// batch and not accepted since: the guilty record is in it.
	suspects int
	limit    int // records that the next batch may have; 0: any number
	// stuck says which record was refused for good. Nothing of the partition
	// goes out behind it (invariant 5).
	stuck     error
	scheduled *sender // has the partition on its list of the ready ones
}

// batch is a run of messages under one sequence number.
type batch struct {
	p         *partition
	messages  list
	producer  producer
	seq       int32
	onWire    bool
	abandoned bool // its events were failed meanwhile; but nothing may overtake it
	old       bool // it was sent before a Reset: its events come again behind it
	unsure    bool // an earlier try may have put it into the log
}

// producer is what Kafka knows a producer by: https://cwiki.apache.org/confluence/display/KAFKA/KIP-98.
type producer struct {
	id    int64
	epoch int16
}

func newTopic(name string, maxBatch int, g *gate) *topic {
	return &topic{name: name, maxBatch: maxBatch, gate: g}
}

// place returns the partition of a message.
func (t *topic) place(m *message) *partition {
	if m.key < 0 {
		return t.partitions[t.sticky]
	}
	return t.partitions[partitionOf(m.keyBytes(), len(t.partitions))]
}

// setCount makes the topic have n partitions and gives what waited its place.
// Partitions that it takes away must be empty.
func (t *topic) setCount(n int) {
	if n < len(t.partitions) {
		t.partitions = slices.Delete(t.partitions, n, len(t.partitions))
	}
	for id := len(t.partitions); id < n; id++ {
		t.partitions = append(t.partitions, &partition{topic: t, id: int32(id), leader: -1})
	}
	t.grow = 0
	t.sticky = rand.IntN(n)
	waiting := t.drain()
	waiting.each(func(m *message) { t.place(m).queue.push(m) })
}

// most is how many bytes of records a batch may have.
func (t *topic) most() int {
	if t.limit > 0 {
		return min(t.maxBatch, t.limit-batchOverhead)
	}
	return t.maxBatch
}

// drain empties the queue of what has no partition yet, and forgets what was refused.
func (t *topic) drain() list {
	t.stuck = nil
	waiting := t.waiting
	t.waiting = list{}
	return waiting
}

// busy tells whether anything of the topic is queued, sent, or stands still.
func (t *topic) busy() bool {
	if t.stuck != nil {
		return true
	}
	for _, p := range t.partitions {
		if p.queue.n > 0 || p.batch != nil || p.stuck != nil {
			return true
		}
	}
	return false
}

// awaited tells whether an event waits to get there.
func (t *topic) awaited() bool { return t.waiting.n > 0 || t.busy() }

// sortOut parts topics by whether something waits for them.
func sortOut(topics []*topic) (awaited, idle []*topic) {
	for _, t := range topics {
		if t.awaited() {
			awaited = append(awaited, t)
		} else {
			idle = append(idle, t)
		}
	}
	return awaited, idle
}

// sendable tells whether the partition has something that may go out now, to
// whichever leader.
func (p *partition) sendable() bool {
	switch {
	case p.stuck != nil, p.rest, p.topic.answered < p.needs, p.topic.gate.closed(): // Invariant 5
		return false
	case p.batch != nil:
		return !p.batch.onWire
	}
	return p.queue.n > 0
}

// ready is how many bytes the partition's next batch may have.
func (p *partition) ready() int {
	if p.batch != nil {
		return p.batch.messages.bytes
	}
	return p.queue.bytes
}

// next returns the batch to send: the one that has no outcome yet, with the
// number and the contents it had, or a new one of at most bytes.
func (p *partition) next(pr producer, bytes int) *batch {
	if p.batch == nil {
		p.batch = &batch{p: p, producer: pr, seq: p.seq, messages: p.queue.cut(p.limit, min(bytes, p.topic.most()))}
		if t := p.topic; t.sticky == int(p.id) {
			t.sticky = rand.IntN(len(t.partitions))
		}
	}
	p.batch.onWire = true
	return p.batch
}

// accepted takes the batch off after the broker took it. The next one goes on
// where its sequence numbers end; after the largest comes 0.
func (p *partition) accepted() list {
	b := p.batch
	p.seq = int32((int64(b.seq) + int64(b.messages.n)) & 0x7fffffff)
	p.batch, p.tries = nil, 0
	p.suspects = max(0, p.suspects-b.messages.n)
	p.limit = p.suspects // the second half: as one batch
	return b.messages
}

// halve takes the batch apart after the broker refused it, and leaves its
// first half to be sent next. The refused batch used no sequence number.
func (p *partition) halve() {
	b := p.batch
	p.batch = nil
	p.suspects, p.limit = b.messages.n, b.messages.n/2
	b.messages.append(&p.queue)
	p.queue = b.messages
}

// unsend takes the batch apart after the broker refused it for good.
func (p *partition) unsend() {
	b := p.batch
	p.batch = nil
	b.messages.append(&p.queue)
	p.queue = b.messages
}

// convict takes n guilty records off the queue.
func (p *partition) convict(n int) list {
	p.suspects = max(0, p.suspects-n)
	p.limit = p.suspects
	return p.queue.cut(n, math.MaxInt)
}

// discard takes off a batch that the broker refused and that is old: nothing
// is lost, nor out of order, when it never gets there.
func (p *partition) discard() list {
	b := p.batch
	p.batch, p.tries = nil, 0
	return b.messages
}

// drain empties the queue, and forgets what was refused.
func (p *partition) drain() list {
	queue := p.queue
	p.queue = list{}
	p.suspects, p.limit, p.stuck = 0, 0, nil
	return queue
}

// backoff is how long to wait before try n, counted from 1: lo doubled each
// time, up to hi, and spread by a fifth so that not all come back at once.
func backoff(n int, lo, hi time.Duration) time.Duration {
	d := min(hi, lo<<min(n-1, 20))
	return d - d/10 + rand.N(d/5+1)
}
