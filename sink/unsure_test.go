package sink

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// A batch may be in the log though its answer was lost, or was that too few have
// it. When the next try is refused for good, its sequence number is not used
// again: the broker would take the next batch for a repeat of it, and drop it (KIP-98).
func TestRefusedAfterItWasTaken(t *testing.T) {
	t.Parallel()
	refusal := func(key kmsg.Key) kfake.Fault {
		return kfake.Fault{Keys: []kmsg.Key{key}, Topic: "orders", Err: kerr.InvalidTopicException, Count: 1}
	}
	tooFew := kfake.Fault{Keys: onlyProduce, Topic: "orders", Err: kerr.NotEnoughReplicasAfterAppend, Count: 1}
	loseAnswer := func(c *kfake.Cluster, cut *cutter) {
		cut.onCut = sync.OnceFunc(func() { c.Fault(refusal(kmsg.Produce)) })
		cut.cutAnswers(1)
	}
	for name, tc := range map[string]struct {
		staleConn time.Duration
		trap      func(*kfake.Cluster, *cutter) // as the batch comes in
	}{
		"a lost answer":             {time.Hour, loseAnswer},
		"a lost answer after quiet": {1, loseAnswer},
		"too few, then refused": {time.Hour, func(c *kfake.Cluster, _ *cutter) {
			c.Fault(tooFew, refusal(kmsg.Produce))
		}},
		"too few, then refused by metadata": {time.Hour, func(c *kfake.Cluster, _ *cutter) {
			c.Fault(tooFew, refusal(kmsg.Metadata))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cut := newCutter()
			cluster := fake(t, kfake.ListenFn(cut.listen), kfake.SeedTopics(1, "orders", dlq))
			tune := quick()
			tune.staleConn = tc.staleConn
			k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
			l := newLedger()
			k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
			l.awaitDone(t, 1)
			trap := sync.OnceFunc(func() { tc.trap(cluster, cut) })
			cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
				trap()
				return nil, nil, false
			})
			k.Publish(event(1, "orders", []byte("key"), []byte("1")), l.ack(1))
			l.await(t, "the refusal", func(done, failed int) bool { return done+failed == 2 })
			if err := l.failure(1); fault.KindOf(err) == fault.Poison || !errors.Is(err, errUnsure) {
				t.Errorf("got %v, want that the outcome is not known", err)
			}
			k.Reset()
			again := newLedger()
			for i := 1; i < 4; i++ {
				k.Publish(event(i, "orders", []byte("key"), []byte("1")), again.ack(i))
				again.awaitDone(t, i)
			}
			if got := ids(t, consume(t, cluster.ListenAddrs(), "orders")[0]); !slices.Equal(got, []int{0, 1, 1, 2, 3}) {
				t.Errorf("the topic holds %v, want each event at least once", got)
			}
		})
	}
}
