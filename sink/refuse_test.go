package sink

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

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
	setLimit(t, cluster, "orders", 100<<20)
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

// A broker that drops the connection over a request's size says nothing: the log and the stats do.
func TestRequestTheBrokerDrops(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	setLimit(t, cluster, "orders", 100<<20)
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		return nil, errors.New("larger than socket.request.max.bytes"), true
	})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), make([]byte, 2<<20)), l.ack(0))
	eventually(t, "a hint", func() bool { return strings.Contains(k.Stats().LastError, "socket.request.max.bytes") })
}
