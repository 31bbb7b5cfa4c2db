package cdc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

const (
	watchInterval = 10 * time.Second
	queryTimeout  = 5 * time.Second
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
	// suspect is told that the line hears nothing, since it first asked for a reply at that time.
	suspect chan time.Time

	mu  sync.Mutex
	err error
}

// newWatch returns a watch; run does the work.
func newWatch(c Config, s *stream) *watch {
	return &watch{config: c, walsender: s.conn.PID(), interrupt: s.interrupt, suspect: make(chan time.Time, 1)}
}

// Err returns why the line has to end, or nil.
func (w *watch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// found ends the line.
func (w *watch) found(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
	w.interrupt()
}

// silent asks for a look at the walsender, now: it has not answered since it
// was first asked to, at asked. It never blocks.
func (w *watch) silent(asked time.Time) {
	select {
	case w.suspect <- asked:
	default:
	}
}

// run watches until ctx ends. It takes over conn, and connects again when it is lost.
func (w *watch) run(ctx context.Context, conn *pgx.Conn) {
	for ctx.Err() == nil {
		asked, err := w.listen(ctx, conn)
		if err == nil {
			err = w.look(ctx, conn, asked)
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		closeSQL(conn)
		if conn, err = w.reconnect(ctx, stopping(err), !asked.IsZero()); err != nil {
			if ctx.Err() == nil {
				w.found(err)
			}
			return
		}
	}
	closeSQL(conn)
}

// listen waits for the next look, or for the server to end the connection. It
// returns the time given to silent, or zero.
func (w *watch) listen(ctx context.Context, conn *pgx.Conn) (asked time.Time, err error) {
	waiting, cancel := context.WithTimeout(ctx, watchInterval)
	defer cancel()
	var waker sync.WaitGroup
	waker.Go(func() {
		select {
		case asked = <-w.suspect:
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
	return asked, err
}

const watchSQL = `
SELECT EXISTS (SELECT FROM pg_publication_tables WHERE pubname = $1 AND schemaname = $2 AND tablename = $3),
       EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $4 AND active_pid = $5)`

// replySQL says which of our status updates the walsender read last, by the
// time that the update carries.
const replySQL = `SELECT reply_time FROM pg_stat_replication WHERE pid = $1`

// look checks that the table is still published and that our walsender lives.
// If the line hears nothing though it asked, the walsender may be busy with
// WAL that is none of ours; but if it has read the question, its answer got lost.
func (w *watch) look(ctx context.Context, conn *pgx.Conn, asked time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	c := w.config
	var covered, streaming bool
	err := conn.QueryRow(ctx, watchSQL, c.Publication, c.Table.Schema, c.Table.Name, c.Slot, int64(w.walsender)).Scan(&covered, &streaming)
	switch {
	case err != nil:
		return postgresError("watch the server", err)
	case !covered:
		w.found(fault.New(fault.SlotLost, "watch publication",
			fmt.Errorf("publication %q no longer publishes table %s (dropped, dropped and created again, or taken out)", c.Publication, c.Table),
			fmt.Sprintf("stop every relay of this slot and run `outbox-cdc recover`: it adds the table and sends the rows that are in it. If those need not be sent: ALTER PUBLICATION %s ADD TABLE %s",
				ident(c.Publication), c.Table.quoted())))
	case !streaming:
		w.found(fault.New(fault.Unreachable, "watch the server",
			fmt.Errorf("walsender %d no longer holds slot %q", w.walsender, c.Slot), ""))
	case !asked.IsZero():
		var read *time.Time
		err := conn.QueryRow(ctx, replySQL, int64(w.walsender)).Scan(&read)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return postgresError("watch the server", err)
		}
		if read != nil && !read.Before(asked.Truncate(time.Microsecond)) {
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
	var b backoff
	for {
		trying, cancel := context.WithTimeout(ctx, queryTimeout)
		conn, err := connectSQL(trying, w.config.URL)
		cancel()
		ended = ended || stopping(err)
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case ended && time.Since(began) > letGoAfter:
			return nil, errServerStopping
		case suspected && !ended:
			return nil, fault.New(fault.Unreachable, "watch the server", fmt.Errorf("no sign of life on the replication connection, and %w", err), "")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.suspect:
			suspected = true
		case <-time.After(min(b.wait(), letGoAfter/5)):
		}
	}
}
