package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
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

// onlyProduce are the requests that a fault applies to.
var onlyProduce = []kmsg.Key{kmsg.Produce}

func TestPassingErrorsAreRetried(t *testing.T) {
	t.Parallel()
	for _, e := range []*kerr.Error{
		kerr.CorruptMessage, kerr.UnknownTopicOrPartition, kerr.LeaderNotAvailable, kerr.NotLeaderForPartition,
		kerr.RequestTimedOut, kerr.NetworkException, kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable,
		kerr.NotCoordinator, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend, kerr.KafkaStorageError,
		kerr.ThrottlingQuotaExceeded, kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch, kerr.UnknownTopicID,
	} {
		t.Run(e.Message, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"))
			tap := newTap(t, cluster)
			cluster.Fault(kfake.Fault{Keys: onlyProduce, Err: e, Count: 4})
			k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
			l := newLedger()
			const n = 200
			for i := range n {
				k.Publish(event(i, "orders", []byte("key"), []byte("1")), l.ack(i))
			}
			l.awaitDone(t, n)
			if got := ids(t, consume(t, cluster.ListenAddrs(), "orders")[0]); !slices.Equal(got, numbers(0, n)) {
				t.Errorf("got %v, want 0 to %d once each and in order", got, n-1)
			}
			checkSequences(t, tap.all())
			if got := k.Stats().Retries; got != 4 {
				t.Errorf("got %d retries, want 4", got)
			}
		})
	}
}

func TestDuplicateSequenceIsSuccess(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		return answer(req, kerr.DuplicateSequenceNumber.Code), nil, true
	})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	l.awaitDone(t, 1)
}

func TestMissingBlockIsRetried(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		return req.ResponseKind(), nil, true
	})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	l.awaitDone(t, 1)
	if got := ids(t, consume(t, cluster.ListenAddrs(), "orders")[0]); len(got) != 1 {
		t.Errorf("got records %v, want one", got)
	}
}

// An answer that is lost leaves it open whether the batch was taken: the same
// batch under the same number is then taken once.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	cut := newCutter()
	cluster := fake(t, kfake.NumBrokers(2), kfake.SeedTopics(4, "orders"), kfake.ListenFn(cut.listen))
	tap := newTap(t, cluster)
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	const n = 3000
	for i := range n {
		if i%100 == 50 {
			cut.cutAnswers(2)
		}
		if i%20 == 0 {
			l.await(t, "progress", func(done, _ int) bool { return done > i-400 })
		}
		k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i%11), []byte("1")), l.ack(i))
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
		t.Errorf("got %d records, want each of %d once", total, n)
	}
	checkSequences(t, tap.all())
}

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

// A record that the broker refuses is found among its batch: what is before it
// is published, what is behind it is not, and other partitions go on.
func TestGuiltyRecordIsFound(t *testing.T) {
	t.Parallel()
	for _, e := range []*kerr.Error{kerr.InvalidRecord, kerr.InvalidTimestamp, kerr.PolicyViolation, kerr.UnknownServerError, kerr.MessageTooLarge, {Code: 999, Message: "unheard of"}} {
		t.Run(e.Message, func(t *testing.T) {
			t.Parallel()
			for _, guilty := range []int{1, 2, 37, 398, 399} {
				cluster := fake(t, kfake.NumBrokers(1), kfake.SeedTopics(2, "orders"))
				tap := newTap(t, cluster)
				cluster.Fault(kfake.Fault{Keys: onlyProduce, Topic: "orders", Partitions: []int32{0}, Err: e, Count: -1, When: func(req kmsg.Request) bool {
					for _, rp := range req.(*kmsg.ProduceRequest).Topics[0].Partitions {
						if rp.Partition == 0 && bytes.Contains(rp.Records, []byte("guilty")) {
							return true
						}
					}
					return false
				}})
				k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
				entered, release := hold(cluster)
				l := newLedger()
				keys := [2][]byte{keyOf(t, 0, 2), keyOf(t, 1, 2)}
				publish := func(i int) {
					payload := []byte("1")
					if i == guilty {
						payload = []byte("guilty")
					}
					k.Publish(event(i, "orders", keys[0], payload), l.ack(i))
				}
				publish(0)
				wait(t, "the first batch on the wire", entered)
				for i := 1; i < 400; i++ { // they become one batch
					publish(i)
				}
				for i := 400; i < 500; i++ {
					k.Publish(event(i, "orders", keys[1], []byte("1")), l.ack(i))
				}
				release()
				l.await(t, "the verdict", func(done, failed int) bool { return failed > 0 && done >= guilty+100 })
				if done, failed := l.counts(); done != guilty+100 || failed != 1 {
					t.Fatalf("guilty %d: got %d done and %d failed, want %d and 1", guilty, done, failed, guilty+100)
				}
				err := l.failure(guilty)
				if fault.KindOf(err) != fault.Poison {
					t.Fatalf("guilty %d: got %v, want poison", guilty, err)
				}
				for _, want := range []string{fmt.Sprintf("row id-%d ", guilty), fmt.Sprintf("0/%X", guilty+1), "topic orders, partition 0"} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("got error %q, want it to name %q", err, want)
					}
				}
				// Nothing behind it goes out, not even what comes later.
				k.Publish(event(500, "orders", keys[0], []byte("1")), l.ack(500))
				k.Publish(event(501, "orders", keys[1], []byte("1")), l.ack(501))
				l.await(t, "the other partition", func(done, _ int) bool { return done == guilty+101 })
				all := consume(t, cluster.ListenAddrs(), "orders")
				if got := ids(t, all[0]); !slices.Equal(got, numbers(0, guilty)) {
					t.Errorf("guilty %d: partition 0 holds %v", guilty, got)
				}
				if got := len(all[1]); got != 101 {
					t.Errorf("guilty %d: partition 1 holds %d records, want 101", guilty, got)
				}
				checkSequences(t, tap.all())
				closeSink(t, k)
				if err := l.failure(500); !errors.Is(err, ErrClosed) {
					t.Errorf("the event behind the guilty one: got %v, want ErrClosed", err)
				}
			}
		})
	}
}

