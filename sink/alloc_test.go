//go:build !race

package sink

import "testing"

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
