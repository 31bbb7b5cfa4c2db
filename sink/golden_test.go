package sink

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
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
	Dead   *goldenRecord `json:"dead_letter,omitempty"`
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
	Topic   string      `json:"topic,omitempty"` // of a dead letter it is the sink's
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
			got.Record, got.Error, got.Hint, got.Dead = nil, "", "", nil
			b, err := want.builder()
			if err != nil {
				t.Fatal(err)
			}
			ev := want.event(t)
			rec, err := b.build(ev)
			if err != nil {
				if fault.KindOf(err) != fault.Poison {
					t.Errorf("got an error of kind %d, want poison", fault.KindOf(err))
				}
				got.Error, got.Hint = err.Error(), fault.HintOf(err)
				if dead := b.dead(ev, err); dead != nil {
					got.Dead = toGolden(dead)
				}
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
