package sink

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
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
			tune := quick()
			tune.topicPatience = time.Minute
			k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs(), CreateTopics: tc.create})
			l := newLedger()
			for i := range 100 {
				k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i), []byte("1")), l.ack(i))
			}
			l.awaitDone(t, 100)
			meta, err := admin(t, cluster.ListenAddrs()).DescribeTopics([]string{"orders"})
			if err != nil || len(meta[0].Partitions) != tc.want {
				t.Errorf("got %d partitions (%v), want %d", len(meta[0].Partitions), err, tc.want)
			}
			if trouble := k.Stats().LastError; trouble != "" { // that a topic is new is none
				t.Errorf("the last error is %q", trouble)
			}
		})
	}
}

// An event whose topic cannot be created is told with what is in the way.
func TestTopicThatCannotBeCreated(t *testing.T) {
	t.Parallel()
	tune := quick()
	tune.unknownTopic = 100 * time.Millisecond
	k := newSink(t, tune, KafkaConfig{Brokers: fake(t).ListenAddrs(), CreateTopics: CreateTopics{Partitions: 1, ReplicationFactor: 9}})
	l := newLedger()
	k.Publish(event(0, "later", []byte("key"), []byte("1")), l.ack(0))
	eventually(t, "the verdict", func() bool { _, failed := l.counts(); return failed == 1 })
	err := l.failure(0)
	if fault.KindOf(err) != fault.Poison || !strings.Contains(err.Error(), "create topic later: ") ||
		!strings.Contains(fault.HintOf(err), "kafka.create_topics.replication_factor") || strings.Contains(fault.HintOf(err), "or set") {
		t.Errorf("got %v, hint %s", err, fault.HintOf(err))
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
	total := 0
	for p, records := range consume(t, cluster.ListenAddrs(), "orders") {
		total += len(records)
		got := ids(t, records)
		if !slices.IsSorted(got) {
			t.Errorf("partition %d has %v", p, got)
		}
		for i, n := range got {
			count := 8
			if n < 100 {
				count = 2
			}
			if want := partitionOf(records[i].Key, count); int(p) != want {
				t.Errorf("event %d is in partition %d, want %d", n, p, want)
			}
		}
	}
	if total != 300 {
		t.Errorf("%d records of 300 events", total)
	}
}

// A Reset that empties the topic lets it go over as well.
func TestPartitionsAreAddedBeforeReset(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	f := cluster.Fault(kfake.Fault{Keys: onlyProduce, Err: kerr.InvalidRecord, Count: -1})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	old, fresh := newLedger(), newLedger()
	for i := range 3 {
		k.Publish(event(i, "orders", []byte("key"), []byte("1")), old.ack(i))
	}
	old.await(t, "the verdict", func(_, failed int) bool { return failed == 1 })
	if err := admin(t, cluster.ListenAddrs()).CreatePartitions("orders", 8, nil, false); err != nil {
		t.Fatal(err)
	}
	k.wantAll()
	eventually(t, "the sink knows", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.topics["orders"].grow == 8
	})
	f.Remove()
	k.Reset()
	for i := range 50 {
		k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i), []byte("1")), fresh.ack(i))
	}
	fresh.awaitDone(t, 50)
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

// A topic that takes a moment to appear is asked for again at once: its first
// event must not wait as long as one for a broker that is down.
func TestNewTopicIsAskedForSoon(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		err    *kerr.Error // of the first answers
		create CreateTopics
	}{
		{"the brokers create it", kerr.UnknownTopicOrPartition, CreateTopics{}},
		{"its leader is elected", kerr.LeaderNotAvailable, CreateTopics{}},
		{"the relay creates it", kerr.UnknownTopicOrPartition, CreateTopics{Partitions: 3}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(3))
			cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "orders", Err: tc.err, Count: 4})
			cluster.Fault(kfake.Fault{Keys: onlyProduce, Err: kerr.NotLeaderForPartition, Count: 2}) // it has not begun yet
			tune := quick()
			tune.minBackoff, tune.maxBackoff, tune.maxAskBackoff = time.Hour, time.Hour, time.Hour
			k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs(), CreateTopics: tc.create})
			l := newLedger()
			k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
			l.awaitDone(t, 1)
		})
	}
}

// What the relay has just created is there without a pause.
func TestCreatedTopicIsLookedUpAtOnce(t *testing.T) {
	t.Parallel()
	cluster := fake(t)
	tune := quick()
	tune.shortBackoff, tune.maxAskBackoff = time.Hour, time.Hour
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs(), CreateTopics: CreateTopics{Partitions: 3}})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	l.awaitDone(t, 1)
}

// A topic that stays away does not make a new one wait as long.
func TestNewTopicDoesNotInheritTheBackoff(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	unknown := func(topic string, count int) *kfake.FaultHandle {
		return cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: topic, Err: kerr.UnknownTopicOrPartition, Count: count})
	}
	away := unknown("away", -1)
	tune := quick()
	tune.shortBackoff, tune.maxAskBackoff = time.Millisecond, time.Hour
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	k.Publish(event(0, "away", []byte("key"), []byte("1")), newLedger().ack(0))
	eventually(t, "long pauses", func() bool { return away.Hits() >= 11 }) // the next one is of about 1 s
	unknown("orders", 2)
	l := newLedger()
	start := time.Now()
	k.Publish(event(1, "orders", []byte("key"), []byte("1")), l.ack(1))
	l.awaitDone(t, 1)
	if d := time.Since(start); d > 700*time.Millisecond {
		t.Errorf("a new topic took %v", d)
	}
}

// What waits for a topic says so, with what to do about it, and is no trouble of the cluster's.
func TestTopicTroubleHasAHint(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		create CreateTopics
		fault  *kfake.Fault
		want   string
	}{
		"missing":  {want: "set kafka.create_topics.partitions"},
		"denied":   {CreateTopics{Partitions: 1}, &kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.TopicAuthorizationFailed, Count: -1}, "grant the relay's user CREATE on topic later"},
		"replicas": {CreateTopics{Partitions: 1, ReplicationFactor: 9}, nil, "kafka.create_topics.replication_factor"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log logText
			cluster := fake(t)
			if tc.fault != nil {
				cluster.Fault(*tc.fault)
			}
			tune := quick()
			tune.logEvery = defaultTuning.logEvery // what is in the way of creation does not hide behind what follows from it
			k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs(), CreateTopics: tc.create, Log: slog.New(slog.NewTextHandler(&log, nil))})
			l := newLedger()
			k.Publish(event(0, "later", []byte("key"), []byte("1")), l.ack(0))
			eventually(t, "the hint "+tc.want, func() bool { return strings.Contains(log.String(), tc.want) })
			if text := log.String(); !strings.Contains(text, "outbox.topic_unavailable") || strings.Contains(text, "kafka_unreachable") || !k.Stats().Connected {
				t.Errorf("the log says\n%s", text)
			}
		})
	}
}
