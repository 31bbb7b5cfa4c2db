package sink

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
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

// A broker that stops answering for a while costs time only.
func TestSilentBroker(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(2, "orders"))
	tap := newTap(t, cluster)
	left := 3
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if left--; left >= 0 {
			return nil, nil, true
		}
		return nil, nil, false
	})
	tune := quick()
	tune.readTimeout = 100 * time.Millisecond
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	for i := range 100 {
		k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i), []byte("1")), l.ack(i))
	}
	l.awaitDone(t, 100)
	checkSequences(t, tap.all())
}

// A broker that goes on not answering is named with what to look at.
func TestSilentBrokerHasAHint(t *testing.T) {
	t.Parallel()
	var log logText
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		return nil, nil, true
	})
	tune := quick()
	tune.readTimeout = 10 * time.Millisecond
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs(), Log: slog.New(slog.NewTextHandler(&log, nil))})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	eventually(t, "the hint", func() bool { return strings.Contains(log.String(), "whether that broker runs") })
}

// The brokers close connections that idle: the next event goes out at once all the same.
func TestIdleConnectionIsClosed(t *testing.T) {
	t.Parallel()
	cut := newCutter()
	cluster := fake(t, kfake.SeedTopics(1, "orders"), kfake.ListenFn(cut.listen))
	tune := quick()
	tune.staleConn = 0
	tune.minBackoff, tune.maxBackoff, tune.shortBackoff, tune.maxAskBackoff = time.Hour, time.Hour, time.Hour, time.Hour // a failure would not be mended
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	for i := range 5 {
		k.Publish(event(i, "orders", []byte("key"), []byte("1")), l.ack(i))
		l.awaitDone(t, i+1)
		cut.cutAll()
	}
	if s := k.Stats(); s.Retries != 0 {
		t.Errorf("got %d retries, want none", s.Retries)
	}
}

// A whole cluster that goes away and comes back, again and again, loses and reorders nothing.
func TestClusterRestarts(t *testing.T) {
	t.Parallel()
	cut := newCutter()
	cluster := fake(t, kfake.NumBrokers(2), kfake.SeedTopics(4, "orders"), kfake.ListenFn(cut.listen))
	tap := newTap(t, cluster)
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	const n = 1000
	for i := range n {
		if i%100 == 99 {
			cut.cutAll()
		}
		k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i%13), []byte("1")), l.ack(i))
	}
	l.awaitDone(t, n)
	checkSequences(t, tap.all())
	for p, records := range consume(t, cluster.ListenAddrs(), "orders") {
		if got := ids(t, records); !slices.IsSorted(got) {
			t.Errorf("partition %d is out of order: %v", p, got)
		}
	}
}
