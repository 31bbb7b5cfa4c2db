package sink

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pglogrepl"

	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

var update = flag.Bool("update", false, "write the records of testdata/records anew")

// typeOIDs are the types of golden columns: pg_type.
var typeOIDs = map[string]uint32{
	"uuid": 2950, "text": textOID, "json": 114, "jsonb": jsonbOID, "bytea": byteaOID, "int8": 20,
	"timestamptz": timestamptzOID, "timestamp": 1114, "bool": 16,
}

// golden is a file of testdata/records: a row and the record that it becomes.
type golden struct {
	About  string        `json:"about"`
	Config *goldenConfig `json:"config,omitempty"`
	Row    []goldenValue `json:"row"`
	Event  *goldenEvent  `json:"event,omitempty"`
	Record *goldenRecord `json:"record,omitempty"`
	Error  string        `json:"error,omitempty"`
	Hint   string        `json:"hint,omitempty"`
}

type goldenConfig struct {
	Topic      string            `json:"topic,omitempty"`
	Format     string            `json:"format,omitempty"`
	Columns    map[string]string `json:"columns,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Extra      []string          `json:"extra,omitempty"`
}

type goldenValue struct {
	Column string  `json:"column"`
	Type   string  `json:"type"`
	Text   *string `json:"text"` // null is NULL
}

type goldenEvent struct {
	Timeline int32  `json:"timeline"`
	LSN      string `json:"lsn"`
	Seq      int    `json:"seq"`
	Commit   string `json:"commit,omitempty"`
}

type goldenRecord struct {
	Topic   string      `json:"topic"`
	Key     *string     `json:"key"`
	Value   *string     `json:"value"`
	Base64  *string     `json:"value_base64,omitempty"` // of a value that is not UTF-8
	Headers [][2]string `json:"headers"`
	Time    string      `json:"timestamp,omitempty"`
}

func (g *golden) builder() (*Builder, error) {
	cfg := RecordConfig{Columns: DefaultColumns(), Source: "postgres://db/app/public.outbox"}
	if c := g.Config; c != nil {
		names := cfg.Columns.names()
		for key, column := range c.Columns {
			names[slices.Index(roleNames[:], key)] = column
			cfg.Explicit = append(cfg.Explicit, key)
		}
		cfg.Columns = Columns{names[0], names[1], names[2], names[3], names[4], names[5], names[6], names[7], names[8], names[9], names[10], names[11], names[12]}
		cfg.Topic, cfg.Format, cfg.Attributes, cfg.ExtraHeaders = c.Topic, c.Format, c.Attributes, c.Extra
	}
	return NewBuilder(cfg)
}

func (g *golden) event(t *testing.T) *decoder.Event {
	rel := &decoder.Relation{Namespace: "public", Name: "outbox"}
	ev := &decoder.Event{Row: decoder.Row{Relation: rel}, Timeline: 1, LSN: 0x16B3748, CommitTime: commitTime}
	for _, v := range g.Row {
		oid, ok := typeOIDs[v.Type]
		if !ok {
			t.Fatalf("type %q", v.Type)
		}
		rel.Columns = append(rel.Columns, decoder.Column{Name: v.Column, TypeOID: oid})
		var text []byte
		if v.Text != nil {
			text = append([]byte{}, *v.Text...)
		}
		ev.Row.Values = append(ev.Row.Values, text)
	}
	if e := g.Event; e != nil {
		lsn, err := pglogrepl.ParseLSN(e.LSN)
		if err != nil {
			t.Fatal(err)
		}
		ev.Timeline, ev.LSN, ev.Seq = e.Timeline, lsn, e.Seq
		ev.CommitTime = time.Time{}
		if e.Commit != "" {
			if ev.CommitTime, err = time.Parse(time.RFC3339, e.Commit); err != nil {
				t.Fatal(err)
			}
		}
	}
	return ev
}

func toGolden(rec *record) *goldenRecord {
	g := &goldenRecord{Topic: rec.topic, Headers: [][2]string{}}
	if rec.key != nil {
		key := string(rec.key)
		g.Key = &key
	}
	if value := string(rec.value); rec.value != nil && utf8.ValidString(value) {
		g.Value = &value
	} else if rec.value != nil {
		value = base64.StdEncoding.EncodeToString(rec.value)
		g.Base64 = &value
	}
	for _, h := range rec.headers {
		g.Headers = append(g.Headers, [2]string{h.name, string(h.value)})
	}
	if !rec.time.IsZero() {
		g.Time = rec.time.Format(time.RFC3339Nano)
	}
	return g
}

func TestGoldenRecords(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../testdata/records/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden records: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want golden
			in := json.NewDecoder(bytes.NewReader(text))
			in.DisallowUnknownFields()
			if err := in.Decode(&want); err != nil {
				t.Fatal(err)
			}
			got := want
			got.Record, got.Error, got.Hint = nil, "", ""
			b, err := want.builder()
			if err != nil {
				t.Fatal(err)
			}
			rec, err := b.build(want.event(t))
			if err != nil {
				if fault.KindOf(err) != fault.Poison {
					t.Errorf("got an error of kind %d, want poison", fault.KindOf(err))
				}
				got.Error, got.Hint = err.Error(), fault.HintOf(err)
			} else {
				got.Record = toGolden(rec)
			}
			var out bytes.Buffer
			enc := json.NewEncoder(&out)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			if err := enc.Encode(got); err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(out.Bytes(), text) {
				return
			}
			if *update {
				if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("got\n%s\nwant\n%s", out.Bytes(), text)
		})
	}
}

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
	if _, err = b.build(ev); fault.KindOf(err) != fault.Poison || !errors.Is(err, errColumn) || !strings.Contains(err.Error(), `"payload"`) || !strings.Contains(err.Error(), "row id-3 ") {
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
	if got := b.Topics(); got != nil {
		t.Errorf("got topics %q, want none", got)
	}
	b, err = NewBuilder(RecordConfig{Columns: DefaultColumns(), Topic: "domain-events", Format: "plain"})
	if err != nil || !slices.Equal(b.Topics(), []string{"domain-events"}) {
		t.Errorf("got topics %q, %v", b.Topics(), err)
	}
}

func TestAppendTime(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"2026-11-23 17:47:26.298695+00":          "2026-11-23T17:47:26.298695Z",
		"2026-11-23 17:47:26+00":                 "2026-11-23T17:47:26Z",
		"2026-11-23 17:47:26":                    "2026-11-23T17:47:26Z",
		"2026-11-23 17:47:26.2":                  "2026-11-23T17:47:26.2Z",
		"2026-11-23T17:47:26Z":                   "2026-11-23T17:47:26Z",
		"2026-11-23T17:47:26.298695+00:00":       "2026-11-23T17:47:26.298695Z",
		"2026-11-23 17:47:26.298695+05:30":       "2026-11-23T12:17:26.298695Z",
		"2026-11-23 17:47:26.298695-08":          "2026-11-24T01:47:26.298695Z",
		"1883-11-18 12:03:57.5-00:03:58":         "1883-11-18T12:07:55.5Z",
		"0001-01-01 00:00:00+00":                 "0001-01-01T00:00:00Z",
		"9999-12-31 23:59:59.999999+00":          "9999-12-31T23:59:59.999999Z",
		"2024-02-29 00:00:00+00":                 "2024-02-29T00:00:00Z",
		"infinity":                               "",
		"-infinity":                              "",
		"0044-03-15 12:00:00+00 BC":              "",
		"10000-01-01 00:00:00+00":                "",
		"9999-12-31 23:59:59-01":                 "",
		"2026-02-29 00:00:00+00":                 "",
		"2026-13-01 00:00:00+00":                 "",
		"2026-11-23 24:00:00+00":                 "",
		"2026-11-23 17:47:60+00":                 "",
		"2026-11-23 17:47:26.+00":                "",
		"2026-11-23 17:47:26+":                   "",
		"2026-11-23 17:47:26+0":                  "",
		"2026-11-23 17:47:26 CET":                "",
		"23.11.2026 17:47:26":                    "",
		"1795456046":                             "",
		"2026-11-23":                             "",
		"":                                       "",
	} {
		got, ok := appendTime(nil, []byte(text))
		if ok != (want != "") || ok && string(got) != want {
			t.Errorf("%q: got %q, %v, want %q", text, got, ok, want)
		}
	}
}

func TestEachHeader(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ text, want string }{
		{`{}`, ""},
		{` { } `, ""},
		{`null`, ""},
		{`{"a": "b"}`, "a=b"},
		{`{"a": "b", "c": 1.50, "d": true, "e": null, "f": false}`, "a=b|c=1.50|d=true|f=false"},
		{`{"a": {"b": [1, 2, {"c": "d e"}], "f": null}}`, `a={"b":[1,2,{"c":"d e"}],"f":null}`},
		{`{"a": []}`, "a=[]"},
		{`{"a": "", "": "b"}`, "a=|=b"},
		{`{"\u00e9\n": "\ud83d\ude00\"\\\/\b\f\r\t"}`, "é\n=😀\"\\/\b\f\r\t"},
		{`{"a": "\ud83d"}`, "a=\ufffd"},
		{`{"a": "\ud83dx", "b": "\ud83d\u0041"}`, "a=\ufffdx|b=\ufffdA"},
		{`{"a": "ü", "b": {"ü": "\u00fc"}}`, `a=ü|b={"ü":"\u00fc"}`},
		{`[]`, "error: it holds a JSON array, not an object"},
		{`"{\"a\": 1}"`, "error: it holds a JSON string, not an object"},
		{`12`, "error: it holds a JSON number, not an object"},
		{`true`, "error: it holds a JSON boolean, not an object"},
		{``, "error: it is not valid JSON"},
		{`{`, "error: it is not valid JSON"},
		{`{"a"`, "error: it is not valid JSON"},
		{`{"a": `, "error: it is not valid JSON"},
		{`{"a": "b`, "error: it is not valid JSON"},
		{`{"a": "\`, "error: it is not valid JSON"},
		{`{"a": "\u12`, "error: it is not valid JSON"},
		{`{"a": "\x"}`, "error: it is not valid JSON"},
		{`{"a": tru}`, "error: it is not valid JSON"},
		{`{"a": {"b": "c}`, "error: it is not valid JSON"},
		{`{"a": [}`, "error: it is not valid JSON"},
		{`{"a": 1} x`, "error: it is not valid JSON"},
		{`{"a": 1,}`, "error: it is not valid JSON"},
	} {
		var got []string
		_, err := eachHeader([]byte(tc.text), nil, func(name, value []byte) {
			if value == nil {
				t.Errorf("%s: header %s is null", tc.text, name)
			}
			got = append(got, string(name)+"="+string(value))
		})
		text := strings.Join(got, "|")
		if err != nil {
			text = "error: " + err.Error()
		}
		if text != tc.want {
			t.Errorf("%s: got %q, want %q", tc.text, text, tc.want)
		}
	}
}

// FuzzHeaders compares with the standard library on every valid object of strings.
func FuzzHeaders(f *testing.F) {
	for _, s := range []string{`{"a": "b"}`, `{"a": {"b": [1, "c"]}, "d": null}`, `{"\u00e9": "\ud83d\ude00"}`, `[1]`, `{"a": "\`, `{"a":1e5,"b":-0.0}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got := make(map[string]string)
		twice := false
		_, err := eachHeader(text, nil, func(name, value []byte) {
			_, again := got[string(name)]
			twice = twice || again
			got[string(name)] = string(value)
		})
		var want map[string]json.RawMessage
		if !utf8.Valid(text) || json.Unmarshal(text, &want) != nil {
			return // only that it does no harm
		}
		if err != nil {
			t.Fatalf("valid JSON: %v", err)
		}
		for name, raw := range want {
			var s string
			text := cmp.Or(string(bytes.TrimSpace(raw)), "null")
			switch {
			case text == "null":
				if _, ok := got[name]; ok && !twice {
					t.Errorf("%q: null gave a header", name)
				}
				continue
			case text[0] == '"':
				if err := json.Unmarshal(raw, &s); err != nil {
					t.Fatal(err)
				}
			default:
				var b bytes.Buffer
				if err := json.Compact(&b, raw); err != nil {
					t.Fatal(err)
				}
				s = b.String()
			}
			if got[name] != s && !twice {
				t.Errorf("%q: got %q, want %q", name, got[name], s)
			}
		}
	})
}

// FuzzTime checks that what is given out is RFC 3339 of the same instant.
func FuzzTime(f *testing.F) {
	for _, s := range []string{"2026-11-23 17:47:26.298695+00", "infinity", "0044-03-15 12:00:00+00 BC", "2026-11-23 17:47:26-08:30:15"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, ok := appendTime(nil, text)
		if !ok {
			return
		}
		if _, err := time.Parse(time.RFC3339Nano, string(got)); err != nil || !bytes.HasSuffix(got, []byte("Z")) {
			t.Errorf("%q became %q: %v", text, got, err)
		}
		in := strings.Replace(string(text), " ", "T", 1)
		if want, err := time.Parse("2006-01-02T15:04:05.999999999Z07:00", in); err == nil {
			if parsed, _ := time.Parse(time.RFC3339Nano, string(got)); !parsed.Equal(want) {
				t.Errorf("%q became %q", text, got)
			}
		}
	})
}

// FuzzTemplate checks that whatever comes out is a topic that Kafka takes.
func FuzzTemplate(f *testing.F) {
	f.Add("outbox.event.{aggregate_type}", "Order")
	f.Add("{aggregate_type}{id}", "..")
	f.Add("a{", "}")
	f.Fuzz(func(t *testing.T, topic, value string) {
		b, err := NewBuilder(RecordConfig{Columns: DefaultColumns(), Topic: topic, Source: "//test"})
		if err != nil {
			return
		}
		ev := event(1, value, []byte("key"), []byte("1"))
		rec, err := b.build(ev)
		if err != nil {
			if fault.KindOf(err) != fault.Poison {
				t.Errorf("got %v, want poison", err)
			}
			return
		}
		if err := checkTopic(rec.topic); err != nil {
			t.Error(err)
		}
	})
}
