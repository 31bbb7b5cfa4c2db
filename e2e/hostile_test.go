package e2e_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// hostileSettings are defaults that a database or a role may have. pgoutput
// prints values by the first ones; the others end sessions and statements of
// which the relay has long ones.
var hostileSettings = []struct {
	name, value string
	from        int // major version
}{
	{name: "client_encoding", value: "LATIN1"},
	{name: "DateStyle", value: "German"},
	{name: "bytea_output", value: "escape"},
	{name: "IntervalStyle", value: "sql_standard"},
	{name: "TimeZone", value: "Asia/Kolkata"},
	{name: "extra_float_digits", value: "0"},
	{name: "statement_timeout", value: "100ms"},
	{name: "lock_timeout", value: "50ms"},
	{name: "idle_session_timeout", value: "1s"},
	{name: "idle_in_transaction_session_timeout", value: "100ms"},
	{name: "transaction_timeout", value: "500ms", from: 17},
	{name: "default_transaction_isolation", value: "serializable"},
	{name: "default_transaction_read_only", value: "on"},
	{name: "search_path", value: "nowhere"},
}

// What a database or a role sets for its sessions harms neither the values
// nor the relay.
func TestHostileDefaults(t *testing.T) {
	for _, c := range []struct{ version, options, target string }{
		{"17", "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'", "DATABASE %[1]s"},
		{"17", "", "ROLE %[2]s"},
		{"14", "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'", "ROLE %[2]s IN DATABASE %[1]s"},
	} {
		t.Run(c.version+"/"+strings.Join(strings.Fields(strings.NewReplacer("%[1]s", "", "%[2]s", "").Replace(c.target)), "_"), func(t *testing.T) {
			t.Parallel()
			b := newBed(t, c.version, c.options)
			b.exec(b.conn, hostileTables(b.name))
			b.keepLedger(hostileShapes[0])
			b.keepLedger(hostileShapes[1])
			role := b.name + "_relay"
			b.role(role, "LOGIN SUPERUSER PASSWORD 'secret'")
			for _, s := range hostileSettings {
				if b.pg.Major() >= s.from {
					b.exec(b.conn, fmt.Sprintf("ALTER "+c.target+" SET %[3]s = '%[4]s'", b.name, role, s.name, s.value))
				}
			}
			b.hostile(role)
		})
	}
}

// hostileShapes are two tables, for the two payloads that settings could harm.
var hostileShapes = [2]shape{
	{table: "public.outbox", id: "id", key: "aggregate_id", payload: "payload"},
	{table: "public.outbox_bytes", id: "id", key: "aggregate_id", payload: "payload", bytes: true, keyBytes: true},
}

func hostileTables(topic string) string {
	const columns = `(id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregate_type text DEFAULT '%s', aggregate_id %s, event_type text, payload %s,
		occurred_at timestamptz DEFAULT now(), f8 float8, f4 float4, span interval, day date, at timestamptz, bytes bytea)`
	return fmt.Sprintf("CREATE TABLE outbox "+columns+"; CREATE TABLE outbox_bytes "+columns, topic, "text", "jsonb", topic+".bytes", "bytea", "bytea")
}

// extraColumns are published as headers, as text that no setting changed.
var extraColumns = map[string]string{
	"f8": "0.30000000000000004", "f4": "0.1", "span": "1 year 2 mons -3 days +04:05:06.5",
	"day": "2024-02-29", "at": "2024-02-29 18:29:59.123456+00", "bytes": `\x00ff5c27`,
}

const extraValues = `0.1::float8 + 0.2, 0.1, '1 year 2 mons -3 days 4:05:06.5', '2024-02-29', '2024-02-29 23:59:59.123456+05:30', '\x00ff5c27'`

