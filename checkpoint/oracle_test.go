package checkpoint

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pglogrepl"
)

// oracle is the rule of doc.go in its plainest form: the whole history of one
// session, walked from its start at every question.
type oracle struct {
	start    pglogrepl.LSN
	entries  []*oracleTx
	received map[pglogrepl.LSN]bool // every position that came from the server (Invariant 2)
	err      error
}

type oracleTx struct {
	lsn             pglogrepl.LSN
	ended           bool
	unacked, failed int
}

func newOracle(start pglogrepl.LSN) *oracle {
	return &oracle{start: start, received: map[pglogrepl.LSN]bool{start: true}}
}

func (e *oracleTx) complete() bool { return e.ended && e.unacked == 0 && e.failed == 0 }

func (o *oracle) confirmed() pglogrepl.LSN {
	pos := o.start
	for _, e := range o.entries {
		if !e.complete() {
			break
		}
		pos = max(pos, e.lsn)
	}
	return pos
}

func (o *oracle) incomplete() (n int) {
	for _, e := range o.entries {
		if !e.complete() {
			n++
		}
	}
	return n
}

// subject is what is driven against the oracle: the Tracker, or a broken one.
type subject interface {
	Begin() subjectTx
	Idle(pglogrepl.LSN)
	Confirmed() pglogrepl.LSN
}

type subjectTx interface {
	Add(bytes int)
	Done(bytes int)
	Fail(bytes int, err error)
	End(lsn pglogrepl.LSN)
}

// tracker makes a *Tracker a subject.
type tracker struct{ *Tracker }

func (t tracker) Begin() subjectTx { return t.Tracker.Begin() }

// choices is where a run's decisions come from: a seeded generator, or a fuzzer's bytes.
type choices interface {
	next(n int) int // 0 ≤ next < n
	more() bool
}

type seeded struct {
	rng  *rand.Rand
	left int
}

func (s *seeded) next(n int) int { return s.rng.IntN(n) }
func (s *seeded) more() bool     { s.left--; return s.left >= 0 }

type fromBytes struct{ data []byte }

func (f *fromBytes) more() bool { return len(f.data) > 0 }
func (f *fromBytes) next(n int) int {
	if len(f.data) == 0 {
		return 0
	}
	b := f.data[0]
	f.data = f.data[1:]
	return int(b) % n
}

// session is one tracker with its oracle.
type session struct {
	subject subject
	oracle  *oracle
	last    pglogrepl.LSN // what Confirmed said last
}

// flying is an event that the sink holds.
type flying struct {
	s     *session
	tx    subjectTx
	model *oracleTx
	bytes int
}

// run is one history: what the server sends, what the broker answers, and
// reconnects in between.
type run struct {
	choices
	fresh  func(start pglogrepl.LSN) subject
	window *Window // nil for subjects that have none
	now    *session
	tx     subjectTx // open
	model  *oracleTx // of tx
	lsn    pglogrepl.LSN
	flying []flying
	bytes  int
}

func (r *run) reconnect() {
	start := pglogrepl.LSN(1000)
	if r.now != nil {
		start = r.now.last
	}
	r.now = &session{subject: r.fresh(start), oracle: newOracle(start), last: start}
	r.tx, r.model = nil, nil
	r.lsn = start
}

// position is the next one the server sends: mostly ahead, at times the same or
// lower, as a keepalive's can be.
func (r *run) position() pglogrepl.LSN {
	lsn := r.lsn
	switch k := r.next(8); k {
	case 0:
		lsn -= min(lsn, pglogrepl.LSN(r.next(40)))
	case 1:
	default:
		r.lsn += pglogrepl.LSN(k * 8)
		lsn = r.lsn
	}
	r.now.oracle.received[lsn] = true
	return lsn
}

