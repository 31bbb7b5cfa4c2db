package checkpoint

import (
	"errors"
	"runtime"
	"testing"

	"github.com/jackc/pglogrepl"
)

func newTracker() *Tracker { return NewTracker(100, NewWindow(1<<20, 1<<40)) }

// begin begins a transaction with n events of 10 bytes.
func begin(t *Tracker, n int) *Tx {
	x := t.Begin()
	for range n {
		x.Add(10)
	}
	return x
}

// entries returns the number of entries in the queue: 0 when everything that
// was received is acknowledged and no transaction is open.
func entries(t *Tracker) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pending
}

func wantConfirmed(t *testing.T, tr *Tracker, when string, want pglogrepl.LSN) {
	t.Helper()
	if got := tr.Confirmed(); got != want {
		t.Errorf("%s: confirmed %s, want %s", when, got, want)
	}
}

func TestPrefix(t *testing.T) {
	t.Parallel()
	tr := newTracker()
	wantConfirmed(t, tr, "new", 100)
	a := begin(tr, 2)
	a.Done(10) // before End
	a.End(200)
	b := begin(tr, 1)
	b.Done(10)
	b.End(300)
	wantConfirmed(t, tr, "second complete, first not", 100)
	a.Done(10)
	wantConfirmed(t, tr, "both complete", 300)
	tr.Begin().End(400)
	wantConfirmed(t, tr, "empty transaction", 400)
	tr.Idle(350)
	wantConfirmed(t, tr, "lower keepalive", 400)
	tr.Idle(500)
	wantConfirmed(t, tr, "keepalive", 500)
	if n := entries(tr); n != 0 {
		t.Errorf("pending %d, want 0", n)
	}
}

func TestKeepaliveInItsPlace(t *testing.T) {
	t.Parallel()
	tr := newTracker()
	a := begin(tr, 1)
	tr.Idle(1000) // inside of a transaction
	a.End(200)
	tr.Idle(300)
	wantConfirmed(t, tr, "keepalive behind an unacked event", 100)
	a.Done(10)
	wantConfirmed(t, tr, "event acked", 300)
}

func TestFailureStopsEverythingBehindIt(t *testing.T) {
	t.Parallel()
	tr := newTracker()
	a, cause := begin(tr, 1), errors.New("too large")
	a.End(200)
	b := begin(tr, 2)
	b.End(300)
	c := begin(tr, 1)
	c.End(400)
	tr.Idle(500)
	b.Fail(10, cause)
	c.Fail(10, errors.New("later"))
	if err := tr.Err(); err != cause {
		t.Errorf("err %v, want the first: %v", err, cause)
	}
	b.Done(10)
	wantConfirmed(t, tr, "first unacked", 100)
	if tr.Stuck() {
		t.Error("stuck while the first event is still to be acknowledged")
	}
	a.Done(10)
	wantConfirmed(t, tr, "before the failure", 200)
	if !tr.Stuck() {
		t.Error("not stuck behind the failure")
	}
	if events, bytes := tr.window.InFlight(); events != 0 || bytes != 0 {
		t.Errorf("in flight %d, %d, want nothing", events, bytes)
	}
	if n := entries(tr); n != 3 {
		t.Errorf("pending %d, want the two failed and the keepalive", n)
	}
	d := begin(newTracker(), 1)
	d.Fail(10, nil)
	if err := d.tracker.Err(); !errors.Is(err, errNoCause) {
		t.Errorf("failed without a cause: err %v", err)
	}
}

// TestSettledKeepsNothing: a sink may hold on to a transaction; that must not
// hold the ones after it in memory.
func TestSettledKeepsNothing(t *testing.T) {
	t.Parallel()
	tr := newTracker()
	stuck := begin(tr, 1)
	stuck.End(200)
	x := begin(tr, 1)
	x.End(300)
	y := begin(tr, 1)
	y.End(400)
	x.Done(10)
	y.Done(10)
	stuck.Done(10)
	for i, tx := range []*Tx{stuck, x, y} {
		if tx.prev != nil || tx.next != nil {
			t.Errorf("transaction %d still points to its neighbours", i)
		}
	}
}

