package cdc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

const insertSQL = `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ('order', $1, 'order.placed', $2)`

func configFor(name string) Config {
	return Config{URL: shared.URLFor(name, "postgres", ""), Slot: name, Columns: []string{"id", "aggregate_id", "payload"}}
}

// confirmedLSN is what the server has been told.
func confirmedLSN(t *testing.T, conn *pgx.Conn, slot string) pglogrepl.LSN {
	t.Helper()
	s, err := readSlot(t.Context(), conn, slot)
	if err != nil || s == nil {
		t.Fatalf("read slot %s: %v, %v", slot, s, err)
	}
	return s.ConfirmedLSN
}

func TestStreamsCommittedRowsOnly(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	sink := newMemory(false)
	r := start(t, configFor(name), sink)
	r.await(t, Streaming)
	for i := range 10 {
		mustExec(t, t.Context(), conn, insertSQL, fmt.Sprint(i%3), `{"n":1}`)
	}
	mustExec(t, t.Context(), conn, "BEGIN; "+strings.NewReplacer("$1", "'rolled back'", "$2", "'1'").Replace(insertSQL)+"; ROLLBACK")
	mustExec(t, t.Context(), conn, "UPDATE outbox SET source = 'x'; DELETE FROM outbox")
	mustExec(t, t.Context(), conn, insertSQL, "last", `1`)
	got := sink.await(t, 11)
	for i, rec := range got[:10] {
		if rec.key != fmt.Sprint(i%3) || rec.payload != `{"n": 1}` {
			t.Errorf("event %d: key %q, payload %q", i, rec.key, rec.payload)
		}
	}
	if got[10].key != "last" {
		t.Errorf("got key %q behind the rolled-back and the changed rows", got[10].key)
	}
	if err := r.stop(t); err != nil {
		t.Fatalf("Run: %v", err)
	}
	if at := confirmedLSN(t, conn, name); at <= got[10].ev.LSN {
		t.Errorf("the last report did not reach the server: slot is at %s, the last event was at %s", at, got[10].ev.LSN)
	}
	if s := r.Stats(); s.Events != 11 || s.InFlightEvents != 0 || s.State != Stopped {
		t.Errorf("stats: %+v", s)
	}
}

// Invariant 1: an acknowledged event behind an unacknowledged one confirms nothing.
func TestConfirmsOnlyTheAcknowledgedPrefix(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	sink := newMemory(true)
	r := start(t, configFor(name), sink)
	r.await(t, Streaming)
	for i := range 3 {
		mustExec(t, t.Context(), conn, insertSQL, fmt.Sprint(i), `{}`)
	}
	got := sink.await(t, 3)
	got[1].ack.Done(got[1].ev.Size)
	got[2].ack.Done(got[2].ev.Size)
	updates := r.Stats().StatusUpdates
	eventually(t, "a status update", func() bool { return r.Stats().StatusUpdates > updates })
	if at := confirmedLSN(t, conn, name); at > got[0].ev.LSN {
		t.Fatalf("confirmed %s, beyond the unacknowledged transaction at %s", at, got[0].ev.LSN)
	}
	got[0].ack.Done(got[0].ev.Size)
	eventually(t, "all confirmed", func() bool { return confirmedLSN(t, conn, name) > got[2].ev.LSN })
}

// A sink that fails without poison makes the line start again where the slot stands.
func TestSinkFailureStartsTheLineAgain(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	sink := newMemory(true)
	r := start(t, configFor(name), sink)
	r.await(t, Streaming)
	mustExec(t, t.Context(), conn, insertSQL, "a", `{}`)
	mustExec(t, t.Context(), conn, insertSQL, "b", `{}`)
	got := sink.await(t, 2)
	got[1].ack.Done(got[1].ev.Size)
	got[0].ack.Fail(got[0].ev.Size, fmt.Errorf("producer fenced"))
	again := sink.await(t, 4)[2:]
	for i, rec := range again {
		if rec.id != got[i].id || rec.ev.LSN != got[i].ev.LSN || rec.ev.Seq != got[i].ev.Seq {
			t.Errorf("event %d came again as %+v, was %+v", i, rec.ev, got[i].ev)
		}
		rec.ack.Done(rec.ev.Size)
	}
	eventually(t, "all confirmed", func() bool { return confirmedLSN(t, conn, name) > again[1].ev.LSN })
	if sink.resets == 0 {
		t.Error("the sink was not reset")
	}
}

