package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// A partitioned table is one outbox: its events come under its own name,
// whatever partition they are in and however they got there.
func TestPartitionedTable(t *testing.T) {
	b := newBed(t, "17", "")
	b.exec(b.conn, `CREATE SCHEMA app;
		CREATE TABLE app.outbox (id uuid DEFAULT gen_random_uuid(), created date NOT NULL, aggregate_type text DEFAULT '`+b.name+`', aggregate_id text,
			event_type text DEFAULT 'made', payload jsonb, PRIMARY KEY (id, created)) PARTITION BY RANGE (created);
		CREATE TABLE app.outbox_1 PARTITION OF app.outbox FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
		CREATE TABLE app.outbox_2 (payload jsonb, event_type text, aggregate_id text, gone int, created date NOT NULL, id uuid NOT NULL, aggregate_type text);
		ALTER TABLE app.outbox_2 DROP gone, ALTER id SET DEFAULT gen_random_uuid(), ALTER event_type SET DEFAULT 'direct', ALTER aggregate_type SET DEFAULT '`+b.name+`';
		ALTER TABLE app.outbox ATTACH PARTITION app.outbox_2 FOR VALUES FROM ('2024-02-01') TO ('2024-03-01')`)
	s := shape{table: "app.outbox", id: "id", key: "aggregate_id", payload: "payload", partitionWise: true}
	b.keepLedger(s)
	// This one is configured by a file.
	path := filepath.Join(t.TempDir(), "relay.yaml")
	yaml := strings.Join([]string{
		"postgres:", "  url: " + b.url(), "  slot: " + b.name, "  publication: Outbox of " + b.name, "table:", "  name: app.outbox",
		"kafka:", "  brokers: [" + strings.Join(b.brokers, ", ") + "]",
	}, "\n")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	consumer := rig.Consume(t, b.brokers, nil, b.topic())
	relay := rig.Start(t, nil, "run", "--config", path)
	relay.AwaitState("streaming")

	insert := func(table, created, n string) string {
		return "INSERT INTO " + table + " (created, aggregate_id, payload) SELECT '" + created + "', 'p', jsonb_build_object('n', " + n + ")"
	}
	b.exec(b.conn, insert("app.outbox", "2024-01-05", "1"))
	b.exec(b.conn, insert("app.outbox_1", "2024-01-06", "2"))
	b.exec(b.conn, insert("app.outbox", "2024-02-05", "3"))
	b.exec(b.conn, insert("app.outbox_2", "2024-02-06", "4"))
	for _, created := range []string{"2024-01-07", "2024-02-07"} {
		b.exec(b.conn, "BEGIN; SAVEPOINT s")
		b.exec(b.conn, insert("app.outbox", created, "99"))
		b.exec(b.conn, "ROLLBACK TO s; COMMIT")
	}
	// Partitions come and go while the relay streams.
	b.exec(b.conn, `CREATE TABLE app.outbox_3 PARTITION OF app.outbox FOR VALUES FROM ('2024-03-01') TO ('2024-04-01') PARTITION BY RANGE (created);
		CREATE TABLE app.outbox_3_p PARTITION OF app.outbox_3 FOR VALUES FROM ('2024-03-01') TO ('2024-03-10')`)
	b.exec(b.conn, insert("app.outbox", "2024-03-05", "5"))
	b.exec(b.conn, insert("app.outbox_3_p", "2024-03-06", "6"))
	b.exec(b.conn, "ALTER TABLE app.outbox DETACH PARTITION app.outbox_1; DROP TABLE app.outbox_1")
	b.exec(b.conn, "TRUNCATE app.outbox_2; DELETE FROM app.outbox WHERE created = '2024-03-05'; UPDATE app.outbox SET payload = '{}'")
	b.exec(b.conn, insert("app.outbox", "2024-02-08", "7"))

	entries := b.entries(s.table)
	if len(entries) != 7 {
		t.Fatalf("the ledger has %d rows, want 7", len(entries))
	}
	records := b.delivered(relay, b.name, consumer, b.topic())
	headers := kindHeaders(s, "application/json", b.source("app.outbox"))
	want := spec{topic: func(*entry) string { return b.topic() }, headers: headers}
	report(t, want.compare(entries, records))
	if code := relay.Stop(); code != 0 {
		t.Errorf("SIGTERM: exit code %d, want 0", code)
	}
	t.Logf("%d events of 5 partitions", len(records))
}

