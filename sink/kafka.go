package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/outbox-cdc/outbox-cdc/decoder"
)

// Kafka publishes to Apache Kafka with batches of its own. See the package
// documentation for the path of a record.
type Kafka struct {
	cfg     KafkaConfig
	tune    tuning
	log     *slog.Logger
	builder *Builder // of the goroutine that publishes
	codec   sarama.CompressionCodec
	conf    *sarama.Config
	dialer  *dialer
	began   time.Time

	quit    chan struct{} // closed by Close
	wake    chan struct{} // the control goroutine has something to do
	running sync.WaitGroup

	mu      sync.Mutex // guards all below, and topics, partitions and batches
	topics  map[string]*topic
	order   []*topic // as they came
	senders map[int32]*sender
	brokers map[int32]string // addresses, as the last metadata named them
	// uncreated are topics that were to be created, and why they were not when that was last tried.
	uncreated map[string]error
	producer  producer
	armed     bool // producer is valid
	// down is why nothing is taken any more until Reset: an event that no
	// record could be made of, or a producer that the brokers refuse.
	down     error
	fenced   error         // why the producer cannot go on, when it was disowned
	closing  bool          // nothing is sent any more
	gate     gate          // of the dead letters
	onWire   int           // batches
	idle     chan struct{} // closed when closing and nothing is on the wire
	link     link
	said     map[string]said // by event
	counters counters
	latency  latencies
}

// tuning is what tests set otherwise.
type tuning struct {
	batchBytes     int           // of a partition's batch, before compression
	requestBytes   int           // of all batches of a request
	linger         time.Duration // the longest wait for more while records come in quickly
	lingerPerEvent time.Duration // how much an event of the last request adds to the wait
	dialTimeout    time.Duration
	readTimeout    time.Duration // for an answer; longer than produceTimeout
	produceTimeout time.Duration // what the broker waits for its followers
	minBackoff     time.Duration // after a broker that did not answer
	maxBackoff     time.Duration
	shortBackoff   time.Duration // after one that said "not yet": a topic is being created, a leader begins
	maxAskBackoff  time.Duration // between questions about topics
	checkPatience  time.Duration // how long Check waits for what passes by itself
	refresh        time.Duration // ask for all topics' metadata this often
	staleConn      time.Duration // a connection that idled longer is not trusted: brokers, and what is between, close such
	logEvery       time.Duration // of one kind of trouble
	topicPatience  time.Duration // how long a topic may be in trouble before that is told
	unknownTopic   time.Duration // how long answers may be that a topic is missing until its events cannot be published
}

var defaultTuning = tuning{
	batchBytes:     512 << 10,
	requestBytes:   2 << 20,
	linger:         5 * time.Millisecond,
	lingerPerEvent: 20 * time.Microsecond,
	dialTimeout:    10 * time.Second,
	readTimeout:    15 * time.Second,
	produceTimeout: 10 * time.Second,
	minBackoff:     50 * time.Millisecond,
	maxBackoff:     5 * time.Second,
	shortBackoff:   10 * time.Millisecond,
	maxAskBackoff:  time.Second,
	checkPatience:  5 * time.Second,
	refresh:        5 * time.Minute,
	staleConn:      30 * time.Second,
	logEvery:       5 * time.Second,
	topicPatience:  2 * time.Second,
	unknownTopic:   30 * time.Second,
}

// NewKafka checks the configuration, with errors of kind fault.Usage, and
// starts to connect in the background. The sink must be closed. builder belongs
// to the sink from now on.
func NewKafka(cfg KafkaConfig, builder *Builder) (*Kafka, error) {
	return newKafka(cfg, builder, defaultTuning)
}