// Poison stops the relay; what was acknowledged before it is confirmed, and nothing behind.
func TestPoisonStops(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	sink := newMemory(true)
	r := start(t, configFor(name), sink)
	r.await(t, Streaming)
	for _, key := range []string{"a", "b", "c"} {
		mustExec(t, t.Context(), conn, insertSQL, key, `{}`)
	}
	got := sink.await(t, 3)
	got[2].ack.Done(got[2].ev.Size)
	got[1].ack.Fail(got[1].ev.Size, fault.New(fault.Poison, "publish", fmt.Errorf("too large"), ""))
	got[0].ack.Done(got[0].ev.Size)
	if err := r.wait(t); fault.KindOf(err) != fault.Poison {
		t.Fatalf("Run returned %v", err)
	}
	if at := confirmedLSN(t, conn, name); at <= got[0].ev.LSN || at > got[1].ev.LSN {
		t.Errorf("confirmed %s; want it behind %s and not beyond %s", at, got[0].ev.LSN, got[1].ev.LSN)
	}
}

// What stands behind a poisonous event holds up neither the error nor a stop
// in order: it is not confirmed by this run anyway.
func TestPoisonDoesNotWait(t *testing.T) {
	t.Parallel()
	poison := fault.New(fault.Poison, "publish", fmt.Errorf("too large"), "")
	for _, draining := range []bool{false, true} {
		t.Run(fmt.Sprintf("draining %v", draining), func(t *testing.T) {
			t.Parallel()
			name, conn := database(t)
			sink := newMemory(true)
			c := configFor(name)
			c.DrainTimeout = time.Minute
			r := start(t, c, sink)
			r.await(t, Streaming)
			for _, key := range []string{"a", "b"} {
				mustExec(t, t.Context(), conn, insertSQL, key, `{}`)
			}
			got := sink.await(t, 2)
			if draining {
				r.cancel()
				r.await(t, Draining)
			}
			began := time.Now()
			got[0].ack.Fail(got[0].ev.Size, poison) // and the second one is never settled
			err := r.wait(t)
			if took := time.Since(began); fault.KindOf(err) != fault.Poison || took > c.DrainTimeout/2 {
				t.Errorf("Run returned %v after %v", err, took)
			}
		})
	}
}

