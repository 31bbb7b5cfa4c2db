package sink

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// All golden headers obey what holds for every record.
func TestHeadersAreSound(t *testing.T) {
	t.Parallel()
	b := builder(t)
	ev := event(1, "orders", []byte("key"), []byte("{}"))
	rec, err := b.build(ev)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, h := range rec.headers {
		if h.value == nil || !utf8.Valid(h.value) || seen[h.name] {
			t.Errorf("header %s: null, not UTF-8, or twice", h.name)
		}
		seen[h.name] = true
	}
}

// An empty bytea is an empty value, not a tombstone, from the first event on.
func TestEmptyByteaIsNotNull(t *testing.T) {
	t.Parallel()
	empty := `\x`
	g := golden{Row: []goldenValue{
		{"id", "text", &empty}, {"aggregate_type", "text", new("orders")}, {"aggregate_id", "bytea", &empty},
		{"event_type", "text", &empty}, {"payload", "bytea", &empty},
	}}
	b, err := g.builder()
	if err != nil {
		t.Fatal(err)
	}
	rec, err := b.build(g.event(t))
	if err != nil {
		t.Fatal(err)
	}
	if rec.value == nil || rec.key == nil || len(rec.value)+len(rec.key) != 0 {
		t.Errorf("got key %v and value %v, want both empty and not null", rec.key, rec.value)
	}
}

// A table that changes while the relay runs: the columns are looked up anew.
func TestRelationChanges(t *testing.T) {
	t.Parallel()
	b := builder(t)
	ev := event(1, "orders", []byte("key"), []byte("1"))
	if _, err := b.build(ev); err != nil {
		t.Fatal(err)
	}
	moved := &decoder.Relation{Namespace: "public", Name: "outbox", Columns: slices.Clone(outbox.Columns)}
	slices.Reverse(moved.Columns)
	ev = event(2, "orders", []byte("key"), []byte("1"))
	slices.Reverse(ev.Row.Values)
	ev.Row.Relation = moved
	rec, err := b.build(ev)
	if err != nil || string(rec.key) != "key" || rec.topic != "orders" || string(rec.id) != "id-2" {
		t.Errorf("got %+v, %v", rec, err)
	}
	dropped := &decoder.Relation{Namespace: "public", Name: "outbox", Columns: outbox.Columns[:4]}
	ev.Row = decoder.Row{Relation: dropped, Values: event(3, "orders", nil, nil).Row.Values[:4]}
	if _, err = b.build(ev); fault.KindOf(err) != fault.Poison || !strings.Contains(err.Error(), `"payload"`) || !strings.Contains(err.Error(), "row id-3 ") {
		t.Errorf("a dropped column: got %v", err)
	}
	if _, err = b.build(event(4, "orders", []byte("key"), []byte("1"))); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// Intern tables stay small whatever the rows hold.
func TestInternIsBounded(t *testing.T) {
	t.Parallel()
	table := make(map[string]string)
	for i := range 3 * maxInterned {
		name := []byte{byte(i), byte(i >> 8), byte(i >> 16)}
		if got := intern(table, name); got != string(name) {
			t.Fatalf("got %q, want %q", got, name)
		}
	}
	if len(table) > maxInterned {
		t.Errorf("got %d entries, want at most %d", len(table), maxInterned)
	}
}

func TestNewBuilderRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		cfg  func(*RecordConfig)
		want string
	}{
		{"a format that is not built", func(c *RecordConfig) { c.Format = "debezium" }, "not built yet"},
		{"another one", func(c *RecordConfig) { c.Format = "cloudevents-structured" }, "not built yet"},
		{"an unknown format", func(c *RecordConfig) { c.Format = "avro" }, "does not exist"},
		{"no id", func(c *RecordConfig) { c.Columns.ID = "" }, "table.columns.id is empty"},
		{"no payload", func(c *RecordConfig) { c.Columns.Payload = "" }, "table.columns.payload is empty"},
		{"no source", func(c *RecordConfig) { c.Source = "" }, "cloudevents.source is empty"},
		{"an unknown key", func(c *RecordConfig) { c.Explicit = []string{"sauce"} }, `no key "sauce"`},
		{"a key that the file does not have", func(c *RecordConfig) { c.Explicit = []string{"tracestate"} }, `no key "tracestate"`},
		{"an open brace", func(c *RecordConfig) { c.Topic = "a.{b" }, "without its }"},
		{"a closed brace", func(c *RecordConfig) { c.Topic = "a.b}" }, "without its {"},
		{"an empty brace", func(c *RecordConfig) { c.Topic = "a.{}" }, "names no column"},
		{"a character no topic has", func(c *RecordConfig) { c.Topic = "a/{b}" }, "cannot stand in a topic name"},
		{"a dot", func(c *RecordConfig) { c.Topic = "." }, "cannot be named"},
		{"a long topic", func(c *RecordConfig) { c.Topic = strings.Repeat("x", 250) }, "249 are allowed"},
		{"an attribute's name", func(c *RecordConfig) { c.Attributes = map[string]string{"Kong": "x"} }, "not a name"},
		{"an attribute of ours", func(c *RecordConfig) { c.Attributes = map[string]string{"subject": "x"} }, "set by the relay"},
		{"an empty attribute", func(c *RecordConfig) { c.Attributes = map[string]string{"kong": ""} }, "empty"},
		{"attributes in plain", func(c *RecordConfig) { c.Format, c.Attributes = "plain", map[string]string{"kong": "x"} }, "no place"},
		{"an extra header", func(c *RecordConfig) { c.ExtraHeaders = []string{"a:b:c"} }, "not column or column:header"},
		{"an empty extra header", func(c *RecordConfig) { c.ExtraHeaders = []string{"a:"} }, "not column or column:header"},
		{"an extra header that is reserved", func(c *RecordConfig) { c.ExtraHeaders = []string{"a:outbox-a"} }, "set by the relay"},
		{"an extra header of ours", func(c *RecordConfig) { c.ExtraHeaders = []string{"ce_id"} }, "set by the relay"},
		{"an extra header of ours in plain", func(c *RecordConfig) { c.Format, c.ExtraHeaders = "plain", []string{"a:type"} }, "set by the relay"},
	} {
		cfg := RecordConfig{Columns: DefaultColumns(), Source: "//test"}
		tc.cfg(&cfg)
		_, err := NewBuilder(cfg)
		if fault.KindOf(err) != fault.Usage || err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want a usage error with %q", tc.name, err, tc.want)
		}
	}
}