// TestBreaches settles and begins what must not be: an error, and no progress.
func TestBreaches(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		do   func(tr *Tracker)
		want error
	}{
		{"settled twice while open", func(tr *Tracker) {
			x := begin(tr, 1)
			x.Done(10)
			x.Done(10)
			x.Add(10)
			x.End(200)
			x.Done(10)
		}, errSettledTwice},
		{"settled twice when complete", func(tr *Tracker) {
			x := begin(tr, 1)
			x.End(100)
			x.Done(10)
			x.Fail(10, errors.New("and failed"))
			begin(tr, 0).End(300)
		}, errSettledTwice},
		{"settled twice, with another open", func(tr *Tracker) {
			x := tr.Begin()
			x.Add(10)
			x.Add(20)
			x.End(200)
			x.Done(10)
			x.Done(10)
		}, errBytes},
		{"more bytes than there are", func(tr *Tracker) {
			x := begin(tr, 2)
			x.Done(21)
			x.Done(10)
			x.End(200)
		}, errBytes},
		{"begun twice", func(tr *Tracker) {
			x := tr.Begin()
			tr.Begin().End(300)
			x.End(200)
		}, errBegin},
		{"added after the end", func(tr *Tracker) {
			x := tr.Begin()
			x.End(100)
			x.Add(10)
			x.Done(10)
			tr.Idle(300)
		}, errEnded},
		{"ended twice", func(tr *Tracker) {
			x := tr.Begin()
			x.End(100)
			x.End(200)
			tr.Idle(300)
		}, errEndedTwice},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			tr := newTracker()
			test.do(tr)
			if err := tr.Err(); !errors.Is(err, test.want) {
				t.Errorf("err %v, want %v", err, test.want)
			}
			wantConfirmed(t, tr, test.name, 100)
			if len(tr.window.Changed()) == 0 {
				t.Error("the line was not woken")
			}
			if events, bytes := tr.window.InFlight(); events != 0 || bytes != 0 {
				t.Errorf("in flight %d, %d, want nothing", events, bytes)
			}
			if n := entries(tr); n < 0 || n > 3 {
				t.Errorf("pending %d", n)
			}
		})
	}
}

// TestWindowOutlivesSessions settles an old session's event in a new one.
func TestWindowOutlivesSessions(t *testing.T) {
	t.Parallel()
	w := NewWindow(1, 1000)
	old := NewTracker(100, w)
	x := begin(old, 1)
	x.End(200)
	now := NewTracker(100, w)
	y := now.Begin()
	if !w.Full() {
		t.Fatal("the old session's event is not counted")
	}
	x.Done(10)
	if w.Full() || len(w.Changed()) != 1 {
		t.Errorf("full %v, %d tokens, want room and one token", w.Full(), len(w.Changed()))
	}
	y.End(150)
	wantConfirmed(t, now, "the new session", 150)
	wantConfirmed(t, old, "the old session", 200)
}

func TestHugeEventPassesAnEmptyWindow(t *testing.T) {
	t.Parallel()
	w := NewWindow(0, 0)
	if w.Full() {
		t.Fatal("an empty window is full")
	}
	x := NewTracker(0, w).Begin()
	x.Add(1 << 30)
	if !w.Full() {
		t.Fatal("not full with a huge event")
	}
	x.Done(1 << 30)
	if w.Full() {
		t.Fatal("full after it")
	}
}

