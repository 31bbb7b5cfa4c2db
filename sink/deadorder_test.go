package sink

import (
	"slices"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// Invariant 5 among dead letters: what waits for partitions that were added is
// convicted behind what waits for those before.
func TestDeadLettersOfATopicThatGrew(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders", dlq))
	notYet := cluster.Fault(kfake.Fault{Keys: onlyProduce, Topic: "orders", Err: kerr.NotEnoughReplicas, Count: -1})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
	l := newLedger()
	publish := func(from, to int) {
		for i := from; i < to; i++ {
			k.Publish(event(i, "orders", []byte("key"), []byte("1")), l.ack(i))
		}
	}
	publish(0, 5)
	eventually(t, "tries", func() bool { return notYet.Hits() > 3 })
	publish(5, 10)
	if err := admin(t, cluster.ListenAddrs()).CreatePartitions("orders", 4, nil, false); err != nil {
		t.Fatal(err)
	}
	k.wantAll()
	k.wakeControl()
	eventually(t, "the new partitions are known", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.topics["orders"].grow == 4
	})
	publish(10, 15)
	for _, keys := range [][]kmsg.Key{{kmsg.Metadata}, onlyProduce} {
		cluster.Fault(kfake.Fault{Keys: keys, Topic: "orders", Err: kerr.TopicAuthorizationFailed, Count: -1})
	}
	notYet.Remove()
	k.wantAll()
	l.awaitDone(t, 15)
	if got := ids(t, consume(t, cluster.ListenAddrs(), dlq)[0]); !slices.Equal(got, numbers(0, 15)) {
		t.Errorf("the dead letters are %v", got)
	}
}

// When the last event for the partitions before became a dead letter, the next
// one goes to those that were added.
func TestDeadLetterOfATopicThatGrew(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders", dlq))
	setLimit(t, cluster, "orders", 5000)
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	l.awaitDone(t, 1)
	if err := admin(t, cluster.ListenAddrs()).CreatePartitions("orders", 4, nil, false); err != nil {
		t.Fatal(err)
	}
	k.Publish(event(1, "orders", []byte("key"), make([]byte, 6000)), l.ack(1)) // doubt of the limit finds the new partitions
	l.awaitDone(t, 2)
	k.Publish(event(2, "orders", []byte("key"), []byte("1")), l.ack(2))
	l.awaitDone(t, 3)
}

// A dead letter that is cut counts for what it is then.
func TestCutLetterIsCounted(t *testing.T) {
	t.Parallel()
	p := &partition{topic: &topic{name: dlq}}
	for _, size := range []int{300_000, 10} {
		m := &message{topic: p.topic, ack: new(letter)}
		m.fill(&record{key: []byte("key"), value: make([]byte, size)})
		p.queue.push(m)
	}
	new(Kafka).convict(p, 1, sarama.ErrMessageSizeTooLarge, new(settled))
	want := 0
	for m := p.queue.head; m != nil; m = m.next {
		want += m.wire()
	}
	if p.queue.n != 2 || p.queue.bytes != want || want > 70_000 {
		t.Errorf("the queue counts %d bytes of %d letters, and has %d", p.queue.bytes, p.queue.n, want)
	}
}

// A topic that stays missing is given up though the line started again meanwhile.
func TestMissingTopicAfterReset(t *testing.T) {
	t.Parallel()
	for name, letters := range map[string]DeadLetters{"stop": {Topic: dlq}, "dead letter": allDead} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, kfake.SeedTopics(1, "orders", dlq))
			tune := quick()
			tune.unknownTopic = time.Second
			k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: letters})
			before, l := newLedger(), newLedger()
			k.Publish(event(0, "orders", []byte("key"), []byte("1")), before.ack(0))
			before.awaitDone(t, 1)
			if err := admin(t, cluster.ListenAddrs()).DeleteTopic("orders"); err != nil {
				t.Fatal(err)
			}
			k.Publish(event(1, "orders", []byte("key"), []byte("1")), newLedger().ack(1))
			eventually(t, "it is found missing", func() bool {
				k.mu.Lock()
				defer k.mu.Unlock()
				return k.topics["orders"].missing != (absence{})
			})
			k.Reset()
			k.Publish(event(1, "orders", []byte("key"), []byte("1")), l.ack(1))
			l.await(t, "the verdict", func(done, failed int) bool { return done+failed == 1 })
			if _, failed := l.counts(); failed > 0 != (name == "stop") || failed > 0 && fault.KindOf(l.failure(1)) != fault.Poison {
				t.Errorf("%d failed: %v", failed, l.failure(1))
			}
		})
	}
}

// A reset while a dead letter is on its way opens the gate, also for a letter
// that is refused then: nobody waits for it any more.
func TestResetWhileADeadLetterIsSent(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders", dlq))
	refuseGuilty(cluster, kerr.InvalidRecord)
	entered, _, release := holdTopic(cluster, dlq)
	cluster.Fault(kfake.Fault{Keys: onlyProduce, Topic: dlq, Err: kerr.InvalidRecord, Count: 1})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
	before, l := newLedger(), newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("guilty")), before.ack(0))
	wait(t, "the dead letter on the wire", entered)
	k.Publish(event(1, "orders", []byte("key"), []byte("1")), before.ack(1))
	k.Reset()
	before.await(t, "what waited is failed", func(_, failed int) bool { return failed == 1 })
	k.Publish(event(2, "orders", []byte("key"), []byte("1")), l.ack(2))
	release()
	l.awaitDone(t, 1)
}

// A dead letter that is too old for its topic is stamped anew, whatever its
// event was refused for.
func TestDeadLetterIsTooOld(t *testing.T) {
	t.Parallel()
	start := time.Now().Truncate(time.Millisecond)
	for name, topic := range map[string]string{"refused": "orders", "unbuildable": "no topic!"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, kfake.SeedTopics(1, "orders", dlq))
			refuseGuilty(cluster, kerr.InvalidRecord)
			cluster.Fault(kfake.Fault{Keys: onlyProduce, Topic: dlq, Err: kerr.InvalidTimestamp, Count: 1})
			k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
			l := newLedger()
			ev := event(0, topic, []byte("key"), []byte("guilty"))
			ev.CommitTime = start.Add(-1000 * time.Hour)
			k.Publish(ev, l.ack(0))
			k.Publish(event(1, "orders", []byte("key"), []byte("1")), l.ack(1))
			l.awaitDone(t, 2)
			if got := only(t, cluster, dlq); got.Timestamp.Before(start) || string(got.Value) != "guilty" {
				t.Errorf("the dead letter has the time %v and the value %s", got.Timestamp, got.Value)
			}
		})
	}
}

// Invariant 6: an acknowledgement is one of all in-sync replicas, and a batch
// that is sent again is known to the broker.
func TestAcknowledgedByAllReplicas(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	asked := make(chan *kmsg.ProduceRequest, 1)
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		asked <- req.(*kmsg.ProduceRequest)
		return nil, nil, false
	})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	l.awaitDone(t, 1)
	req := <-asked
	batch := new(kmsg.RecordBatch)
	if err := batch.ReadFrom(req.Topics[0].Partitions[0].Records); err != nil {
		t.Fatal(err)
	}
	if req.Acks != int16(sarama.WaitForAll) || batch.ProducerID < 0 || batch.FirstSequence != 0 {
		t.Errorf("acks %d, producer id %d, sequence %d", req.Acks, batch.ProducerID, batch.FirstSequence)
	}
}
