package cdc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/outbox-cdc/outbox-cdc/checkpoint"
	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// line is one session of the straight line: from the stream to the sink, and
// from its acknowledgements back to the server. One goroutine runs it.
type line struct {
	relay   *Relay
	stream  *stream
	decoder *decoder.Decoder
	tracker *checkpoint.Tracker // Invariant 8: of this session alone
	watch   *watch

	tx        *checkpoint.Tx    // open transaction, or nil
	events    int               // of it
	commit    pglogrepl.LSN     // where it commits
	outbox    uint32            // the table's OID
	relation  *decoder.Relation // last one looked at,
	ours      bool              // and whether it is the outbox
	wantReply bool              // the server asked
	confirmed pglogrepl.LSN     // as last seen
	acked     uint64            // acknowledged events, as last seen
	limit     time.Time         // when a drain has to end; zero: no drain
}

// run streams until the context ends, then drains and returns nil; or returns
// what ended the session.
func (l *line) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, l.stream.interrupt)()
	for {
		now := time.Now()
		if err := l.trouble(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return l.drain(now)
		}
		if err := l.keepUp(now, !l.relay.window.Full()); err != nil {
			return err
		}
		if err := l.step(ctx.Done(), now); err != nil {
			return err
		}
	}
}

// step takes one frame, or waits a moment while the window is full.
func (l *line) step(stop <-chan struct{}, now time.Time) error {
	if l.relay.window.Full() {
		return l.waitForRoom(stop, now)
	}
	f, err := l.stream.receive(l.wake(now))
	switch {
	case errors.Is(err, errQuiet):
		return nil
	case errors.Is(err, errServerDone):
		return fault.New(fault.Unreachable, "stream", err, "")
	case err != nil:
		return l.within(err)
	}
	return l.take(f)
}

// within says of a row's error in which transaction the row is.
func (l *line) within(err error) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != fault.Poison || l.tx == nil {
		return err
	}
	return fault.New(f.Kind, f.Op, fmt.Errorf("%w, in the transaction whose commit is at %s", f.Err, l.commit), f.Hint)
}

// trouble returns why the session has to end, as the sink or the watch see it.
func (l *line) trouble() error {
	if err := l.tracker.Err(); err != nil {
		return err
	}
	return l.watch.Err()
}

// take moves one frame down the line.
func (l *line) take(f frame) error {
	k := &l.relay.counters
	k.received.Store(uint64(l.stream.received))
	if f.wal == nil {
		k.walEnd.Store(uint64(f.lsn))
		l.wantReply = l.wantReply || f.wantReply
		l.tracker.Idle(f.lsn) // Invariant 3
		return nil
	}
	msg, err := l.decoder.Decode(f.lsn, f.wal)
	if err != nil {
		return fault.New(fault.Unexpected, "decode", err, "nothing was skipped: the slot stands before this transaction; please report this with the server's version")
	}
	switch m := msg.(type) {
	case *decoder.Begin:
		l.tx, l.events, l.commit = l.tracker.BeginAt(m.CommitLSN), 0, m.CommitLSN
	case *decoder.Event:
		l.publish(m)
	case *decoder.Commit:
		l.tx.End(m.EndLSN) // Invariant 2
		l.tx = nil
		k.transactions.Add(1)
		if l.events > 0 {
			now := time.Now()
			k.lastEvent.Store(now.UnixNano())
			l.relay.histograms.commitToReceive.Observe(max(0, now.Sub(m.CommitTime).Seconds()))
			l.relay.histograms.transactionSize.Observe(float64(l.events))
		}
	case *decoder.Skipped:
		l.skip(m)
	case *decoder.LogicalMessage:
		k.messages.Add(1)
		if !m.Transactional {
			l.tracker.Idle(m.LSN)
		}
	}
	return nil
}

// publish hands an event to the sink, counted first (Invariant 1).
func (l *line) publish(ev *decoder.Event) {
	k := &l.relay.counters
	if ev.Row.Relation != l.relation {
		l.relation = ev.Row.Relation
		t := l.relay.config.Table
		// By its OID it is known while it is renamed, by its name once another table has taken its place.
		l.ours = l.relation.OID == l.outbox || l.relation.Namespace == t.Schema && l.relation.Name == t.Name
	}
	if !l.ours {
		k.other.Add(1)
		return
	}
	l.events++
	l.tx.Add(ev.Size)
	l.relay.sink.Publish(ev, l.tx)
	k.events.Add(1)
}

func (l *line) skip(m *decoder.Skipped) {
	k := &l.relay.counters
	switch m.Kind {
	case 'U':
		k.updates.Add(1)
	case 'D':
		k.deletes.Add(1)
	default:
		k.truncates.Add(1)
	}
}

