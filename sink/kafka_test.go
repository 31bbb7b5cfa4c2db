package sink

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rcrowley/go-metrics"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

func TestPublish(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.NumBrokers(3), kfake.SeedTopics(5, "orders"))
	tap := newTap(t, cluster)
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	const n = 2000
	size := 0
	for i := range n {
		ev := event(i, "orders", fmt.Appendf(nil, "key-%d", i%37), fmt.Appendf(nil, `{"n": %d}`, i))
		size += ev.Size
		k.Publish(ev, l.ack(i))
		clear(ev.Row.Values[4]) // what the sink keeps is its own
	}
	l.awaitDone(t, n)
	if l.bytes != size {
		t.Errorf("settled with %d bytes, want each event's Size: %d", l.bytes, size)
	}
	got := 0
	for p, records := range consume(t, cluster.ListenAddrs(), "orders") {
		order := ids(t, records)
		if !slices.IsSorted(order) {
			t.Errorf("partition %d is out of order: %v", p, order)
		}
		got += len(order)
		for i, r := range records {
			if want := partitionOf(r.Key, 5); int(p) != want {
				t.Errorf("key %s is in partition %d, want %d", r.Key, p, want)
			}
			if want := fmt.Sprintf(`{"n": %d}`, order[i]); string(r.Value) != want {
				t.Errorf("got value %q, want %q", r.Value, want)
			}
		}
	}
	if got != n {
		t.Errorf("got %d records, want %d", got, n)
	}
	checkSequences(t, tap.all())
	s := k.Stats()
	if s.Published != n || s.Queued != 0 || s.InFlight != 0 || s.Failed != 0 || !s.Connected || !s.Oldest.IsZero() || s.LastAck.IsZero() || s.Brokers != 3 || s.Topics != 1 {
		t.Errorf("got stats %+v", s)
	}
}

// What a consumer reads is what the builder made, with every codec.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, codec := range []string{"none", "gzip", "lz4", "zstd", "snappy"} {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, kfake.SeedTopics(1, "orders"))
			k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), Compression: codec})
			roundTrip(t, k, cluster.ListenAddrs(), "orders")
		})
	}
}

// roundTrip publishes rows of all kinds to partition 0 of a topic that has no other, and compares.
func roundTrip(t *testing.T, k *Kafka, addrs []string, topic string) {
	t.Helper()
	want := builder(t)
	var events []*decoder.Event
	for i := range 60 {
		ev := event(i, topic, []byte("key"), fmt.Appendf(nil, `{"n": %d, "text": "%s"}`, i, strings.Repeat("ü", i)))
		ev.CommitTime = commitTime.Add(time.Duration(i%7) * -time.Second) // it steps back
		switch i % 5 {
		case 1:
			ev.Row.Values[2] = nil
		case 2:
			ev.Row.Values[4] = nil
		case 3:
			ev.Row.Values[2], ev.Row.Values[4] = []byte{}, []byte{}
		case 4:
			ev.Row.Values[4] = bytes.Repeat([]byte{0, 255, byte(i)}, 3000)
		}
		events = append(events, ev)
	}
	l := newLedger()
	for i, ev := range events {
		k.Publish(ev, l.ack(i))
	}
	l.awaitDone(t, len(events))
	records := consume(t, addrs, topic)[0]
	if len(records) != len(events) {
		t.Fatalf("got %d records, want %d", len(records), len(events))
	}
	for i, r := range records {
		rec, err := want.build(events[i])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(r.Key, rec.key) || (r.Key == nil) != (rec.key == nil) {
			t.Errorf("record %d: got key %q, want %q", i, r.Key, rec.key)
		}
		if !bytes.Equal(r.Value, rec.value) || (r.Value == nil) != (rec.value == nil) {
			t.Errorf("record %d: got value %q, want %q", i, r.Value, rec.value)
		}
		if !r.Timestamp.Equal(events[i].CommitTime.Truncate(time.Millisecond)) {
			t.Errorf("record %d: got time %v, want %v", i, r.Timestamp.UTC(), events[i].CommitTime)
		}
		same := slices.EqualFunc(r.Headers, rec.headers, func(a *sarama.RecordHeader, b header) bool {
			return string(a.Key) == b.name && bytes.Equal(a.Value, b.value) && a.Value != nil
		})
		if !same {
			t.Errorf("record %d: got headers %v, want %v", i, r.Headers, rec.headers)
		}
	}
}

// An event that no record can be made of stops the sink until Reset: nothing goes out behind it.
func TestPoisonedEvent(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	k.Publish(event(1, "or ders", []byte("key"), []byte("1")), l.ack(1))
	k.Publish(event(2, "orders", []byte("key"), []byte("1")), l.ack(2))
	l.await(t, "all settled", func(done, failed int) bool { return done+failed == 3 })
	for _, n := range []int{1, 2} { // whichever the relay looks at, it stops
		if err := l.failure(n); fault.KindOf(err) != fault.Poison || fault.HintOf(err) == "" {
			t.Errorf("event %d: got %v, want poison", n, err)
		}
	}
	k.Reset()
	k.Publish(event(3, "orders", []byte("key"), []byte("1")), l.ack(3))
	l.await(t, "an event after Reset", func(done, _ int) bool { return done == 2 })
	if got := ids(t, consume(t, cluster.ListenAddrs(), "orders")[0]); !slices.Equal(got, []int{0, 3}) {
		t.Errorf("got %v, want 0 and 3", got)
	}
}

