package cdc

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
)

// initiated sets up what a relay of the database needs.
func initiated(t *testing.T, database string) Config {
	t.Helper()
	c, err := withPublication(database).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// waitsForLock waits until the backend waits for a lock.
func waitsForLock(t *testing.T, conn *pgx.Conn, pid uint32) {
	t.Helper()
	eventually(t, "the backend waits", func() bool {
		var waits bool
		err := conn.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)", int64(pid)).Scan(&waits)
		return err == nil && waits
	})
}

// A relay that has read the mark of before does not write over that of a
// recovery, whether this is there already or about to be.
func TestReadyNeverOverRecovering(t *testing.T) {
	t.Parallel()
	for name, waits := range map[string]bool{"there": false, "on its way": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			name, conn := database(t)
			c := initiated(t, name)
			mustExec(t, t.Context(), conn, commentSQL(c, creating)) // as when a first start was killed behind its slot
			relay, recovery := connect(t, name), connect(t, name)
			cat, err := readCatalog(t.Context(), relay, c)
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, t.Context(), recovery, "BEGIN")
			mustExec(t, t.Context(), recovery, lockMarkSQL(c))
			mustExec(t, t.Context(), recovery, commentSQL(c, recovering))
			done := make(chan error, 1)
			remember := func() { done <- rememberReady(context.WithoutCancel(t.Context()), relay, c, cat) }
			if waits {
				go remember()
				waitsForLock(t, conn, relay.PgConn().PID())
			}
			mustExec(t, t.Context(), recovery, "COMMIT")
			if !waits {
				remember()
			}
			if err := <-done; !errors.Is(err, errMarkChanged) || !raced(err) {
				t.Errorf("got %v", err)
			}
			p, err := readPublication(t.Context(), relay, c) // the connection is as it was
			if err != nil || readMark(p.Comment) != recovering {
				t.Errorf("the comment is %+v, %v", p, err)
			}
		})
	}
}

// A recovery lets a relay finish that has begun to write the mark, and has the last word.
func TestRecoveringOverReady(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := initiated(t, name)
	relay := connect(t, name)
	mustExec(t, t.Context(), relay, "BEGIN")
	mustExec(t, t.Context(), relay, lockMarkSQL(c))
	v := recovery{config: c, conn: connect(t, name)}
	if err := v.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- v.mark(context.WithoutCancel(t.Context())) }()
	waitsForLock(t, conn, v.conn.PgConn().PID())
	mustExec(t, t.Context(), relay, commentSQL(c, ready))
	mustExec(t, t.Context(), relay, "COMMIT")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if p, err := readPublication(t.Context(), conn, c); err != nil || readMark(p.Comment) != recovering {
		t.Errorf("the comment is %+v, %v", p, err)
	}
}
