package cdc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

const (
	watchInterval = 10 * time.Second
	// letGoAfter is how long the line may go on once the server is stopping: a
	// fast shutdown waits for every walsender's flush position.
	letGoAfter = 5 * time.Second
)

// errServerStopping ends a line that would hold up the server's shutdown.
var errServerStopping = fault.New(fault.Unreachable, "stream", errors.New("the server is shutting down"), "")

// watch looks at the server over a plain connection while the line streams.
// That connection hears of a shutdown at once, which a line that does not read
// would not; and it sees what the stream cannot show: a publication that no
// longer covers the table looks like an idle outbox.
type watch struct {
	config    Config
	walsender uint32 // its pid
	// interrupt wakes the line to look at err.
	interrupt func()
	suspect   chan suspicion
	heard     *atomic.Int64 // by the line, in bytes
	cover     *cover
	sight     *sight
	reserve   *reserve
	interval  time.Duration

	mu  sync.Mutex
	err error
}

// suspicion is that the connection has died: the line first asked for a reply
// at asked, and has heard no byte since, nor heard more than so many in all.
type suspicion struct {
	asked time.Time
	heard int64
}

// newWatch returns a watch of the stream, which is to show the relay's cover; run does the work.
func (r *Relay) newWatch(s *stream) *watch {
	r.sight.back() // it was looked over just now
	return &watch{
		config: r.config, walsender: s.conn.PID(), interrupt: s.interrupt, suspect: make(chan suspicion, 1),
		heard: s.heard, cover: r.cover, sight: &r.sight, reserve: &r.reserve, interval: r.watchInterval,
	}
}

// Err returns why the line has to end, or nil.
func (w *watch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// found ends the line. That the server is stopping goes before what was found
// earlier: whatever the line still waits for, it waits no more.
func (w *watch) found(err error) {
	w.mu.Lock()
	if w.err == nil || errors.Is(err, errServerStopping) {
		w.err = err
	}
	w.mu.Unlock()
	w.interrupt()
}

// silent asks for a look at the walsender, now. It never blocks.
func (w *watch) silent(s suspicion) {
	select {
	case w.suspect <- s:
	default:
	}
}

// run watches until ctx ends. It takes over conn, and connects again when it is lost.
func (w *watch) run(ctx context.Context, conn *pgx.Conn) {
	for ctx.Err() == nil {
		suspected, err := w.listen(ctx, conn)
		began := time.Now()
		if err == nil {
			if err = w.look(ctx, conn, suspected); err != nil && ctx.Err() == nil && !stopping(err) {
				w.sight.lost(began, err)
			}
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		closeSQL(conn)
		if conn, err = w.reconnect(ctx, stopping(err), w.silentStill(suspected)); err != nil {
			if ctx.Err() == nil {
				w.found(err)
			}
			return
		}
	}
	closeSQL(conn)
}

// silentStill tells whether there is a suspicion that nothing has refuted.
func (w *watch) silentStill(s suspicion) bool { return !s.asked.IsZero() && w.heard.Load() == s.heard }

// listen waits for the next look, or for the server to end the connection. It
// returns what was given to silent, or zero.
func (w *watch) listen(ctx context.Context, conn *pgx.Conn) (suspected suspicion, err error) {
	waiting, cancel := context.WithTimeout(ctx, w.interval)
	defer cancel()
	var waker sync.WaitGroup
	waker.Go(func() {
		select {
		case suspected = <-w.suspect:
			cancel()
		case <-waiting.Done():
		}
	})
	_, err = conn.WaitForNotification(waiting)
	cancel()
	waker.Wait()
	if !conn.IsClosed() { // it was only time
		err = nil
	}
	return suspected, err
}

const streamingSQL = `SELECT coalesce(wal_status, '') FROM pg_replication_slots WHERE slot_name = $1 AND active_pid = $2`

// replySQL says which of our status updates the walsender read last, by the
// time that the update carries.
const replySQL = `SELECT reply_time FROM pg_stat_replication WHERE pid = $1`

// look checks that the table is still published and that our walsender lives.
// If the line hears nothing though it asked, the walsender may be busy with
// WAL that is none of ours; but if it has read the question, its answer got lost.
func (w *watch) look(ctx context.Context, conn *pgx.Conn, suspected suspicion) error {
	c := w.config
	now, err := readCover(ctx, conn, c)
	if err != nil {
		return err
	}
	var status string
	err = queryRow(ctx, conn, []any{&status}, streamingSQL, c.Slot, int64(w.walsender))
	streaming := !errors.Is(err, pgx.ErrNoRows)
	if err != nil && streaming {
		return postgresError("watch the server", err)
	}
	w.sight.back()
	w.reserve.note(c.Slot, status)
	lost := now.lost(c, w.cover)
	switch {
	case lost != nil:
		w.found(lost)
	case *now != *w.cover:
		w.found(fault.New(fault.Unreachable, "watch publication", fmt.Errorf("publication %q was altered", c.Publication),
			"the stream starts again, to be looked over; if it did not publish inserts for a moment, what was committed then was not streamed"))
	case !streaming:
		w.found(fault.New(fault.Unreachable, "watch the server",
			fmt.Errorf("walsender %d no longer holds slot %q", w.walsender, c.Slot), ""))
	case w.silentStill(suspected):
		var read *time.Time
		err := queryRow(ctx, conn, []any{&read}, replySQL, int64(w.walsender))
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return postgresError("watch the server", err)
		}
		if read != nil && !read.Before(suspected.asked.Truncate(time.Microsecond)) && w.silentStill(suspected) {
			w.found(fault.New(fault.Unreachable, "watch the server",
				fmt.Errorf("nothing comes from walsender %d, though it was asked and has read that", w.walsender), ""))
		}
	}
	return nil
}

// reconnect opens the plain connection again. A server that ended it and takes
// no other is stopping: the line gets a moment to finish by itself. Otherwise,
// while the line hears from the server this is patient; a line that does not,
// and a server that cannot be asked, mean that the connection has died.
func (w *watch) reconnect(ctx context.Context, ended, suspected bool) (*pgx.Conn, error) {
	began := time.Now()
	var endedAt time.Time // zero: it has not
	if ended {
		endedAt = began
	}
	var b backoff
	for {
		trying, cancel := brief(ctx)
		conn, err := connectSQL(trying, w.config.currentURL())
		cancel()
		switch {
		case stopping(err) && endedAt.IsZero():
			endedAt = time.Now()
		case !stopping(err) && pgCode(err) != "": // any other answer is of a server that goes on
			endedAt = time.Time{}
		}
		ended := !endedAt.IsZero()
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case ended && time.Since(endedAt) > letGoAfter:
			return nil, errServerStopping
		case suspected && !ended:
			return nil, fault.New(fault.Unreachable, "watch the server", fmt.Errorf("no sign of life on the replication connection, and %w", err), "")
		case !ended:
			w.sight.lost(began, err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case s := <-w.suspect:
			suspected = w.silentStill(s)
		case <-time.After(min(b.wait(), letGoAfter/5)):
		}
	}
}
