package sink

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// recreate deletes a topic and creates it with another number of partitions.
func recreate(tb testing.TB, addrs []string, topic string, partitions int32) {
	tb.Helper()
	a := admin(tb, addrs)
	if err := a.DeleteTopic(topic); err != nil {
		tb.Fatal(err)
	}
	eventually(tb, "the topic created anew", func() bool { // a deletion takes a moment
		return a.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: 1}, false) == nil
	})
}

// publishKeys publishes events [from, to) of twenty keys.
func publishKeys(k *Kafka, l *ledger, from, to int) {
	for i := from; i < to; i++ {
		k.Publish(recent(i, "orders", fmt.Appendf(nil, "key-%d", i%20), []byte("1")), l.ack(i))
	}
}

// checkPlaces fails the test unless a topic holds each of events [from, to),
// in order, where its key belongs among count partitions. What was on the wire
// before, and came to the new topic, is passed over.
func checkPlaces(tb testing.TB, addrs []string, from, to, count int) {
	tb.Helper()
	var all []int
	for p, records := range consume(tb, addrs, "orders") {
		got := ids(tb, records)
		if all = append(all, got...); !slices.IsSorted(got) {
			tb.Errorf("partition %d is out of order: %v", p, got)
		}
		for i, n := range got {
			if n < from {
				continue
			}
			if want := partitionOf(records[i].Key, count); int(p) != want {
				tb.Errorf("event %d is in partition %d, want %d", n, p, want)
			}
		}
	}
	all = slices.DeleteFunc(all, func(n int) bool { return n < from })
	if slices.Sort(all); !slices.Equal(all, numbers(from, to)) {
		tb.Errorf("got events %v, want each of %d to %d once", all, from, to-1)
	}
}

// A topic that comes back with fewer partitions ends the sink until Reset:
// what waited for those that are gone would wait for ever.
func TestTopicIsCreatedAnew(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(6, "orders"))
	// Its batches wait to be sent again, and the rest behind them.
	f := cluster.Fault(kfake.Fault{Keys: onlyProduce, Err: kerr.NotEnoughReplicas, Count: -1})
	var log bytes.Buffer
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), Log: slog.New(slog.NewTextHandler(&log, nil))})
	old, fresh := newLedger(), newLedger()
	publishKeys(k, old, 0, 100)
	eventually(t, "a second try", func() bool { return f.Hits() > 6 })
	publishKeys(k, old, 100, 200)
	recreate(t, cluster.ListenAddrs(), "orders", 2)
	old.await(t, "the end of the sink", func(_, failed int) bool { return failed == 200 })
	f.Remove()
	k.Publish(event(200, "orders", []byte("key"), []byte("1")), old.ack(200))
	for _, n := range []int{0, 199, 200} {
		if err := old.failure(n); !errors.Is(err, errRecreated) || fault.KindOf(err) == fault.Poison || !strings.Contains(err.Error(), "had 6 partitions and has 2") {
			t.Errorf("event %d: got %v, want an error that starts the line again", n, err)
		}
	}
	k.Reset()
	publishKeys(k, fresh, 300, 500)
	fresh.awaitDone(t, 200)
	checkPlaces(t, cluster.ListenAddrs(), 300, 500, 2)
	closeSink(t, k)
	if k.producer.epoch == 0 {
		t.Error("the epoch was not raised: what other topics have on the wire may appear behind something newer")
	}
	if got := strings.Count(log.String(), "outbox.partitions_changed"); got != 1 || !strings.Contains(log.String(), "from=6 to=2 recreated=true") {
		t.Errorf("got %d warnings, want one:\n%s", got, log.String())
	}
}

// The same with a batch on the wire: its outcome is not waited for.
func TestTopicIsCreatedAnewUnderABatch(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(6, "orders"))
	entered, release := hold(cluster)
	defer release()
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	old, fresh := newLedger(), newLedger()
	publishKeys(k, old, 0, 100)
	wait(t, "a batch on the wire", entered)
	recreate(t, cluster.ListenAddrs(), "orders", 2)
	k.wantAll()
	old.await(t, "the end of the sink", func(_, failed int) bool { return failed == 100 })
	k.Reset()
	publishKeys(k, fresh, 100, 200)
	release()
	fresh.awaitDone(t, 100)
	if done, failed := old.counts(); done != 0 || failed != 100 {
		t.Errorf("got %d done and %d failed, want each settled once", done, failed)
	}
}