// TestBoundedMemory: Invariant 7, when nothing is acknowledged and the server
// goes on, and when everything but one event is.
func TestBoundedMemory(t *testing.T) {
	t.Parallel()
	tr := newTracker()
	stuck := begin(tr, 1)
	stuck.End(200)
	for i := range pglogrepl.LSN(1_000_000) {
		tr.Idle(300 + i)
		if i%4 == 0 {
			tr.Begin().End(300 + i)
		}
	}
	if n := entries(tr); n > 2 {
		t.Errorf("pending %d after a million keepalives behind an unacked event, want at most 2", n)
	}
	for i := range pglogrepl.LSN(1_000_000) {
		x := begin(tr, 1)
		x.End(2_000_000 + i)
		x.Done(10)
		if n := entries(tr); n > 2 {
			t.Fatalf("pending %d after %d transactions acked behind an unacked one, want at most 2", n, i)
		}
	}
	wantConfirmed(t, tr, "one stuck", 100)
	stuck.Done(10)
	wantConfirmed(t, tr, "all acked", 2_999_999)
}

// TestFlatHeap acknowledges a million transactions in order, a hundred behind.
func TestFlatHeap(t *testing.T) {
	tr := newTracker()
	var behind [100]*Tx
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range 1_000_000 {
		if x := behind[i%len(behind)]; x != nil {
			x.Done(10)
		}
		x := begin(tr, 1)
		x.End(pglogrepl.LSN(1000 + i))
		behind[i%len(behind)] = x
	}
	if after := heap(); after > before+1<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	if n := entries(tr); n != len(behind) {
		t.Errorf("pending %d, want %d", n, len(behind))
	}
}

func TestAllocations(t *testing.T) {
	tr := newTracker()
	lsn := pglogrepl.LSN(1000)
	if n := testing.AllocsPerRun(1000, func() {
		x := begin(tr, 100)
		tr.Idle(lsn)
		x.End(lsn)
		tr.Idle(lsn)
		for range 100 {
			x.Done(10)
		}
		tr.Idle(lsn)
		lsn++
	}); n > 2 { // the transaction, and the keepalive behind it while it is unacked
		t.Errorf("%v allocations for a transaction with 100 events and a keepalive, want at most 2", n)
	}
	if n := testing.AllocsPerRun(1000, func() {
		x := begin(tr, 100)
		for range 100 {
			x.Done(10)
		}
		x.End(lsn)
		lsn++
	}); n > 1 {
		t.Errorf("%v allocations for a transaction with 100 events, want at most 1", n)
	}
}

// Consumers may have seen what is acknowledged in any order, before its
// transaction has ended, and by an earlier session's tracker.
func TestSeen(t *testing.T) {
	t.Parallel()
	w := NewWindow(1<<20, 1<<40)
	tr := NewTracker(100, w)
	want := func(when string, want pglogrepl.LSN) {
		t.Helper()
		if got := w.Seen(); got != want {
			t.Errorf("%s: seen %s, want %s", when, got, want)
		}
	}
	first := tr.BeginAt(150)
	first.Add(10)
	first.Add(10)
	first.End(200)
	second := tr.BeginAt(250)
	second.Add(10)
	want("nothing acknowledged", 0)
	second.Done(10)
	want("second acknowledged, not ended", 250)
	wantConfirmed(t, tr, "first not acknowledged", 100)
	again := NewTracker(100, w).BeginAt(150)
	again.Add(10)
	again.Done(10)
	want("first sent again", 250)
	first.Fail(10, errors.New("refused"))
	want("failed", 250)
	w.Rewind(120)
	want("rewound", 120)
	first.Done(10)
	want("acknowledged late", 120)
	other := NewTracker(120, w).BeginAt(140)
	other.Add(10)
	other.Done(10)
	want("of the new WAL", 140)
}

// After a breach the position stands still for good: nobody need wait for it.
func TestBreachIsStuck(t *testing.T) {
	t.Parallel()
	tr := newTracker()
	x := begin(tr, 1)
	if tr.Stuck() {
		t.Error("stuck while an event is in flight")
	}
	x.Done(10)
	x.Done(10)
	if !tr.Stuck() || tr.Err() == nil {
		t.Errorf("stuck %v, err %v", tr.Stuck(), tr.Err())
	}
}
