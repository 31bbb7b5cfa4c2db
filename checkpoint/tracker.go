package checkpoint

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/jackc/pglogrepl"
)

// What is recorded as Err when the line or a sink breaks the contract. The
// position stands still from then on: it could be wrong.
var (
	errSettledTwice = errors.New("checkpoint: event settled twice")
	errBytes        = errors.New("checkpoint: event settled with another size than it was added with")
	errBegin        = errors.New("checkpoint: transaction begun before the last one ended")
	errEnded        = errors.New("checkpoint: event added to a transaction that has ended")
	errEndedTwice   = errors.New("checkpoint: transaction ended twice")
	errNoCause      = errors.New("checkpoint: event failed without a cause")
)

// Tracker knows which LSN is safe to confirm in one replication session. Begin,
// Idle, Tx.Add and Tx.End are for the goroutine that reads the stream; all else
// may be called from any goroutine.
type Tracker struct {
	window    *Window
	rewinds   uint64        // of the window, before this Tracker
	confirmed atomic.Uint64 // written under mu

	mu         sync.Mutex
	head, tail *Tx // in commit order; neighbours are never both complete
	pending    int // entries from head to tail
	frozen     bool
	err        error
}

// Tx is one transaction in a Tracker's queue.
type Tx struct {
	tracker *Tracker
	// All under tracker.mu.
	prev, next *Tx
	commit     pglogrepl.LSN // where it was committed; 0: not known
	lsn        pglogrepl.LSN // when ended: what completing it allows to confirm
	events     int           // added and not settled
	bytes      int           // of these
	ended      bool
	failed     bool // an event of it will not be published: it never completes
}

// NewTracker returns a Tracker for a session in which the server's own
// confirmed position is confirmed (Invariant 8). w may hold events of earlier
// sessions.
func NewTracker(confirmed pglogrepl.LSN, w *Window) *Tracker {
	t := &Tracker{window: w, rewinds: w.rewinds.Load()}
	t.confirmed.Store(uint64(confirmed))
	return t
}

// Confirmed returns the position that may be reported as flushed. It starts as
// the one given to NewTracker, never moves back and never passes an event that
// is not acknowledged.
func (t *Tracker) Confirmed() pglogrepl.LSN { return pglogrepl.LSN(t.confirmed.Load()) }

// Stuck reports whether Confirmed has come as far as it ever will: an event
// that was given to Fail stands right behind it.
func (t *Tracker) Stuck() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.frozen || t.head != nil && t.head.failed
}

// Err returns the first failure: the cause given to Fail, or a breach of this
// package's contract. The session has to end.
func (t *Tracker) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Begin appends the next transaction. The one before must have ended.
func (t *Tracker) Begin() *Tx { return t.BeginAt(0) }

// BeginAt is Begin for a transaction whose commit record is at commit, which
// counts for Window.Seen alone.
func (t *Tracker) BeginAt(commit pglogrepl.LSN) *Tx {
	x := &Tx{tracker: t, commit: commit}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open() {
		t.breach(errBegin)
	}
	t.push(x)
	return x
}

// Idle says that the server has nothing for us up to lsn that it has not sent:
// a keepalive, or a non-transactional message. Invariant 3: it counts in its
// place, behind everything received before. While a transaction is open it is
// ignored: what follows of the transaction would come behind it.
func (t *Tracker) Idle(lsn pglogrepl.LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.tail == nil:
		t.confirm(lsn)
	case t.open():
	case t.tail.complete():
		t.tail.lsn = max(t.tail.lsn, lsn)
	default:
		t.push(&Tx{tracker: t, lsn: lsn, ended: true})
	}
}

// Add counts an event of that many bytes. It comes before the sink has the event.
func (x *Tx) Add(bytes int) {
	t := x.tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	if x.ended {
		t.breach(errEnded)
	}
	x.events++
	x.bytes += bytes
	t.window.add(bytes)
}