// With nothing under way the next event tells the line to start again: the new
// topic knows no sequence numbers, and a broker may refuse to begin in their middle.
func TestIdleTopicIsCreatedAnew(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(6, "orders"))
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	publishKeys(k, l, 0, 100)
	l.awaitDone(t, 100)
	recreate(t, cluster.ListenAddrs(), "orders", 2)
	k.wantAll()
	eventually(t, "the sink knows", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.topics["orders"].partitions) == 2
	})
	publishKeys(k, l, 100, 101)
	if err := l.failure(100); !errors.Is(err, errRecreated) {
		t.Errorf("got %v, want the line to start again", err)
	}
	k.Reset()
	fresh := newLedger()
	publishKeys(k, fresh, 100, 200)
	fresh.awaitDone(t, 100)
	checkPlaces(t, cluster.ListenAddrs(), 100, 200, 2)
}

// metadata is an answer with a topic of n partitions, all led by broker 0.
func metadata(k *Kafka, id byte, n int) *sarama.MetadataResponse {
	resp := &sarama.MetadataResponse{}
	resp.AddBroker(k.cfg.Brokers[0], 0)
	tm := resp.AddTopic("orders", sarama.ErrNoError)
	tm.Uuid = sarama.Uuid{id}
	for p := range int32(n) {
		resp.AddTopicPartition("orders", p, 0, nil, nil, nil, sarama.ErrNoError)
	}
	return resp
}

// An answer that is late, from a broker that has not heard of new partitions,
// is not a topic that was created anew; and each change is told once.
func TestPartitionCountsThatAreLate(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(2, "orders"))
	var log bytes.Buffer
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), Log: slog.New(slog.NewTextHandler(&log, nil))})
	l := newLedger()
	cluster.Fault(kfake.Fault{Keys: onlyProduce, Err: kerr.NotEnoughReplicas, Count: -1})
	publishKeys(k, l, 0, 20)
	eventually(t, "the topic is known", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.topics["orders"].partitions) == 2
	})
	k.mu.Lock()
	k.topics["orders"].id = sarama.Uuid{1}
	k.mu.Unlock()
	for _, n := range []int{2, 4, 2, 4, 2, 1, 4} {
		k.apply(metadata(k, 1, n), nil)
	}
	if done, failed := l.counts(); done+failed > 0 {
		t.Errorf("got %d done and %d failed, want all to wait", done, failed)
	}
	k.mu.Lock()
	if tp := k.topics["orders"]; tp.grow != 4 || len(tp.partitions) != 2 {
		t.Errorf("got %d partitions, going over to %d, want 2 and 4", len(tp.partitions), tp.grow)
	}
	k.mu.Unlock()
	publishKeys(k, l, 20, 30)
	k.apply(metadata(k, 2, 2), nil) // created anew, as it was before it grew
	k.mu.Lock()
	if tp := k.topics["orders"]; tp.grow != 0 || tp.waiting.n > 0 || len(tp.partitions) != 2 {
		t.Errorf("got %d partitions, going over to %d, and %d events that wait for that; want 2, 0 and 0", len(tp.partitions), tp.grow, tp.waiting.n)
	}
	k.mu.Unlock()
	_ = k.Close(t.Context()) // what it says of the outcomes is another test's
	if got := strings.Count(log.String(), "outbox.partitions_changed"); got != 1 {
		t.Errorf("got %d warnings, want one:\n%s", got, log.String())
	}
}

// Behind a record that was refused nothing goes out, not to new partitions either.
func TestPartitionsAreAddedBehindAGuiltyRecord(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	f := cluster.Fault(kfake.Fault{Keys: onlyProduce, Err: kerr.InvalidRecord, Count: -1})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	l.await(t, "the verdict", func(_, failed int) bool { return failed == 1 })
	f.Remove()
	if err := admin(t, cluster.ListenAddrs()).CreatePartitions("orders", 8, nil, false); err != nil {
		t.Fatal(err)
	}
	k.wantAll()
	eventually(t, "the sink knows", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.topics["orders"].grow == 8 || len(k.topics["orders"].partitions) == 8
	})
	publishKeys(k, l, 1, 100)
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := k.topics["orders"].waiting.n; n != 99 {
		t.Errorf("got %d events that wait for the guilty record, want 99", n)
	}
}
