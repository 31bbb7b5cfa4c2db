package cdc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-cdc/outbox-cdc/checkpoint"
	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// standbyInterval is how often a standby looks whether the slot is free.
const standbyInterval = time.Second

// Relay carries committed outbox rows to a sink. Use New; Run once.
type Relay struct {
	config     Config
	sink       Sink
	window     *checkpoint.Window // one for all sessions (Invariant 7)
	counters   counters
	histograms histograms

	cover   *cover  // as the last session has seen it; nil: there was none
	history history // of all sessions
	reached bool    // Postgres has answered once
	worked  bool    // it has streamed, or stood by
	holder  int     // the pid that holds the slot while it stands by
	sight   sight   // of the watch
	reserve reserve // as the watch has seen it
	altered string  // the version of the publication that was last told to be another

	// These are the constants of the same names, but for tests.
	progressInterval, watchInterval, blindFor time.Duration

	nag nag
}

// New returns a relay that is ready to Run, or what is wrong with c.
func New(c Config, s Sink) (*Relay, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if c.BeforeSlot == nil {
		c.BeforeSlot = func(context.Context) error { return nil }
	}
	r := &Relay{
		config: c, sink: s,
		window:     checkpoint.NewWindow(c.InFlightEvents, c.InFlightBytes),
		histograms: newHistograms(), sight: sight{log: c.Log}, reserve: reserve{log: c.Log},
		progressInterval: progressInterval, watchInterval: watchInterval, blindFor: blindFor,
	}
	r.counters.setState(Starting, "", time.Now())
	return r, nil
}