// The table changes while the relay streams: each event has the columns of its
// own moment, also those that it got in its own transaction. No rewrite of the
// table sends its rows again.
func TestSchemaChanges(t *testing.T) {
	b := newBed(t, "17", "")
	b.defaultOutbox(b.env())
	b.exec(b.conn, "ALTER TABLE outbox ADD note text, ADD spare int")
	consumer := rig.Consume(t, b.brokers, nil, b.topic())
	relay := rig.Run(t, b.env()...)
	const tracestate = "INSERT INTO outbox (aggregate_id, event_type, payload, tracestate) VALUES ('solo', 'traced', '{}', 'vendor=1')"
	for _, change := range []string{
		soloRow("before"),
		"ALTER TABLE outbox DROP spare", soloRow("dropped a column that is not used"),
		"ALTER TABLE outbox RENAME note TO remark", soloRow("renamed one"),
		"ALTER TABLE outbox ADD more int DEFAULT 7", soloRow("added one"),
		// A new column that has a meaning is a header from now on.
		"ALTER TABLE outbox ADD tracestate text", tracestate, soloRow("tracestate is NULL"),
		"ALTER TABLE outbox DROP data_version", soloRow("dropped an optional one"),
		"ALTER TABLE outbox ADD data_version int DEFAULT 3", soloRow("added it again with another type"),
		"BEGIN; " + soloRow("in the transaction") + "; ALTER TABLE outbox ADD late text DEFAULT 'x'; " + soloRow("that changes the table") + "; COMMIT",
		"BEGIN; SAVEPOINT s; ALTER TABLE outbox ADD never text, DROP tracestate; " + soloRow("never") + "; ROLLBACK TO s; " + tracestate + "; COMMIT",
		// These rewrite the table.
		"ALTER TABLE outbox ADD random uuid DEFAULT gen_random_uuid()", soloRow("added a random one"),
		"ALTER TABLE outbox ALTER payload TYPE json", soloRow("json payload"),
		"ALTER TABLE outbox ALTER payload TYPE text", soloRow("text payload"),
		"ALTER TABLE outbox ALTER id TYPE text", soloRow("text id"),
		"ALTER TABLE outbox ALTER aggregate_id TYPE varchar(30)", soloRow("varchar key"),
		"VACUUM FULL outbox", soloRow("after a rewrite"),
		"ALTER TABLE outbox DISABLE ROW LEVEL SECURITY, REPLICA IDENTITY FULL", soloRow("replica identity"),
	} {
		b.exec(b.conn, change)
	}
	entries := b.entries("public.outbox")
	records := b.delivered(relay, b.name, consumer, b.topic())
	want := spec{topic: b.typedTopic, headers: cloudEvent(b.source("outbox"), "application/json"), solo: soloKey}
	report(t, want.compare(entries, records))
	if code := relay.Stop(); code != 0 {
		t.Fatalf("SIGTERM: exit code %d, want 0", code)
	}

	// A header that the operator maps to a new column, at the next start.
	b.exec(b.conn, "ALTER TABLE outbox ADD region text DEFAULT 'eu-ä'")
	relay = rig.Run(t, b.env("OUTBOX_CDC_HEADERS_EXTRA=region:x-region,late")...)
	b.exec(b.conn, soloRow("extra headers")+"; INSERT INTO outbox (aggregate_id, event_type, region, late) VALUES ('solo', 'gone', NULL, '')")
	extra := b.entries("public.outbox")[len(entries):]
	more := b.delivered(relay, b.name, consumer, b.topic())[len(records):]
	own := want.headers
	want.headers = func(e *entry) map[string]string {
		h := own(e)
		for header, column := range map[string]string{"x-region": "region", "late": "late"} {
			if v, ok := e.text(column); ok {
				h[header] = v
			}
		}
		return h
	}
	report(t, want.compare(extra, more))
	t.Logf("%d events between changes of the table, %d with headers of new columns", len(entries), len(extra))
}