// hostile runs a relay for each table and lets it be idle for longer than any
// session may.
func (b *bed) hostile(role string) {
	b.t.Helper()
	// The slot waits for this transaction, for longer than a statement may take.
	old := b.connect(b.name)
	b.exec(old, "BEGIN; SELECT pg_current_xact_id()")
	topics := [2]string{b.topic(), b.topic() + ".bytes"}
	consumer := rig.Consume(b.t, b.brokers, nil, topics[:]...)
	var relays [2]*rig.Relay
	url := "OUTBOX_CDC_POSTGRES_URL=" + b.pg.URLFor(b.name, role, "secret")
	for i, table := range []string{"outbox", "outbox_bytes"} {
		slot := fmt.Sprintf("%s_%d", b.name, i)
		relays[i] = rig.Run(b.t, b.two(url, "OUTBOX_CDC_TABLE_NAME="+table, "OUTBOX_CDC_POSTGRES_SLOT="+slot, "OUTBOX_CDC_POSTGRES_PUBLICATION="+slot,
			"OUTBOX_CDC_HEADERS_EXTRA=f8,f4,span,day,at,bytes")...)
	}
	const slow = `SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state = 'active' AND query LIKE '%create_logical%'
		AND query NOT LIKE '%pg_stat_activity%' AND clock_timestamp() - query_start > '700ms'`
	rig.Eventually(b.t, 30*time.Second, "both slots' creation waits longer than statement_timeout", func() bool { return b.count(slow, role) == 2 })
	b.exec(old, "COMMIT")
	for _, r := range relays {
		r.AwaitState("streaming")
	}

	events := b.hostileRows()
	consumer.Await(events, time.Minute)
	// Idle, by the server's own clock. The watching connection asks something once in 10 s.
	const idle = `SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state = 'idle' AND backend_type = 'client backend'
		AND clock_timestamp() - state_change > '3.2s'`
	rig.Eventually(b.t, 30*time.Second, "sessions idle for longer than idle_session_timeout", func() bool { return b.count(idle, role) == 2 })
	events += b.hostileRows()
	consumer.Await(events, time.Minute)

	for i, r := range relays {
		b.awaitConfirmed(r, fmt.Sprintf("%s_%d", b.name, i))
		if n := b.status(r).Relay.Reconnects; n != 0 || strings.Contains(r.Log(), `"level":"warn"`) && strings.Contains(r.Log(), "timeout") {
			b.t.Errorf("the relay reconnected %d times; its log:\n%s", n, r.Log())
		}
	}
	records := b.all(consumer, topics[:]...)
	for i, content := range []string{"application/json", "application/octet-stream"} {
		entries := b.entries(hostileShapes[i].table)
		headers := cloudEvent(b.source(strings.TrimPrefix(hostileShapes[i].table, "public.")), content)
		want := spec{topic: b.typedTopic, headers: func(e *entry) map[string]string {
			h := headers(e)
			maps.Copy(h, extraColumns)
			return h
		}}
		own := slices.Clone(records)
		own = slices.DeleteFunc(own, func(r devenv.Record) bool { return r.Topic != topics[i] })
		report(b.t, want.compare(entries, own))
		events -= len(own)
	}
	umlauts := func(r devenv.Record) bool {
		return string(r.Key) == "Größe ß" && bytes.Contains(r.Value, []byte("öüÄÖÜ ÿ"))
	}
	if events != 0 || !slices.ContainsFunc(records, umlauts) {
		b.t.Errorf("%d events are missing, umlauts in UTF-8: %v", events, slices.ContainsFunc(records, umlauts))
	}
	for _, r := range relays {
		if code := r.Stop(); code != 0 {
			b.t.Errorf("SIGTERM: exit code %d, want 0", code)
		}
	}
	b.t.Logf("PostgreSQL %s: %d events, %d repeats", b.pg.Version(), len(records), rig.Repeats(b.t, records))
}

// hostileRows writes to both tables and returns how many rows.
func (b *bed) hostileRows() int {
	b.t.Helper()
	const columns = " (aggregate_id, event_type, payload, f8, f4, span, day, at, bytes) "
	b.exec(b.conn, "INSERT INTO outbox"+columns+`VALUES ('Größe ß', 'geändert', '{"ä": "öüÄÖÜ ÿ"}', `+extraValues+`), ('ascii', 'made', '1.50', `+extraValues+`);
		INSERT INTO outbox_bytes`+columns+`VALUES ('\x00ff5c', 'geändert', (SELECT string_agg(set_byte('\x00', 0, g), NULL) FROM generate_series(0, 255) g), `+extraValues+`)`)
	return 3
}

func (b *bed) count(sql string, args ...any) int {
	b.t.Helper()
	var n int
	if err := b.conn.QueryRow(b.t.Context(), sql, args...).Scan(&n); err != nil {
		b.t.Fatal(err)
	}
	return n
}
