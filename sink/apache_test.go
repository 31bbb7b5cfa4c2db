package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

func createTopic(tb testing.TB, addrs []string, name string, partitions int32, replicas int16, config map[string]string) {
	tb.Helper()
	entries := make(map[string]*string)
	for k, v := range config {
		entries[k] = &v
	}
	detail := &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: replicas, ConfigEntries: entries}
	if err := admin(tb, addrs).CreateTopic(name, detail, false); err != nil {
		tb.Fatal(err)
	}
}

// consumeInOrder waits for leaders, which a cluster that was stalled lacks for a moment.
func consumeInOrder(tb testing.TB, addrs []string, topic string, n int) {
	tb.Helper()
	eventually(tb, "leaders for the consumer", func() bool {
		meta, err := admin(tb, addrs).DescribeTopics([]string{topic})
		return err == nil && !slices.ContainsFunc(meta[0].Partitions, func(p *sarama.PartitionMetadata) bool { return p.Leader < 0 })
	})
	total := 0
	for p, records := range consume(tb, addrs, topic) {
		got := ids(tb, records)
		if total += len(got); !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			tb.Errorf("partition %d: out of order, or twice: %v", p, got)
		}
	}
	if total != n {
		tb.Errorf("got %d records, want each of %d once", total, n)
	}
}

// With the real thing, on one broker.
func TestApacheKafka(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a broker")
	}
	broker := devtest.Kafka(t, devenv.KafkaOptions{TLS: true, Users: []devenv.KafkaUser{{Name: "relay", Password: "right"}}})
	for _, codec := range []string{"none", "gzip", "lz4", "zstd", "snappy"} {
		t.Run("round trip with "+codec, func(t *testing.T) {
			topic := "round-trip-" + codec
			createTopic(t, broker.Brokers(), topic, 1, 1, map[string]string{"message.timestamp.after.max.ms": "9223372036854775807"})
			roundTrip(t, newSink(t, defaultTuning, KafkaConfig{Brokers: broker.Brokers(), Compression: codec}), broker.Brokers(), topic)
		})
	}
	for _, sub := range []struct {
		name string
		test func(*testing.T, *devenv.Kafka)
	}{
		{"a topic that the broker creates", apacheAutoCreate},
		{"a topic that the relay creates", apacheCreate},
		{"a record that is too large", apacheTooLarge},
		{"a record that the topic's policy refuses", apachePolicy},
		{"another producer after a refusal", apacheRefusedProducer},
		{"a topic that is created anew", apacheCreatedAnew},
		{"security", apacheSecurity},
		{"check", apacheCheck},
		{"a broker that is stopped for a while", apacheStopped},
	} {
		t.Run(sub.name, func(t *testing.T) { sub.test(t, broker) })
	}
}

func apacheAutoCreate(t *testing.T, broker *devenv.Kafka) {
	addrs := broker.Brokers()
	k := newSink(t, defaultTuning, KafkaConfig{Brokers: addrs})
	l := newLedger()
	for i := range 100 {
		k.Publish(recent(i, "auto-created", fmt.Appendf(nil, "key-%d", i), []byte("1")), l.ack(i))
	}
	l.awaitDone(t, 100)
	consumeInOrder(t, addrs, "auto-created", 100)
}

func apacheCreate(t *testing.T, broker *devenv.Kafka) {
	addrs := broker.Brokers()
	k := newSink(t, defaultTuning, KafkaConfig{Brokers: addrs, CreateTopics: CreateTopics{Partitions: 5}})
	l := newLedger()
	k.Publish(recent(0, "relay-created", []byte("key"), []byte("1")), l.ack(0))
	l.awaitDone(t, 1)
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := len(k.topics["relay-created"].partitions); n != 5 {
		t.Errorf("got %d partitions, want 5", n)
	}
}

