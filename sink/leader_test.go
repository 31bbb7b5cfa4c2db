package sink

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestLeaderMoves(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.NumBrokers(3), kfake.SeedTopics(3, "orders"))
	tap := newTap(t, cluster)
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	const n = 2000
	for i := range n {
		if i%200 == 100 {
			for p := range int32(3) {
				if err := cluster.MoveTopicPartition("orders", p, int32(i/200+int(p))%3); err != nil {
					t.Fatal(err)
				}
			}
			l.await(t, "progress", func(done, _ int) bool { return done >= i })
		}
		k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i%7), []byte("1")), l.ack(i))
	}
	l.awaitDone(t, n)
	total := 0
	for p, records := range consume(t, cluster.ListenAddrs(), "orders") {
		got := ids(t, records)
		if total += len(got); !slices.IsSorted(got) {
			t.Errorf("partition %d is out of order: %v", p, got)
		}
	}
	if total != n {
		t.Errorf("got %d records, want %d", total, n)
	}
	checkSequences(t, tap.all())
	if k.Stats().Retries == 0 {
		t.Error("no batch met a leader that had moved: the test proves nothing")
	}
}

// A partition that moves while its batch is on the wire sends nothing to the
// new leader before the old one's answer, not even the same batch.
func TestLeaderMovesUnderABatch(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.NumBrokers(2), kfake.SeedTopics(1, "orders", "other"))
	move := func(topic string, node int32) {
		if err := cluster.MoveTopicPartition(topic, 0, node); err != nil {
			t.Fatal(err)
		}
	}
	move("orders", 0)
	move("other", 1)
	entered, gate := make(chan int32, 100), make(chan struct{})
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		node := cluster.CurrentNode()
		if slices.ContainsFunc(req.(*kmsg.ProduceRequest).Topics, func(rt kmsg.ProduceRequestTopic) bool { return rt.Topic == "orders" }) {
			entered <- node
		}
		if node == 0 {
			cluster.SleepControl(func() { <-gate })
		}
		return nil, nil, false
	})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	if node := <-entered; node != 0 {
		t.Fatalf("the first batch went to broker %d", node)
	}
	move("orders", 1)
	k.wantAll()
	eventually(t, "the new leader is known", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.topics["orders"].partitions[0].leader == 1
	})
	for i := 1; i < 10; i++ {
		k.Publish(event(i, "orders", []byte("key"), []byte("1")), l.ack(i))
	}
	other := newLedger()
	k.Publish(event(0, "other", []byte("key"), []byte("1")), other.ack(0))
	other.awaitDone(t, 1) // the new leader's sender takes what came before as well, or sooner
	select {
	case node := <-entered:
		t.Errorf("a batch overtook the one on the wire, at broker %d", node)
	default:
	}
	close(gate)
	l.awaitDone(t, 10)
	if got := ids(t, consume(t, cluster.ListenAddrs(), "orders")[0]); !slices.Equal(got, numbers(0, 10)) {
		t.Errorf("got %v", got)
	}
}

// A batch is sent again once the leader has been looked up, not before.
func TestRetryLooksTheLeaderUp(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.NumBrokers(2), kfake.SeedTopics(1, "orders"))
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	l.awaitDone(t, 1)
	cluster.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		cluster.SleepControl(func() { time.Sleep(100 * time.Millisecond) })
		return nil, nil, false
	})
	if err := cluster.MoveTopicPartition("orders", 0, 1-cluster.LeaderFor("orders", 0)); err != nil {
		t.Fatal(err)
	}
	k.Publish(event(1, "orders", []byte("key"), []byte("1")), l.ack(1))
	l.awaitDone(t, 2)
	if got := k.Stats().Retries; got != 1 {
		t.Errorf("got %d retries, want 1", got)
	}
}

func TestLeaderIsElectedLater(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(2, "orders"))
	f := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "orders", Partitions: []int32{1}, Err: kerr.LeaderNotAvailable, Count: -1})
	tune := quick()
	tune.shortBackoff, tune.maxAskBackoff = 20*time.Millisecond, 100*time.Millisecond
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	led, lacking := newLedger(), newLedger()
	for i := range 20 {
		k.Publish(event(i, "orders", keyOf(t, 0, 2), []byte("1")), led.ack(i))
		k.Publish(event(i, "orders", keyOf(t, 1, 2), []byte("1")), lacking.ack(i))
	}
	led.awaitDone(t, 20)
	if done, failed := lacking.counts(); done+failed > 0 {
		t.Errorf("got %d done and %d failed without a leader", done, failed)
	}
	time.Sleep(300 * time.Millisecond) // questions come with a backoff, events or not
	for i := 20; i < 30; i++ {
		k.Publish(event(i, "orders", keyOf(t, 1, 2), []byte("1")), lacking.ack(i))
	}
	if n := f.Hits(); n > 12 {
		t.Errorf("the cluster was asked %d times in less than a second", n)
	}
	f.Remove()
	lacking.awaitDone(t, 30)
}

