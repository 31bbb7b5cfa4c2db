package sink

import (
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// alone returns a sink that no broker answers, with an event for a topic: its
// answers and its time are the test's.
func alone(t *testing.T, create CreateTopics) (*Kafka, *ledger) {
	t.Helper()
	k := newSink(t, defaultTuning, KafkaConfig{Brokers: []string{"127.0.0.1:1"}, CreateTopics: create})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	return k, l
}

// hear gives the sink an answer of a topic after a while.
func hear(k *Kafka, after time.Duration, name string, err sarama.KError) {
	k.mu.Lock()
	k.began = k.began.Add(-after)
	asked := []*topic{k.topic(name)}
	k.mu.Unlock()
	resp := &sarama.MetadataResponse{}
	resp.AddTopic(name, err)
	k.apply(resp, asked)
}

// Only answers that a topic is missing, one after the other, are evidence of it.
func TestMissingTopicIsGivenUp(t *testing.T) {
	t.Parallel()
	const unknown, elected = sarama.ErrUnknownTopicOrPartition, sarama.ErrLeaderNotAvailable
	type answers struct {
		n     int
		after time.Duration
		topic string
		err   sarama.KError
	}
	for name, tc := range map[string]struct {
		answers []answers
		want    int // failed events
	}{
		"not yet":                     {[]answers{{1, 10 * time.Second, "orders", unknown}, {27, time.Second, "orders", unknown}}, 0},
		"in vain":                     {[]answers{{1, 0, "orders", unknown}, {31, time.Second, "orders", unknown}}, 1},
		"an outage":                   {[]answers{{20, time.Second, "orders", unknown}, {1, 29 * time.Second, "orders", unknown}, {5, time.Second, "orders", unknown}}, 0},
		"an outage and longer":        {[]answers{{20, time.Second, "orders", unknown}, {1, 29 * time.Second, "orders", unknown}, {10, time.Second, "orders", unknown}}, 1},
		"old evidence":                {[]answers{{25, time.Second, "orders", unknown}, {1, time.Hour, "orders", unknown}, {20, time.Second, "orders", unknown}}, 0},
		"it was there":                {[]answers{{20, time.Second, "orders", unknown}, {1, time.Second, "orders", elected}, {20, time.Second, "orders", unknown}}, 0},
		"other trouble":               {[]answers{{20, time.Second, "orders", unknown}, {1, time.Second, "orders", sarama.ErrKafkaStorageError}, {20, time.Second, "orders", unknown}}, 0},
		"another came into being":     {[]answers{{25, time.Second, "orders", unknown}, {1, 0, "new", unknown}, {1, 0, "new", elected}, {20, time.Second, "orders", unknown}}, 0},
		"another may not be seen":     {[]answers{{25, time.Second, "orders", unknown}, {1, 0, "new", unknown}, {1, 0, "new", sarama.ErrTopicAuthorizationFailed}, {20, time.Second, "orders", unknown}}, 1},
		"another has long been there": {[]answers{{25, time.Second, "orders", unknown}, {1, 0, "new", elected}, {20, time.Second, "orders", unknown}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k, l := alone(t, CreateTopics{})
			other := newLedger()
			k.Publish(event(0, "new", []byte("key"), []byte("1")), other.ack(0))
			for _, a := range tc.answers {
				for range a.n {
					hear(k, a.after, a.topic, a.err)
				}
			}
			if done, failed := l.counts(); done != 0 || failed != tc.want {
				t.Fatalf("got %d done and %d failed, want 0 and %d", done, failed, tc.want)
			}
			if err := l.failure(0); tc.want > 0 && fault.KindOf(err) != fault.Poison {
				t.Errorf("got %v, want poison", err)
			}
		})
	}
}

func TestMissingBeginsWithAnAnswer(t *testing.T) {
	t.Parallel()
	var a absence
	if a.note(int64(10*time.Second), time.Second, time.Minute); a.span != 0 {
		t.Errorf("the first answer is evidence of %v", time.Duration(a.span))
	}
	if a.note(int64(10500*time.Millisecond), time.Second, time.Minute); time.Duration(a.span) != 500*time.Millisecond {
		t.Errorf("the second answer is evidence of %v, want half a second", time.Duration(a.span))
	}
}

// What is missing while nobody wants it has its patience before it when it is wanted.
func TestMissingTopicNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	k, _ := alone(t, CreateTopics{})
	for range 40 {
		hear(k, time.Second, "old", sarama.ErrUnknownTopicOrPartition)
	}
	k.mu.Lock()
	if tp := k.topics["old"]; tp.unready {
		t.Error("it is asked for again and again")
	}
	k.mu.Unlock()
	k.Publish(event(0, "old", []byte("key"), []byte("1")), newLedger().ack(0))
	for range 20 {
		hear(k, time.Second, "old", sarama.ErrUnknownTopicOrPartition)
	}
	k.Reset()
	hear(k, time.Second, "old", sarama.ErrUnknownTopicOrPartition)
	l := newLedger()
	k.Publish(event(0, "old", []byte("key"), []byte("1")), l.ack(0))
	for range 25 {
		hear(k, time.Second, "old", sarama.ErrUnknownTopicOrPartition)
	}
	if _, failed := l.counts(); failed > 0 {
		t.Fatal("the event was given up too soon")
	}
	for range 10 {
		hear(k, time.Second, "old", sarama.ErrUnknownTopicOrPartition)
	}
	if _, failed := l.counts(); failed != 1 {
		t.Error("the event was never given up")
	}
}

