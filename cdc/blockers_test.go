package cdc

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// The creation of a slot ends when its backend is not at work any more, or
// when the server is out of reach: its own connection may never tell.
func TestSlotCreationWithoutSignOfLife(t *testing.T) {
	t.Parallel()
	name, _ := database(t)
	unreachable := configFor(name)
	unreachable.URL = "postgres://x@127.0.0.1:1/x"
	for what, c := range map[string]Config{"backend is idle": configFor(name), "server is away": unreachable} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c, err := c.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			err = whileWatched(t.Context(), c, connect(t, name).PgConn(), func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
			checkFault(t, err, fault.Unreachable, "no sign of life")
		})
	}
}

// What is committed while the slot's creation waits is not streamed, and told.
func TestFirstStartCountsWhatItWaitedFor(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	mustExec(t, t.Context(), conn, "BEGIN")
	insertRows(t, conn, 1, 1)
	c := configFor(name)
	log := newLogBuffer()
	c.Log = log.logger()
	r := start(t, c, newMemory(false))
	other := connect(t, name)
	eventually(t, "the slot shows", func() bool { s, err := readSlot(t.Context(), other, name); return err == nil && s != nil })
	insertRows(t, other, 2, 6)
	mustExec(t, t.Context(), conn, "COMMIT")
	r.await(t, Streaming)
	log.await(t, "rows_not_sent=6")
}

// Slot creation names whom it waits for, and nobody else: what it asks the
// operator to end may be somebody's work.
func TestSlotCreationNamesBlockers(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	begin := func() (pid uint32) {
		t.Helper()
		other := connect(t, name)
		mustExec(t, t.Context(), other, "BEGIN; SELECT pg_current_xact_id()")
		return other.PgConn().PID()
	}
	mustExec(t, t.Context(), conn, "BEGIN; SELECT pg_current_xact_id()")
	c := configFor(name)
	log := newLogBuffer()
	c.Log = log.logger()
	c.StartupTimeout = time.Second // does not count while Postgres is at work for us
	r := start(t, c, newMemory(false))
	eventually(t, "the slot shows", func() bool { s, err := readSlot(t.Context(), conn, name); return err == nil && s != nil })
	younger := begin()
	log.await(t, fmt.Sprintf("pid %d", conn.PgConn().PID()))
	if log.contains(fmt.Sprintf("pid %d", younger)) {
		t.Errorf("pid %d is younger than the slot", younger)
	}
	if s := r.Stats(); s.State != Starting {
		t.Errorf("state %s while slot creation waits", s.State)
	}
	mustExec(t, t.Context(), conn, "PREPARE TRANSACTION '"+name+"'")
	defer mustExec(t, t.Context(), conn, "ROLLBACK PREPARED '"+name+"'")
	log.await(t, "prepared transaction '"+name+"'")
}
