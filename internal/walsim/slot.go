package walsim

import (
	"time"

	"github.com/jackc/pglogrepl"
)

// slot is the one replication slot.
type slot struct {
	confirmed pglogrepl.LSN
	saved     pglogrepl.LSN // what a crash falls back to
	holder    uint32        // pid of the walsender, or 0
	until     time.Time     // the holder is gone, but not yet for the server
	gone      bool
	sessions  int
}

// active returns the pid that holds the slot, or 0.
func (l *slot) active() uint32 {
	if l.gone && !time.Now().Before(l.until) {
		l.holder, l.gone = 0, false
	}
	return l.holder
}

// acquire takes the slot for a walsender, and returns the session's number and
// where it starts; or the pid of the one that holds it.
func (s *Server) acquire(pid uint32) (session int, start pglogrepl.LSN, holder uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if holder := s.slot.active(); holder != 0 {
		return 0, 0, holder
	}
	s.slot.holder = pid
	s.slot.sessions++
	// It is not saved at every update, but it is when a walsender has taken it.
	s.slot.saved = s.slot.confirmed
	return s.slot.sessions, s.slot.confirmed, 0
}

// release frees the slot, after the time that the server takes to notice.
func (s *Server) release(hold time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slot.gone, s.slot.until = true, time.Now().Add(hold)
}

// crash takes the slot back to where it was saved.
func (s *Server) crash() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slot.confirmed = s.slot.saved
}

// heard takes a status update: LogicalConfirmReceivedLocation.
func (s *Server) heard(u *Update) {
	s.config.Observe(Step{Kind: Heard, Session: u.Session, At: u.At, LSN: u.Flush, Update: u})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.updates = append(s.updates, *u)
	s.slot.confirmed = max(s.slot.confirmed, u.Flush)
}
