package sink

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

func admin(tb testing.TB, addrs []string) sarama.ClusterAdmin {
	tb.Helper()
	conf := sarama.NewConfig()
	conf.Version, conf.MetricRegistry = sarama.MaxVersion, noMetrics{}
	a, err := sarama.NewClusterAdmin(addrs, conf)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = a.Close() })
	return a
}

// A topic that is not there holds up its own events only, in their order.
func TestTopicThatDoesNotExist(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	late, l := newLedger(), newLedger()
	for i := range 50 {
		k.Publish(event(i, "later", []byte("key"), []byte("1")), late.ack(i))
		k.Publish(event(i, "orders", []byte("key"), []byte("1")), l.ack(i))
	}
	l.awaitDone(t, 50)
	eventually(t, "the trouble in the stats", func() bool { return k.Stats().LastError != "" })
	if done, failed := late.counts(); done+failed != 0 {
		t.Errorf("got %d done and %d failed of a topic that does not exist", done, failed)
	}
	if s := k.Stats(); s.Queued != 50 || s.Oldest.IsZero() {
		t.Errorf("got stats %+v, want 50 queued and the oldest", s)
	}
	if err := admin(t, cluster.ListenAddrs()).CreateTopic("later", &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}, false); err != nil {
		t.Fatal(err)
	}
	late.awaitDone(t, 50)
	if got := ids(t, consume(t, cluster.ListenAddrs(), "later")[0]); !slices.Equal(got, numbers(0, 50)) {
		t.Errorf("got %v", got)
	}
}

func TestTopicIsCreated(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		opts   []kfake.Opt
		create CreateTopics
		want   int
	}{
		{"by the relay", nil, CreateTopics{Partitions: 7}, 7},
		{"by the brokers", []kfake.Opt{kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(4)}, CreateTopics{}, 4},
		{"by the relay although the brokers would", []kfake.Opt{kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(4)}, CreateTopics{Partitions: 6, ReplicationFactor: 1}, 6},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, append(tc.opts, kfake.NumBrokers(2))...)
			k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), CreateTopics: tc.create})
			l := newLedger()
			for i := range 100 {
				k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i), []byte("1")), l.ack(i))
			}
			l.awaitDone(t, 100)
			meta, err := admin(t, cluster.ListenAddrs()).DescribeTopics([]string{"orders"})
			if err != nil || len(meta[0].Partitions) != tc.want {
				t.Errorf("got %d partitions (%v), want %d", len(meta[0].Partitions), err, tc.want)
			}
		})
	}
}

// The number of partitions changes only when nothing is on its way, so that no
// event of a key overtakes an earlier one that went to another partition.
func TestPartitionsAreAdded(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(2, "orders"))
	entered, release := hold(cluster)
	defer release()
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	publish := func(from, to int) {
		for i := from; i < to; i++ {
			k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i%20), []byte("1")), l.ack(i))
		}
	}
	publish(0, 100)
	wait(t, "a batch on the wire", entered)
	if err := admin(t, cluster.ListenAddrs()).CreatePartitions("orders", 8, nil, false); err != nil {
		t.Fatal(err)
	}
	k.wantAll()
	eventually(t, "the sink knows", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.topics["orders"].grow == 8
	})
	publish(100, 200)
	release()
	l.awaitDone(t, 200)
	publish(200, 300)
	l.awaitDone(t, 300)
	for p, records := range consume(t, cluster.ListenAddrs(), "orders") {
		for i, n := range ids(t, records) {
			count := 8
			if n < 100 {
				count = 2
			}
			if want := partitionOf(records[i].Key, count); int(p) != want {
				t.Errorf("event %d is in partition %d, want %d", n, p, want)
			}
		}
	}
}

func TestLeaderIsElectedLater(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(2, "orders"))
	f := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "orders", Partitions: []int32{1}, Err: kerr.LeaderNotAvailable, Count: -1})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	led, lacking := newLedger(), newLedger()
	for i := range 20 {
		k.Publish(event(i, "orders", keyOf(t, 0, 2), []byte("1")), led.ack(i))
		k.Publish(event(i, "orders", keyOf(t, 1, 2), []byte("1")), lacking.ack(i))
	}
	led.awaitDone(t, 20)
	if done, failed := lacking.counts(); done+failed > 0 {
		t.Errorf("got %d done and %d failed without a leader", done, failed)
	}
	f.Remove()
	lacking.awaitDone(t, 20)
}

// A topic that the cluster will not show us stops the relay at its first event.
func TestTopicNotAuthorized(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "orders", Err: kerr.TopicAuthorizationFailed, Count: -1})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	for i := range 3 {
		k.Publish(event(i, "orders", []byte("key"), []byte("1")), l.ack(i))
	}
	l.await(t, "the verdict", func(_, failed int) bool { return failed > 0 })
	if err := l.failure(0); fault.KindOf(err) != fault.Poison || !errors.Is(err, sarama.ErrTopicAuthorizationFailed) {
		t.Errorf("got %v, want poison", err)
	}
	k.Publish(event(3, "orders", []byte("key"), []byte("1")), l.ack(3))
	if err := l.failure(3); fault.KindOf(err) != fault.Poison {
		t.Errorf("an event behind it: got %v", err)
	}
}

// Events without a key go to one partition a batch, and in time to all.
func TestNoKey(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(4, "orders"))
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	for i := range 200 {
		k.Publish(event(i, "orders", nil, []byte("1")), l.ack(i))
		l.awaitDone(t, i+1)
	}
	all := consume(t, cluster.ListenAddrs(), "orders")
	if len(all) != 4 {
		t.Errorf("got records in %d partitions, want 4", len(all))
	}
	for _, records := range all {
		for _, r := range records {
			if r.Key != nil {
				t.Errorf("got key %q, want null", r.Key)
			}
		}
	}
}