func apacheTooLarge(t *testing.T, broker *devenv.Kafka) {
	addrs := broker.Brokers()
	createTopic(t, addrs, "small", 1, 1, map[string]string{"max.message.bytes": "20000"})
	k := newSink(t, defaultTuning, KafkaConfig{Brokers: addrs})
	l := newLedger()
	for i := range 200 {
		size := 1000
		if i == 150 {
			size = 30_000
		}
		k.Publish(recent(i, "small", []byte("key"), bytes.Repeat([]byte("x"), size)), l.ack(i))
	}
	l.await(t, "the verdict", func(done, failed int) bool { return done >= 150 && failed > 0 })
	if err := l.failure(150); fault.KindOf(err) != fault.Poison || !strings.Contains(err.Error(), "row id-150 ") || !strings.Contains(fault.HintOf(err), "max.message.bytes") {
		t.Errorf("got %v", err)
	}
	if got := ids(t, consume(t, addrs, "small")[0]); !slices.Equal(got, numbers(0, 150)) {
		t.Errorf("got %v, want what was before it", got)
	}
}

func apachePolicy(t *testing.T, broker *devenv.Kafka) {
	addrs := broker.Brokers()
	createTopic(t, addrs, "compacted", 1, 1, map[string]string{"cleanup.policy": "compact"})
	k := newSink(t, defaultTuning, KafkaConfig{Brokers: addrs})
	l := newLedger()
	for i := range 50 {
		key := []byte("key")
		if i == 20 {
			key = nil
		}
		k.Publish(recent(i, "compacted", key, []byte("1")), l.ack(i))
	}
	l.await(t, "the verdict", func(done, failed int) bool { return done >= 20 && failed > 0 })
	if err := l.failure(20); fault.KindOf(err) != fault.Poison {
		t.Errorf("got %v, want poison", err)
	}
}

func apacheRefusedProducer(t *testing.T, broker *devenv.Kafka) {
	addrs := broker.Brokers()
	createTopic(t, addrs, "refused", 1, 1, nil)
	k := newSink(t, defaultTuning, KafkaConfig{Brokers: addrs})
	l := newLedger()
	for i := range 3 {
		k.Publish(recent(i, "refused", []byte("key"), []byte("1")), l.ack(i))
		l.awaitDone(t, i+1)
	}
	k.mu.Lock()
	k.topics["refused"].partitions[0].seq = 77 // as if a batch were missing
	k.mu.Unlock()
	k.Publish(recent(3, "refused", []byte("key"), []byte("1")), l.ack(3))
	l.await(t, "the refusal", func(_, failed int) bool { return failed == 1 })
	if err := l.failure(3); fault.KindOf(err) == fault.Poison || !strings.Contains(err.Error(), "refused the producer") {
		t.Errorf("got %v", err)
	}
	k.Reset()
	k.Publish(recent(4, "refused", []byte("key"), []byte("1")), l.ack(4))
	l.await(t, "the next producer", func(done, _ int) bool { return done == 4 })
	if k.producer.epoch == 0 {
		t.Error("the epoch was not raised")
	}
}

func apacheCreatedAnew(t *testing.T, broker *devenv.Kafka) {
	addrs := broker.Brokers()
	createTopic(t, addrs, "orders", 6, 1, nil)
	k := newSink(t, defaultTuning, KafkaConfig{Brokers: addrs, CreateTopics: CreateTopics{Partitions: 2}})
	old := newLedger()
	publishKeys(k, old, 0, 100)
	old.awaitDone(t, 100)
	if err := admin(t, addrs).DeleteTopic("orders"); err != nil { // the relay creates it anew
		t.Fatal(err)
	}
	n := 100
	for _, failed := old.counts(); failed == 0; _, failed = old.counts() {
		publishKeys(k, old, n, n+20)
		n += 20
		time.Sleep(10 * time.Millisecond)
	}
	old.await(t, "all settled", func(done, failed int) bool { return done+failed == n })
	if err := old.failure(n - 1); !errors.Is(err, errRecreated) {
		t.Errorf("got %v", err)
	}
	k.Reset()
	fresh := newLedger()
	publishKeys(k, fresh, n, n+200)
	fresh.awaitDone(t, 200)
	for p, records := range consume(t, addrs, "orders") {
		got := slices.DeleteFunc(ids(t, records), func(i int) bool { return i < n }) // those before Reset may be there too
		if want := slices.DeleteFunc(numbers(n, n+200), func(i int) bool {
			return partitionOf(fmt.Appendf(nil, "key-%d", i%20), 2) != int(p)
		}); !slices.Equal(got, want) {
			t.Errorf("partition %d: got %v, want %v", p, got, want)
		}
	}
}