// step does one thing and returns what the subject and the oracle disagree on.
func (r *run) step() error {
	wasFull := false
	if r.window != nil {
		wasFull = r.window.Full()
		select {
		case <-r.window.Changed():
		default:
		}
	}
	settled, failed := false, false
	switch op := r.next(16); {
	case op < 3 && r.tx == nil:
		r.tx, r.model = r.now.subject.Begin(), &oracleTx{}
		r.now.oracle.entries = append(r.now.oracle.entries, r.model)
	case op < 6 && r.tx != nil:
		b := 1 + r.next(200)
		r.tx.Add(b)
		r.model.unacked++
		r.bytes += b
		r.flying = append(r.flying, flying{r.now, r.tx, r.model, b})
	case op < 8 && r.tx != nil:
		lsn := r.position()
		r.tx.End(lsn)
		r.model.lsn, r.model.ended = lsn, true
		r.tx, r.model = nil, nil
	case op < 9:
		lsn := r.position()
		r.now.subject.Idle(lsn)
		if r.tx == nil { // else ignored
			r.now.oracle.entries = append(r.now.oracle.entries, &oracleTx{lsn: lsn, ended: true})
		}
	case op < 15 && len(r.flying) > 0:
		settled = true
		i := r.next(len(r.flying))
		f := r.flying[i]
		r.flying = append(r.flying[:i], r.flying[i+1:]...)
		r.bytes -= f.bytes
		f.model.unacked--
		if failed = r.next(64) == 1; failed {
			f.model.failed++
			f.s.oracle.err = fmt.Errorf("failed")
			f.tx.Fail(f.bytes, f.s.oracle.err)
		} else {
			f.tx.Done(f.bytes)
		}
	case op == 15 && r.next(16) == 1:
		r.reconnect()
	}
	if err := r.check(); err != nil || r.window == nil {
		return err
	}
	return r.checkWindow(wasFull, settled, failed)
}

// check compares positions. Being equal to the oracle at every step is
// invariants 1 and 3 and that nothing stands still without reason.
func (r *run) check() error {
	s := r.now
	got, want := s.subject.Confirmed(), s.oracle.confirmed()
	switch {
	case !s.oracle.received[got]:
		return fmt.Errorf("confirmed %s, which the server never sent (Invariant 2)", got)
	case got < s.last:
		return fmt.Errorf("confirmed %s after %s: it moved back", got, s.last)
	case got > want:
		return fmt.Errorf("confirmed %s, past what is acknowledged: %s (Invariant 1)", got, want)
	case got < want:
		return fmt.Errorf("confirmed %s stands still, all up to %s is acknowledged", got, want)
	}
	s.last = got
	return nil
}

// checkWindow compares what only the real Tracker has.
func (r *run) checkWindow(wasFull, settled, failed bool) error {
	t := r.now.subject.(tracker)
	if events, bytes := r.window.InFlight(); events != len(r.flying) || bytes != r.bytes {
		return fmt.Errorf("in flight: %d events, %d bytes, want %d, %d", events, bytes, len(r.flying), r.bytes)
	}
	full := len(r.flying) >= testEvents || r.bytes >= testBytes
	if r.window.Full() != full {
		return fmt.Errorf("full: %v, want %v", r.window.Full(), full)
	}
	if settled && (failed || wasFull && !full || len(r.flying) == 0) && len(r.window.Changed()) == 0 {
		return fmt.Errorf("no token: failed %v, full %v to %v, %d in flight", failed, wasFull, full, len(r.flying))
	}
	n := r.now.oracle.incomplete()
	if p := entries(t.Tracker); p > 2*n || p < n {
		return fmt.Errorf("%d entries for %d incomplete transactions", p, n)
	}
	if t.Err() != r.now.oracle.err && (t.Err() == nil || r.now.oracle.err == nil) {
		return fmt.Errorf("err %v, want %v", t.Err(), r.now.oracle.err)
	}
	return nil
}

const testEvents, testBytes = 12, 1000

// drive runs a history to its end, or to the first disagreement.
func drive(c choices, fresh func(pglogrepl.LSN) subject, w *Window) error {
	r := &run{choices: c, fresh: fresh, window: w}
	r.reconnect()
	for i := 0; r.more(); i++ {
		if err := r.step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

func driveTracker(c choices) error {
	w := NewWindow(testEvents, testBytes)
	return drive(c, func(start pglogrepl.LSN) subject { return tracker{NewTracker(start, w)} }, w)
}

// TestOracle compares the Tracker with the oracle in random histories.
func TestOracle(t *testing.T) {
	t.Parallel()
	runs := 1000
	if testing.Short() {
		runs = 200
	}
	first := rand.Uint64()
	for i := range uint64(runs) {
		seed := first + i
		if err := driveTracker(&seeded{rand.New(rand.NewPCG(seed, 0)), 400}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// FuzzTracker lets the fuzzer write the history.
func FuzzTracker(f *testing.F) {
	f.Add([]byte{0, 4, 10, 7, 2, 9, 0})
	f.Add([]byte{0, 4, 1, 4, 1, 7, 3, 0, 4, 9, 7, 5, 12, 2, 0, 12, 0, 0, 12, 0, 0})
	f.Add([]byte{8, 4, 0, 7, 3, 8, 6, 0, 4, 1, 7, 0, 8, 2, 12, 0, 1, 15, 1, 0, 4, 9, 12, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 600 {
			return // the oracle is quadratic
		}
		if err := driveTracker(&fromBytes{data}); err != nil {
			t.Fatal(err)
		}
	})
}