// A topic that the relay creates is given up only when the controller refuses it, and keeps to.
func TestMissingTopicThatIsCreated(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  sarama.KError
		want int
	}{
		{sarama.ErrNoError, 0},
		{sarama.ErrTopicAlreadyExists, 0},
		{sarama.ErrRequestTimedOut, 0},
		{sarama.ErrPolicyViolation, 1},
	} {
		t.Run(tc.err.Error(), func(t *testing.T) {
			t.Parallel()
			k, l := alone(t, CreateTopics{Partitions: 1})
			for range 100 {
				hear(k, time.Second, "orders", sarama.ErrUnknownTopicOrPartition)
			}
			k.mu.Lock()
			orders := k.topics["orders"]
			k.mu.Unlock()
			k.created([]*topic{orders}, &sarama.CreateTopicsResponse{TopicErrors: map[string]*sarama.TopicError{"orders": {Err: tc.err}}})
			for range 25 {
				hear(k, time.Second, "orders", sarama.ErrUnknownTopicOrPartition)
			}
			if _, failed := l.counts(); failed > 0 {
				t.Fatal("the event was given up too soon")
			}
			for range 10 {
				hear(k, time.Second, "orders", sarama.ErrUnknownTopicOrPartition)
			}
			if _, failed := l.counts(); failed != tc.want {
				t.Errorf("got %d failed, want %d", failed, tc.want)
			}
		})
	}
}

// A leader whose address the answer does not tell is none yet.
func TestLeaderWithoutAnAddress(t *testing.T) {
	t.Parallel()
	k, _ := alone(t, CreateTopics{})
	resp := &sarama.MetadataResponse{}
	resp.AddBroker("127.0.0.1:1", 0)
	resp.AddTopicPartition("orders", 0, 5, nil, nil, nil, sarama.ErrNoError)
	k.apply(resp, nil)
	k.mu.Lock()
	defer k.mu.Unlock()
	if tp := k.topics["orders"]; tp.partitions[0].leader != -1 || !tp.unready {
		t.Errorf("got leader %d, unready %v, want to ask again", tp.partitions[0].leader, tp.unready)
	}
}

// The brokers may be late to know what the controller has created.
func TestCreatedTopicIsWaitedFor(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	lag := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "orders", Err: kerr.UnknownTopicOrPartition, Count: -1})
	tune := quick()
	tune.unknownTopic = 50 * time.Millisecond
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs(), CreateTopics: CreateTopics{Partitions: 1}, DeadLetters: allDead})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	eventually(t, "answers for longer than that", func() bool { return lag.Hits() > 30 })
	eventually(t, "the trouble is told", func() bool { return k.Stats().LastError != "" })
	lag.Remove()
	l.awaitDone(t, 1)
	only(t, cluster, "orders")
}