// Requests and batches stay within their limits; a record that is larger than
// them goes alone.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(8, "orders"), kfake.BrokerConfigs(map[string]string{"message.max.bytes": "10000000"}))
	tune := quick()
	tune.batchBytes, tune.requestBytes = 10_000, 30_000
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	entered, release := hold(cluster)
	tap := newTap(t, cluster)
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	wait(t, "a batch on the wire", entered)
	const n = 800
	for i := 1; i < n; i++ {
		size := 1000
		if i == 400 {
			size = 500_000
		}
		k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i), bytes.Repeat([]byte("x"), size)), l.ack(i))
	}
	release()
	l.awaitDone(t, n)
	size, count := make(map[int]int), make(map[int]int)
	for _, b := range tap.all() {
		if len(b.raw) > 10_000 && b.n > 1 {
			t.Errorf("a batch of %d records has %d bytes", b.n, len(b.raw))
		}
		size[b.request] += len(b.raw)
		count[b.request]++
	}
	for r, bytes := range size {
		if bytes > 30_000 && count[r] > 1 {
			t.Errorf("a request of %d batches has %d bytes", count[r], bytes)
		}
	}
}

func TestCollector(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1))
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	const topics = maxTopicLabels + 20
	for i := range topics {
		k.Publish(event(i, fmt.Sprintf("topic-%d", i), []byte("key"), []byte("12345")), l.ack(i))
	}
	l.awaitDone(t, topics)
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(k); err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("got %v, %v", problems, err)
	}
	if got, err := testutil.GatherAndCount(reg, "outbox_cdc_published_events_total"); err != nil || got != maxTopicLabels+1 {
		t.Errorf("got %d series of topics, %v, want %d", got, err, maxTopicLabels+1)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			got[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{
		"outbox_cdc_published_events_total": topics, "outbox_cdc_commit_to_ack_seconds": topics,
		"outbox_cdc_publish_to_ack_seconds": topics, "outbox_cdc_kafka_connected": 1,
		"outbox_cdc_sink_queued_events": 0, "outbox_cdc_sink_in_flight_events": 0, "outbox_cdc_oldest_unacked_seconds": 0,
	} {
		if got[name] != want {
			t.Errorf("%s: got %v, want %v", name, got[name], want)
		}
	}
}

// Clocks of two machines differ: no time is negative.
func TestSeconds(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]float64{-time.Second: 0, 0: 0, 1500 * time.Millisecond: 1.5} {
		if got := seconds(d.Nanoseconds()); got != want {
			t.Errorf("%v: got %v", d, got)
		}
	}
}

// sarama's metrics neither grow nor run a goroutine.
func TestNoMetrics(t *testing.T) {
	t.Parallel()
	var r metrics.Registry = noMetrics{}
	if _, ok := metrics.GetOrRegisterMeter("m", r).(metrics.NilMeter); !ok {
		t.Error("a meter is kept")
	}
	if _, ok := metrics.GetOrRegisterCounter("c", r).(metrics.NilCounter); !ok {
		t.Error("a counter is kept")
	}
	made := false
	h := r.GetOrRegister("h", func() metrics.Histogram { // as sarama does it
		made = true
		return nil
	})
	if _, ok := h.(metrics.NilHistogram); !ok || made {
		t.Error("a histogram is kept")
	}
}

// The errors' classes, by code: every code that sarama knows is judged on purpose.
func TestJudge(t *testing.T) {
	t.Parallel()
	for code, want := range map[sarama.KError]verdict{
		sarama.ErrNoError: acked, sarama.ErrDuplicateSequenceNumber: acked,
		sarama.ErrNotLeaderForPartition: again, sarama.ErrNotEnoughReplicasAfterAppend: again, sarama.ErrInvalidMessage: again,
		sarama.ErrOutOfOrderSequenceNumber: fenced, sarama.ErrProducerFenced: fenced, sarama.ErrInvalidProducerEpoch: fenced,
		sarama.ErrUnknownProducerID: fenced, sarama.ErrInvalidProducerIDMapping: fenced,
		sarama.ErrMessageSizeTooLarge: refusedSize, sarama.ErrMessageSetSizeTooLarge: refusedSize,
		sarama.ErrTopicAuthorizationFailed: refusedTopic, sarama.ErrInvalidTopic: refusedTopic,
		sarama.ErrInvalidRecord: refusedRecord, sarama.ErrInvalidTimestamp: refusedRecord, sarama.ErrPolicyViolation: refusedRecord,
		sarama.ErrUnknown: refusedRecord, 4711: refusedRecord,
	} {
		if got := judge(code); got != want {
			t.Errorf("%v: got verdict %d, want %d", code, got, want)
		}
	}
	if got := errorName(fmt.Errorf("x: %w", sarama.KError(4711))); got != "CODE_4711" {
		t.Errorf("got %q", got)
	}
	if got := errorName(errors.New("x")); got != "NETWORK" {
		t.Errorf("got %q", got)
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]time.Duration{1: 50 * time.Millisecond, 2: 100 * time.Millisecond, 7: 3200 * time.Millisecond, 8: 5 * time.Second, 1000: 5 * time.Second} {
		if got := backoff(n, 50*time.Millisecond, 5*time.Second); got < want*9/10 || got > want*11/10 {
			t.Errorf("try %d: got %v, want %v and a tenth more or less", n, got, want)
		}
	}
}

func BenchmarkKafka(b *testing.B) {
	for _, codec := range []string{"none", "lz4"} {
		b.Run(codec, func(b *testing.B) {
			cluster := fake(b, kfake.SeedTopics(12, "orders"), kfake.BlackholeProduce())
			benchmark(b, newSink(b, defaultTuning, KafkaConfig{Brokers: cluster.ListenAddrs(), Compression: codec}))
		})
	}
}