// keepUp reports what is due: the confirmed position when it has moved, an
// answer when the server asked, a sign of life every statusInterval at least
// (Invariant 4). reading tells whether frames are being read, for otherwise
// silence proves nothing.
func (l *line) keepUp(now time.Time, reading bool) error {
	k := &l.relay.counters
	s := l.stream
	confirmed := l.tracker.Confirmed()
	acked := l.relay.window.Acknowledged()
	if events, _ := l.relay.window.InFlight(); events == 0 || confirmed != l.confirmed || acked != l.acked {
		l.confirmed, l.acked = confirmed, acked
		k.confirmed.Store(uint64(confirmed))
		k.lastProgress.Store(now.UnixNano())
	}
	since := now.Sub(s.lastSent)
	if since < statusInterval && (since < reportInterval || !l.wantReply && confirmed <= s.reported) {
		return nil
	}
	ask := reading && now.Sub(s.lastAsk) >= statusInterval
	if heard := s.heard.Load(); !reading || heard != s.quiet {
		s.asked, s.quiet = 0, heard
	}
	if ask && s.asked >= 2 {
		l.watch.silent(suspicion{s.firstAsk, s.quiet}) // two intervals without a word
	}
	l.wantReply = false
	if err := s.report(now, confirmed, ask); err != nil {
		return err
	}
	k.reported.Store(uint64(s.reported))
	k.statusUpdates.Add(1)
	return nil
}

// wake returns when the line has to look up from reading.
func (l *line) wake(now time.Time) time.Time {
	if due := l.due(now); l.limit.IsZero() || due.Before(l.limit) {
		return due
	}
	return l.limit
}

// due returns when the next report is.
func (l *line) due(now time.Time) time.Time {
	events, _ := l.relay.window.InFlight()
	if events > 0 || l.wantReply || l.tracker.Confirmed() > l.stream.reported {
		if due := l.stream.lastSent.Add(reportInterval); due.After(now) {
			return due
		}
		return now.Add(reportInterval)
	}
	return l.stream.lastSent.Add(statusInterval)
}

// waitForRoom does not read, so that the walsender waits too; reports go on.
func (l *line) waitForRoom(stop <-chan struct{}, now time.Time) error {
	timer := time.NewTimer(reportInterval)
	defer timer.Stop()
	select {
	case <-l.relay.window.Changed():
	case <-timer.C:
	case <-stop:
	}
	after := time.Now()
	l.relay.counters.backpressure.Add(int64(after.Sub(now)))
	return l.keepUp(after, false)
}

// drain ends the session in order: it reads on to the end of the open
// transaction, waits for the acknowledgements, and reports the last position.
func (l *line) drain(now time.Time) error {
	l.relay.setState(Draining, "")
	l.limit = now.Add(l.relay.config.DrainTimeout)
	for l.tx != nil && now.Before(l.limit) {
		if err := l.trouble(); err != nil {
			return err
		}
		if err := l.keepUp(now, !l.relay.window.Full()); err != nil {
			return err
		}
		if err := l.step(nil, now); err != nil {
			return err
		}
		now = time.Now()
	}
	if err := l.settle(l.limit); err != nil {
		return err
	}
	if err := l.trouble(); err != nil {
		return err
	}
	if events, _ := l.relay.window.InFlight(); events > 0 {
		l.relay.config.Log.Warn("outbox.drain_incomplete", "in_flight", events, "after", l.relay.config.DrainTimeout.String(),
			"hint", "these events are sent again by the next run")
	}
	if err := l.bye(); err != nil {
		l.relay.config.Log.Warn("outbox.last_report_unanswered", "error", err.Error(),
			"hint", "the next run may repeat what was acknowledged in the last moment")
	}
	return nil
}

// bye reports the last position and ends the stream in order.
func (l *line) bye() error {
	err := l.stream.bye(l.tracker.Confirmed())
	l.relay.counters.confirmed.Store(uint64(l.tracker.Confirmed()))
	l.relay.counters.reported.Store(uint64(l.stream.reported))
	return err
}

// settle waits until nothing is in flight, or the rest of it stands behind an
// event that failed; without reading. A server that is stopping waits for us,
// and is not kept waiting.
func (l *line) settle(deadline time.Time) error {
	for now := time.Now(); now.Before(deadline); now = time.Now() {
		if err := l.watch.Err(); errors.Is(err, errServerStopping) {
			return err
		}
		events, _ := l.relay.window.InFlight()
		// Stuck is asked in any case: the window is told of an event a moment
		// before the tracker, which answers once it has confirmed that.
		if stuck := l.tracker.Stuck(); stuck || events == 0 {
			return nil
		}
		if err := l.waitForRoom(nil, now); err != nil {
			return err
		}
	}
	return nil
}

// giveUp ends a session that cannot go on. What is still on its way to the
// broker gets a moment when the relay is about to stop for good, so that the
// next run repeats no more than it must: what is left of it during a drain.
func (l *line) giveUp(cause error) {
	if !l.relay.retry(cause) {
		limit := l.limit
		if limit.IsZero() {
			limit = time.Now().Add(l.relay.config.DrainTimeout)
		}
		if err := l.settle(limit); err != nil && !errors.Is(err, errServerStopping) {
			return // the connection is of no more use
		}
	}
	if err := l.bye(); err != nil {
		l.relay.config.Log.Debug("outbox.last_report_failed", "error", err.Error())
	}
}