func newKafka(cfg KafkaConfig, builder *Builder, tune tuning) (*Kafka, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	k := &Kafka{
		cfg: cfg, tune: tune, log: cfg.Log, builder: builder, began: time.Now(),
		quit: make(chan struct{}), wake: make(chan struct{}, 1), idle: make(chan struct{}),
		topics: make(map[string]*topic), senders: make(map[int32]*sender), brokers: make(map[int32]string), uncreated: make(map[string]error),
		link: link{changed: make(chan struct{})}, said: make(map[string]said),
		counters: counters{retries: make(map[string]uint64), failures: make(map[string]uint64), dead: make(map[string]uint64)},
		latency:  newLatencies(),
	}
	if err := builder.reserve(cfg.DeadLetters.Topic); err != nil {
		return nil, err
	}
	k.codec, _ = codecOf(cfg.Compression)
	k.dialer = newDialer(tune.dialTimeout, !cfg.TLS.Enabled)
	if k.conf, err = cfg.sarama(tune, k.dialer); err != nil {
		return nil, err
	}
	k.running.Go(k.control)
	return k, nil
}

// now is a clock that nobody sets: ns since the sink began.
func (k *Kafka) now() int64 { return int64(time.Since(k.began)) }

// Publish queues an event. It never blocks: memory is bounded by the relay's window.
func (k *Kafka) Publish(ev *decoder.Event, ack Ack) {
	rec, err := k.builder.build(ev)
	if err != nil {
		k.unpublishable(ev, ack, err)
		return
	}
	m := newMessage(rec, ev, ack, time.Now().UnixNano())
	k.mu.Lock()
	if down := k.refuses(); down != nil {
		k.counters.failed++
		k.mu.Unlock()
		ack.Fail(ev.Size, down)
		return
	}
	k.counters.queued++
	m.topic = k.topic(rec.topic)
	if k.gate.behind.n > 0 {
		k.gate.behind.push(m)
	} else {
		k.queue(m)
	}
	k.mu.Unlock()
}

// refuses returns why no event is taken, or nil.
func (k *Kafka) refuses() error {
	if k.closing {
		return ErrClosed
	}
	return k.down
}

// stop takes no more events after one that cannot be published: a later one of
// its key must not go out (invariant 5). Whichever error the relay sees first,
// it is poison.
func (k *Kafka) stop(poison error) {
	if k.down == nil && poison != nil {
		k.down = fmt.Errorf("sink: stopped: %w", poison)
	}
}

// topic returns what is known of a topic; from its first event on, for ever:
// the package documentation says why.
func (k *Kafka) topic(name string) *topic {
	t := k.topics[name]
	if t == nil {
		t = newTopic(name, k.tune.batchBytes, k.gateOf(name))
		k.topics[name] = t
		k.order = append(k.order, t)
	}
	return t
}

// queue puts a message where it waits.
func (k *Kafka) queue(m *message) {
	t := m.topic
	switch {
	case t.grow > 0:
		t.waiting.push(m)
	case len(t.partitions) == 0:
		t.waiting.push(m)
		k.want(t)
	default:
		p := t.place(m)
		p.queue.push(m)
		if s := p.scheduled; s != nil {
			s.bytes += m.wire()
			s.poke()
		} else {
			k.schedule(p)
		}
	}
}

// schedule hands a partition to the sender of its leader, when it has something to send.
func (k *Kafka) schedule(p *partition) {
	if p.scheduled != nil || k.closing || !p.sendable() {
		return
	}
	if p.leader < 0 {
		k.want(p.topic)
		return
	}
	s := k.senders[p.leader]
	if s == nil {
		s = newSender(k, p.leader)
		k.senders[p.leader] = s
		k.running.Go(s.run)
	}
	p.scheduled = s
	s.ready = append(s.ready, p)
	s.bytes += p.ready()
	s.poke()
}

// Reset gives up what was not sent, and takes events again after a failure. A
// batch without an outcome stays, with its old acks, and nothing newer of its
// partition goes out before it (invariant 5).
func (k *Kafka) Reset() {
	k.mu.Lock()
	var given lists
	if k.fenced != nil {
		k.rearm()
	}
	k.down, k.fenced = nil, nil
	k.gate.open()
	given.add(k.gate.drain())
	for _, t := range k.order {
		for _, p := range t.partitions {
			given.add(p.drain())
			if p.batch != nil {
				p.batch.old = true
			}
			k.schedule(p)
		}
		given.add(t.drain())
		k.goOver(t)
	}
	k.unqueue(given)
	k.mu.Unlock()
	given.fail(ErrReset)
}

