package walsim

import (
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// ask asks the Script until the session may go on to next, the message that is
// about to be sent, or nil. When ok is false the session is over.
func (w *walsender) ask(p Point, next []byte) (end Action, ok bool) {
	s := w.server
	for {
		if !w.attend() {
			return Action{}, false
		}
		p.Sent, p.Confirmed = w.sent, s.Confirmed()
		alive := true
		switch a := s.config.Script(p); a.Do {
		case Go:
			if p.Idle {
				return w.idle()
			}
			return Action{}, true
		case Keepalive:
			alive = w.keepalive(false)
		case Ask:
			alive = w.keepalive(true)
		case Pause:
			alive = w.flushed() && s.wait(a.For)
		case Deaf:
			w.mu.Lock()
			w.deaf = time.Now().Add(a.For)
			w.mu.Unlock()
		case CutPlain:
			s.cutPlain(nil)
		case Stop:
			w.stopping = true
			s.setStopping(true)
			s.cutPlain(shuttingDown())
		case Close, Fatal, Finish:
			w.flushed()
			return a, false
		case Tear:
			w.flushed()
			w.tear(next)
			return a, false
		default: // Reset and Crash lose what is buffered
			return a, false
		}
		if !alive {
			return Action{}, false
		}
	}
}

// tear writes half of a message.
func (w *walsender) tear(next []byte) {
	if raw, err := (&pgproto3.CopyData{Data: xlogData(frame{0, next})}).Encode(nil); err == nil {
		_, _ = w.conn.Write(raw[:len(raw)/2])
	}
}

// attend answers a client that has asked for it, and reports whether the client is still there.
func (w *walsender) attend() bool {
	select {
	case <-w.left:
		return false
	case <-w.server.done:
		return false
	default:
	}
	w.mu.Lock()
	asked, overdue := w.asked, !w.waiting && time.Since(w.heardAt) > w.timeout/2
	w.asked = false
	w.mu.Unlock()
	if asked || overdue { // WalSndKeepaliveIfNecessary
		return w.keepalive(overdue)
	}
	return true
}

// idle is what a walsender does that has sent everything: it waits a moment.
func (w *walsender) idle() (end Action, ok bool) {
	w.mu.Lock()
	behind, confirmed, waiting := w.write < w.sent && w.flush < w.sent, w.flush >= w.sent, w.waiting
	w.mu.Unlock()
	alive := w.flushed()
	switch {
	case w.stopping && confirmed: // WalSndDone
		return Action{Do: Finish}, false
	case w.stopping && !waiting:
		alive = alive && w.keepalive(true)
	case behind && !waiting && w.told < w.sent: // WalSndWaitForWal
		alive = alive && w.keepalive(false)
	}
	if !alive {
		return Action{}, false
	}
	timer := time.NewTimer(idleInterval)
	defer timer.Stop()
	select {
	case <-w.said:
	case <-w.left:
	case <-w.server.done:
	case <-timer.C:
	}
	return Action{}, true
}

// cutPlain ends the connections that do not replicate, with a last word or without.
func (s *Server) cutPlain(last *pgproto3.ErrorResponse) {
	s.others(nil, func(b *backend) {
		if !b.replication.Load() {
			b.cut(last)
		}
	})
}

func (s *Server) setStopping(stopping bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = stopping
}
