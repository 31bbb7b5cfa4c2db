package walsim

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// Oracle compares what a relay does with what it promises. It is told of the
// Server's Steps and of what the sink does, under one lock: that an event is
// acknowledged must be said with Acked before the relay can know of it. What
// was broken is kept, and returned by Err.
type Oracle struct {
	// MaxSilence is the longest time between two status updates, and MinSpacing
	// the shortest, the last one of a session excepted, both by the client's
	// clock. 0: not looked at. To be set before the first Step.
	MaxSilence, MinSpacing time.Duration
	// Lost is how much time the machine has lost so far, by being too slow for
	// what runs on it: MaxSilence is prolonged by what was lost meanwhile. nil: none.
	Lost func() time.Duration
	// Lanes are the sequences in which an event has its place; nil: that of its
	// key, if it has one. To be set before the first Step.
	Lanes func(*Event) []string

	mu      sync.Mutex
	events  []*oracleEvent // in commit order
	byID    map[string]*oracleEvent
	left    map[*Tx]int // events that are not acknowledged
	latest  map[string]*oracleEvent
	session *watched // nil before the first
	broken  []error
	count   Count
}

type oracleEvent struct {
	*Event
	tx             *Tx
	place          int
	arrived, acked bool
}

// Count is what an Oracle has seen.
type Count struct {
	Sessions, Updates int
	Moves             int // updates that moved the flush position
	Arrivals, Repeats int // of events, and of those that had arrived before
	Asked             int // keepalives that asked for a reply
}

// Add adds what another Oracle has seen.
func (c *Count) Add(d Count) {
	c.Sessions += d.Sessions
	c.Updates += d.Updates
	c.Moves += d.Moves
	c.Arrivals += d.Arrivals
	c.Repeats += d.Repeats
	c.Asked += d.Asked
}

// NewOracle returns an Oracle for a server with that WAL.
func NewOracle(w *WAL) *Oracle {
	o := &Oracle{byID: make(map[string]*oracleEvent), left: make(map[*Tx]int), latest: make(map[string]*oracleEvent)}
	for _, r := range w.Records {
		if r.Tx == nil {
			continue
		}
		for _, row := range r.Tx.Rows {
			if row.Event == nil {
				continue
			}
			e := &oracleEvent{Event: row.Event, tx: r.Tx, place: len(o.events)}
			o.events = append(o.events, e)
			o.byID[e.ID] = e
			o.left[r.Tx]++
		}
	}
	return o
}

// Arrived says that an event has come to where its order counts: the topic, or
// what stands for it. Of one key, each must come for the first time behind
// those that were committed before it. What arrived is compared with the WAL.
func (o *Oracle) Arrived(got Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.count.Arrivals++
	e := o.byID[got.ID]
	if e == nil {
		o.breach("event %q arrived, which was never committed", got.ID)
		return
	}
	if got != *e.Event {
		o.breach("event %d arrived as %+v, was %+v", e.place, got, *e.Event)
	}
	if e.arrived {
		o.count.Repeats++
		return
	}
	e.arrived = true
	for _, lane := range o.lanes(e.Event) {
		if last := o.latest[lane]; last != nil && last.place > e.place {
			o.breach("key %q: event %d arrived behind event %d (Invariant 5)", e.Key, e.place, last.place)
			continue
		}
		o.latest[lane] = e
	}
}

func (o *Oracle) lost() time.Duration {
	if o.Lost == nil {
		return 0
	}
	return o.Lost()
}

func (o *Oracle) lanes(e *Event) []string {
	switch {
	case o.Lanes != nil:
		return o.Lanes(e)
	case e.Key == "":
		return nil
	}
	return []string{e.Key}
}

// Acked says that an event is durable, before anybody else is told.
func (o *Oracle) Acked(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.byID[id]
	switch {
	case e == nil:
		o.breach("event %q acknowledged, which was never committed", id)
	case !e.acked:
		e.acked = true
		o.left[e.tx]--
	}
}

// Missing returns the ids of events that were never acknowledged, in commit order.
func (o *Oracle) Missing() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var ids []string
	for _, e := range o.events {
		if !e.acked {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// Count returns what was seen so far.
func (o *Oracle) Count() Count {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count
}

// Err returns what was broken so far, or nil.
func (o *Oracle) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return errors.Join(o.broken...)
}

// Breach adds what somebody else has found broken.
func (o *Oracle) Breach(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.breach(format, args...)
}

// breach keeps the first few that were broken: the rest mostly follows from them.
func (o *Oracle) breach(format string, args ...any) {
	if len(o.broken) < 8 {
		o.broken = append(o.broken, fmt.Errorf(format, args...))
	}
}
