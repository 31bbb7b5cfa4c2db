//go:build !race

package sink

import (
	"fmt"
	"runtime"
	"testing"
)

// The race detector allocates: `make test` runs this once without it.
func TestBuildAllocatesNothing(t *testing.T) {
	b, err := NewBuilder(RecordConfig{Columns: DefaultColumns(), Source: "//test", Attributes: map[string]string{"team": "a"}})
	if err != nil {
		t.Fatal(err)
	}
	g := golden{Row: []goldenValue{
		{"id", "uuid", new("0190c6f0-0000-7000-8000-000000000001")}, {"aggregate_type", "text", new("Order")},
		{"aggregate_id", "text", new("42")}, {"event_type", "text", new("OrderPlaced")},
		{"payload", "bytea", new(`\x7b7d`)}, {"occurred_at", "timestamptz", new("2026-11-23 17:47:26.298695+00")},
		{"headers", "jsonb", new(`{"a": "b", "c": 1, "d": {"e": [1, 2]}, "f": "\u00e9"}`)},
	}}
	ev := g.event(t)
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := b.build(ev); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("got %v allocations per event, want none", n)
	}
}

// What the package documentation says of a topic that nothing is published to any more.
func TestIdleTopicAllocatesLittle(t *testing.T) {
	const topics, partitions = 2000, 12
	measure := func(partitions int) float64 {
		k := &Kafka{tune: defaultTuning, topics: make(map[string]*topic)}
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		for i := range topics {
			tp := k.topic(fmt.Sprintf("outbox.event.an-aggregate-%06d", i))
			tp.setCount(partitions)
		}
		used := heap() - before
		runtime.KeepAlive(k)
		return float64(used) / topics
	}
	one, all := measure(1), measure(1+partitions)
	each := (all - one) / partitions
	t.Logf("%.0f bytes per partition, %.0f per topic", each, one-each)
	if each > 150 || one-each > 300 {
		t.Errorf("got %.0f bytes per partition and %.0f per topic, want about 140 and 270", each, one-each)
	}
}
