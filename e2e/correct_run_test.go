package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// The relay's role needs LOGIN and REPLICATION, and no right on any table:
// the owner makes publication and slot by `init`.
func TestLeastPrivileges(t *testing.T) {
	for _, version := range []string{"17", "14"} {
		t.Run(version, func(t *testing.T) {
			b := newBed(t, version, "")
			owner, reader := b.name+"_owner", b.name+"_relay"
			b.role(owner, "LOGIN REPLICATION PASSWORD 'o''wner %@:/'")
			b.role(reader, "LOGIN REPLICATION PASSWORD 'secret'")
			b.exec(b.conn, "GRANT CREATE ON DATABASE "+b.name+" TO "+owner+"; GRANT CREATE ON SCHEMA public TO "+owner+
				"; REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO "+owner)
			ownerURL := "OUTBOX_CDC_POSTGRES_URL=" + b.pg.URLFor(b.name, owner, "o'wner %@:/")
			url := "OUTBOX_CDC_POSTGRES_URL=" + b.pg.URLFor(b.name, reader, "secret")
			b.initialize(b.env(ownerURL))
			b.initialize(b.env(ownerURL)) // again: nothing changes
			b.keepLedger(defaultShape)
			b.exec(b.conn, "ALTER TABLE outbox ALTER aggregate_type SET DEFAULT '"+b.name+"'")
			var can bool
			if err := b.conn.QueryRow(t.Context(), "SELECT has_schema_privilege($1, 'public', 'USAGE') OR has_any_column_privilege($1, 'public.outbox', 'SELECT')", reader).Scan(&can); err != nil || can {
				t.Fatalf("the role has rights on the table: %v, %v", can, err)
			}

			check := rig.Start(t, b.env(url), "check")
			if code := check.Wait(time.Minute); code != 0 {
				t.Errorf("check: exit code %d\n%s", code, check.Stdout())
			}
			consumer := rig.Consume(t, b.brokers, nil, b.topic())
			relay := rig.Start(t, b.env(url), "run", "--no-init")
			b.exec(b.conn, soloRow("one")+";"+soloRow("two"))
			entries := b.entries("public.outbox")
			records := b.delivered(relay, b.name, consumer, b.topic())
			want := spec{topic: b.typedTopic, headers: cloudEvent(b.source("outbox"), "application/json"), solo: soloKey}
			report(t, want.compare(entries, records))
			if code := relay.Stop(); code != 0 {
				t.Errorf("SIGTERM: exit code %d, want 0", code)
			}
			t.Logf("PostgreSQL %s: %d events by a role without rights", b.pg.Version(), len(records))
		})
	}
}

// role creates a role for the test.
func (b *bed) role(name, options string) {
	b.t.Helper()
	b.exec(b.admin, "CREATE ROLE "+name+" "+options)
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, err := b.conn.PgConn().Exec(ctx, "DROP OWNED BY "+name+" CASCADE; DROP ROLE "+name).ReadAll(); err != nil {
			b.t.Error(err)
		}
	})
}

// Format plain: key and value as ever, and of headers the id, the type, the
// position and what the row asks for.
func TestPlainFormat(t *testing.T) {
	b := newBed(t, "17", "")
	b.defaultOutbox(b.env())
	consumer := rig.Consume(t, b.brokers, nil, b.topic())
	relay := rig.Run(t, b.env("OUTBOX_CDC_FORMAT=plain")...)
	for _, s := range values(b) {
		s.do(b)
	}
	entries := b.entries("public.outbox")
	records := b.delivered(relay, b.name, consumer, b.topic())
	want := spec{topic: b.typedTopic, headers: plainHeaders, id: "id"}
	report(t, want.compare(entries, records))
	t.Logf("%d events", len(records))
}

func plainHeaders(e *entry) map[string]string {
	h := map[string]string{}
	h["id"], _ = e.text("id")
	h["type"], _ = e.text("event_type")
	addMembers(h, e.row["headers"])
	return h
}

// run --stdout prints what Kafka would get, a line of JSON for each event, and
// confirms it: a second run prints nothing again.
func TestStdout(t *testing.T) {
	b := newBed(t, "17", "")
	b.defaultOutbox(b.env())
	env := b.env("OUTBOX_CDC_KAFKA_BROKERS=127.0.0.1:1") // nobody is there, and nobody is asked
	relay := rig.Start(t, env, "run", "--stdout")
	for _, s := range values(b) {
		if s.name != "900 KB" { // the rig keeps the last megabyte
			s.do(b)
		}
	}
	b.exec(b.conn, "BEGIN; "+soloRow("never")+"; ROLLBACK")
	b.exec(b.conn, soloRow("last"))
	entries := b.entries("public.outbox")
	rig.Eventually(t, time.Minute, "all lines", func() bool { return strings.Count(relay.Stdout(), "\n") >= len(entries) })
	b.awaitConfirmed(relay, b.name)
	if code := relay.Stop(); code != 0 {
		t.Errorf("SIGTERM: exit code %d, want 0", code)
	}
	records := printed(t, relay.Stdout())
	for i := range records { // a line has no partition, and its JSON is told as JSON
		records[i].Partition = murmurPartition(records[i].Key)
	}
	for i := range entries {
		entries[i].commit = entries[i].commit.Truncate(time.Microsecond)
		entries[i].value = compacted(entries[i].value)
	}
	want := spec{topic: b.typedTopic, headers: cloudEvent(b.source("outbox"), "application/json"), solo: soloKey}
	report(t, want.compare(entries, records))

	again := rig.Start(t, env, "run", "--stdout")
	b.exec(b.conn, soloRow("second run"))
	rig.Eventually(t, time.Minute, "a line", func() bool { return strings.Contains(again.Stdout(), "\n") })
	if code := again.Stop(); code != 0 {
		t.Errorf("SIGTERM: exit code %d, want 0", code)
	}
	if lines := printed(t, again.Stdout()); len(lines) != 1 || !bytes.Contains(lines[0].Value, []byte("second run")) {
		t.Errorf("the second run printed %d lines: %s", len(lines), again.Stdout())
	}
	t.Logf("%d lines", len(records))
}

// printed reads lines of JSON.
func printed(t *testing.T, out string) []devenv.Record {
	t.Helper()
	var records []devenv.Record
	for line := range strings.Lines(out) {
		var l struct {
			Topic     string
			Key       *string
			Timestamp time.Time
			Headers   map[string]string
			Value     json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%.200s: %v", line, err)
		}
		r := devenv.Record{Topic: l.Topic, Timestamp: l.Timestamp}
		if l.Key != nil {
			r.Key = []byte(*l.Key)
		}
		if string(l.Value) != "null" {
			r.Value = compacted(l.Value)
		}
		for name, value := range l.Headers {
			r.Headers = append(r.Headers, devenv.Header{Key: name, Value: []byte(value)})
		}
		records = append(records, r)
	}
	return records
}

// compacted is JSON without white space; nil stays nil, and so does JSON null,
// for a line cannot tell them apart.
func compacted(v []byte) []byte {
	var b bytes.Buffer
	if v == nil || string(v) == "null" || json.Compact(&b, v) != nil {
		return nil
	}
	return b.Bytes()
}