func apacheCheck(t *testing.T, broker *devenv.Kafka) {
	addrs := broker.Brokers()
	createTopic(t, addrs, "checked", 4, 1, nil)
	k := newSink(t, defaultTuning, KafkaConfig{Brokers: addrs})
	for _, f := range k.Check(t.Context(), []string{"checked", "not-there"}) {
		t.Logf("%+v", f)
		switch f.Check {
		case "kafka topic checked":
			if f.Status != fault.Warn || !strings.Contains(f.Detail, "4 partitions, replication factor 1, min.insync.replicas 1, max.message.bytes 1048588") {
				t.Errorf("got %+v", f)
			}
		default:
			if f.Status != fault.OK {
				t.Errorf("got %+v", f)
			}
		}
	}
}

func apacheStopped(t *testing.T, broker *devenv.Kafka) {
	addrs := broker.Brokers()
	createTopic(t, addrs, "stopped", 6, 1, nil)
	tune := defaultTuning
	tune.readTimeout, tune.produceTimeout = 4*time.Second, 3*time.Second
	k := newSink(t, tune, KafkaConfig{Brokers: addrs})
	l := newLedger()
	const n = 3000
	publish := func(from, to int) {
		for i := from; i < to; i++ {
			k.Publish(recent(i, "stopped", fmt.Appendf(nil, "key-%d", i%31), []byte("1")), l.ack(i))
		}
	}
	publish(0, n/3)
	l.awaitDone(t, n/3)
	if err := broker.Pause(1); err != nil {
		t.Fatal(err)
	}
	publish(n/3, n)
	time.Sleep(16 * time.Second) // several requests give up their answers
	if k.Stats().Connected {
		t.Error("connected to a stopped broker")
	}
	if err := broker.Continue(1); err != nil {
		t.Fatal(err)
	}
	l.awaitDone(t, n)
	consumeInOrder(t, addrs, "stopped", n)
}

