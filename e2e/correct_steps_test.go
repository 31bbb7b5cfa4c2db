package e2e_test

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
)

// step is one way to write to the outbox. Its statements run one by one; one
// that begins with "fails" must fail, and is run without that word.
type step struct {
	name   string
	events int // committed by it
	from   int // major version that knows the statements; 0: all
	sql    string
	run    func(b *bed) // instead of sql
}

const (
	failing   = "fails "
	separator = "\n;;\n" // of the statements of a step
)

func (s *step) do(b *bed) {
	b.t.Helper()
	before := b.recorded()
	if s.run != nil {
		s.run(b)
	}
	for statement := range strings.SplitSeq(s.sql, separator) {
		statement, mustFail := strings.CutPrefix(strings.TrimSpace(statement), failing)
		_, err := b.conn.PgConn().Exec(b.t.Context(), statement).ReadAll()
		if mustFail != (err != nil) {
			b.t.Fatalf("%s: %s: %v", s.name, firstLine(statement), err)
		}
	}
	if got := b.recorded() - before; got != s.events {
		b.t.Fatalf("%s: the ledger has %d rows more, want %d", s.name, got, s.events)
	}
}

// soloKey is written by steps only, one after the other.
const soloKey = "solo"

// soloRow is an insert with the solo key.
func soloRow(what string) string {
	return fmt.Sprintf(`INSERT INTO outbox (aggregate_id, event_type, payload) VALUES ('%s', 'made', '{"what": "%s"}')`, soloKey, what)
}

// lines joins statements.
func lines(statements ...string) string { return strings.Join(statements, separator) }

func steps(b *bed) []step {
	return append(append(transactions(), cleanUp()...), values(b)...)
}