func TestRequiredColumns(t *testing.T) {
	t.Parallel()
	b, err := NewBuilder(RecordConfig{
		Columns: DefaultColumns(), Topic: "{tenant}.{aggregate_type}.{tenant}", Source: "//test",
		Explicit: []string{"traceparent", "subject", "id"}, ExtraHeaders: []string{"tenant:x-tenant", "region"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"id", "aggregate_id", "event_type", "payload", "tenant", "aggregate_type", "region", "traceparent"}
	if got := b.RequiredColumns(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for column, want := range map[string]string{
		"id": "table.columns.id", "tenant": "route.topic and headers.extra", "region": "headers.extra",
		"traceparent": "table.columns.traceparent", "occurred_at": "",
	} {
		if got := b.AskedBy(column); got != want {
			t.Errorf("column %s is asked by %q, want %q", column, got, want)
		}
	}
	if got := b.Topics(); got != nil {
		t.Errorf("got topics %q, want none", got)
	}
	b, err = NewBuilder(RecordConfig{Columns: DefaultColumns(), Topic: "domain-events", Format: "plain"})
	if err != nil || !slices.Equal(b.Topics(), []string{"domain-events"}) {
		t.Errorf("got topics %q, %v", b.Topics(), err)
	}
}

// Events without a time of their own carry their own transaction's.
func TestCommitTimes(t *testing.T) {
	t.Parallel()
	b := builder(t)
	for i, d := range []time.Duration{0, 0, time.Second, -time.Second} {
		ev := event(i, "orders", []byte("key"), []byte("1"))
		ev.CommitTime = commitTime.Add(d)
		rec, err := b.build(ev)
		if err != nil {
			t.Fatal(err)
		}
		want := ev.CommitTime.Format(time.RFC3339Nano)
		for _, h := range rec.headers {
			if h.name == headerTime && string(h.value) != want {
				t.Errorf("event %d: got %s, want %s", i, h.value, want)
			}
		}
	}
}

// An event without an id would be taken for a repeat of each other one.
func TestEmptyIDAndTypeArePoison(t *testing.T) {
	t.Parallel()
	for _, column := range []string{DefaultColumns().ID, DefaultColumns().Type} {
		for name, value := range map[string][]byte{"NULL": nil, "empty": {}} {
			ev := event(0, "orders", []byte("key"), []byte("1"))
			ev.Row.Values = slices.Clone(ev.Row.Values)
			ev.Row.Values[ev.Row.Relation.Index(column)] = value
			if _, err := builder(t).build(ev); fault.KindOf(err) != fault.Poison || !strings.Contains(err.Error(), "NULL or empty") {
				t.Errorf("%s is %s: got %v", column, name, err)
			}
		}
	}
}