// keyOf returns a key of partition p among n.
func keyOf(tb testing.TB, p, n int) []byte {
	for i := range 1000 {
		if key := fmt.Appendf(nil, "key-%d", i); partitionOf(key, n) == p {
			return key
		}
	}
	tb.Fatal("no key")
	return nil
}

func closeSink(tb testing.TB, k *Kafka) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := k.Close(ctx); err != nil {
		tb.Errorf("Close: %v", err)
	}
}

// What no record of a topic passes needs no search: the first one is named.
func TestTopicRefused(t *testing.T) {
	t.Parallel()
	for _, e := range []*kerr.Error{kerr.TopicAuthorizationFailed, kerr.InvalidTopicException, kerr.ClusterAuthorizationFailed, kerr.UnsupportedCompressionType} {
		cluster := fake(t, kfake.SeedTopics(1, "orders"))
		tap := newTap(t, cluster)
		cluster.Fault(kfake.Fault{Keys: onlyProduce, Err: e, Count: -1})
		k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
		l := newLedger()
		for i := range 50 {
			k.Publish(event(i, "orders", []byte("key"), []byte("1")), l.ack(i))
		}
		l.await(t, "the verdict", func(_, failed int) bool { return failed > 0 })
		if err := l.failure(0); fault.KindOf(err) != fault.Poison || fault.HintOf(err) == "" {
			t.Errorf("%s: got %v (hint %q), want poison with a hint", e.Message, err, fault.HintOf(err))
		}
		if n := len(tap.all()); n != 1 {
			t.Errorf("%s: got %d batches, want 1", e.Message, n)
		}
	}
}

// A topic may allow less than our batches have: they shrink, and only a record
// that is too large alone is refused.
func TestBatchesShrink(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"), kfake.BrokerConfigs(map[string]string{"message.max.bytes": "30000"}))
	tap := newTap(t, cluster)
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	const n = 1000
	for i := range n {
		k.Publish(event(i, "orders", []byte("key"), bytes.Repeat([]byte("x"), 1000)), l.ack(i))
	}
	l.awaitDone(t, n)
	if got := ids(t, consume(t, cluster.ListenAddrs(), "orders")[0]); !slices.Equal(got, numbers(0, n)) {
		t.Errorf("got %v", got)
	}
	checkSequences(t, tap.all())
	refused := 0
	for _, b := range tap.all() {
		if len(b.raw) > 30000 {
			refused++
		}
	}
	if refused == 0 || refused > 12 {
		t.Errorf("%d batches were too large, want a few until the size is known", refused)
	}
	k.Publish(event(n, "orders", []byte("key"), bytes.Repeat([]byte("x"), 40000)), l.ack(n))
	l.await(t, "the large record's verdict", func(_, failed int) bool { return failed == 1 })
	if err := l.failure(n); fault.KindOf(err) != fault.Poison || !strings.Contains(fault.HintOf(err), "max.message.bytes") {
		t.Errorf("got %v (hint %q)", err, fault.HintOf(err))
	}
}

// A record that is larger than any request is refused before it is sent.
func TestLargerThanARequest(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	k.Publish(event(1, "orders", []byte("key"), make([]byte, sarama.MaxRequestSize+1)), l.ack(1))
	k.Publish(event(2, "orders", []byte("key"), []byte("1")), l.ack(2))
	l.await(t, "the verdict", func(done, failed int) bool { return done == 1 && failed == 1 })
	if err := l.failure(1); fault.KindOf(err) != fault.Poison || !errors.Is(err, errTooLarge) {
		t.Errorf("got %v, want poison", err)
	}
}

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
	select {
	case <-entered:
		t.Error("something overtook the batch on the wire")
	case <-time.After(50 * time.Millisecond):
	}
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

func TestSequenceWraps(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		seq  int32
		n    int
		want int32
	}{{0, 1, 1}, {math.MaxInt32 - 1, 1, math.MaxInt32}, {math.MaxInt32, 1, 0}, {math.MaxInt32 - 2, 5, 2}} {
		p := &partition{topic: newTopic("t", 1), batch: &batch{seq: tc.seq, messages: list{n: tc.n}}}
		if p.accepted(); p.seq != tc.want {
			t.Errorf("%d records from sequence %d: next is %d, want %d", tc.n, tc.seq, p.seq, tc.want)
		}
	}
}