// refuseAt makes a broker close the connection at every produce request, and
// returns a channel that gets a token for each.
func refuseAt(c *kfake.Cluster, node int32) <-chan struct{} {
	refused := make(chan struct{}, 1000)
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if c.CurrentNode() != node {
			return nil, nil, false
		}
		refused <- struct{}{}
		return nil, errors.New("refused"), true
	})
	return refused
}

// What a broker led that does not answer goes on at the next leader at once:
// what was sent, what waits, and other topics' events. Only the broker rests.
func TestBrokerIsLeft(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.NumBrokers(2), kfake.SeedTopics(1, "orders", "other"))
	move := func(node int32) {
		for _, topic := range []string{"orders", "other"} {
			if err := cluster.MoveTopicPartition(topic, 0, node); err != nil {
				t.Fatal(err)
			}
		}
	}
	move(0)
	tune := quick()
	tune.minBackoff, tune.maxBackoff = time.Hour, time.Hour
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	orders, other := newLedger(), newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), orders.ack(0))
	k.Publish(event(0, "other", []byte("key"), []byte("1")), other.ack(0))
	orders.awaitDone(t, 1)
	other.awaitDone(t, 1)
	refused := refuseAt(cluster, 0)
	k.Publish(event(1, "orders", []byte("key"), []byte("1")), orders.ack(1))
	wait(t, "a refusal", refused)
	eventually(t, "the batch waits for the broker", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.topics["orders"].partitions[0].scheduled != nil
	})
	move(1)
	k.wantAll()
	orders.awaitDone(t, 2)
	eventually(t, "the other topic's leader is known", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.topics["other"].partitions[0].leader == 1
	})
	k.Publish(event(1, "other", []byte("key"), []byte("1")), other.ack(1))
	other.awaitDone(t, 2)
}

// A lost request makes the leaders of all that the broker led be looked up.
func TestLostRequestLooksAllLeadersUp(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.NumBrokers(2), kfake.SeedTopics(1, "orders", "other"))
	tune := quick()
	tune.minBackoff, tune.maxBackoff = time.Hour, time.Hour
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	for i, topic := range []string{"orders", "other"} {
		if err := cluster.MoveTopicPartition(topic, 0, 0); err != nil {
			t.Fatal(err)
		}
		k.Publish(event(i, topic, []byte("key"), []byte("1")), l.ack(i))
	}
	l.awaitDone(t, 2)
	refused := refuseAt(cluster, 0)
	for _, topic := range []string{"orders", "other"} {
		if err := cluster.MoveTopicPartition(topic, 0, 1); err != nil {
			t.Fatal(err)
		}
	}
	k.Publish(event(2, "orders", []byte("key"), []byte("1")), l.ack(2))
	wait(t, "a refusal", refused)
	l.awaitDone(t, 3)
	k.Publish(event(3, "other", []byte("key"), []byte("1")), l.ack(3))
	l.awaitDone(t, 4)
}

// A broker that fails is asked again and again, but with pauses.
func TestFailingBrokerIsNotHammered(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	refused := refuseAt(cluster, 0)
	tune := quick()
	tune.minBackoff, tune.maxBackoff = 50*time.Millisecond, 100*time.Millisecond
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	wait(t, "a refusal", refused)
	time.Sleep(300 * time.Millisecond)
	if n := len(refused); n < 1 || n > 8 {
		t.Errorf("got %d more requests in 0.3 s, want a few", n)
	}
}

// Nor is a partition whose followers are behind.
func TestFailingPartitionIsNotHammered(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	f := cluster.Fault(kfake.Fault{Keys: onlyProduce, Err: kerr.NotEnoughReplicas, Count: -1})
	tune := quick()
	tune.shortBackoff, tune.maxBackoff = 50*time.Millisecond, 100*time.Millisecond
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	eventually(t, "an answer", func() bool { return f.Hits() > 0 })
	time.Sleep(300 * time.Millisecond)
	if n := f.Hits(); n < 2 || n > 9 {
		t.Errorf("got %d requests in 0.3 s, want a few", n)
	}
}