// rearm goes on as another producer after this one was disowned. The
// epoch is raised rather than the id replaced where that is possible: once a
// partition has seen the new epoch, it refuses what of the old one may still
// be on its way, so that nothing old appears behind something new (KIP-360).
func (k *Kafka) rearm() {
	ours := errors.Is(k.fenced, sarama.ErrOutOfOrderSequenceNumber) || errors.Is(k.fenced, sarama.ErrUnknownProducerID) ||
		errors.Is(k.fenced, errRecreated) || errors.Is(k.fenced, errUnsure)
	if ours && k.producer.epoch < math.MaxInt16 {
		k.producer.epoch++
	} else {
		k.armed = false
		k.wakeControl()
	}
	for _, t := range k.order {
		for _, p := range t.partitions {
			p.seq = 0
		}
	}
}

// disown ends the sink until Reset, which goes on as another producer: the
// numbers of what this one has sent mean nothing any more. Everything that is
// not settled is returned, to be failed with k.down.
func (k *Kafka) disown(cause error) lists {
	if k.fenced != nil {
		return nil
	}
	var given lists
	k.fenced = cause
	k.down = fmt.Errorf("sink: %w", cause)
	k.counters.failures[errorName(cause)]++
	for _, t := range k.order {
		for _, p := range t.partitions { // what was sent first, first
			k.abandon(p, &given)
		}
		given.add(t.drain())
	}
	given.add(k.gate.drain())
	k.unqueue(given)
	return given
}

// unqueue counts messages as failed that were counted as queued.
func (k *Kafka) unqueue(given lists) {
	n := given.count()
	k.counters.queued -= n
	k.counters.failed += uint64(n)
}

// abandon takes everything off a partition. A batch on the wire keeps its
// place until its outcome is known, so that nothing overtakes it.
func (k *Kafka) abandon(p *partition, given *lists) {
	if b := p.batch; b != nil && !b.abandoned {
		k.counters.queued += b.messages.n // for the caller counts all as queued
		k.counters.inFlight -= b.messages.n
		given.add(b.messages)
		if b.onWire {
			b.abandoned = true
		} else {
			p.batch = nil
		}
	}
	p.tries = 0
	given.add(p.drain())
}

// Close fails what is queued, gives batches on the wire until ctx ends to be
// settled, and then fails those too. It returns an error when it came to that.
// It hangs on no broker.
func (k *Kafka) Close(ctx context.Context) error {
	k.mu.Lock()
	if k.closing {
		k.mu.Unlock()
		return nil
	}
	k.closing = true
	var queued lists
	for _, t := range k.order {
		for _, p := range t.partitions {
			if p.batch != nil && p.batch.onWire {
				queued.add(p.drain())
			} else {
				k.abandon(p, &queued)
			}
		}
		queued.add(t.drain())
	}
	queued.add(k.gate.drain())
	k.unqueue(queued)
	if k.onWire == 0 {
		close(k.idle)
	}
	k.mu.Unlock()
	queued.fail(ErrClosed)

	select {
	case <-k.idle:
	case <-ctx.Done():
	}
	k.mu.Lock()
	var cut lists
	for _, t := range k.order {
		for _, p := range t.partitions {
			k.abandon(p, &cut)
		}
		cut.add(t.drain()) // a dead letter of what was refused meanwhile
	}
	k.unqueue(cut)
	k.mu.Unlock()
	cut.fail(ErrClosed)

	close(k.quit)
	k.dialer.close() // ends every read and write
	k.awaitEnd(time.Second)
	if n := cut.count(); n > 0 {
		cause := context.Cause(ctx)
		if cause == nil {
			cause = errUnfinished
		}
		return fmt.Errorf("close kafka: the outcome of %d events is not known: %w", n, cause)
	}
	return nil
}

// errUnfinished is why Close does not know an outcome although its time was not over.
var errUnfinished = errors.New("the broker wanted them again")

// awaitEnd waits for the goroutines, which have nothing to wait for any more but
// a broker's throttling.
func (k *Kafka) awaitEnd(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		k.running.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
	}
}
