package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// kinds are outbox tables of other shapes, each with a slot, a publication and
// a mapping of its own. Statements name the table %s.
var kinds = []struct {
	name    string
	shape   shape
	create  string
	config  []string // OUTBOX_CDC_ is added
	content string
	source  string // of ce_source, behind the database
	events  int
	insert  []string
}{
	{
		name: "json with columns of other names",
		shape: shape{table: `app."OutboxEvents"`, id: `"EventID"`, key: "agg", payload: "body",
			row: `jsonb_build_object('EventID', a."EventID", 'agg', a.agg, 'kind', a.kind, 'at', a.at)`},
		create: `CREATE TABLE %s ("EventID" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, agg varchar(20), kind text, body json, at timestamp)`,
		config: []string{
			"TABLE_NAME=app.OutboxEvents", "TABLE_COLUMNS_ID=EventID", "TABLE_COLUMNS_KEY=agg", "TABLE_COLUMNS_TYPE=kind",
			"TABLE_COLUMNS_PAYLOAD=body", "TABLE_COLUMNS_TIMESTAMP=at",
		},
		content: "application/json", source: "app.OutboxEvents", events: 5,
		insert: []string{
			// json keeps white space, the order of members, repeated ones, and escapes.
			`INSERT INTO %s (agg, kind, body, at) VALUES ('a', 'made', '{"b" : 1,	"a":2, "b":1.0e+2,
				"nul": "\u0000", "half": "\ud83d", "plain": "🎉"} ', '2024-02-29 23:59:59.25')`,
			`INSERT INTO %s (agg, kind, body, at) VALUES ('a', 'made', ' null ', '2024-02-29'), ('a', 'made', '  []', NULL), (NULL, 'gone', NULL, NULL), ('a', 'gone', NULL, NULL)`,
		},
	},
	{
		name:   "text with a bigint key",
		shape:  shape{table: "public.texts", id: "id", key: "aggregate_id", payload: "payload"},
		create: `CREATE TABLE %s (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregate_id bigint, event_type varchar(10) DEFAULT 'made', payload text)`,
		config: []string{"TABLE_NAME=texts"}, content: "application/json", source: "texts", events: 7,
		insert: []string{
			`INSERT INTO %s (aggregate_id, payload) VALUES (-9223372036854775808, ''), (0, ' '), (9223372036854775807, NULL), (1, E'\x01\x02\x1f\x7f\r\n\t\\'),
				(1, '\x00'), (1, '<a>ä🎉'), (1, repeat('0123456789abcdef', 57600))`,
		},
	},
	{
		name:   "bytea with a bytea key",
		shape:  shape{table: "public.bytes", id: "id", key: "aggregate_id", payload: "payload", bytes: true, keyBytes: true},
		create: `CREATE TABLE %s (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregate_id bytea, event_type text DEFAULT 'made', payload bytea)`,
		config: []string{"TABLE_NAME=public.bytes"}, content: "application/octet-stream", source: "bytes", events: 6,
		insert: []string{
			`INSERT INTO %s (aggregate_id, payload) VALUES ('\x00ff', (SELECT string_agg(set_byte('\x00', 0, g), NULL) FROM generate_series(0, 255) g)),
				('\x', '\x'), (NULL, NULL), ('\x5c', '\x00'), ('\x31', convert_to('\x00 as text', 'UTF8')), ('\x31', convert_to(repeat('0123456789abcdef', 57600), 'UTF8'))`,
		},
	},
	{
		name:   "domains",
		shape:  shape{table: "public.domains", id: "id", key: "aggregate_id", payload: "payload"},
		create: `CREATE DOMAIN words AS text CHECK (VALUE <> ''); CREATE DOMAIN document AS jsonb; CREATE TABLE %s (id words PRIMARY KEY, aggregate_id words, event_type words, payload document)`,
		config: []string{"TABLE_NAME=domains"}, content: "application/json", source: "domains", events: 2,
		insert: []string{`INSERT INTO %s VALUES ('1', 'a', 'made', '{"b": 1, "a": "ä"}'), ('2', 'a', 'gone', NULL)`},
	},
}

// The value is the column's, byte for byte, whatever the column's type is.
func TestPayloadKinds(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			b := newBed(t, "17", "")
			s := kind.shape
			b.exec(b.conn, "CREATE SCHEMA app; "+fmt.Sprintf(kind.create, s.table))
			b.keepLedger(s)
			topic := b.name
			env := b.env("OUTBOX_CDC_ROUTE_TOPIC=" + topic)
			for _, setting := range kind.config {
				env = append(env, "OUTBOX_CDC_"+setting)
			}
			consumer := rig.Consume(t, b.brokers, nil, topic)
			relay := rig.Run(t, env...)
			relay.AwaitState("streaming") // it created the slot: what comes before is not sent
			for _, sql := range kind.insert {
				b.exec(b.conn, fmt.Sprintf(sql, s.table))
			}
			entries := b.entries(s.table)
			if len(entries) != kind.events {
				t.Fatalf("the ledger has %d rows, want %d", len(entries), kind.events)
			}
			records := b.delivered(relay, b.name, consumer, topic)
			want := spec{topic: func(*entry) string { return topic }, headers: kindHeaders(s, kind.content, b.source(kind.source))}
			report(t, want.compare(entries, records))
			t.Logf("%d events, %d records", len(entries), len(records))
		})
	}
}

// kindHeaders returns the headers of a table that has no columns but these.
func kindHeaders(s shape, content, source string) func(e *entry) map[string]string {
	column := func(name string) string { return strings.Trim(name, `"`) }
	return func(e *entry) map[string]string {
		h := map[string]string{
			"content-type": content, "ce_specversion": "1.0", "ce_source": source,
			"ce_time": e.commit.UTC().Format("2006-01-02T15:04:05.999999Z07:00"),
		}
		h["ce_id"], _ = e.text(column(s.id))
		for _, name := range []string{"event_type", "kind"} {
			if v, ok := e.text(name); ok {
				h["ce_type"] = v
			}
		}
		if v, ok := e.text(s.key); ok && v != "" {
			h["ce_subject"] = v
		}
		if v, ok := e.text("at"); ok { // without a time zone: taken as UTC
			h["ce_time"] = v + "Z"
		}
		return h
	}
}