func transactions() []step {
	return []step{
		{name: "autocommit", events: 1, sql: soloRow("alone")},
		{name: "several statements", events: 3, sql: lines("BEGIN", soloRow("first"), soloRow("second"), soloRow("third"), "COMMIT")},
		{name: "multi-row insert", events: 3, sql: `INSERT INTO outbox (aggregate_id, event_type, payload) VALUES
			('solo', 'made', '1'), ('solo', 'made', '2'), ('solo', 'made', '3')`},
		{name: "insert of a query", events: 200, sql: `INSERT INTO outbox (aggregate_id, event_type, payload)
			SELECT 'query-' || g % 7, 'made', jsonb_build_object('n', (g + 6) / 7) FROM generate_series(1, 200) g`},
		{name: "insert from a common table expression", events: 2, sql: `WITH o AS (INSERT INTO orders SELECT g FROM generate_series(1, 2) g RETURNING id)
			INSERT INTO outbox (aggregate_id, event_type, payload) SELECT 'solo', 'ordered', to_jsonb(id) FROM o`},
		{name: "beside rows of other tables and messages", events: 1, sql: lines("BEGIN", "INSERT INTO orders VALUES (1)",
			"SELECT pg_logical_emit_message(true, 'outbox', 'transactional')", soloRow("beside"),
			"SELECT pg_logical_emit_message(false, 'outbox', 'at once')", "UPDATE orders SET id = 2", "COMMIT")},
		{name: "rollback", sql: lines("BEGIN", soloRow("never"), soloRow("never"), "ROLLBACK")},
		{name: "failed transaction", sql: lines("BEGIN", soloRow("never"), failing+"SELECT 1/0", "COMMIT")},
		{name: "failed statement", sql: failing + `INSERT INTO outbox (aggregate_id, event_type, payload)
			SELECT 'solo', 'made', to_jsonb(1 / (10 - g)) FROM generate_series(1, 10) g`},
		{name: "failed at commit", sql: lines("BEGIN", soloRow("never"), "INSERT INTO checked VALUES (1), (1)", failing+"COMMIT")},
		{name: "savepoint released", events: 3, sql: lines("BEGIN", soloRow("before"), "SAVEPOINT s", soloRow("inside"), "RELEASE s", soloRow("after"), "COMMIT")},
		{name: "rollback to savepoint", events: 2, sql: lines("BEGIN", soloRow("before"), "SAVEPOINT s", soloRow("never"), "ROLLBACK TO s", soloRow("after"), "COMMIT")},
		{name: "nested savepoints", events: 3, sql: lines("BEGIN", soloRow("zero"), "SAVEPOINT a", soloRow("one"), "SAVEPOINT b", soloRow("never"), "SAVEPOINT c",
			soloRow("never"), "RELEASE c", "ROLLBACK TO b", soloRow("two"), "RELEASE b", "RELEASE a", "COMMIT")},
		{name: "outer savepoint takes a released one back", events: 1, sql: lines("BEGIN", "SAVEPOINT a", soloRow("never"), "SAVEPOINT b", soloRow("never"),
			"RELEASE b", "ROLLBACK TO a", soloRow("after"), "COMMIT")},
		{name: "everything rolled back to the first savepoint", sql: lines("BEGIN", "SAVEPOINT a", soloRow("never"), "ROLLBACK TO a", "COMMIT")},
		{name: "one savepoint used again and again", events: 3, sql: lines("BEGIN", "SAVEPOINT s", soloRow("never"), "ROLLBACK TO s", soloRow("one"), "SAVEPOINT s",
			soloRow("two"), "SAVEPOINT s", soloRow("never"), "ROLLBACK TO s", soloRow("three"), "COMMIT")},
		{name: "exception blocks", events: 120, sql: `DO $$ BEGIN FOR g IN 1..120 LOOP
			BEGIN
				INSERT INTO outbox (aggregate_id, event_type, payload) VALUES ('solo', 'made', to_jsonb(g));
				IF g % 2 = 0 THEN RAISE 'no'; END IF;
			EXCEPTION WHEN raise_exception THEN
				INSERT INTO outbox (aggregate_id, event_type, payload) VALUES ('solo', 'mended', to_jsonb(g));
			END;
			END LOOP; END $$`},
		{name: "conflict ignored", events: 1, sql: `INSERT INTO outbox (id, aggregate_id, event_type, payload)
			SELECT 'a0000000-0000-4000-8000-000000000001', 'solo', 'made', to_jsonb(g) FROM generate_series(1, 3) g ON CONFLICT DO NOTHING`},
		{name: "conflict updated", sql: `INSERT INTO outbox (id, aggregate_id, event_type, payload)
			VALUES ('a0000000-0000-4000-8000-000000000001', 'solo', 'never', '1') ON CONFLICT (id) DO UPDATE SET payload = '"never"'`},
		{name: "merge", events: 1, from: 15, sql: `MERGE INTO outbox o USING (VALUES ('a0000000-0000-4000-8000-000000000001'::uuid),
			('a0000000-0000-4000-8000-000000000002')) AS v(id) ON o.id = v.id
			WHEN MATCHED THEN UPDATE SET event_type = 'never'
			WHEN NOT MATCHED THEN INSERT (id, aggregate_id, event_type, payload) VALUES (v.id, 'solo', 'merged', '1')`},
		{name: "prepared transaction", events: 2, sql: lines("BEGIN", soloRow("prepared"), soloRow("prepared"), "PREPARE TRANSACTION 'p1'",
			"COMMIT PREPARED 'p1'")},
		{name: "prepared and rolled back", sql: lines("BEGIN", soloRow("never"), "PREPARE TRANSACTION 'p2'", "ROLLBACK PREPARED 'p2'")},
		{name: "copy", events: 3, run: copying("solo\tcopied\t{\"what\": \"tab\\\\tnew line\"}\n"+
			"solo\tcopied\t\\N\n\\N\tcopied\t{}\n", false)},
		{name: "copy rolled back", run: func(b *bed) {
			b.exec(b.conn, "BEGIN")
			copying("solo\tnever\t{}\nsolo\tnever\t{}\n", false)(b)
			b.exec(b.conn, "ROLLBACK")
		}},
		{name: "copy that fails", run: copying("solo\tnever\t{}\nsolo\tnever\tno json\n", true)},
	}
}

