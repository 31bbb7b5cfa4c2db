package sink

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

func TestResetKeepsWhatIsOnTheWire(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	tap := newTap(t, cluster)
	entered, release := hold(cluster)
	defer release()
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	old, fresh := newLedger(), newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), old.ack(0))
	wait(t, "the first batch on the wire", entered)
	for i := 1; i < 10; i++ {
		k.Publish(event(i, "orders", []byte("key"), []byte("1")), old.ack(i))
	}
	k.Reset()
	if done, failed := old.counts(); done != 0 || failed != 9 {
		t.Fatalf("after Reset: got %d done and %d failed, want 0 and 9", done, failed)
	}
	if err := old.failure(5); !errors.Is(err, ErrReset) || fault.KindOf(err) == fault.Poison {
		t.Errorf("got %v, want ErrReset", err)
	}
	for i := range 20 {
		k.Publish(event(i, "orders", []byte("key"), []byte("2")), fresh.ack(i))
	}
	k.mu.Lock()
	if p := k.topics["orders"].partitions[0]; p.batch == nil || !p.batch.old || p.queue.n != 20 || p.scheduled != nil {
		t.Errorf("%d events wait for the batch on the wire, want 20: %+v", p.queue.n, p.batch)
	}
	k.mu.Unlock()
	release()
	fresh.awaitDone(t, 20)
	if done, _ := old.counts(); done != 1 {
		t.Errorf("the batch that was on the wire: got %d acknowledged, want 1", done)
	}
	if got, want := ids(t, consume(t, cluster.ListenAddrs(), "orders")[0]), append([]int{0}, numbers(0, 20)...); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	checkSequences(t, tap.all())
}

// A batch that waits to be sent again may have been taken: Reset must not drop it either.
func TestResetKeepsWhatIsSentAgain(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	tap := newTap(t, cluster)
	f := cluster.Fault(kfake.Fault{Keys: onlyProduce, Err: kerr.NotEnoughReplicasAfterAppend, Count: -1})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	old, fresh := newLedger(), newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), old.ack(0))
	eventually(t, "a second try", func() bool { return f.Hits() > 1 })
	k.Reset()
	for i := range 5 {
		k.Publish(event(i, "orders", []byte("key"), []byte("2")), fresh.ack(i))
	}
	f.Remove()
	fresh.awaitDone(t, 5)
	if done, failed := old.counts(); done != 1 || failed != 0 {
		t.Errorf("got %d done and %d failed of the old one, want 1 and 0", done, failed)
	}
	if got, want := ids(t, consume(t, cluster.ListenAddrs(), "orders")[0]), append([]int{0}, numbers(0, 5)...); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	checkSequences(t, tap.all())
}

// An event that is found guilty after a Reset stops the line that has started
// since, not the one that is gone.
func TestResetBeforeTheVerdict(t *testing.T) {
	t.Parallel()
	for _, where := range []kmsg.Key{kmsg.Produce, kmsg.Metadata} {
		cluster := fake(t, kfake.SeedTopics(1, "orders"))
		k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
		entered, release := hold(cluster)
		if where == kmsg.Metadata {
			cluster.Fault(kfake.Fault{Keys: onlyProduce, Err: kerr.NotEnoughReplicas, Count: -1})
		}
		old, fresh := newLedger(), newLedger()
		k.Publish(event(0, "orders", []byte("key"), []byte("1")), old.ack(0))
		wait(t, "the batch on the wire", entered)
		k.Reset()
		cluster.Fault(kfake.Fault{Keys: []kmsg.Key{where}, Topic: "orders", Err: kerr.TopicAuthorizationFailed, Count: -1})
		for i := range 3 {
			k.Publish(event(i, "orders", []byte("key"), []byte("1")), fresh.ack(i))
		}
		release()
		fresh.await(t, "the verdict", func(_, failed int) bool { return failed > 0 })
		if err := fresh.failure(0); fault.KindOf(err) != fault.Poison {
			t.Errorf("got %v, want poison", err)
		}
		if err := old.failure(0); !errors.Is(err, ErrReset) {
			t.Errorf("the old one: got %v, want ErrReset", err)
		}
	}
}

func TestResetAfterPoison(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	f := cluster.Fault(kfake.Fault{Keys: onlyProduce, Err: kerr.InvalidRecord, Count: -1})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	l.await(t, "the verdict", func(_, failed int) bool { return failed == 1 })
	f.Remove()
	k.Reset()
	k.Publish(event(1, "orders", []byte("key"), []byte("1")), l.ack(1))
	l.await(t, "the next event", func(done, _ int) bool { return done == 1 })
}

