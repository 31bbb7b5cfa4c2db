package cdc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

var byTime = RecoverOptions{Timestamp: "occurred_at"}

// withPublication is configFor with the publication's name, for SQL.
func withPublication(database string) Config {
	c := configFor(database)
	c.Publication = "outbox_cdc"
	return c
}

func recovered(t *testing.T, c Config, s Sink, o RecoverOptions) (int64, error) {
	t.Helper()
	r, err := New(c, s)
	if err != nil {
		t.Fatal(err)
	}
	return r.Recover(t.Context(), o)
}

// insertRows commits one row for each key from..to, a transaction each.
func insertRows(t *testing.T, conn *pgx.Conn, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		mustExec(t, t.Context(), conn, insertSQL, strconv.Itoa(i), fmt.Sprintf(`{"n": %d}`, i))
	}
}

func keysOf(records []record) []string {
	keys := make([]string, len(records))
	for i, r := range records {
		keys[i] = r.key
	}
	return keys
}

func numbers(from, to int) []string {
	var all []string
	for i := from; i <= to; i++ {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

func dropSlot(t *testing.T, ctx context.Context, conn *pgx.Conn, slot string) {
	t.Helper()
	eventually(t, "slot dropped", func() bool {
		_, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", slot)
		return err == nil
	})
}

// streamsOn checks that a relay streams rows committed from now on, and none of before.
func streamsOn(t *testing.T, conn *pgx.Conn, c Config, first int) {
	t.Helper()
	sink := newMemory(false)
	run := start(t, c, sink)
	insertRows(t, conn, first, first+2)
	got := sink.await(t, 3)
	if keys := keysOf(got); !slices.Equal(keys, numbers(first, first+2)) {
		t.Errorf("streamed %v, want %v", keys, numbers(first, first+2))
	}
	if got[0].ev.LSN == 0 {
		t.Error("a streamed event has no LSN")
	}
	if err := run.stop(t); err != nil {
		t.Error(err)
	}
}

// After the slot is gone, the table's rows are published in order, and
// streaming goes on behind them without a gap or a repeat.
func TestRecoverLostSlot(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := withPublication(name)
	sink := newMemory(false)
	run := start(t, c, sink)
	run.await(t, Streaming)
	insertRows(t, conn, 1, 3)
	sink.await(t, 3)
	if err := run.stop(t); err != nil {
		t.Fatal(err)
	}
	dropSlot(t, t.Context(), conn, name)
	insertRows(t, conn, 4, 6)
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.SlotLost, "outbox-cdc recover")

	plan, err := PlanRecover(t.Context(), c, byTime)
	if err != nil || plan.Rows != 6 || plan.Slot != planCreate || plan.Publication != planKeep || plan.Problem == "" {
		t.Errorf("plan %+v, %v", plan, err)
	}
	again := newMemory(false)
	n, err := recovered(t, c, again, byTime)
	if err != nil || n != 6 {
		t.Fatalf("recovered %d, %v", n, err)
	}
	got := again.records()
	if keys := keysOf(got); !slices.Equal(keys, numbers(1, 6)) {
		t.Errorf("recovered %v", keys)
	}
	if ev := got[3].ev; ev.LSN != 0 || ev.Seq != 3 || got[3].payload != `{"n": 4}` || time.Since(ev.CommitTime) > time.Minute {
		t.Errorf("event %+v with payload %s", ev, got[3].payload)
	}
	streamsOn(t, conn, c, 7)
}

// Whatever a recovery that was killed has left behind, the relay refuses to
// stream from it, and the next recovery completes it.
func TestRecoverAfterKill(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		left    func(c Config) []string // SQL; the slot does not exist before
		options RecoverOptions
		slot    string
		keys    []string // recovered
	}{
		"marked": {
			left: func(c Config) []string { return []string{commentSQL(c, recovering)} },
			slot: planCreate,
		},
		"slot created": {
			left: func(c Config) []string {
				return []string{commentSQL(c, recovering), "SELECT pg_create_logical_replication_slot('" + c.Slot + "', 'pgoutput')"}
			},
			slot: planKeep,
		},
		"old slot to be replaced": {
			left: func(c Config) []string {
				return []string{"SELECT pg_create_logical_replication_slot('" + c.Slot + "', 'pgoutput')",
					`DO $$ BEGIN EXECUTE format('COMMENT ON PUBLICATION ` + c.Publication + ` IS %L', 'outbox-cdc: recovering ` + replacesPrefix + `' ||
						(SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '` + c.Slot + `')); END $$`}
			},
			slot: planReplace,
		},
		"old slot replaced": {
			left: func(c Config) []string {
				return []string{commentSQL(c, mark("recovering "+replacesPrefix+"0/1")),
					"SELECT pg_create_logical_replication_slot('" + c.Slot + "', 'pgoutput')"}
			},
			slot: planKeep,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			name, conn := database(t)
			c := initiated(t, name)
			dropSlot(t, t.Context(), conn, name)
			insertRows(t, conn, 1, 3)
			for _, sql := range tc.left(c) {
				mustExec(t, t.Context(), conn, sql)
			}
			refused := newMemory(false)
			checkFault(t, start(t, c, refused).wait(t), fault.SlotLost, "outbox-cdc recover")
			if n := len(refused.records()); n > 0 {
				t.Errorf("streamed %d rows of an unfinished recovery", n)
			}
			plan, err := PlanRecover(t.Context(), c, byTime)
			if err != nil || plan.Slot != tc.slot {
				t.Errorf("plan %+v, %v; want slot %s", plan, err, tc.slot)
			}
			sink := newMemory(false)
			if n, err := recovered(t, c, sink, byTime); err != nil || n != 3 {
				t.Fatalf("recovered %d, %v", n, err)
			}
			streamsOn(t, conn, c, 4)
		})
	}
}