func TestMurmur2(t *testing.T) {
	t.Parallel()
	// From org.apache.kafka.common.utils.UtilsTest.testMurmur2.
	for key, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", key, got, want)
		}
	}
	theirs := sarama.NewMurmur2Partitioner("topic")
	for range 2000 {
		key := make([]byte, rand.IntN(40)+1)
		for i := range key {
			key[i] = byte(rand.Uint32())
		}
		n := rand.IntN(100) + 1
		want, err := theirs.Partition(&sarama.ProducerMessage{Key: sarama.ByteEncoder(key)}, int32(n))
		if err != nil {
			t.Fatal(err)
		}
		if got := partitionOf(key, n); got != int(want) {
			t.Errorf("partitionOf(%x, %d) = %d, want %d", key, n, got, want)
		}
	}
}

// A broker that takes connections and never answers holds neither Publish nor Close up.
func TestCloseWithDeadBroker(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		return nil, nil, true // never an answer
	})
	tune := quick()
	tune.readTimeout = time.Hour
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	for i := range 100 {
		k.Publish(event(i, "orders", []byte("key"), []byte("1")), l.ack(i))
	}
	eventually(t, "a batch on the wire", func() bool { return k.Stats().InFlight > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := k.Close(ctx); err == nil {
		t.Error("Close said nothing of what it gave up")
	}
	if d := time.Since(start); d > 900*time.Millisecond {
		t.Errorf("Close took %v", d)
	}
	if done, failed := l.counts(); done != 0 || failed != 100 {
		t.Errorf("got %d done and %d failed, want 0 and 100", done, failed)
	}
	k.Publish(event(100, "orders", []byte("key"), []byte("1")), l.ack(100))
	if err := l.failure(100); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: got %v, want ErrClosed", err)
	}
}

// Close lets what is on the wire be settled, and sends nothing more.
func TestCloseAwaitsTheWire(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	entered, release := hold(cluster)
	defer release()
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	wait(t, "a batch on the wire", entered)
	k.Publish(event(1, "orders", []byte("key"), []byte("1")), l.ack(1))
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		closeSink(t, k)
	}()
	l.await(t, "the queue given back", func(_, failed int) bool { return failed == 1 })
	release()
	wait(t, "Close", closed)
	if done, failed := l.counts(); done != 1 || failed != 1 {
		t.Errorf("got %d done and %d failed, want 1 and 1", done, failed)
	}
}

// A broker that stops answering for a while costs time only.
func TestSilentBroker(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(2, "orders"))
	tap := newTap(t, cluster)
	left := 3
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if left--; left >= 0 {
			return nil, nil, true
		}
		return nil, nil, false
	})
	tune := quick()
	tune.readTimeout = 100 * time.Millisecond
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	for i := range 100 {
		k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i), []byte("1")), l.ack(i))
	}
	l.awaitDone(t, 100)
	checkSequences(t, tap.all())
}

// The brokers close connections that idle: the next event goes out at once all the same.
func TestIdleConnectionIsClosed(t *testing.T) {
	t.Parallel()
	cut := newCutter()
	cluster := fake(t, kfake.SeedTopics(1, "orders"), kfake.ListenFn(cut.listen))
	tune := quick()
	tune.staleConn = 0
	tune.minBackoff, tune.maxBackoff, tune.maxAskBackoff = time.Hour, time.Hour, time.Hour // a failure would not be mended
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	for i := range 5 {
		k.Publish(event(i, "orders", []byte("key"), []byte("1")), l.ack(i))
		l.awaitDone(t, i+1)
		cut.cutAll()
	}
	if s := k.Stats(); s.Retries != 0 {
		t.Errorf("got %d retries, want none", s.Retries)
	}
}

// A whole cluster that goes away and comes back, again and again, loses and reorders nothing.
func TestClusterRestarts(t *testing.T) {
	t.Parallel()
	cut := newCutter()
	cluster := fake(t, kfake.NumBrokers(2), kfake.SeedTopics(4, "orders"), kfake.ListenFn(cut.listen))
	tap := newTap(t, cluster)
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	const n = 1000
	for i := range n {
		if i%100 == 99 {
			cut.cutAll()
		}
		k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i%13), []byte("1")), l.ack(i))
	}
	l.awaitDone(t, n)
	checkSequences(t, tap.all())
	for p, records := range consume(t, cluster.ListenAddrs(), "orders") {
		if got := ids(t, records); !slices.IsSorted(got) {
			t.Errorf("partition %d is out of order: %v", p, got)
		}
	}
}

// After quiet an event goes out at once; while many come, the next request waits for more.
func TestLinger(t *testing.T) {
	t.Parallel()
	now := time.Now()
	k := &Kafka{tune: defaultTuning, armed: true}
	for _, tc := range []struct {
		name    string
		count   int           // records of the last request
		since   time.Duration // its answer
		bytes   int
		state   senderState
		waiting time.Duration
	}{
		{"the first", 0, time.Hour, 1, busy, 0},
		{"after quiet", 5000, time.Second, 1, busy, 0},
		{"few at a time", fewRecords - 1, 0, 1, busy, 0},
		{"some at a time", 50, 0, 1, lingering, time.Millisecond},
		{"many at a time", 5000, time.Millisecond, 1, lingering, 4 * time.Millisecond},
		{"enough for a batch", 5000, 0, 512 << 10, busy, 0},
	} {
		s := &sender{k: k, ready: make([]*partition, 1), count: tc.count, sent: now.Add(-tc.since), bytes: tc.bytes}
		if state, d := s.wait(now); state != tc.state || d != tc.waiting {
			t.Errorf("%s: got %v, %v, want %v, %v", tc.name, state, d, tc.state, tc.waiting)
		}
	}
}
