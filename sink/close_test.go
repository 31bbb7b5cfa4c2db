package sink

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func closeSink(tb testing.TB, k *Kafka) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := k.Close(ctx); err != nil {
		tb.Errorf("Close: %v", err)
	}
}

// A broker that takes connections and never answers holds neither Publish nor Close up.
func TestCloseWithDeadBroker(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		return nil, nil, true // never an answer
	})
	tune := quick()
	tune.readTimeout = time.Hour
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	for i := range 100 {
		k.Publish(event(i, "orders", []byte("key"), []byte("1")), l.ack(i))
	}
	eventually(t, "a batch on the wire", func() bool { return k.Stats().InFlight > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := k.Close(ctx); err == nil {
		t.Error("Close said nothing of what it gave up")
	}
	if d := time.Since(start); d > 900*time.Millisecond {
		t.Errorf("Close took %v", d)
	}
	if done, failed := l.counts(); done != 0 || failed != 100 {
		t.Errorf("got %d done and %d failed, want 0 and 100", done, failed)
	}
	k.Publish(event(100, "orders", []byte("key"), []byte("1")), l.ack(100))
	if err := l.failure(100); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: got %v, want ErrClosed", err)
	}
}

// Close lets what is on the wire be settled, and sends nothing more.
func TestCloseAwaitsTheWire(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	entered, release := hold(cluster)
	defer release()
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	wait(t, "a batch on the wire", entered)
	k.Publish(event(1, "orders", []byte("key"), []byte("1")), l.ack(1))
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		closeSink(t, k)
	}()
	l.await(t, "the queue given back", func(_, failed int) bool { return failed == 1 })
	release()
	wait(t, "Close", closed)
	if done, failed := l.counts(); done != 1 || failed != 1 {
		t.Errorf("got %d done and %d failed, want 1 and 1", done, failed)
	}
}

// What would have to be sent again when the sink closes is failed, whatever its state.
func TestCloseWhileRetrying(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	f := cluster.Fault(kfake.Fault{Keys: onlyProduce, Err: kerr.NotEnoughReplicas, Count: -1})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	for i := range 10 {
		k.Publish(event(i, "orders", []byte("key"), []byte("1")), l.ack(i))
	}
	eventually(t, "a second try", func() bool { return f.Hits() > 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_ = k.Close(ctx) // whether it says that outcomes are unknown depends on what was on the wire
	if done, failed := l.counts(); done != 0 || failed != 10 {
		t.Errorf("got %d done and %d failed, want 0 and 10", done, failed)
	}
}

// A batch that the broker wants again is failed too, and Close says so.
func TestCloseTakesNoForAnAnswer(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	entered, gate := make(chan struct{}, 100), make(chan struct{})
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		entered <- struct{}{}
		cluster.SleepControl(func() { <-gate })
		return answer(req, kerr.NotEnoughReplicas.Code), nil, true
	})
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	wait(t, "a batch on the wire", entered)
	closed := make(chan error, 1)
	go func() { closed <- k.Close(t.Context()) }()
	eventually(t, "Close", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.closing
	})
	close(gate)
	if err := <-closed; !errors.Is(err, errUnfinished) {
		t.Errorf("got %v, want to hear of the batch", err)
	}
	if done, failed := l.counts(); done != 0 || failed != 1 {
		t.Errorf("got %d done and %d failed, want 0 and 1", done, failed)
	}
}
