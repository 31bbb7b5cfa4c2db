package walsim

import (
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgproto3"
)

// walsender streams in one session. One goroutine sends, another listens.
type walsender struct {
	*backend
	session   int
	start     pglogrepl.LSN // a commit record before it is not sent
	sent      pglogrepl.LSN // end of the last record walked
	told      pglogrepl.LSN // position of the last keepalive
	timeout   time.Duration // wal_sender_timeout
	messages  bool
	stopping  bool
	announced map[uint32]bool
	buffered  int

	said chan struct{} // something came from the client
	left chan struct{} // closed when nothing more will come

	mu           sync.Mutex
	write, flush pglogrepl.LSN
	heardAt      time.Time
	waiting      bool // a reply was asked for
	asked        bool // the client asked for one
	copyDone     bool // the client ended the stream
	dead         bool // the server has ended the session: nothing is heard any more
	deaf         time.Time
}

// replayed is how many records before the start a walsender walks again, for
// it begins to read where a transaction may have been open.
const replayed = 16

// run streams until the session ends, and reports whether the connection goes on.
func (w *walsender) run() bool {
	s := w.server
	w.heardAt = time.Now()
	s.running.Go(w.listen)
	end := w.walk()
	w.mu.Lock()
	w.dead = true // from here on the slot does not move by this session
	done := w.copyDone
	w.mu.Unlock()
	s.config.Observe(Step{Kind: Closed, Session: w.session, At: time.Now(), LSN: w.sent})
	if end.Do == Crash {
		s.crash()
	}
	if end.Refuse > 0 {
		s.refuse(end.Refuse)
	}
	s.release(end.Hold)
	if w.stopping {
		s.setStopping(false)
	}
	if done && end.Do == Go {
		<-w.left
		w.pg.Send(&pgproto3.CopyDone{})
		w.pg.Send(&pgproto3.CommandComplete{CommandTag: []byte("COPY 0")})
		w.ready()
		return true
	}
	w.finish(end.Do)
	<-w.left
	return false
}

// finish ends the connection in the way of the deed.
func (w *walsender) finish(do Deed) {
	switch do {
	case Crash:
		w.server.others(w.backend, (*backend).reset)
		w.reset()
		return
	case Close, Tear: // written already
	case Fatal:
		w.pg.Send(shuttingDown())
	case Finish:
		w.pg.Send(&pgproto3.CopyDone{})
		w.pg.Send(&pgproto3.CommandComplete{CommandTag: []byte("COPY 0")})
	default:
		w.reset()
		return
	}
	_ = w.pg.Flush()
	_ = w.conn.CloseWrite()
	// Closing with unread data would be a reset.
	timer := time.NewTimer(2 * time.Second)
	defer timer.Stop()
	select {
	case <-w.left:
	case <-w.server.done:
	case <-timer.C:
	}
	_ = w.conn.Close()
}

// walk goes through the WAL, and returns how the session ended: by an Action of
// the Script, or with Go by the client.
func (w *walsender) walk() Action {
	records := w.server.config.WAL.Records
	first, _ := slices.BinarySearchFunc(records, w.start, func(r Record, at pglogrepl.LSN) int {
		if r.Start < at {
			return -1
		}
		return 1
	})
	for i := max(0, first-replayed); ; {
		p := Point{Session: w.session, Record: i}
		if i == len(records) {
			p.Idle = true
			if end, ok := w.ask(p, nil); !ok {
				return end
			}
			continue
		}
		r := &records[i]
		frames := w.frames(r)
		p.Messages = len(frames)
		if len(frames) == 0 {
			if end, ok := w.ask(p, nil); !ok {
				return end
			}
		}
		for j, f := range frames {
			p.Message = j
			if end, ok := w.ask(p, f.data); !ok {
				return end
			}
			step := Step{LSN: f.lsn}
			if j == len(frames)-1 {
				step.Confirms, step.Tx = true, r.Tx
			}
			if !w.send(step, xlogData(f)) {
				return Action{}
			}
		}
		w.sent = r.End
		i++
	}
}

// frames returns what the record sends in this session.
func (w *walsender) frames(r *Record) []frame {
	switch {
	case r.Start < w.start: // SnapBuildXactNeedsSkip
	case r.Tx != nil && (len(r.Tx.Rows) > 0 || w.server.config.Version < 150000):
		return r.encode(w.announced)
	case r.Message != nil && w.messages:
		return []frame{r.encodeMessage()}
	}
	return nil
}

func xlogData(f frame) []byte {
	m := message{'w'}.lsn(f.lsn).lsn(f.lsn).time(time.Now())
	return append(m, f.data...)
}

// send tells of a message and sends it. It returns false when the client is gone.
func (w *walsender) send(step Step, data []byte) bool {
	step.Kind, step.Session, step.At = Sent, w.session, time.Now()
	w.server.config.Observe(step)
	w.pg.Send(&pgproto3.CopyData{Data: data})
	if w.buffered += len(data); w.buffered > w.server.config.Buffer {
		return w.flushed()
	}
	return true
}

func (w *walsender) flushed() bool {
	w.buffered = 0
	return w.pg.Flush() == nil
}

// keepalive sends the position of the last record walked.
func (w *walsender) keepalive(ask bool) bool {
	m := message{'k'}.lsn(w.sent).time(time.Now()).u8(0)
	if ask {
		m[len(m)-1] = 1
		w.mu.Lock()
		w.waiting = true
		w.mu.Unlock()
	}
	w.told = w.sent
	return w.send(Step{LSN: w.sent, Confirms: true, Asks: ask}, m) && w.flushed()
}

// listen takes what the client sends until it ends the stream or is gone.
func (w *walsender) listen() {
	defer close(w.left)
	for {
		w.mu.Lock()
		deaf := time.Until(w.deaf)
		w.mu.Unlock()
		if deaf > 0 && !w.server.wait(deaf) {
			return
		}
		if w.conn.SetReadDeadline(time.Now().Add(w.timeout)) != nil {
			return
		}
		msg, err := w.pg.Receive()
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			w.server.strange("session %d: terminating walsender due to replication timeout", w.session)
			w.reset()
		}
		if err != nil || !w.heard(msg) {
			_ = w.conn.SetReadDeadline(time.Time{})
			w.wake()
			return
		}
		w.wake()
	}
}

func (w *walsender) wake() {
	select {
	case w.said <- struct{}{}:
	default:
	}
}

// heard takes one message, and reports whether more may come.
func (w *walsender) heard(msg pgproto3.FrontendMessage) bool {
	switch msg := msg.(type) {
	case *pgproto3.CopyDone:
		w.mu.Lock()
		defer w.mu.Unlock()
		w.copyDone = true
		return w.dead // else the connection goes on without us
	case *pgproto3.CopyData:
		u, err := parseUpdate(w.session, msg.Data)
		if err != nil {
			w.server.strange("session %d: %v", w.session, err)
			return true
		}
		// The lock makes the last update come before the Closed of its session.
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.dead {
			return true
		}
		w.server.heard(u)
		w.write, w.flush, w.heardAt, w.waiting = u.Write, u.Flush, u.At, false
		w.asked = w.asked || u.ReplyRequested
		return true
	case *pgproto3.Terminate:
		return false
	}
	w.server.strange("session %d: %T while streaming", w.session, msg)
	return true
}
