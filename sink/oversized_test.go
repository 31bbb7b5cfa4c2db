package sink

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// An answer about an oversized event's topic that names no leader, or that is a
// refusal, does not keep what comes behind the event until the next refresh.
func TestOversizedThroughTrouble(t *testing.T) {
	t.Parallel()
	for name, trouble := range map[string]kfake.Fault{
		"no leader": {Err: kerr.LeaderNotAvailable, Partitions: []int32{0}},
		"refused":   {Err: kerr.TopicAuthorizationFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, kfake.SeedTopics(1, "orders", dlq))
			setLimit(t, cluster, "orders", 5000)
			k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
			l := newLedger()
			k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
			l.awaitDone(t, 1)
			trouble.Keys, trouble.Topic = []kmsg.Key{kmsg.Metadata}, "orders"
			cluster.Fault(trouble)
			k.Publish(event(1, "orders", []byte("key"), make([]byte, 6000)), l.ack(1))
			l.awaitDone(t, 2)
			k.Publish(event(2, "orders", []byte("key"), []byte("1")), l.ack(2))
			l.awaitDone(t, 3)
		})
	}
}
