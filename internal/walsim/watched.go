package walsim

import (
	"time"

	"github.com/jackc/pglogrepl"
)

// watched is a session as the Oracle knows it.
type watched struct {
	number   int
	start    pglogrepl.LSN
	queue    []position // what was sent and may be confirmed in its place
	next     int        // the first of it that was not complete when last looked at
	limit    pglogrepl.LSN
	confirms map[pglogrepl.LSN]bool // positions of the queue, and the start
	sent     map[pglogrepl.LSN]bool // all positions
	last     *Update
	lastAt   time.Time // of last, by the client's clock; at first when the session was opened
	heardAt  time.Time // the same by the server's clock, which nobody sets while it runs
	// Oracle.Lost when the update before last was heard, for last may have been
	// under way for long, and when last was.
	lost, lostHeard time.Duration
	spacing         time.Duration // between last and the one before
}

type position struct {
	lsn pglogrepl.LSN
	tx  *Tx // nil: complete in itself
}

// Observe takes a Step; it is a Config.Observe.
func (o *Oracle) Observe(step Step) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.session
	if step.Kind != Opened && (w == nil || w.number != step.Session) {
		o.breach("session %d: step %d outside of the session", step.Session, step.Kind)
		return
	}
	switch step.Kind {
	case Opened:
		o.count.Sessions++
		o.session = &watched{
			number: step.Session, start: step.LSN, limit: step.LSN, lastAt: step.At, heardAt: step.At, lost: o.lost(), lostHeard: o.lost(),
			confirms: map[pglogrepl.LSN]bool{step.LSN: true}, sent: map[pglogrepl.LSN]bool{step.LSN: true},
		}
	case Sent:
		if step.Asks {
			o.count.Asked++
		}
		if step.LSN != 0 {
			w.sent[step.LSN] = true
		}
		if step.Confirms {
			w.confirms[step.LSN] = true
			w.queue = append(w.queue, position{step.LSN, step.Tx})
		}
	case Heard:
		o.count.Updates++
		o.positions(w, step.Update)
		o.pace(w, step.Update)
		w.last, w.lastAt, w.heardAt = step.Update, step.Update.Clock, step.Update.At
		w.lost, w.lostHeard = w.lostHeard, o.lost()
	case Closed:
		if silence := min(step.At.Sub(w.lastAt), step.At.Sub(w.heardAt)); o.MaxSilence > 0 && silence > o.MaxSilence+o.lost()-w.lost {
			o.breach("session %d: no status update in its last %v (Invariant 4)", w.number, silence)
		}
	}
}

// positions checks what an update says.
func (o *Oracle) positions(w *watched, u *Update) {
	for w.next < len(w.queue) {
		p := w.queue[w.next]
		if p.tx != nil && o.left[p.tx] > 0 {
			break
		}
		w.limit = max(w.limit, p.lsn)
		w.next++
	}
	switch {
	case u.Flush > w.limit:
		o.breach("session %d: flush %s is past %s, up to which all is acknowledged (Invariant 1)", w.number, u.Flush, w.limit)
	case !w.confirms[u.Flush]:
		o.breach("session %d: flush %s is no position that the server gave to confirm (Invariant 2)", w.number, u.Flush)
	case !w.sent[u.Write]:
		o.breach("session %d: write %s was never sent (Invariant 2)", w.number, u.Write)
	case u.Write < u.Flush || u.Apply > u.Flush:
		o.breach("session %d: write %s, flush %s, apply %s", w.number, u.Write, u.Flush, u.Apply)
	}
	before := w.start
	if w.last != nil {
		before = w.last.Flush
	}
	switch {
	case u.Flush < before:
		o.breach("session %d: flush %s after %s", w.number, u.Flush, before)
	case u.Flush > before:
		o.count.Moves++
	}
}

// pace checks when an update was sent. The client's clock may have been set in
// between, and the server may have heard one of two late: only what both say is proof.
func (o *Oracle) pace(w *watched, u *Update) {
	sent, heard := u.Clock.Sub(w.lastAt), u.At.Sub(w.heardAt)
	spacing := max(sent, heard)
	if silence := min(sent, heard); o.MaxSilence > 0 && silence > o.MaxSilence+o.lost()-w.lost {
		o.breach("session %d: no status update for %v (Invariant 4)", w.number, silence)
	}
	if w.last == nil {
		return
	}
	// The one before this was not the last of the session, so it had to keep its distance.
	if w.spacing > 0 && w.spacing < o.MinSpacing {
		o.breach("session %d: status updates %v apart (Invariant 4)", w.number, w.spacing)
	}
	w.spacing = max(spacing, 1)
}