func apacheSecurity(t *testing.T, broker *devenv.Kafka) {
	addrs := broker.Brokers()
	trust := TLSConfig{Enabled: true, CAFile: broker.CAFile()}
	other := writeFile(t, "other.pem", newAuthority(t).pem)
	for _, tc := range []struct {
		name  string
		addrs []string
		tls   TLSConfig
		sasl  SASLConfig
		want  string
	}{
		{"TLS", broker.TLSBrokers(), trust, SASLConfig{}, ""},
		{"SCRAM-SHA-256", broker.SASLBrokers(), trust, SASLConfig{"SCRAM-SHA-256", "relay", "right"}, ""},
		{"SCRAM-SHA-512", broker.SASLBrokers(), trust, SASLConfig{"SCRAM-SHA-512", "relay", "right"}, ""},
		{"PLAIN", broker.SASLBrokers(), trust, SASLConfig{"PLAIN", "relay", "right"}, ""},
		{"a wrong password", broker.SASLBrokers(), trust, SASLConfig{"SCRAM-SHA-512", "relay", "wrong"}, `user "relay"`},
		{"a wrong user", broker.SASLBrokers(), trust, SASLConfig{"SCRAM-SHA-512", "nobody", "right"}, `user "nobody"`},
		{"a wrong PLAIN password", broker.SASLBrokers(), trust, SASLConfig{"PLAIN", "relay", "wrong"}, `user "relay"`},
		{"an unknown authority", broker.TLSBrokers(), TLSConfig{Enabled: true, CAFile: other}, SASLConfig{}, "kafka.tls.ca_file"},
		{"another name", broker.TLSBrokers(), TLSConfig{Enabled: true, CAFile: broker.CAFile(), ServerName: "kafka.example.com"}, SASLConfig{}, "kafka.tls.server_name"},
		{"plaintext to a TLS port", broker.TLSBrokers(), TLSConfig{}, SASLConfig{}, "set kafka.tls.enabled"},
		{"TLS to a plaintext port", addrs, trust, SASLConfig{}, "remove kafka.tls.enabled"},
		{"SASL where there is none", broker.TLSBrokers(), trust, SASLConfig{"PLAIN", "relay", "right"}, "remove kafka.sasl.mechanism"},
		{"no SASL where it is demanded", broker.SASLBrokers(), trust, SASLConfig{}, "set kafka.sasl.mechanism"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newSink(t, defaultTuning, KafkaConfig{Brokers: tc.addrs, TLS: tc.tls, SASL: tc.sasl})
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			start := time.Now()
			err := k.Connect(ctx)
			t.Logf("after %v: %v (hint %q)", time.Since(start), err, fault.HintOf(err))
			if tc.want != "" {
				if fault.KindOf(err) != fault.Usage || !strings.Contains(err.Error()+fault.HintOf(err), tc.want) {
					t.Errorf("got %v (kind %d, hint %q), want a usage error with %q", err, fault.KindOf(err), fault.HintOf(err), tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			l := newLedger()
			k.Publish(recent(0, "secure", []byte("key"), []byte("1")), l.ack(0))
			l.awaitDone(t, 1)
		})
	}
}

// recent is an event that was committed just now: brokers mind the time.
func recent(n int, topic string, key, payload []byte) *decoder.Event {
	ev := event(n, topic, key, payload)
	ev.CommitTime = time.Now()
	return ev
}

// Brokers that are killed, one after the other, lose and reorder nothing.
func TestApacheKafkaLosesBrokers(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts three brokers")
	}
	cluster := devtest.Kafka(t, devenv.KafkaOptions{Brokers: 3})
	addrs := cluster.Brokers()
	createTopic(t, addrs, "orders", 6, 3, map[string]string{"min.insync.replicas": "2"})
	k := newSink(t, defaultTuning, KafkaConfig{Brokers: addrs})
	l := newLedger()
	i := 0
	publish := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); i++ {
			if done, _ := l.counts(); i-done > 2000 { // the relay's window
				time.Sleep(time.Millisecond)
			}
			k.Publish(recent(i, "orders", fmt.Appendf(nil, "key-%d", i%101), []byte("1")), l.ack(i))
			time.Sleep(200 * time.Microsecond)
		}
	}
	publish(300 * time.Millisecond)
	for _, id := range []int32{1, 2} {
		if err := cluster.Kill(id); err != nil {
			t.Fatal(err)
		}
		publish(time.Second)
		if err := cluster.Start(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		publish(time.Second)
	}
	l.awaitDone(t, i)
	consumeInOrder(t, addrs, "orders", i)
	t.Logf("%d events, stats %+v", i, k.Stats())
}

// The broker is a process of its own: cpu-µs/op is the sink's alone.
func BenchmarkApacheKafka(b *testing.B) {
	broker := devtest.Kafka(b, devenv.KafkaOptions{})
	createTopic(b, broker.Brokers(), "orders", 12, 1, map[string]string{
		"message.timestamp.after.max.ms": "9223372036854775807", "retention.bytes": "100000000",
	})
	for _, codec := range []string{"none", "lz4"} {
		b.Run(codec, func(b *testing.B) {
			benchmark(b, newSink(b, defaultTuning, KafkaConfig{Brokers: broker.Brokers(), Compression: codec}))
		})
	}
}
