package sink

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// questions keeps the metadata requests that come to the cluster.
type questions struct {
	mu  sync.Mutex
	all []*kmsg.MetadataRequest
}

func newQuestions(c *kfake.Cluster) *questions {
	q := &questions{}
	c.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		q.mu.Lock()
		defer q.mu.Unlock()
		q.all = append(q.all, req.(*kmsg.MetadataRequest))
		return nil, nil, false
	})
	return q
}

// about returns those that name a topic.
func (q *questions) about(topic string) []*kmsg.MetadataRequest {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(q.all), func(r *kmsg.MetadataRequest) bool {
		return !slices.ContainsFunc(r.Topics, func(t kmsg.MetadataRequestTopic) bool { return *t.Topic == topic })
	})
}

// A burst of new topics is asked for, and created, some at a time.
func TestManyTopics(t *testing.T) {
	t.Parallel()
	for name, create := range map[string]CreateTopics{"by the brokers": {}, "by the relay": {Partitions: 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n = 2*askedAtOnce + 50
			cluster := fake(t, kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1))
			var mu sync.Mutex
			most := make(map[kmsg.Key]int)
			count := func(key kmsg.Key, of func(kmsg.Request) int) {
				cluster.ControlKey(int16(key), func(req kmsg.Request) (kmsg.Response, error, bool) {
					cluster.KeepControl()
					mu.Lock()
					defer mu.Unlock()
					most[key] = max(most[key], of(req))
					return nil, nil, false
				})
			}
			count(kmsg.Metadata, func(r kmsg.Request) int { return len(r.(*kmsg.MetadataRequest).Topics) })
			count(kmsg.DescribeConfigs, func(r kmsg.Request) int { return len(r.(*kmsg.DescribeConfigsRequest).Resources) })
			count(kmsg.CreateTopics, func(r kmsg.Request) int { return len(r.(*kmsg.CreateTopicsRequest).Topics) })
			published := make(chan struct{})
			cluster.ControlKey(int16(kmsg.InitProducerID), func(kmsg.Request) (kmsg.Response, error, bool) {
				cluster.SleepControl(func() { <-published })
				return nil, nil, false
			})
			k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), CreateTopics: create})
			l := newLedger()
			for i := range n {
				k.Publish(event(i, fmt.Sprintf("topic-%d", i), []byte("key"), []byte("1")), l.ack(i))
			}
			close(published)
			l.awaitDone(t, n)
			mu.Lock()
			defer mu.Unlock()
			for key, got := range most {
				if got > askedAtOnce {
					t.Errorf("%s: a request names %d topics, want at most %d", key.Name(), got, askedAtOnce)
				}
			}
			if most[kmsg.Metadata] < askedAtOnce {
				t.Errorf("the largest request names %d topics: the test proves nothing", most[kmsg.Metadata])
			}
		})
	}
}

// What is asked about one topic is not asked about all that are not there yet.
func TestEachTopicHasItsOwnPace(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	away := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "away", Err: kerr.UnknownTopicOrPartition, Count: -1})
	tune := quick()
	tune.shortBackoff, tune.maxAskBackoff = time.Millisecond, time.Hour
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	k.Publish(event(0, "away", []byte("key"), []byte("1")), newLedger().ack(0))
	eventually(t, "long pauses", func() bool { return away.Hits() >= 12 }) // the next one is of 2 s and more
	before := away.Hits()
	moved := cluster.Fault(kfake.Fault{Keys: onlyProduce, Topic: "orders", Err: kerr.NotLeaderForPartition, Count: 8})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	l.awaitDone(t, 1)
	if n := away.Hits() - before; moved.Hits() != 8 || n > 2 {
		t.Errorf("the missing topic was asked for %d times more with another's %d failures", n, moved.Hits())
	}
}

// A topic that never gets ready does not keep the news of others away.
func TestRefreshGoesOn(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	tune := quick()
	tune.refresh = 50 * time.Millisecond
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "away", []byte("key"), []byte("1")), newLedger().ack(0))
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	l.awaitDone(t, 1)
	setLimit(t, cluster, "orders", 5000)
	if err := admin(t, cluster.ListenAddrs()).CreatePartitions("orders", 8, nil, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sink knows", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		tp := k.topics["orders"]
		return len(tp.partitions) == 8 && tp.limit == 5000
	})
}

// A topic that was deleted stays so until there is an event for it.
func TestDeletedTopicDoesNotComeBack(t *testing.T) {
	t.Parallel()
	for name, create := range map[string]CreateTopics{"by the brokers": {}, "by the relay": {Partitions: 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1))
			q := newQuestions(cluster)
			tune := quick()
			tune.refresh = 20 * time.Millisecond
			k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs(), CreateTopics: create})
			l := newLedger()
			k.Publish(event(0, "old", []byte("key"), []byte("1")), l.ack(0))
			l.awaitDone(t, 1)
			if err := admin(t, cluster.ListenAddrs()).DeleteTopic("old"); err != nil {
				t.Fatal(err)
			}
			asked := len(q.about("old"))
			eventually(t, "some refreshes", func() bool { return len(q.about("old")) > asked+3 })
			if topics, err := admin(t, cluster.ListenAddrs()).ListTopics(); err != nil || len(topics) > 0 {
				t.Fatalf("got topics %v (%v), want none", topics, err)
			}
			k.Publish(event(1, "old", []byte("key"), []byte("1")), l.ack(1))
			l.await(t, "the new topic's word", func(_, failed int) bool { return failed == 1 }) // it knows no sequence numbers
			k.Reset()
			k.Publish(event(2, "old", []byte("key"), []byte("1")), l.ack(2))
			l.await(t, "the event", func(done, _ int) bool { return done == 2 })
			only(t, cluster, "old")
		})
	}
}