func copying(text string, mustFail bool) func(*bed) {
	return func(b *bed) {
		b.t.Helper()
		_, err := b.conn.PgConn().CopyFrom(b.t.Context(), strings.NewReader(text), "COPY outbox (aggregate_id, event_type, payload) FROM STDIN")
		if mustFail != (err != nil) {
			b.t.Fatalf("COPY: %v", err)
		}
	}
}

// cleanUp is how services get rid of rows. None of it is an event, and none
// of it takes an event back.
func cleanUp() []step {
	return []step{
		{name: "insert and delete", events: 2, sql: lines("BEGIN", soloRow("short-lived"), soloRow("short-lived"),
			`DELETE FROM outbox WHERE payload ->> 'what' = 'short-lived'`, "COMMIT")},
		{name: "insert, update, delete", events: 1, sql: lines("BEGIN", soloRow("as inserted"),
			`UPDATE outbox SET payload = '"never"', aggregate_id = 'never' WHERE payload ->> 'what' = 'as inserted'`,
			`DELETE FROM outbox WHERE aggregate_id = 'never'`, "COMMIT")},
		{name: "delete rolled back to savepoint", events: 1, sql: lines("BEGIN", soloRow("kept"), "SAVEPOINT s", "DELETE FROM outbox", "ROLLBACK TO s", "COMMIT")},
		{name: "update", sql: `UPDATE outbox SET payload = '"never"', aggregate_id = 'solo'`},
		{name: "delete", sql: `DELETE FROM outbox WHERE event_type = 'made'`},
		{name: "insert and truncate", events: 1, sql: lines("BEGIN", soloRow("before truncate"), "TRUNCATE outbox", "COMMIT")},
		{name: "truncate and insert", events: 1, sql: lines("BEGIN", "TRUNCATE outbox", soloRow("after truncate"), "COMMIT")},
		{name: "truncate", sql: "TRUNCATE outbox"},
		{name: "table rewritten", events: 1, sql: lines(soloRow("before rewrite"), "VACUUM FULL outbox", "CLUSTER outbox USING outbox_pkey")},
	}
}

