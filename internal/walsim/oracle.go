package walsim

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
)

// Oracle compares what a relay does with what it promises. It is told of
// Server's Steps and of what the sink does, under one lock: an event that is
// acknowledged must be reported with Acked before the relay can know of it.
// What was broken is kept, and returned by Err.
type Oracle struct {
	// MaxSilence is the longest time between two status updates, and MinSpacing
	// the shortest, the last one of a session excepted, both by the client's
	// clock. 0: not looked at. To be set before the first Step.
	MaxSilence, MinSpacing time.Duration

	mu      sync.Mutex
	place   map[string]int // of an event in the commit order, by id
	events  []*Event
	arrived []bool
	acked   []bool
	latest  map[string]int // by key: place of the last event that arrived for the first time
	left    map[*Tx]int    // events that are not acknowledged
	session *watched       // nil before the first
	broken  []error
	count   Count
}

// Count is what an Oracle has seen.
type Count struct {
	Sessions, Updates int
	Arrivals, Repeats int // of events, and of those that had arrived before
	Moves             int // updates that moved the flush position
}

// watched is a session as the Oracle knows it.
type watched struct {
	number   int
	start    pglogrepl.LSN
	queue    []position // what was sent and may be confirmed, in order
	next     int        // the first of it that was not complete when last looked at
	limit    pglogrepl.LSN
	confirms map[pglogrepl.LSN]bool
	sent     map[pglogrepl.LSN]bool
	last     *Update
	hurried  time.Duration // the last update came so soon after the one before
	opened   time.Time
}

type position struct {
	lsn pglogrepl.LSN
	tx  *Tx // nil: complete in itself
}

// NewOracle returns an Oracle for a server with that WAL.
func NewOracle(w *WAL) *Oracle {
	o := &Oracle{place: make(map[string]int), latest: make(map[string]int), left: make(map[*Tx]int)}
	for _, r := range w.Records {
		if r.Tx == nil {
			continue
		}
		for _, row := range r.Tx.Rows {
			if row.Event != nil {
				o.place[row.Event.ID] = len(o.events)
				o.events = append(o.events, row.Event)
				o.left[r.Tx]++
			}
		}
	}
	o.arrived, o.acked = make([]bool, len(o.events)), make([]bool, len(o.events))
	o.owners(w)
	return o
}