// A usable slot is kept, for it may hold what the table does not: here a row
// that was deleted. Rows from before the first start are sent.
func TestRecoverKeepsUsableSlot(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := withPublication(name)
	insertRows(t, conn, 1, 2)
	if _, err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	insertRows(t, conn, 3, 4)
	mustExec(t, t.Context(), conn, "DELETE FROM outbox WHERE aggregate_id = '3'")
	sink := newMemory(false)
	if n, err := recovered(t, c, sink, byTime); err != nil || n != 3 {
		t.Fatalf("recovered %d, %v", n, err)
	}
	start(t, c, sink)
	if keys := keysOf(sink.await(t, 5)); !slices.Equal(keys, []string{"1", "2", "4", "3", "4"}) {
		t.Errorf("got %v", keys)
	}
	var temporary int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_replication_slots WHERE temporary AND database = current_database()").Scan(&temporary); err != nil || temporary > 0 {
		t.Errorf("%d temporary slots are left, %v", temporary, err)
	}
}

// What was inserted while the publication did not cover the table is
// recovered, also by a transaction that is still open when the recovery starts.
func TestRecoverRecreatedTable(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := initiated(t, name)
	mustExec(t, t.Context(), conn, "DROP TABLE outbox")
	mustExec(t, t.Context(), conn, schemaSQL)
	insertRows(t, conn, 1, 2)
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.SlotLost, "outbox-cdc recover")
	late, err := pgx.Connect(t.Context(), shared.URLFor(name, "postgres", ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = late.Close(context.Background()) })
	watching, err := pgx.Connect(t.Context(), shared.URLFor(name, "postgres", ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = watching.Close(context.Background()) })
	mustExec(t, t.Context(), late, "BEGIN")
	insertRows(t, late, 3, 3)
	var committer sync.WaitGroup
	defer committer.Wait()
	committer.Go(func() {
		const waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'walsender'"
		defer func() { _, _ = late.Exec(t.Context(), "COMMIT") }() // or nothing goes on
		eventually(t, "slot creation waits", func() bool {
			var n int
			return watching.QueryRow(t.Context(), waiting).Scan(&n) == nil && n > 0
		})
	})
	sink := newMemory(false)
	if n, err := recovered(t, c, sink, byTime); err != nil || n != 3 {
		t.Fatalf("recovered %d, %v: %v", n, err, keysOf(sink.records()))
	}
	streamsOn(t, conn, c, 4)
}

// A missing publication is made anew, and with it the slot, which is older.
func TestRecoverMissingPublication(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := initiated(t, name)
	mustExec(t, t.Context(), conn, "DROP PUBLICATION "+c.Publication)
	insertRows(t, conn, 1, 2)
	plan, err := PlanRecover(t.Context(), c, byTime)
	if err != nil || plan.Publication != planCreate || plan.Slot != planReplace {
		t.Errorf("plan %+v, %v", plan, err)
	}
	if n, err := recovered(t, c, newMemory(false), byTime); err != nil || n != 2 {
		t.Fatalf("recovered %d, %v", n, err)
	}
	streamsOn(t, conn, c, 3)
}

// A relay that stood by when a recovery began does not stream in its midst,
// and no recovery begins while a relay streams.
func TestRecoverAndStandby(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := withPublication(name)
	active := start(t, c, newMemory(false))
	active.await(t, Streaming)
	_, err := recovered(t, c, newMemory(false), byTime)
	checkFault(t, err, fault.Unexpected, "stop every relay")
	standby := start(t, c, newMemory(false))
	standby.await(t, Standby)
	mustExec(t, t.Context(), conn, commentSQL(c, recovering))
	if err := active.stop(t); err != nil {
		t.Fatal(err)
	}
	checkFault(t, standby.wait(t), fault.SlotLost, "outbox-cdc recover")
}

