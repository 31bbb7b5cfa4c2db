package sink

import (
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

func TestPublish(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.NumBrokers(3), kfake.SeedTopics(5, "orders"))
	k := newSink(t, quick(), KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	const n = 2000
	for i := range n {
		k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i%37), fmt.Appendf(nil, `{"n": %d}`, i)), l.ack(i))
	}
	l.awaitDone(t, n)
	got := 0
	for p, records := range consume(t, cluster.ListenAddrs(), "orders") {
		order := ids(t, records)
		if !slices.IsSorted(order) {
			t.Errorf("partition %d is out of order: %v", p, order)
		}
		got += len(order)
		for _, r := range records {
			if want := partitionOf(r.Key, 5); int(p) != want {
				t.Errorf("key %s is in partition %d, want %d", r.Key, p, want)
			}
		}
	}
	if got != n {
		t.Errorf("got %d records, want %d", got, n)
	}
	s := k.Stats()
	if s.Published != n || s.Queued != 0 || s.InFlight != 0 || !s.Connected || !s.Oldest.IsZero() {
		t.Errorf("got stats %+v", s)
	}
}

func BenchmarkKafka(b *testing.B) {
	for _, bc := range []struct{ codec string }{{"none"}, {"lz4"}} {
		b.Run(bc.codec, func(b *testing.B) {
			cluster := fake(b, kfake.SeedTopics(12, "orders"), kfake.BlackholeProduce())
			k := newSink(b, defaultTuning, KafkaConfig{Brokers: cluster.ListenAddrs(), Compression: bc.codec})
			benchmark(b, k)
		})
	}
}
