package checkpoint

import (
	"sync/atomic"

	"github.com/jackc/pglogrepl"
)

// Window bounds the events that were given to the sink and are not yet settled.
// It is shared by the Trackers of successive sessions, because the sink keeps
// what it holds over a reconnect (Invariant 7). All methods may be called from
// any goroutine.
type Window struct {
	maxEvents, maxBytes int64
	events, bytes       atomic.Int64
	acknowledged        atomic.Uint64
	seen                atomic.Uint64
	rewinds             atomic.Uint64
	changed             chan struct{}
}

// NewWindow returns a Window that is full from maxEvents events or maxBytes
// bytes on. Limits below 1 count as 1: an empty window always takes one event,
// however large it is.
func NewWindow(maxEvents, maxBytes int) *Window {
	return &Window{
		maxEvents: int64(max(maxEvents, 1)),
		maxBytes:  int64(max(maxBytes, 1)),
		changed:   make(chan struct{}, 1),
	}
}

// Full reports whether a limit is reached. A single event larger than maxBytes
// goes through an empty window.
func (w *Window) Full() bool {
	return w.events.Load() >= w.maxEvents || w.bytes.Load() >= w.maxBytes
}

// InFlight returns what is unsettled. When events is 0, all of the bytes that
// they had are settled too.
func (w *Window) InFlight() (events, bytes int) {
	events = int(w.events.Load())
	return events, int(w.bytes.Load())
}

// Acknowledged returns how many events were acknowledged so far: while
// something is in flight and this stands still, the broker does.
func (w *Window) Acknowledged() uint64 { return w.acknowledged.Load() }

// Seen returns the highest position given to BeginAt of a transaction of which
// an event was acknowledged: as far as that consumers may have seen. It is at
// times far beyond what may be confirmed, for events are acknowledged in any order.
func (w *Window) Seen() pglogrepl.LSN { return pglogrepl.LSN(w.seen.Load()) }

// Rewind sets Seen to lsn, for a server whose WAL goes another way from there:
// what Trackers that were made before have on its way does not count any more.
func (w *Window) Rewind(lsn pglogrepl.LSN) {
	w.rewinds.Add(1)
	w.seen.Store(uint64(lsn))
}

// see raises seen. Trackers of several sessions may be at it at once.
func (w *Window) see(lsn pglogrepl.LSN) {
	for {
		seen := w.seen.Load()
		if uint64(lsn) <= seen || w.seen.CompareAndSwap(seen, uint64(lsn)) {
			return
		}
	}
}

// Changed returns a channel of capacity 1. A token arrives when Full turned
// false, when nothing is in flight any more, when an event failed, or when the
// Tracker's Err is set for another reason. A token says to look again, no more:
// it may stand for several changes, or for one that is over.
func (w *Window) Changed() <-chan struct{} { return w.changed }

func (w *Window) add(bytes int) {
	w.events.Add(1)
	w.bytes.Add(int64(bytes))
}

// release gives back what was added. The goroutine that brings a limit's count
// under it is the one that says so, therefore no crossing is missed when
// several release at once.
func (w *Window) release(events, bytes int) {
	b := w.bytes.Add(-int64(bytes))
	e := w.events.Add(-int64(events))
	switch {
	case e == 0,
		e < w.maxEvents && e+int64(events) >= w.maxEvents,
		b < w.maxBytes && b+int64(bytes) >= w.maxBytes:
		w.notify()
	}
}

// notify leaves a token unless one is there.
func (w *Window) notify() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}