// Invariants 4 and 7: a full window stops the reading and not the reports.
func TestFullWindow(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	sink := newMemory(true)
	c := configFor(name)
	c.InFlightEvents = 10
	r := start(t, c, sink)
	r.await(t, Streaming)
	mustExec(t, t.Context(), conn, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload)
		SELECT 'order', n::text, 'order.placed', '{}' FROM generate_series(1, 1000) n`)
	sink.await(t, 10)
	updates := r.Stats().StatusUpdates
	eventually(t, "two more status updates", func() bool { return r.Stats().StatusUpdates >= updates+2 })
	if n := len(sink.records()); n != 10 {
		t.Fatalf("%d events in flight with a window of 10", n)
	}
	settled := 0
	for settled < 1000 {
		for _, rec := range sink.await(t, settled+1)[settled:] {
			rec.ack.Done(rec.ev.Size)
			settled++
		}
	}
	if r.Stats().Backpressure == 0 {
		t.Error("no backpressure counted")
	}
}

// An idle outbox in a busy database: the position follows though nothing is published.
func TestIdleOutboxFollows(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	r := start(t, configFor(name), newMemory(false))
	r.await(t, Streaming)
	mustExec(t, t.Context(), conn, "CREATE TABLE other (t text)")
	mustExec(t, t.Context(), conn, "INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 100000)") // over 100 MB
	var end string
	if err := conn.QueryRow(t.Context(), "SELECT pg_current_wal_flush_lsn()::text").Scan(&end); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	want, err := pglogrepl.ParseLSN(end)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the slot follows", func() bool { return confirmedLSN(t, conn, name) >= want })
	t.Logf("the slot followed over 100 MB of other tables' WAL after %v", time.Since(began).Round(time.Millisecond))
	for range 3 { // a little of it, which takes no time to decode
		if err := conn.QueryRow(t.Context(), "INSERT INTO other VALUES ('x') RETURNING pg_current_wal_insert_lsn()::text").Scan(&end); err != nil {
			t.Fatal(err)
		}
		began, late := time.Now(), meter.Late()
		if want, err = pglogrepl.ParseLSN(end); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the slot follows", func() bool { return confirmedLSN(t, conn, name) >= want })
		if took := time.Since(began); took > statusInterval+2*time.Second+meter.Late()-late {
			t.Errorf("the slot followed after %v", took)
		}
	}
}

// Two instances: one streams, the other stands by and takes over.
func TestStandbyTakesOver(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	first, second := newMemory(false), newMemory(false)
	a := start(t, configFor(name), first)
	a.await(t, Streaming)
	b := start(t, configFor(name), second)
	b.await(t, Standby)
	if s := b.Stats(); !s.Ready || !strings.Contains(s.Reason, "outbox-cdc") {
		t.Errorf("standby: ready %v, reason %q", s.Ready, s.Reason)
	}
	mustExec(t, t.Context(), conn, insertSQL, "a", `{}`)
	first.await(t, 1)
	if err := a.stop(t); err != nil {
		t.Fatal(err)
	}
	began, late := time.Now(), meter.Late()
	mustExec(t, t.Context(), conn, insertSQL, "b", `{}`)
	if got := second.await(t, 1); got[0].key != "b" || len(got) != 1 {
		t.Errorf("the second instance got %d events, the first with key %q", len(got), got[0].key)
	}
	if took := time.Since(began); took > 5*time.Second+meter.Late()-late {
		t.Errorf("taking over took %v", took)
	}
}

// A standby names who holds the slot now.
func TestStandbyNamesTheHolder(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	active := start(t, configFor(name), newMemory(false))
	active.await(t, Streaming)
	others := []started{start(t, configFor(name), newMemory(false)), start(t, configFor(name), newMemory(false))}
	for _, r := range others {
		r.await(t, Standby)
	}
	if err := active.stop(t); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one has taken over, the other names it", func() bool {
		var pid int
		if err := conn.QueryRow(t.Context(), "SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = $1", name).Scan(&pid); err != nil {
			t.Fatal(err)
		}
		a, b := others[0].Stats(), others[1].Stats()
		if a.State == Standby {
			a, b = b, a
		}
		return a.State == Streaming && b.State == Standby && strings.Contains(b.Reason, fmt.Sprintf("pid %d ", pid))
	})
}

// A standby that could not replicate says so at once, not when it is needed.
func TestStandbyMustBeAbleToReplicate(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := configFor(name)
	start(t, c, newMemory(false)).await(t, Streaming)
	role := name + "_relay"
	mustExec(t, t.Context(), conn, "CREATE ROLE "+role+" LOGIN PASSWORD 'secret'")
	c.URL = shared.URLFor(name, role, "secret")
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.Unexpected, "ALTER ROLE <role> REPLICATION")
}

// A backend that is terminated, and a slot that others advance, are only faults on the way.
func TestBackendTerminated(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	sink := newMemory(false)
	r := start(t, configFor(name), sink)
	for i := range 5 {
		r.await(t, Streaming)
		mustExec(t, t.Context(), conn, insertSQL, fmt.Sprint(i), `{}`)
		reconnects := r.Stats().Reconnects
		var ended int
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid))
			FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outbox-cdc'`).Scan(&ended); err != nil || ended == 0 {
			t.Fatalf("%d backends terminated, %v", ended, err)
		}
		eventually(t, "reconnecting", func() bool { return r.Stats().Reconnects > reconnects })
	}
	seen := map[string]bool{}
	eventually(t, "all five events", func() bool {
		for _, rec := range sink.records() {
			seen[rec.key] = true
		}
		return len(seen) == 5
	})
}

// A table that is dropped and created again is silently no longer published.
func TestTableRecreated(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	sink := newMemory(false)
	r := start(t, configFor(name), sink)
	r.await(t, Streaming)
	mustExec(t, t.Context(), conn, "DROP TABLE outbox")
	mustExec(t, t.Context(), conn, schemaSQL)
	checkFault(t, r.wait(t), fault.SlotLost, "ALTER PUBLICATION")
	again := start(t, configFor(name), sink)
	checkFault(t, again.wait(t), fault.SlotLost, "ALTER PUBLICATION")
}

// A drain reads on to the end of the open transaction, so that a restart repeats nothing.
func TestRestartUnderLoadRepeatsNothing(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	sink := newMemory(false)
	load, stopLoad := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	var written int
	writer.Go(func() {
		for load.Err() == nil {
			if _, err := conn.Exec(context.Background(), `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload)
				SELECT 'order', n::text, 'order.placed', '{}' FROM generate_series(1, 50) n`); err != nil {
				t.Error(err)
				return
			}
			written += 50
		}
	})
	first := start(t, configFor(name), sink)
	first.await(t, Streaming)
	for range 5 {
		had := len(sink.records())
		sink.await(t, had+200)
		if err := first.stop(t); err != nil {
			t.Fatal(err)
		}
		first = start(t, configFor(name), sink)
		first.await(t, Streaming)
	}
	stopLoad()
	writer.Wait()
	eventually(t, "everything confirmed", func() bool {
		s := first.Stats()
		return s.InFlightEvents == 0 && s.ReportedLSN == s.ConfirmedLSN && s.Ready
	})
	if err := first.stop(t); err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for _, rec := range sink.records() {
		times[rec.id]++
		if times[rec.id] > 1 {
			t.Fatalf("event %s came %d times", rec.id, times[rec.id])
		}
	}
	t.Logf("%d of %d events through 5 restarts, none repeated", len(times), written)
}