// values are rows whose columns hold what is easily damaged.
func values(b *bed) []step {
	const all = `(id, aggregate_type, aggregate_id, event_type, payload, occurred_at, headers, source, correlation_id, causation_id, data_version, traceparent)`
	insert := func(rows string) string {
		return "INSERT INTO outbox (aggregate_id, event_type, payload) VALUES " + rows
	}
	return []step{
		{name: "null key", events: 2, sql: insert(`(NULL, 'made', '{"a": null}'), (NULL, 'made', NULL)`)},
		{name: "empty key", events: 1, sql: insert(`('', 'made', '{}')`)},
		{name: "tombstone", events: 1, sql: insert(`('gone', 'deleted', NULL)`)},
		{name: "JSON null is not NULL", events: 1, sql: insert(`('null', 'made', 'null')`)},
		{name: "JSON scalars", events: 5, sql: insert(`('s', 'made', '""'), ('s', 'made', '"\""'), ('s', 'made', 'true'),
			('s', 'made', '1.10'), ('s', 'made', '-12345678901234567890.123456789012345678901234567890')`)},
		{name: "all columns", events: 1, sql: `INSERT INTO outbox ` + all + ` VALUES ('b0000000-0000-4000-8000-00000000000B', DEFAULT, 'full', 'order.placed', '[1, {"a": [2]}]',
			'2001-02-03 04:05:06.789+05:30', '{"tenant": "t1", "number": 1.50, "yes": true, "no": null, "nested": {"b": [1, "x y"]}, "empty": ""}',
			'//orders.example.com/ä', 'c0000000-0000-4000-8000-00000000000c', 'd0000000-0000-4000-8000-00000000000d', '2',
			'00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01')`},
		{name: "headers that are ours", events: 1, sql: `INSERT INTO outbox ` + all + ` VALUES (DEFAULT, DEFAULT, 'clash', 'made', '{}', DEFAULT,
			'{"outbox-lsn": "9/9/9/9", "outbox-recovered": "true", "ce_id": "never", "ce_type": "never", "content-type": "text/plain", "mine": "kept"}',
			NULL, NULL, NULL, NULL, NULL)`},
		{name: "headers without members", events: 2, sql: `INSERT INTO outbox (aggregate_id, event_type, payload, headers) VALUES ('h', 'made', '{}', '{}'), ('h', 'made', '{}', 'null')`},
		{name: "odd times", events: 4, sql: `INSERT INTO outbox (aggregate_id, event_type, payload, occurred_at) VALUES ('time', 'made', '{}', 'infinity'),
			('time', 'made', '{}', '0044-03-15 12:00:00+00 BC'), ('time', 'made', '{}', '9999-12-31 23:59:59.999999+00'), ('time', 'made', '{}', '1883-11-18 12:03:57.000001-04:56:02')`},
		{name: "unicode and control characters", events: len(texts), run: func(b *bed) {
			for _, text := range texts {
				if _, err := b.conn.Exec(b.t.Context(), `INSERT INTO outbox (aggregate_id, event_type, payload, headers)
					VALUES ($1::text, 'made.' || $1::text, jsonb_build_object($1::text, $1::text), jsonb_build_object('text', $1::text, 'name ' || $1::text, '1'))`, text); err != nil {
					b.t.Fatal(err)
				}
			}
		}},
		{name: "known hashes", events: len(javaHashes), run: func(b *bed) {
			for key := range javaHashes {
				if _, err := b.conn.Exec(b.t.Context(), `INSERT INTO outbox (aggregate_id, event_type, payload) VALUES ($1, 'made', '{}')`, key); err != nil {
					b.t.Fatal(err)
				}
			}
		}},
		{name: "900 KB", events: 2, run: func(b *bed) {
			// Random text stays as long as it is; the other one is compressed in the table.
			random := make([]byte, 900<<10*3/4-64)
			if _, err := io.ReadFull(rand.Reader, random); err != nil {
				b.t.Fatal(err)
			}
			for _, blob := range []string{base64.StdEncoding.EncodeToString(random), strings.Repeat("🎉 ", 900<<10/5-64)} {
				if _, err := b.conn.Exec(b.t.Context(), `INSERT INTO outbox (aggregate_id, event_type, payload)
					VALUES ('large', 'made', jsonb_build_object('blob', $1::text))`, blob); err != nil {
					b.t.Fatal(err)
				}
			}
			var shortest int
			if err := b.conn.QueryRow(b.t.Context(), `SELECT min(octet_length(payload::text)) FROM outbox WHERE aggregate_id = 'large'`).Scan(&shortest); err != nil || shortest < 899<<10 {
				b.t.Fatalf("the large payload has %d bytes: %v", shortest, err)
			}
		}},
	}
}

// texts are keys, types, header names and values at once. A name that begins
// with a line of its own or is not composed must stay so.
var texts = []string{
	"ключ", "日本語", "naïve", "nai\u0308ve", "🔑👩‍👩‍👧", "\U0010FFFF", "\u0001\u001f\u007f\u0080\u009f", "tab\tline\nreturn\r",
	`back\slash "quoted" 'single'`, " spaces ", "\ufeffmark", "\u2028\u2029", "\u202eright to left", "%00 {aggregate_id}", "\uffff\ufffe", strings.Repeat("ß", 3000),
}

// javaHashes are the vectors of Apache Kafka's own test of its murmur2:
// org.apache.kafka.common.utils.UtilsTest.testMurmur2.
var javaHashes = map[string]int32{
	"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
	"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
}
