package cdc

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// A slot that the server gave up has no headroom left, and no relay starts on it.
func TestInvalidatedSlot(t *testing.T) {
	t.Parallel()
	pg := devtest.Postgres(t, devenv.PostgresOptions{Settings: map[string]string{"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}})
	conn := connectTo(t, pg.URL())
	c := Config{URL: pg.URL()}
	if _, err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for range 8 { // a segment each
		mustExec(t, t.Context(), conn, "SELECT pg_logical_emit_message(false, '', 'x'), pg_switch_wal()")
	}
	mustExec(t, t.Context(), conn, "CHECKPOINT")
	s, err := Inspect(t.Context(), c)
	if err != nil || !s.Exists || s.WALStatus != "lost" || s.Problem == "" || s.Hint == "" {
		t.Errorf("%+v, %v", s, err)
	}
	if s.Headroom == nil || *s.Headroom != 0 {
		t.Errorf("headroom is %v, want 0", s.Headroom)
	}
	if got := statuses(Check(t.Context(), c)); got["slot"] != fault.Fail {
		t.Errorf("check says %v", got)
	}
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.SlotLost, "invalidated")
	mustExec(t, t.Context(), conn, "COMMENT ON PUBLICATION outbox_cdc IS 'outbox-cdc: creating'")
	sql, err := InitSQL(c)
	if err != nil {
		t.Fatal(err)
	}
	if errs := asPsql(t, conn, sql); len(errs) != 1 || !strings.Contains(errs[0], "invalidated") || readSetUp(t, conn).comment != "outbox-cdc: creating" {
		t.Errorf("the printed SQL: %q, %+v", errs, readSetUp(t, conn))
	}
}

// Before that it is in danger, which a relay that streams says, and is not
// ready; what the hint says helps.
func TestUnreservedSlot(t *testing.T) {
	t.Parallel()
	pg := devtest.Postgres(t, devenv.PostgresOptions{Settings: map[string]string{"max_slot_wal_keep_size": "16MB"}})
	conn := connectTo(t, pg.URL())
	mustExec(t, t.Context(), conn, schemaSQL)
	log := newLogBuffer()
	c := Config{URL: pg.URL(), Log: log.logger(), DrainTimeout: time.Millisecond}
	watched := func(interval time.Duration) started {
		r := startWith(t, c, newMemory(true), func(r *Relay) { r.watchInterval = interval })
		r.await(t, Streaming)
		return r
	}
	r := watched(50 * time.Millisecond)
	insertRows(t, conn, 1, 1) // and nobody acknowledges it
	for range 4 {             // a segment each
		mustExec(t, t.Context(), conn, "SELECT pg_logical_emit_message(false, '', 'x'), pg_switch_wal()")
	}
	log.await(t, "outbox.slot_unreserved")
	inDanger := func() {
		t.Helper()
		if s := r.Stats(); s.State != Streaming || !strings.Contains(s.NotReady, "the next checkpoint may invalidate it") {
			t.Errorf("state %s, not ready: %q", s.State, s.NotReady)
		}
	}
	inDanger()
	if n := log.count("outbox.slot_unreserved"); n != 1 {
		t.Errorf("said %d times within a moment", n)
	}
	for _, interval := range []time.Duration{time.Hour, 50 * time.Millisecond} { // before it has looked, too
		if err := r.stop(t); err != nil {
			t.Fatal(err)
		}
		r = watched(interval)
		inDanger()
	}
	check := func() fault.Status { return statuses(Check(t.Context(), Config{URL: pg.URL()}))["slot"] }
	if got := check(); got != fault.Warn {
		t.Errorf("check says %v of the slot", got)
	}
	mustExec(t, t.Context(), conn, "ALTER SYSTEM SET max_slot_wal_keep_size = '1GB'")
	mustExec(t, t.Context(), conn, "SELECT pg_reload_conf()")
	eventually(t, "ready", func() bool { return r.Stats().Ready })
	if got := check(); got != fault.OK {
		t.Errorf("check says %v of the slot", got)
	}
}

// So it is with one that nobody read for too long (PostgreSQL 18 on), and a
// recovery replaces it.
func TestIdleSlotIsInvalidated(t *testing.T) {
	t.Parallel()
	c, conn := serverOf18(t, map[string]string{"idle_replication_slot_timeout": "1s"})
	if _, err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	insertRows(t, conn, 1, 3)
	eventually(t, "a checkpoint gives the slot up", func() bool {
		mustExec(t, t.Context(), conn, "CHECKPOINT")
		s, err := Inspect(t.Context(), c)
		return err == nil && s.WALStatus == "lost"
	})
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.SlotLost, "idle_timeout")
	if n, err := recovered(t, c, newMemory(false), byTime); err != nil || n != 3 {
		t.Errorf("recovered %d, %v", n, err)
	}
	streamsOn(t, conn, c, 4)
}

// serverOf18 starts a PostgreSQL 18 with an outbox table in it.
func serverOf18(t *testing.T, settings map[string]string) (Config, *pgx.Conn) {
	t.Helper()
	pg := devtest.Postgres(t, devenv.PostgresOptions{Version: "18", Settings: settings})
	conn := connectTo(t, pg.URL())
	mustExec(t, t.Context(), conn, schemaSQL)
	return Config{URL: pg.URL(), Columns: []string{"id", "aggregate_id", "payload"}}, conn
}

// PostgreSQL 18 streams on without a publication that is gone, and skips what
// was committed before one that was made again: neither passes in silence.
func TestPublicationGoneOn18(t *testing.T) {
	t.Parallel()
	for name, create := range map[string]string{
		"table":  "CREATE PUBLICATION outbox_cdc FOR TABLE outbox WITH (publish = 'insert')",
		"schema": "CREATE PUBLICATION outbox_cdc FOR TABLES IN SCHEMA public WITH (publish = 'insert')",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, conn := serverOf18(t, nil)
			// An older slot, as of another consumer: ours looks older than the publication, and is not.
			mustExec(t, t.Context(), conn, "SELECT pg_create_logical_replication_slot('other', 'pgoutput')")
			mustExec(t, t.Context(), conn, create)
			mustExec(t, t.Context(), conn, "SELECT pg_create_logical_replication_slot('outbox_cdc', 'pgoutput')")
			mustExec(t, t.Context(), conn, "CREATE ROLE relay LOGIN REPLICATION PASSWORD 'right'") // may not mark what is another's
			owner := c
			c.URL = strings.Replace(c.URL, "postgres@", "relay:right@", 1)
			sink := newMemory(false)
			r := start(t, c, sink)
			insertRows(t, conn, 1, 1)
			sink.await(t, 1)
			mustExec(t, t.Context(), conn, "ALTER PUBLICATION outbox_cdc SET (publish = 'insert, update')") // no harm
			eventually(t, "another session", func() bool { s := r.Stats(); return s.Reconnects == 1 && s.State == Streaming })
			if err := r.stop(t); err != nil {
				t.Fatal(err)
			}
			r = start(t, c, newMemory(false)) // soon after the first event
			r.await(t, Streaming)
			mustExec(t, t.Context(), conn, "SELECT pg_drop_replication_slot('other')")
			mustExec(t, t.Context(), conn, "DROP PUBLICATION outbox_cdc")
			checkFault(t, r.wait(t), fault.SlotLost, "does not: what was committed")
			insertRows(t, conn, 2, 2)
			checkFault(t, start(t, c, newMemory(false)).wait(t), fault.SlotLost, "does not: what was committed")
			mustExec(t, t.Context(), conn, create)
			insertRows(t, conn, 3, 3)
			checkFault(t, start(t, c, newMemory(false)).wait(t), fault.SlotLost, "is younger than")
			if got := statuses(Check(t.Context(), c)); got["slot"] != fault.Fail {
				t.Errorf("check says %v", got)
			}
			if _, err := Init(t.Context(), owner); err != nil {
				t.Fatal(err)
			}
			sink = newMemory(false)
			start(t, c, sink)
			if keys := keysOf(sink.await(t, 1)); !slices.Equal(keys, []string{"3"}) {
				t.Errorf("streamed %v, of which 2 was committed without a publication", keys)
			}
		})
	}
}