// Rows are chosen by time, and ordered by a column or as the table holds them.
// One without a time may be younger than any.
func TestRecoverChoosesRows(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := withPublication(name)
	mustExec(t, t.Context(), conn, "ALTER TABLE outbox ADD n int, ALTER occurred_at DROP NOT NULL")
	for i, day := range []string{"03", "01", "02"} {
		mustExec(t, t.Context(), conn, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, occurred_at, n)
			VALUES ('order', $1, 'x', '{}', $2, $3)`, day, "2026-01-"+day+"T12:00:00Z", -i)
	}
	mustExec(t, t.Context(), conn, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, occurred_at, n) VALUES ('order', '??', 'x', '{}', NULL, 1)`)
	second := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		options RecoverOptions
		want    []string
	}{
		"by time":   {byTime, []string{"01", "02", "03", "??"}},
		"by column": {RecoverOptions{Timestamp: "occurred_at", Order: "n"}, []string{"02", "01", "03", "??"}},
		"by place":  {RecoverOptions{}, []string{"03", "01", "02", "??"}},
		"since":     {RecoverOptions{Timestamp: "occurred_at", Since: second}, []string{"02", "03", "??"}},
		"after":     {RecoverOptions{Timestamp: "occurred_at", Since: second.Add(time.Microsecond)}, []string{"03", "??"}},
	} {
		sink := newMemory(false)
		if n, err := recovered(t, c, sink, tc.options); err != nil || n != int64(len(tc.want)) || !slices.Equal(keysOf(sink.records()), tc.want) {
			t.Errorf("%s: recovered %d %v, %v; want %v", name, n, keysOf(sink.records()), err, tc.want)
		}
	}
}

func TestRecoverRefusesColumns(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := withPublication(name)
	mustExec(t, t.Context(), conn, "ALTER TABLE outbox DROP occurred_at")
	_, err := PlanRecover(t.Context(), c, RecoverOptions{Timestamp: "occurred_at", Order: "nr"})
	checkFault(t, err, fault.Usage, "table.columns.order")
	_, err = PlanRecover(t.Context(), c, RecoverOptions{Timestamp: "occurred_at", Since: time.Now()})
	checkFault(t, err, fault.Usage, "--since")
	if plan, err := PlanRecover(t.Context(), c, byTime); err != nil || plan.OrderedBy != "tableoid, ctid" {
		t.Errorf("plan %+v, %v", plan, err)
	}
}

// flaky fails, once, what it is given behind the first n events.
type flaky struct {
	*memory
	n      int
	err    error
	failed bool
}

func (f *flaky) Publish(ev *decoder.Event, ack Ack) {
	if !f.failed && len(f.records()) >= f.n {
		f.failed = f.err != nil
		ack.Fail(ev.Size, f.err)
		return
	}
	f.memory.Publish(ev, ack)
}

// After trouble with the sink a recovery goes on behind what is acknowledged;
// an event that cannot be published ends it, and it stays unfinished.
func TestRecoverSinkTrouble(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := withPublication(name)
	insertRows(t, conn, 1, 1200)
	poisoned := &flaky{memory: newMemory(false), n: 2, err: fault.New(fault.Poison, "publish", errors.New("too large"), "")}
	n, err := recovered(t, c, poisoned, byTime)
	checkFault(t, err, fault.Poison, "too large")
	if n != 2 {
		t.Errorf("recovered %d before the poison, want 2", n)
	}
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.SlotLost, "recover")
	sink := &flaky{memory: newMemory(false), n: 700, err: errors.New("broker gone")}
	if n, err := recovered(t, c, sink, byTime); err != nil || n != 1200 {
		t.Fatalf("recovered %d, %v", n, err)
	}
	if keys := keysOf(sink.records()); !slices.Equal(keys, numbers(1, 1200)) || sink.resets != 1 {
		t.Errorf("%d records, %d resets", len(keys), sink.resets)
	}
	streamsOn(t, conn, c, 1201)
}

// A recovery of many rows says from time to time how far it is.
func TestRecoverSaysHowFarItIs(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	insertRows(t, conn, 1, 3)
	c := withPublication(name)
	log := newLogBuffer()
	c.Log = log.logger()
	r, err := New(c, newMemory(false))
	if err != nil {
		t.Fatal(err)
	}
	r.progressInterval = 0
	if n, err := r.Recover(t.Context(), byTime); err != nil || n != 3 {
		t.Fatalf("recovered %d, %v", n, err)
	}
	for _, want := range []string{"acknowledged=0 rows=3", "acknowledged=2 rows=3"} {
		if !log.contains("outbox.recovering " + want) {
			t.Errorf("the log does not say %s:\n%s", want, &log.text)
		}
	}
}

// The replication command differs between versions.
func TestRecoverOnVersion(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"14", "15", "18"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			pg := devtest.Postgres(t, devenv.PostgresOptions{Version: version})
			conn := connectTo(t, pg.URL())
			mustExec(t, t.Context(), conn, schemaSQL)
			c := Config{URL: pg.URL()}
			insertRows(t, conn, 1, 2)
			for _, slot := range []string{planCreate, planKeep} {
				if plan, err := PlanRecover(t.Context(), c, byTime); err != nil || plan.Slot != slot {
					t.Errorf("plan %+v, %v; want slot %s", plan, err, slot)
				}
				if n, err := recovered(t, c, newMemory(false), byTime); err != nil || n != 2 {
					t.Fatalf("recovered %d, %v", n, err)
				}
			}
			streamsOn(t, conn, c, 3)
		})
	}
}