// When the brokers refuse the producer, everything fails; after Reset another one goes on.
func TestRefusedProducer(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err      *kerr.Error
		newID    bool
		newEpoch bool
	}{
		{kerr.OutOfOrderSequenceNumber, false, true},
		{kerr.UnknownProducerID, false, true},
		{kerr.InvalidProducerEpoch, true, false},
		{kerr.ProducerFenced, true, false},
		{kerr.InvalidProducerIDMapping, true, false},
	} {
		t.Run(tc.err.Message, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, kfake.NumBrokers(2), kfake.SeedTopics(4, "orders"))
			tap := newTap(t, cluster)
			k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
			l := newLedger()
			for i := range 100 {
				k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i), []byte("1")), l.ack(i))
			}
			l.awaitDone(t, 100)
			cluster.Fault(kfake.Fault{Keys: onlyProduce, Err: tc.err})
			before := tap.all()
			n := 100
			for _, failed := l.counts(); failed == 0; _, failed = l.counts() {
				k.Publish(event(n, "orders", fmt.Appendf(nil, "key-%d", n), []byte("1")), l.ack(n))
				n++
			}
			k.Publish(event(n, "orders", []byte("key"), []byte("1")), l.ack(n))
			if err := l.failure(n); err == nil || fault.KindOf(err) == fault.Poison {
				t.Errorf("an event after the refusal: got %v, want an error that is no poison", err)
			}
			l.await(t, "all settled", func(done, failed int) bool { return done+failed == n+1 })
			k.Reset()
			after := newLedger()
			for i := range 100 {
				k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i), []byte("2")), after.ack(i))
			}
			after.awaitDone(t, 100)
			checkSequences(t, tap.all())
			first, last := before[0], tap.all()[len(tap.all())-1]
			if got := last.producerID != first.producerID; got != tc.newID {
				t.Errorf("the producer id went from %d to %d, want a new one: %v", first.producerID, last.producerID, tc.newID)
			}
			if got := last.producerID == first.producerID && last.epoch > first.epoch; got != tc.newEpoch {
				t.Errorf("the epoch went from %d to %d, want it raised: %v", first.epoch, last.epoch, tc.newEpoch)
			}
		})
	}
}

// Nothing newer goes out while a batch of the producer before is on the wire.
func TestRefusedProducerWaitsForTheWire(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.NumBrokers(2), kfake.SeedTopics(2, "orders"))
	for p := range int32(2) {
		if err := cluster.MoveTopicPartition("orders", p, p); err != nil {
			t.Fatal(err)
		}
	}
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	keys := [2][]byte{keyOf(t, 0, 2), keyOf(t, 1, 2)}
	entered, gate := make(chan int32, 100), make(chan struct{})
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		node := cluster.CurrentNode()
		entered <- node
		if node == 0 {
			cluster.SleepControl(func() { <-gate })
		}
		return nil, nil, false
	})
	cluster.Fault(kfake.Fault{Keys: onlyProduce, Partitions: []int32{1}, Err: kerr.OutOfOrderSequenceNumber})
	l := newLedger()
	k.Publish(event(0, "orders", keys[0], []byte("1")), l.ack(0))
	if node := <-entered; node != 0 {
		t.Fatalf("the first batch went to broker %d", node)
	}
	k.Publish(event(1, "orders", keys[1], []byte("1")), l.ack(1))
	l.await(t, "both failed", func(_, failed int) bool { return failed == 2 })
	<-entered
	k.Reset()
	fresh := newLedger()
	k.Publish(event(0, "orders", keys[0], []byte("2")), fresh.ack(0))
	k.Publish(event(1, "orders", keys[1], []byte("2")), fresh.ack(1))
	fresh.await(t, "the other partition", func(done, _ int) bool { return done == 1 })
	if node := <-entered; node != 1 {
		t.Fatal("something overtook the batch on the wire")
	}
	close(gate)
	fresh.awaitDone(t, 2)
	// The fake cluster refuses the old epoch at once, Kafka from the partition's first batch of the new one.
	var got []string
	for _, r := range consume(t, cluster.ListenAddrs(), "orders")[0] {
		got = append(got, string(r.Value))
	}
	if !slices.Equal(got, []string{"1", "2"}) && !slices.Equal(got, []string{"2"}) {
		t.Errorf("partition 0 holds %q, want nothing old behind the new", got)
	}
}

// The last epoch has none after it: the next producer has another id.
func TestEpochEnds(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		epoch, want int16
		armed       bool
	}{{math.MaxInt16 - 1, math.MaxInt16, true}, {math.MaxInt16, math.MaxInt16, false}} {
		k := &Kafka{wake: make(chan struct{}, 1), producer: producer{7, tc.epoch}, armed: true, fenced: errUnsure}
		if k.rearm(); k.producer.epoch != tc.want || k.armed != tc.armed {
			t.Errorf("after epoch %d: got %d, armed %v", tc.epoch, k.producer.epoch, k.armed)
		}
	}
}

func TestSequenceWraps(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		seq  int32
		n    int
		want int32
	}{{0, 1, 1}, {math.MaxInt32 - 1, 1, math.MaxInt32}, {math.MaxInt32, 1, 0}, {math.MaxInt32 - 2, 5, 2}} {
		p := &partition{topic: newTopic("t", 1, nil), batch: &batch{seq: tc.seq, messages: list{n: tc.n}}}
		if p.accepted(); p.seq != tc.want {
			t.Errorf("%d records from sequence %d: next is %d, want %d", tc.n, tc.seq, p.seq, tc.want)
		}
	}
}