// What a first start must refuse, retry or resume.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		sql    []string // before the start
		change func(*Config)
		kind   fault.Kind // 0: it streams
		says   string
	}{
		"nothing there":     {},
		"interrupted":       {sql: []string{createPublicationSQL(mustDefaults()), commentSQL(mustDefaults(), creating)}},
		"forbidden":         {change: func(c *Config) { c.NoInit = true }, kind: fault.SlotLost, says: "--no-init"},
		"DBA's publication": {sql: []string{"CREATE PUBLICATION outbox_cdc FOR TABLE outbox"}, kind: fault.SlotLost, says: "outbox-cdc init"},
		"slot lost":         {sql: []string{createPublicationSQL(mustDefaults()), commentSQL(mustDefaults(), ready)}, kind: fault.SlotLost, says: "outbox-cdc recover"},
		"missing table":     {sql: []string{"DROP TABLE outbox"}, kind: fault.Usage, says: "outbox-cdc init"},
		"missing column":    {sql: []string{"ALTER TABLE outbox DROP COLUMN payload"}, kind: fault.Usage, says: "lacks the columns payload"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			name, conn := database(t)
			for _, sql := range tc.sql {
				mustExec(t, t.Context(), conn, sql)
			}
			c := configFor(name)
			if tc.change != nil {
				tc.change(&c)
			}
			r := start(t, c, newMemory(false))
			if tc.kind != 0 {
				checkFault(t, r.wait(t), tc.kind, tc.says)
				return
			}
			r.await(t, Streaming)
			cat, err := readCatalog(t.Context(), conn, r.config)
			if err != nil {
				t.Fatal(err)
			}
			if p := cat.publication; p == nil || readMark(p.Comment) != ready || !p.Insert || p.Update || p.Delete || p.Truncate {
				t.Errorf("publication: %+v", p)
			}
		})
	}
}

func mustDefaults() Config {
	c, err := Config{URL: "postgres://x"}.withDefaults()
	if err != nil {
		panic(err)
	}
	return c
}

// A relay that is stopped while slot creation waits takes the waiting backend with it.
func TestStopWhileSlotCreationWaits(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	mustExec(t, t.Context(), conn, "BEGIN; SELECT pg_current_xact_id()")
	c := configFor(name)
	log := newLogBuffer()
	c.Log = slog.New(slog.NewTextHandler(log, nil))
	r := start(t, c, newMemory(false))
	log.await(t, "outbox.slot_creation_waits")
	if err := r.stop(t); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no slot is left", func() bool {
		s, err := readSlot(t.Context(), conn, name)
		return s == nil && err == nil
	})
}

// Before PostgreSQL 18 a slot that is older than its publication can never be read.
func TestPublicationYoungerThanSlot(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	if serverVersion(t, conn) >= 180000 {
		t.Fatal("the shared server of this package must be older than 18: it has other rules there")
	}
	mustExec(t, t.Context(), conn, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", name)
	mustExec(t, t.Context(), conn, insertSQL, "a", `{}`)
	mustExec(t, t.Context(), conn, createPublicationSQL(mustDefaults()))
	c := configFor(name)
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.SlotLost, "outbox-cdc recover --replace-slot")
	o := byTime
	o.ReplaceSlot = true
	if n, err := recovered(t, c, newMemory(false), o); err != nil || n != 1 {
		t.Errorf("recovered %d, %v", n, err)
	}
	streamsOn(t, conn, c, 2)
}

// Many instances that start for the first time together agree on one slot.
func TestFirstStartsTogether(t *testing.T) {
	t.Parallel()
	for range 5 {
		name, conn := database(t)
		var runs []started
		sink := newMemory(false)
		for range 4 {
			runs = append(runs, start(t, configFor(name), sink))
		}
		eventually(t, "one streams and three stand by", func() bool {
			n := map[State]int{}
			for _, r := range runs {
				n[r.Stats().State]++
			}
			return n[Streaming] == 1 && n[Standby] == 3
		})
		mustExec(t, t.Context(), conn, insertSQL, "a", `{}`)
		sink.await(t, 1)
		for _, r := range runs {
			if err := r.stop(t); err != nil {
				t.Error(err)
			}
		}
	}
}

