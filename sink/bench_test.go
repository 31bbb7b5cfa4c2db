package sink

import (
	"bytes"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/decoder"
)

// valve is a window of events in flight, as the relay has one.
type valve struct{ room chan struct{} }

func (g valve) Done(int)        { <-g.room }
func (g valve) Fail(int, error) { <-g.room }

// benchmark publishes rows of about 300 bytes for 10,000 aggregates.
func benchmark(b *testing.B, k *Kafka) {
	payload := fmt.Appendf(nil, `{"order": "%s"}`, bytes.Repeat([]byte("x"), 280))
	events := make([]*decoder.Event, 10_000)
	for i := range events {
		events[i] = event(i, "orders", fmt.Appendf(nil, "aggregate-%d", i), payload)
	}
	g := valve{make(chan struct{}, 20_000)}
	publish := func(n int) {
		for i := range n {
			g.room <- struct{}{}
			k.Publish(events[i%len(events)], g)
		}
		for len(g.room) > 0 {
			time.Sleep(time.Millisecond)
		}
	}
	publish(20_000)
	b.ResetTimer()
	b.ReportAllocs()
	before := cpu()
	publish(b.N)
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(k.Stats().Requests), "requests")
}

// cpu is what the process has used so far, the fake cluster included.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
