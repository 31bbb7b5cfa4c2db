package e2e_test

import (
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// scale is how much of the load a version gets. The correctness of one with
// the next is in the steps, which all of them run.
var scale = []struct {
	version                string
	sessions, transactions int // concurrent, and each one's
	large                  int // rows of one transaction
}{
	{"17", 8, 60, 100_000},
	{"14", 6, 20, 5_000},
	{"15", 6, 20, 5_000},
	{"16", 6, 20, 5_000},
	{"18", 6, 20, 5_000},
}

// idleLimit is how soon other tables' WAL is confirmed: a status interval of
// 3 s, and what a busy machine adds.
const idleLimit = 8 * time.Second

// Every committed row reaches Kafka once, as it was inserted, in commit order
// by key; nothing else does. The relay knows two variables and no more.
func TestCore(t *testing.T) {
	for _, at := range scale {
		t.Run(at.version, func(t *testing.T) {
			b := newBed(t, at.version, "")
			const slot = "outbox_cdc"
			b.defaultOutbox(b.two())
			b.exec(b.conn, `CREATE TABLE orders (id int); CREATE TABLE checked (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);
				CREATE TABLE counter (key text PRIMARY KEY, n int NOT NULL DEFAULT 0)`)
			topics := []string{b.topic(), b.topic() + ".aside"}
			consumer := rig.Consume(t, b.brokers, nil, topics...)
			relay := rig.Run(t, b.two()...)

			begun := time.Now()
			for _, s := range steps(b) {
				if b.pg.Major() >= s.from {
					s.do(b)
				}
			}
			b.concurrently(at.sessions, at.transactions)
			b.large(at.large)
			written := time.Since(begun)

			records := b.delivered(relay, slot, consumer, topics...)
			arrived := time.Since(begun)
			// A busy database with an idle outbox: the position follows all the same.
			b.exec(b.conn, "INSERT INTO orders SELECT generate_series(1, 3000); UPDATE orders SET id = id + 1")
			idle := b.awaitConfirmed(relay, slot)
			if idle > idleLimit {
				t.Errorf("other tables' WAL was confirmed after %v", idle)
			}
			entries := b.entries("public.outbox")
			if reconnects := b.status(relay).Relay.Reconnects; reconnects != 0 {
				t.Errorf("the relay reconnected %d times", reconnects)
			}
			want := spec{topic: b.typedTopic, headers: cloudEvent(b.source("outbox"), "application/json"), solo: soloKey}
			report(t, want.compare(entries, records))
			checkJavaHashes(t, records)
			t.Logf("PostgreSQL %s: %d events, %d repeats; written in %v, confirmed and read from Kafka after %v, other tables' WAL confirmed %v after it",
				b.pg.Version(), len(entries), rig.Repeats(t, records),
				written.Round(time.Millisecond), arrived.Round(time.Millisecond), idle.Round(time.Millisecond))
			b.restart(relay, slot, consumer, topics, want)
		})
	}
}

// report fails the test with what compare found.
func report(t *testing.T, found []string) {
	t.Helper()
	for _, p := range found {
		t.Error(p)
	}
}

// typedTopic is the default route.
func (b *bed) typedTopic(e *entry) string {
	typ, _ := e.text("aggregate_type")
	return "outbox.event." + typ
}

// restart stops the relay in order and starts it again: nothing is repeated,
// and what is committed meanwhile is sent.
func (b *bed) restart(r *rig.Relay, slot string, consumer *rig.Consumer, topics []string, want spec) {
	b.t.Helper()
	if code := r.Stop(); code != 0 {
		b.t.Fatalf("SIGTERM: exit code %d, want 0", code)
	}
	rig.Eventually(b.t, 5*time.Second, "the walsender has let go of the slot behind a clean stop", func() bool {
		var active bool
		if err := b.conn.QueryRow(b.t.Context(), "SELECT active FROM pg_replication_slots WHERE slot_name = $1", slot).Scan(&active); err != nil {
			b.t.Fatal(err)
		}
		return !active
	})
	_, before := consumer.Distinct()
	recorded := b.recorded()
	b.exec(b.conn, soloRow("between two runs"))
	again := rig.Run(b.t, b.two("OUTBOX_CDC_POSTGRES_SLOT="+slot, "OUTBOX_CDC_POSTGRES_PUBLICATION="+slot)...)
	b.exec(b.conn, soloRow("in the second run"))
	records := b.delivered(again, slot, consumer, topics...)
	entries := b.entriesFrom("public.outbox", recorded)
	if len(entries) != 2 {
		b.t.Fatalf("the ledger has %d rows more, want 2", len(entries))
	}
	report(b.t, want.compare(entries, records[before:]))
	if code := again.Stop(); code != 0 {
		b.t.Errorf("SIGTERM in the second run: exit code %d, want 0", code)
	}
}

// checkJavaHashes compares partitions with Java's hashes themselves.
func checkJavaHashes(t *testing.T, records []devenv.Record) {
	t.Helper()
	seen := 0
	for i := range records {
		r := &records[i]
		hash, known := javaHashes[string(r.Key)]
		if !known || strings.HasSuffix(r.Topic, ".aside") {
			continue
		}
		seen++
		if want := hash & 0x7fffffff % sharedPartitions; r.Partition != want {
			t.Errorf("key %q is in partition %d, Java puts it into %d", r.Key, r.Partition, want)
		}
	}
	if seen != len(javaHashes) {
		t.Errorf("%d events with keys of known hashes, want %d", seen, len(javaHashes))
	}
}