// A slot whose creation still waits is not there yet: nobody calls the set-up
// finished, and when the creation is given up the next start begins again.
func TestSlotCreationGivenUp(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	blocker, err := pgx.Connect(t.Context(), shared.URLFor(name, "postgres", ""))
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, t.Context(), blocker, "BEGIN; SELECT pg_current_xact_id()")
	first := start(t, configFor(name), newMemory(false))
	eventually(t, "the slot shows", func() bool { s, err := readSlot(t.Context(), conn, name); return err == nil && s != nil })
	c := configFor(name)
	c.StartupTimeout = time.Second // Postgres was reached: it does not count
	second := start(t, c, newMemory(false))
	eventually(t, "the second instance sees it", func() bool { return strings.Contains(second.Stats().Reason, "just being created") })
	eventually(t, "several tries", func() bool { return second.Stats().Reconnects > 5 })
	if err := first.stop(t); err != nil {
		t.Fatal(err)
	}
	if err := blocker.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	second.await(t, Streaming)
}

// A transaction that takes long is not a stall as long as acknowledgements come.
func TestAcknowledgementsAreProgress(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	sink := newMemory(true)
	r := start(t, configFor(name), sink)
	r.await(t, Streaming)
	mustExec(t, t.Context(), conn, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload)
		SELECT 'order', n::text, 'order.placed', '{}' FROM generate_series(1, 3) n`)
	got := sink.await(t, 3)
	before := r.Stats()
	got[0].ack.Done(got[0].ev.Size)
	eventually(t, "progress is noted", func() bool { return r.Stats().LastProgress.After(before.LastProgress) })
	if s := r.Stats(); s.ConfirmedLSN >= got[0].ev.LSN || s.InFlightEvents != 2 {
		t.Errorf("confirmed %s with %d in flight", s.ConfirmedLSN, s.InFlightEvents)
	}
}

// Whoever ends the plain connection alone has not stopped the server.
func TestPlainConnectionTerminated(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	sink := newMemory(false)
	r := start(t, configFor(name), sink)
	r.await(t, Streaming)
	const others = `FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outbox-cdc' AND backend_type = 'client backend'`
	var old int
	if err := conn.QueryRow(t.Context(), "SELECT pid "+others).Scan(&old); err != nil {
		t.Fatal(err)
	}
	mustExec(t, t.Context(), conn, "SELECT pg_terminate_backend(pid) "+others)
	eventually(t, "another plain connection", func() bool {
		var pid int
		return conn.QueryRow(t.Context(), "SELECT pid "+others).Scan(&pid) == nil && pid != old
	})
	mustExec(t, t.Context(), conn, insertSQL, "a", `{}`)
	sink.await(t, 1)
	if s := r.Stats(); s.Reconnects != 0 || s.State != Streaming {
		t.Errorf("state %s after %d reconnects", s.State, s.Reconnects)
	}
}

// Trouble that goes on is said now and then, though its words differ in ports and pids.
func TestComplainsNowAndThen(t *testing.T) {
	t.Parallel()
	log := newLogBuffer()
	c := Config{URL: "postgres://localhost/x", Log: log.logger()}
	r, err := New(c, newMemory(false))
	if err != nil {
		t.Fatal(err)
	}
	said := func() int { return log.count("level=WARN") }
	r.complain(Reconnecting, errors.New("read tcp 10.0.0.1:36984->10.0.0.2:5432: connection reset by peer"))
	r.complain(Reconnecting, errors.New("read tcp 10.0.0.1:36990->10.0.0.2:5432: connection reset by peer"))
	if n := said(); n != 1 {
		t.Errorf("said %d times", n)
	}
	r.complain(Reconnecting, errors.New("read tcp 10.0.0.1:36990->10.0.0.2:5432: broken pipe"))
	if n := said(); n != 2 {
		t.Errorf("said %d times, with other trouble", n)
	}
	r.nag.at = r.nag.at.Add(-2 * nagInterval)
	r.complain(Reconnecting, errors.New("read tcp 10.0.0.1:37000->10.0.0.2:5432: broken pipe"))
	if n := said(); n != 3 {
		t.Errorf("said %d times, after a while", n)
	}
}