// Done settles an event of that many bytes as acknowledged. Settling one twice
// is noticed by the transaction's counts: at once if no other of its events is
// unsettled or the sizes differ, else when the last one is settled. A sink must
// settle each event exactly once.
func (x *Tx) Done(bytes int) { x.settle(bytes, nil) }

// Fail settles an event of that many bytes as one that will not be published.
// Its transaction never completes, so the position never passes it. err becomes
// the Tracker's Err if it is the first.
func (x *Tx) Fail(bytes int, err error) {
	if err == nil {
		err = errNoCause
	}
	x.settle(bytes, err)
}

// End says that the transaction is over and that lsn, the end LSN of its Commit
// message, may be confirmed when all of its events are acknowledged.
func (x *Tx) End(lsn pglogrepl.LSN) {
	t := x.tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	if x.ended {
		t.breach(errEndedTwice)
		return
	}
	x.lsn, x.ended = lsn, true
	t.advance(x)
}

// settle gives back an event's room in the window and completes the
// transaction if it was the last one. What an old session's transaction settles
// moves only its own tracker.
func (x *Tx) settle(bytes int, failure error) {
	t := x.tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	if x.events == 0 {
		t.breach(errSettledTwice)
		return
	}
	x.events--
	left := x.bytes - bytes
	if left < 0 || x.events == 0 && left > 0 {
		// The window gets back what it was given, not what is claimed.
		t.breach(errBytes)
		left = 0
	}
	t.window.release(1, x.bytes-left)
	x.bytes = left
	if failure != nil {
		x.failed = true
		t.fail(failure)
	} else {
		t.window.acknowledged.Add(1)
		if t.rewinds == t.window.rewinds.Load() {
			t.window.see(x.commit)
		}
	}
	t.advance(x)
}

// complete reports whether everything of x is acknowledged.
func (x *Tx) complete() bool { return x.ended && x.events == 0 && !x.failed }

// open reports whether a transaction has begun and not ended. It is the tail.
func (t *Tracker) open() bool { return t.tail != nil && !t.tail.ended }

// advance confirms or merges x if it is complete.
func (t *Tracker) advance(x *Tx) {
	if !x.complete() {
		return
	}
	// Invariant 7: a complete entry joins its complete neighbours. Both are
	// confirmed at the same moment anyway: when all before them is.
	if p := x.prev; p != nil && p.complete() {
		p.lsn = max(p.lsn, x.lsn)
		t.unlink(x)
		x = p
	}
	if n := x.next; n != nil && n.complete() {
		x.lsn = max(x.lsn, n.lsn)
		t.unlink(n)
	}
	// Invariant 1: only what nothing stands before is confirmed.
	if x == t.head {
		t.confirm(x.lsn)
		t.unlink(x)
	}
}

// confirm moves the position to lsn, never back.
func (t *Tracker) confirm(lsn pglogrepl.LSN) {
	if !t.frozen && uint64(lsn) > t.confirmed.Load() {
		t.confirmed.Store(uint64(lsn))
	}
}

// breach records that the contract was broken. Which event is unacknowledged is
// no longer known, so nothing more is confirmed.
func (t *Tracker) breach(err error) {
	t.frozen = true
	t.fail(err)
}

// fail records the first error and wakes the line.
func (t *Tracker) fail(err error) {
	if t.err == nil {
		t.err = err
	}
	t.window.notify()
}

func (t *Tracker) push(x *Tx) {
	x.prev = t.tail
	if t.tail == nil {
		t.head = x
	} else {
		t.tail.next = x
	}
	t.tail = x
	t.pending++
}

// unlink takes x out of the queue. It keeps no pointer to its neighbours: a
// sink may hold on to it.
func (t *Tracker) unlink(x *Tx) {
	if x.prev == nil {
		t.head = x.next
	} else {
		x.prev.next = x.next
	}
	if x.next == nil {
		t.tail = x.prev
	} else {
		x.next.prev = x.prev
	}
	x.prev, x.next = nil, nil
	t.pending--
}
