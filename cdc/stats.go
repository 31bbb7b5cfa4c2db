package cdc

import (
	"cmp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
)

// State is what the relay is doing.
type State string

// The states, in the order of a life.
const (
	Starting     State = "starting"     // has not reached Postgres yet, or is setting up
	Standby      State = "standby"      // another instance holds the slot
	Streaming    State = "streaming"    // the line runs
	Reconnecting State = "reconnecting" // the line ended with trouble and starts again
	Draining     State = "draining"     // told to stop; waits for acknowledgements
	Recovering   State = "recovering"   // Recover sends rows, and has trouble with it
	Stopped      State = "stopped"
)

// Stats is one snapshot of the relay: what the metrics, the status page and
// /readyz are made of.
type Stats struct {
	State  State     `json:"state"`
	Since  time.Time `json:"since"`            // of that state
	Reason string    `json:"reason,omitempty"` // why it is in it: the last error, or who holds the slot

	Ready    bool   `json:"ready"`               // healthy in its role
	NotReady string `json:"not_ready,omitempty"` // why it is not

	Slot        string `json:"slot"`
	Publication string `json:"publication"`
	Table       string `json:"table"`
	Timeline    int32  `json:"timeline"` // 0 before the first stream

	ReceivedLSN  pglogrepl.LSN `json:"received_lsn"`   // highest position received
	ConfirmedLSN pglogrepl.LSN `json:"confirmed_lsn"`  // what may be confirmed
	ReportedLSN  pglogrepl.LSN `json:"reported_lsn"`   // what Postgres was last told
	ServerWALEnd pglogrepl.LSN `json:"server_wal_end"` // as the last keepalive said

	Transactions uint64 `json:"transactions"`
	Events       uint64 `json:"events"` // handed to the sink
	Updates      uint64 `json:"updates"`
	Deletes      uint64 `json:"deletes"`
	Truncates    uint64 `json:"truncates"`
	Messages     uint64 `json:"messages"`     // of pg_logical_emit_message
	OtherTables  uint64 `json:"other_tables"` // inserts into tables that are not the outbox

	InFlightEvents int           `json:"in_flight_events"`
	InFlightBytes  int           `json:"in_flight_bytes"`
	StatusUpdates  uint64        `json:"status_updates"`
	Reconnects     uint64        `json:"reconnects"`
	Backpressure   time.Duration `json:"backpressure_ns"` // time spent with a full window

	LastEvent    time.Time `json:"last_event"`    // when an event was last received
	LastProgress time.Time `json:"last_progress"` // when the confirmed position last moved, or nothing was in flight
}

// stalledAfter is how long events may be in flight without any acknowledgement
// before the relay calls itself not ready.
const stalledAfter = 30 * time.Second

// counters is what the line writes and Stats reads. The line's goroutine is
// the only writer of the numbers.
type counters struct {
	received, confirmed, reported, walEnd        atomic.Uint64
	transactions, events                         atomic.Uint64
	updates, deletes, truncates, messages, other atomic.Uint64
	statusUpdates, reconnects                    atomic.Uint64
	backpressure, lastEvent, lastProgress        atomic.Int64 // nanoseconds
	timeline                                     atomic.Int32

	mu     sync.Mutex
	state  State
	since  time.Time
	reason string
}

func (k *counters) setState(s State, reason string, now time.Time) (changed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	changed = k.state != s
	if changed {
		k.state, k.since = s, now
	}
	k.reason = reason
	return changed
}

// Stats returns a snapshot.
func (r *Relay) Stats() Stats {
	k := &r.counters
	s := Stats{
		Slot: r.config.Slot, Publication: r.config.Publication, Table: r.config.Table.String(),
		Timeline:    k.timeline.Load(),
		ReceivedLSN: pglogrepl.LSN(k.received.Load()), ConfirmedLSN: pglogrepl.LSN(k.confirmed.Load()),
		ReportedLSN: pglogrepl.LSN(k.reported.Load()), ServerWALEnd: pglogrepl.LSN(k.walEnd.Load()),
		Transactions: k.transactions.Load(), Events: k.events.Load(),
		Updates: k.updates.Load(), Deletes: k.deletes.Load(), Truncates: k.truncates.Load(),
		Messages: k.messages.Load(), OtherTables: k.other.Load(),
		StatusUpdates: k.statusUpdates.Load(), Reconnects: k.reconnects.Load(),
		Backpressure: time.Duration(k.backpressure.Load()),
		LastEvent:    fromNano(k.lastEvent.Load()), LastProgress: fromNano(k.lastProgress.Load()),
	}
	s.InFlightEvents, s.InFlightBytes = r.window.InFlight()
	k.mu.Lock()
	s.State, s.Since, s.Reason = k.state, k.since, k.reason
	k.mu.Unlock()
	now := time.Now()
	if s.NotReady = s.notReady(now); s.NotReady == "" && s.State == Streaming {
		s.NotReady = cmp.Or(r.reserve.danger(), r.sight.blind(now, r.blindFor))
	}
	if ask := r.config.SinkNotReady; ask != nil && s.NotReady == "" {
		s.NotReady = ask()
	}
	s.Ready = s.NotReady == ""
	return s
}

// notReady returns why the relay is not healthy in its role.
func (s *Stats) notReady(now time.Time) string {
	switch {
	case s.State == Standby:
		return ""
	case s.State != Streaming && s.Reason != "":
		return string(s.State) + ": " + s.Reason
	case s.State != Streaming:
		return string(s.State)
	case s.InFlightEvents > 0 && now.Sub(s.LastProgress) > stalledAfter:
		return "no acknowledgement for " + now.Sub(s.LastProgress).Truncate(time.Second).String() + " while events are in flight"
	}
	return ""
}

func fromNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// seconds is t as Unix time, 0 for the zero time.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}