// Run streams until ctx ends, then drains and returns nil. Trouble with either
// side is retried for as long as it takes. It returns an error, most often a
// *fault.Error with a hint, for what only the operator can mend: a lost slot,
// an event that cannot be published, a configuration that the server refuses.
func (r *Relay) Run(ctx context.Context) error {
	defer r.setState(Stopped, "")
	started := time.Now()
	var b backoff
	var cause error // of the last failure but the startup timeout's own
	for first := true; ; first = false {
		if !first {
			r.sink.Reset()
		}
		begun := time.Now()
		err := r.session(ctx, started)
		switch {
		case err == nil:
			return nil
		case !r.retry(err):
			return err
		case ctx.Err() != nil:
			if !errors.Is(err, context.Canceled) {
				r.config.Log.Warn("outbox.stopped_with_trouble", "error", err.Error(), "hint", "what was not acknowledged is sent again by the next run")
			}
			return nil
		}
		if cause == nil || !errors.Is(err, context.DeadlineExceeded) {
			cause = err
		}
		if t := r.config.StartupTimeout; t > 0 && !r.reached && time.Since(started) >= t {
			return fault.New(fault.Unreachable, "reach postgres", fmt.Errorf("gave up after %v: %w", t, cause), fault.HintOf(cause))
		}
		if time.Since(begun) > maxBackoff {
			b.reset()
		}
		r.counters.reconnects.Add(1)
		if r.worked {
			r.complain(Reconnecting, err)
		} else {
			r.complain(Starting, err)
		}
		pause := b.wait()
		if t := r.config.StartupTimeout; t > 0 && !r.reached {
			pause = min(pause, time.Until(started.Add(t)))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// retry tells whether the line starts again after err. A sink's error has no
// kind unless it is final. A refusal when connecting is final only before the
// relay has worked once: later on it may be a password that is being rotated,
// or a failover under way.
func (r *Relay) retry(err error) bool {
	f, known := errors.AsType[*fault.Error](err)
	if !known || f.Kind == fault.Unreachable {
		return true
	}
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	return connecting && r.worked
}

// complain says what is wrong, once a moment.
func (r *Relay) complain(state State, err error) {
	r.counters.setState(state, err.Error(), time.Now())
	if !r.nag.due(err.Error()) {
		return
	}
	args := []any{"error", err.Error()}
	if hint := fault.HintOf(err); hint != "" {
		args = append(args, "hint", hint)
	}
	r.config.Log.Warn("outbox."+string(state), args...)
}

// session connects, sets up, waits for the slot and runs the line once.
func (r *Relay) session(ctx context.Context, started time.Time) error {
	conn, err := r.begin(ctx, started)
	if err != nil {
		return err
	}
	l, err := r.open(ctx, conn)
	if err != nil {
		closeSQL(conn)
		return err
	}
	defer l.stream.close()
	watching, stop := context.WithCancel(context.WithoutCancel(ctx)) // to the end of the drain
	var watcher sync.WaitGroup
	watcher.Go(func() { l.watch.run(watching, conn) })
	defer watcher.Wait()
	defer stop()

	r.nag, r.worked = nag{}, true
	r.setState(Streaming, "", "slot", r.config.Slot, "lsn", l.tracker.Confirmed().String(), "timeline", l.stream.timeline)
	err = l.run(ctx)
	if err != nil {
		l.giveUp(err)
	}
	return err
}

// begin opens the plain connection and sets up what is missing, for no longer
// than the startup timeout allows.
func (r *Relay) begin(ctx context.Context, started time.Time) (*pgx.Conn, error) {
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	arrived := func() { r.reached = true }
	if t := r.config.StartupTimeout; t > 0 && !r.reached {
		// Not a deadline: it ends once Postgres was reached.
		limit := time.AfterFunc(time.Until(started.Add(t)), cancel)
		defer limit.Stop()
		arrived = func() { r.reached = limit.Stop() || r.reached }
	}
	conn, err := r.prepare(limited, arrived)
	switch {
	case err == nil:
		r.reached = true
	case errors.Is(err, context.Canceled) && ctx.Err() == nil: // by the limit
		return nil, fault.New(fault.Unreachable, "reach postgres", context.DeadlineExceeded, fault.HintOf(err))
	}
	return conn, err
}

// prepare connects, sets up, and says when Postgres was reached: what a first
// start then waits for is another thing.
func (r *Relay) prepare(ctx context.Context, arrived func()) (*pgx.Conn, error) {
	r.config.URL = r.config.currentURL()
	conn, err := connectSQL(ctx, r.config.URL)
	if err != nil {
		return nil, err
	}
	c := r.config
	c.BeforeSlot = func(ctx context.Context) error {
		arrived()
		return r.config.BeforeSlot(ctx)
	}
	cat, report, err := setUp(ctx, conn, c, false)
	if errors.Is(err, errBeingCreated) {
		arrived()
	}
	if err != nil {
		closeSQL(conn)
		return nil, err
	}
	if cat.altered() && r.altered != cat.cover.version {
		r.altered = cat.cover.version
		r.config.Log.Warn("outbox.publication_altered", "publication", r.config.Publication,
			"hint", "if it did not publish inserts for a while, "+meanwhile+"; `outbox-cdc init`, run by the publication's owner, accepts it as it is")
	}
	if r.cover == nil {
		r.cover = cat.cover // as of now: standing by may take long
	}
	r.announce(report)
	return conn, nil
}

// open waits until the slot is free, and starts the stream where it stands.
func (r *Relay) open(ctx context.Context, conn *pgx.Conn) (*line, error) {
	for {
		slot, err := readSlot(ctx, conn, r.config.Slot)
		switch {
		case err != nil:
			return nil, err
		case slot == nil: // dropped just now: set-up will say what that means
			return nil, fault.New(fault.Unreachable, "open slot", fmt.Errorf("slot %q disappeared", r.config.Slot), "")
		}
		r.reserve.note(r.config.Slot, slot.WALStatus)
		if slot.Active {
			if err := r.standBy(ctx, conn, slot.ActivePID); err != nil {
				return nil, err
			}
			continue
		}
		if err := r.config.BeforeSlot(ctx); err != nil {
			return nil, err
		}
		r.history.published = r.window.Seen()
		// Invariant 8: all of it is new, from the server's own position.
		stream, err := openStream(ctx, r.config, slot.ConfirmedLSN, r.history)
		if pgCode(err) == codeObjectInUse { // somebody was quicker
			if err := lookAgain(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if slot, err = r.held(ctx, conn, stream); err != nil {
			stream.close()
			return nil, err
		}
		r.counters.timeline.Store(stream.timeline)
		r.remember(stream, slot.ConfirmedLSN)
		return &line{
			relay: r, stream: stream,
			decoder: decoder.New(stream.timeline),
			tracker: checkpoint.NewTracker(slot.ConfirmedLSN, r.window),
			watch:   r.newWatch(stream),
			outbox:  r.cover.table,
		}, nil
	}
}

// held returns the slot as the plain connection sees it in the hands of the
// stream. Two connections may have reached two servers during a failover: then
// a position of one must not be told to the other.
func (r *Relay) held(ctx context.Context, conn *pgx.Conn, s *stream) (*slot, error) {
	slot, err := readSlot(ctx, conn, r.config.Slot)
	if err != nil {
		return nil, err
	}
	if slot == nil || slot.ActivePID != int(s.conn.PID()) {
		return nil, fault.New(fault.Unreachable, "open slot", errors.New("the plain and the replication connection reached different servers"), "")
	}
	// A recovery may have begun while we stood by. It looks for a holder after
	// it has set its mark, and we for the mark after we hold the slot: one sees the other.
	p, err := readPublication(ctx, conn, r.config)
	if err != nil {
		return nil, err
	}
	if p != nil && readMark(p.Comment) == recovering {
		return nil, unfinishedRecovery(r.config)
	}
	return slot, r.compareCover(ctx, conn)
}

// compareCover tells whether rows may be missing since cover was last read.
func (r *Relay) compareCover(ctx context.Context, conn *pgx.Conn) error {
	now, err := readCover(ctx, conn, r.config)
	if err == nil {
		err = now.lost(r.config, r.cover)
	}
	if err == nil {
		r.cover = now
	}
	return err
}

// standBy waits a moment while another instance holds the slot. It looks at
// pg_replication_slots, for a START_REPLICATION that fails fills the server's log.
func (r *Relay) standBy(ctx context.Context, conn *pgx.Conn, pid int) error {
	if r.Stats().State != Standby || r.holder != pid {
		holder := fmt.Sprintf("pid %d holds the slot", pid)
		if who, err := readHolder(ctx, conn, pid); err != nil {
			return err
		} else if who != "" {
			holder = fmt.Sprintf("pid %d (%s) holds the slot", pid, who)
		}
		// A standby that could not replicate would find out when it is needed.
		if err := tryReplication(ctx, r.config); err != nil && fault.KindOf(err) != fault.Unreachable {
			return err
		}
		r.worked, r.holder = true, pid
		r.setState(Standby, holder, "slot", r.config.Slot, "held_by", holder)
	}
	return lookAgain(ctx)
}

// lookAgain waits until it is time to look at the slot again.
func lookAgain(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(standbyInterval):
		return nil
	}
}

// announce says what a first start created, and what it does not send.
func (r *Relay) announce(report InitReport) {
	if len(report.Created) == 0 {
		return
	}
	args := []any{"created", report.Created}
	level := slog.LevelInfo
	if report.Rows > 0 {
		level = slog.LevelWarn
		args = append(args, "rows_not_sent", report.Rows)
	}
	if report.Rows != 0 { // or it is not known
		args = append(args, "hint",
			"rows committed before the slot existed are not streamed: if consumers need them, stop the relay, run `outbox-cdc recover`, and start it again")
	}
	r.config.Log.Log(context.Background(), level, "outbox.first_start", args...)
}

// setState records the state, and logs it when it is a new one.
func (r *Relay) setState(s State, reason string, args ...any) {
	if r.counters.setState(s, reason, time.Now()) {
		r.config.Log.Info("outbox."+string(s), args...)
	}
}
