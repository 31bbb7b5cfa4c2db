package cdc

import (
	"log/slog"
	"sync"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

const (
	// blindFor is how long the watch may see nothing before the relay calls
	// itself not ready: what takes a moment, such as an ALTER that waits, is no matter.
	blindFor = time.Minute
	// blinkFor is how long that is not even said.
	blinkFor = 2 * time.Second
)

// sight is whether the watch sees what it is there to see. While it does not,
// the stream goes on, and a table that leaves the publication goes unnoticed.
type sight struct {
	log *slog.Logger

	mu    sync.Mutex
	since time.Time // when the first look began that failed, since one that did not; zero: it sees
	cause string
	nag   nag
}

// lost notes that a look failed which began then, and says so once a moment.
func (s *sight) lost(began time.Time, err error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		s.since = began
	}
	s.cause = err.Error()
	if now.Sub(s.since) < blinkFor || !s.nag.due("blind") {
		return
	}
	args := []any{"for", now.Sub(s.since).Truncate(time.Second).String(), "error", err.Error()}
	if hint := fault.HintOf(err); hint != "" {
		args = append(args, "hint", hint)
	}
	s.log.Warn("outbox.watch_blind", args...)
}

// back notes that a look succeeded.
func (s *sight) back() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Time{}
}

// blind returns why nothing has been seen for longer than that, or "".
func (s *sight) blind(now time.Time, longer time.Duration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() || now.Sub(s.since) <= longer {
		return ""
	}
	return "the publication could not be watched for " + now.Sub(s.since).Truncate(time.Second).String() + ": " + s.cause
}
