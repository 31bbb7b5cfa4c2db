package sink

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

func find(findings []fault.Finding, check string) fault.Finding {
	for _, f := range findings {
		if f.Check == check {
			return f
		}
	}
	return fault.Finding{Status: "missing"}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.NumBrokers(3), kfake.SeedTopics(5, "orders"))

	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	all := k.Check(t.Context(), []string{"orders", "nowhere"})
	if f := find(all, "kafka brokers"); f.Status != fault.OK || !strings.Contains(f.Detail, "3, all reached") {
		t.Errorf("got %+v", f)
	}
	if f := find(all, "kafka producer"); f.Status != fault.OK {
		t.Errorf("got %+v", f)
	}
	if f := find(all, "kafka topic orders"); !strings.Contains(f.Detail, "5 partitions, replication factor 3") || !strings.Contains(f.Detail, "max.message.bytes 1048588") {
		t.Errorf("got %+v", f)
	}
	if f := find(all, "kafka topic nowhere"); f.Status != fault.Fail || !strings.Contains(f.Hint, "--create --topic nowhere") {
		t.Errorf("got %+v", f)
	}
	all = k.Check(t.Context(), nil)
	if f := find(all, "kafka topics"); f.Status != fault.Warn || !strings.Contains(f.Hint, "kafka.create_topics.partitions") {
		t.Errorf("got %+v", f)
	}
	if f := find(all, "kafka sizes"); !strings.Contains(f.Detail, "1048588") {
		t.Errorf("got %+v", f)
	}
	if f := find(all, "kafka topic orders"); f.Check != "" {
		t.Errorf("a topic that was not asked for: got %+v", f)
	}
	letters := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), DeadLetters: allDead})
	if f := find(letters.Check(t.Context(), nil), "kafka topic "+dlq); f.Status != fault.Fail {
		t.Errorf("got %+v", f)
	}
	creating := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), CreateTopics: CreateTopics{Partitions: 9}})
	if f := find(creating.Check(t.Context(), []string{"nowhere"}), "kafka topic nowhere"); f.Status != fault.OK || !strings.Contains(f.Detail, "9 partitions") {
		t.Errorf("got %+v", f)
	}
	failing := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs(), CreateTopics: CreateTopics{Partitions: 9, ReplicationFactor: 7}})
	if f := find(failing.Check(t.Context(), []string{"nowhere"}), "kafka topic nowhere"); f.Status != fault.Fail || !strings.Contains(f.Hint, "kafka.create_topics.replication_factor") {
		t.Errorf("got %+v", f)
	}
	if meta, err := admin(t, cluster.ListenAddrs()).DescribeTopics([]string{"nowhere"}); err != nil || meta[0].Err != sarama.ErrUnknownTopicOrPartition {
		t.Errorf("a check has created the topic: %+v, %v", meta, err)
	}
	dead := newSink(t, quick(), KafkaConfig{Brokers: []string{"127.0.0.1:1"}})
	if f := find(dead.Check(t.Context(), []string{"orders"}), "kafka brokers"); f.Status != fault.Fail || f.Hint == "" {
		t.Errorf("got %+v", f)
	}
}

func TestCheckEndsWithItsContext(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tune := quick()
	tune.readTimeout = time.Hour
	k := newSink(t, tune, KafkaConfig{Brokers: []string{l.Addr().String()}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if f := k.Check(ctx, nil); len(f) != 1 || f[0].Status != fault.Fail {
		t.Errorf("got %+v", f)
	}
}

func TestSafety(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		replicas int
		min      string
		want     fault.Status
	}{{1, "1", fault.Warn}, {3, "1", fault.Warn}, {3, "2", fault.OK}, {3, "3", fault.Warn}, {2, "2", fault.Warn}, {3, "", fault.OK}} {
		if got, hint := safety("t", tc.replicas, tc.min); got != tc.want || (hint == "") != (got == fault.OK) {
			t.Errorf("%d replicas, min %q: got %s (%s), want %s", tc.replicas, tc.min, got, hint, tc.want)
		}
	}
}

// initProducer makes the cluster answer n requests for a producer id with an
// error; -1 is all.
func initProducer(c *kfake.Cluster, e *kerr.Error, n int) (asked *atomic.Int32) {
	asked = new(atomic.Int32)
	c.ControlKey(int16(kmsg.InitProducerID), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if i := int(asked.Add(1)); n >= 0 && i > n {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
		resp.ErrorCode = e.Code
		return resp, nil, true
	})
	return asked
}

// A cluster that has just started is not to be taken for one that refuses us.
func TestCheckAwaitsProducerIDs(t *testing.T) {
	t.Parallel()
	for _, e := range []*kerr.Error{kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator} {
		cluster := fake(t)
		tune := quick()
		tune.minBackoff, tune.checkPatience = time.Millisecond, 10*time.Second
		k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
		if err := k.Connect(t.Context()); err != nil { // so that only Check asks
			t.Fatal(err)
		}
		initProducer(cluster, e, 5)
		if f := find(k.Check(t.Context(), nil), "kafka producer"); f.Status != fault.OK {
			t.Errorf("%s five times: got %+v", e.Message, f)
		}
	}
}

func TestCheckProducerHints(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err    *kerr.Error
		detail string
		hint   string
		again  bool
	}{
		{kerr.CoordinatorLoadInProgress, "COORDINATOR_LOAD_IN_PROGRESS", "pass by itself", true},
		{kerr.CoordinatorNotAvailable, "COORDINATOR_NOT_AVAILABLE", "pass by itself", true},
		{kerr.NotCoordinator, "NOT_COORDINATOR", "pass by itself", true},
		{kerr.ClusterAuthorizationFailed, "CLUSTER_AUTHORIZATION_FAILED", "IDEMPOTENT_WRITE", false},
		{kerr.UnsupportedVersion, "UNSUPPORTED_VERSION", "the broker's log", false},
	} {
		cluster := fake(t)
		k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
		if err := k.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		asked := initProducer(cluster, tc.err, -1)
		f := find(k.Check(t.Context(), nil), "kafka producer")
		if f.Status != fault.Fail || !strings.Contains(f.Detail, tc.detail) || !strings.Contains(f.Hint, tc.hint) {
			t.Errorf("%s: got %+v, want hint %q", tc.err.Message, f, tc.hint)
		}
		if again := asked.Load() > 1; again != tc.again {
			t.Errorf("%s: asked %d times", tc.err.Message, asked.Load())
		}
	}
}

// A connection that breaks between the questions is not blamed on the rights either.
func TestCheckProducerUnreachable(t *testing.T) {
	t.Parallel()
	cluster := fake(t)
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	if err := k.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	cluster.ControlKey(int16(kmsg.InitProducerID), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		return nil, errors.New("hang up"), true
	})
	if f := find(k.Check(t.Context(), nil), "kafka producer"); f.Status != fault.Fail || !strings.Contains(f.Hint, "stay reachable") {
		t.Errorf("got %+v", f)
	}
}

// The caller's patience ends Check's.
func TestCheckStopsAskingWithItsContext(t *testing.T) {
	t.Parallel()
	cluster := fake(t)
	tune := quick()
	tune.checkPatience = time.Hour
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	if err := k.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	asked := initProducer(cluster, kerr.CoordinatorLoadInProgress, -1)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	k.Check(ctx, nil)
	settled := asked.Load()
	eventually(t, "an end to the questions", func() bool {
		before := settled
		time.Sleep(100 * time.Millisecond)
		settled = asked.Load()
		return settled == before
	})
	if settled == 0 {
		t.Error("it never asked: the test proves nothing")
	}
}
