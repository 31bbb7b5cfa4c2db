package sink

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/outbox-cdc/outbox-cdc/decoder"
)

func TestMain(m *testing.M) {
	sarama.MaxRequestSize = 8 << 20 // so that a record can be too large for a request
	// sarama's consumer, which only tests use, asks for a meter of the global registry.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// jsonb, text and timestamptz in pg_type.
const (
	textOID        = 25
	jsonbOID       = 3802
	timestamptzOID = 1184
)

// outbox is the table of the default preset, plus what routes.
var outbox = &decoder.Relation{OID: 16384, Namespace: "public", Name: "outbox", Columns: []decoder.Column{
	{Name: "id", TypeOID: 2950}, {Name: "aggregate_type", TypeOID: textOID}, {Name: "aggregate_id", TypeOID: textOID},
	{Name: "event_type", TypeOID: textOID}, {Name: "payload", TypeOID: jsonbOID},
}}

var commitTime = time.Date(2026, 11, 23, 17, 47, 26, 298695000, time.UTC)

// event returns row n of a test; key nil is NULL.
func event(n int, topic string, key, payload []byte) *decoder.Event {
	return &decoder.Event{
		Row: decoder.Row{Relation: outbox, Values: [][]byte{
			fmt.Appendf(nil, "id-%d", n), []byte(topic), key, []byte("Happened"), payload,
		}},
		Timeline: 1, LSN: pglogrepl.LSN(n + 1), CommitTime: commitTime, Size: 100 + len(payload),
	}
}

func builder(tb testing.TB) *Builder {
	tb.Helper()
	b, err := NewBuilder(RecordConfig{Columns: DefaultColumns(), Topic: "{aggregate_type}", Source: "//test"})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// logText is what was logged.
type logText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// ledger keeps what became of events.
type ledger struct {
	mu     sync.Mutex
	done   []int
	failed map[int]error
	bytes  int
	news   chan struct{}
}

func newLedger() *ledger {
	return &ledger{failed: make(map[int]error), news: make(chan struct{}, 1)}
}

// entry is the Ack of one event.
type entry struct {
	l *ledger
	n int
}

func (l *ledger) ack(n int) Ack { return entry{l, n} }

func (e entry) Done(bytes int) {
	e.l.settle(e.n, bytes, func() { e.l.done = append(e.l.done, e.n) })
}

func (e entry) Fail(bytes int, err error) {
	e.l.settle(e.n, bytes, func() {
		if e.l.failed[e.n] != nil {
			panic(fmt.Sprintf("event %d failed twice", e.n))
		}
		e.l.failed[e.n] = err
	})
}

func (l *ledger) settle(n, bytes int, f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Contains(l.done, n) && len(l.done) < 5000 || l.failed[n] != nil {
		panic(fmt.Sprintf("event %d settled twice", n))
	}
	l.bytes += bytes
	f()
	select {
	case l.news <- struct{}{}:
	default:
	}
}

func (l *ledger) counts() (done, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.done), len(l.failed)
}

func (l *ledger) failure(n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed[n]
}

// await waits until the condition on the numbers of settled events holds.
func (l *ledger) await(tb testing.TB, what string, ok func(done, failed int) bool) {
	tb.Helper()
	deadline := time.After(30 * time.Second)
	for {
		if d, f := l.counts(); ok(d, f) {
			return
		}
		select {
		case <-l.news:
		case <-deadline:
			d, f := l.counts()
			tb.Fatalf("%s: not within 30 s; %d done, %d failed", what, d, f)
		}
	}
}

func (l *ledger) awaitDone(tb testing.TB, n int) {
	tb.Helper()
	l.await(tb, fmt.Sprintf("%d events acknowledged", n), func(done, _ int) bool { return done >= n })
	if d, f := l.counts(); f > 0 || d > n {
		tb.Fatalf("got %d done and %d failed, want %d and 0", d, f, n)
	}
}

// eventually waits for a condition that no channel tells of.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within 20 s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// quick is a tuning that does not make tests wait.
func quick() tuning {
	t := defaultTuning
	t.minBackoff, t.maxBackoff, t.maxAskBackoff = 2*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	t.shortBackoff, t.checkPatience = 2*time.Millisecond, 200*time.Millisecond
	t.dialTimeout, t.readTimeout, t.produceTimeout = 2*time.Second, 2*time.Second, time.Second
	t.logEvery, t.topicPatience = 0, 0
	return t
}

func fake(tb testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	tb.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

func newSink(tb testing.TB, tune tuning, cfg KafkaConfig) *Kafka {
	tb.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(tb.Output(), nil))
	}
	k, err := newKafka(cfg, builder(tb), tune)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = k.Close(ctx)
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.counters.queued != 0 || k.counters.inFlight != 0 {
			tb.Errorf("after Close %d events are queued and %d in flight, want none", k.counters.queued, k.counters.inFlight)
		}
	})
	return k
}

// consume reads a topic from its beginning to its end, by partition.
func consume(tb testing.TB, addrs []string, topic string) map[int32][]*sarama.ConsumerMessage {
	tb.Helper()
	conf := sarama.NewConfig()
	conf.Version = sarama.MaxVersion
	conf.MetricRegistry = noMetrics{}
	conf.Consumer.MaxWaitTime = 20 * time.Millisecond // closing a consumer waits for it
	client, err := sarama.NewClient(addrs, conf)
	if err != nil {
		tb.Fatal(err)
	}
	defer client.Close()
	return consumeWith(tb, client, topic)
}

func consumeWith(tb testing.TB, client sarama.Client, topic string) map[int32][]*sarama.ConsumerMessage {
	tb.Helper()
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		tb.Fatal(err)
	}
	defer consumer.Close()
	partitions, err := client.Partitions(topic)
	if err != nil {
		tb.Fatal(err)
	}
	all := make(map[int32][]*sarama.ConsumerMessage)
	for _, p := range partitions {
		end, err := client.GetOffset(topic, p, sarama.OffsetNewest)
		if err != nil {
			tb.Fatal(err)
		}
		if end == 0 {
			continue
		}
		pc, err := consumer.ConsumePartition(topic, p, 0)
		if err != nil {
			tb.Fatal(err)
		}
		for range end {
			select {
			case m := <-pc.Messages():
				all[p] = append(all[p], m)
			case <-time.After(10 * time.Second):
				tb.Fatalf("topic %s, partition %d: no record for 10 s", topic, p)
			}
		}
		_ = pc.Close()
	}
	return all
}

// ids returns the numbers of the events in a partition's records, in their order.
func ids(tb testing.TB, records []*sarama.ConsumerMessage) []int {
	tb.Helper()
	var all []int
	for _, r := range records {
		for _, h := range r.Headers {
			if string(h.Key) == headerID {
				var n int
				if _, err := fmt.Sscanf(string(h.Value), "id-%d", &n); err != nil {
					tb.Fatal(err)
				}
				all = append(all, n)
			}
		}
	}
	return all
}

func numbers(from, to int) []int {
	var all []int
	for n := from; n < to; n++ {
		all = append(all, n)
	}
	return all
}
