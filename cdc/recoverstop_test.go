package cdc

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// begin begins a recovery, and returns what runs it and what it will say.
func begin(t *testing.T, ctx context.Context, c Config, s Sink, o RecoverOptions) (*Relay, <-chan error) {
	t.Helper()
	r, err := New(c, s)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := r.Recover(ctx, o)
		done <- err
	}()
	return r, done
}

// A recovery that is interrupted while rows are not acknowledged stays
// unfinished; the next one sends all of them.
func TestRecoverInterrupted(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := withPublication(name)
	insertRows(t, conn, 1, 5)
	hold := newMemory(true)
	ctx, cancel := context.WithCancel(t.Context())
	_, done := begin(t, ctx, c, hold, byTime)
	hold.await(t, 5)
	for _, got := range hold.records()[:4] {
		got.ack.Done(got.ev.Size)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	eventually(t, "run refuses", func() bool {
		return fault.KindOf(start(t, c, newMemory(false)).wait(t)) == fault.SlotLost
	})
	sink := newMemory(false)
	eventually(t, "the next recovery", func() bool { // the server may take a moment to see that the first is gone
		n, err := recovered(t, c, sink, byTime)
		return err == nil && n == 5
	})
	streamsOn(t, conn, c, 6)
}

// A statement that fails ends the recovery with what the server said, for its
// snapshot is gone; that it is a limit says nothing of slots.
func TestRecoverStatementFails(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := initiated(t, name)
	mustExec(t, t.Context(), conn, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload)
		SELECT 'o', n, 'e', jsonb_build_object('pad', repeat('x', 300)) FROM generate_series(1, 30000) n`)
	mustExec(t, t.Context(), conn, "ALTER DATABASE "+name+" SET temp_file_limit = '1MB'")
	_, err := recovered(t, c, newMemory(false), byTime)
	checkFault(t, err, fault.Unreachable, "temp_file_limit")
	if hint := fault.HintOf(err); strings.Contains(hint, "slot") && strings.Contains(hint, "drop") || !strings.Contains(hint, "outbox-cdc recover") {
		t.Errorf("the hint is %q", hint)
	}
	mustExec(t, t.Context(), conn, "ALTER DATABASE "+name+" RESET temp_file_limit")
	eventually(t, "the next recovery", func() bool {
		n, err := recovered(t, c, newMemory(false), byTime)
		return err == nil && n == 30000
	})
}

// What was sent for hours is not sent again because of a lock at the end.
func TestRecoverWaitsForItsMark(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	log := newLogBuffer()
	c := withPublication(name)
	c.Log = log.logger()
	insertRows(t, conn, 1, 3)
	hold := newMemory(true)
	r, done := begin(t, t.Context(), c, hold, byTime)
	got := hold.await(t, 3)
	mustExec(t, t.Context(), conn, "SELECT pg_advisory_lock(hashtext('outbox-cdc mark'), hashtext($1))", c.Publication)
	for _, rec := range got {
		rec.ack.Done(rec.ev.Size)
	}
	log.await(t, "no answer within")
	// Its session is lost: another recovery may begin.
	mustExec(t, t.Context(), conn, "SELECT pg_advisory_lock(hashtext('outbox-cdc recover'), hashtext($1))", c.Slot)
	mustExec(t, t.Context(), conn, "SELECT pg_advisory_unlock(hashtext('outbox-cdc mark'), hashtext($1))", c.Publication)
	log.await(t, "another recovery of slot")
	if p, err := readPublication(t.Context(), conn, r.config); err != nil || readMark(p.Comment) != recovering {
		t.Errorf("marked as %+v, %v, while another recovery was at work", p, err)
	}
	mustExec(t, t.Context(), conn, "SELECT pg_advisory_unlock_all()")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := len(hold.records()); n != 3 {
		t.Errorf("%d rows were sent, of 3", n)
	}
	streamsOn(t, conn, c, 4)
}

// stopped begins a recovery, stops it at its first row and returns what it said.
func stopped(t *testing.T, c Config, o RecoverOptions) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hold := newMemory(true)
	_, done := begin(t, ctx, c, hold, o)
	select {
	case <-hold.changed:
		cancel()
		return <-done
	case err := <-done:
		return err
	}
}

// A recovery that was begun and not finished is completed as far back as it
// reached, whatever the next one is told: its slot has nothing older.
func TestRecoverReachesAsFarBack(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := initiated(t, name)
	first := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for i := range 4 {
		mustExec(t, t.Context(), conn, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, occurred_at) VALUES ('o', $1, 'e', '{}', $2)`,
			strconv.Itoa(i), first.Add(time.Duration(i)*time.Minute))
	}
	dropSlot(t, t.Context(), conn, name)
	for i, step := range []struct {
		minute  int // since which rows are asked for; -1: all of them
		rows    int64
		stopped bool
		told    bool
	}{{2, 2, true, false}, {3, 2, true, true}, {1, 3, true, false}, {3, 3, true, true}, {-1, 4, true, false}, {3, 4, false, true}, {3, 1, false, false}} {
		o := byTime
		if step.minute >= 0 {
			o.Since = first.Add(time.Duration(step.minute) * time.Minute)
		}
		plan, err := PlanRecover(t.Context(), c, o)
		if err != nil || plan.Rows != step.rows || plan.Resumed != step.told {
			t.Errorf("step %d: plan %+v, %v; want %d rows", i, plan, err, step.rows)
		}
		var n int64
		eventually(t, "the one before is gone", func() bool {
			if step.stopped {
				return errors.Is(stopped(t, c, o), context.Canceled)
			}
			n, err = recovered(t, c, newMemory(false), o)
			return err == nil
		})
		if !step.stopped && n != step.rows {
			t.Errorf("step %d: recovered %d rows, want %d", i, n, step.rows)
		}
	}
}
