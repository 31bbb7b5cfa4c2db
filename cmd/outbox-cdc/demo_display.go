//go:build !nodevenv

package main

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// display prints what happens in the demo and keeps count.
type display struct {
	enough chan struct{} // closed when as many events have arrived as were asked for

	mu        sync.Mutex
	out       io.Writer
	want      int                     // 0: no end
	commits   map[uuid.UUID]time.Time // when COMMIT was sent, for events that have not arrived
	undone    map[uuid.UUID]bool      // events whose transaction was rolled back
	ghosts    int                     // of these, what arrived all the same
	latencies []time.Duration
	lastLSN   string
}

func newDisplay(out io.Writer, want int) *display {
	return &display{enough: make(chan struct{}), out: out, want: want, commits: map[uuid.UUID]time.Time{}, undone: map[uuid.UUID]bool{}}
}

func (d *display) say(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(d.out, format+"\n", args...)
}

// committing notes the time just before COMMIT is sent.
func (d *display) committing(event uuid.UUID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.commits[event] = time.Now()
}

// rolledBack notes an event that no consumer must ever see.
func (d *display) rolledBack(what string, event uuid.UUID) {
	d.mu.Lock()
	d.undone[event] = true
	d.mu.Unlock()
	d.say("%-12s %-24s   %s: rolled back, so no consumer ever sees it", time.Now().Format("15:04:05.000"), "", what)
}

// event prints a record as the consumer received it.
func (d *display) event(r *devenv.Record) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	id, err := uuid.Parse(r.Header("ce_id"))
	if d.undone[id] {
		d.ghosts++
	}
	sent, known := d.commits[id]
	if err != nil || !known || d.want > 0 && len(d.latencies) >= d.want {
		return // behind the end
	}
	delete(d.commits, id)
	latency := now.Sub(sent)
	d.latencies = append(d.latencies, latency)
	d.lastLSN = r.Header("outbox-lsn")
	fmt.Fprintf(d.out, "%-12s %-24s key=%-10s %-18s %6.1f ms after COMMIT\n", now.Format("15:04:05.000"),
		fmt.Sprintf("%s/%d@%d", r.Topic, r.Partition, r.Offset), r.Key, r.Header("ce_type"), milliseconds(latency))
	if len(d.latencies) == d.want {
		close(d.enough)
	}
}

// summary prints the end of the story.
func (d *display) summary(s cdc.Stats) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(d.out, "\n%d events shown as they arrived in Kafka; %d transactions rolled back, %d of their events arrived\n",
		len(d.latencies), len(d.undone), d.ghosts)
	if len(d.latencies) > 0 {
		sorted := slices.Sorted(slices.Values(d.latencies))
		at := func(p int) float64 { return milliseconds(sorted[max(0, (len(sorted)*p+99)/100-1)]) } // nearest rank
		fmt.Fprintf(d.out, "from COMMIT to the consumer: p50 %.1f ms, p99 %.1f ms, max %.1f ms\n", at(50), at(99), at(100))
	}
	fmt.Fprintf(d.out, "the slot is confirmed up to %s; the last event above was committed at %s (timeline/LSN/number)\n", s.ReportedLSN, d.lastLSN)
	if d.ghosts > 0 {
		return fault.New(fault.Unexpected, "demo", fmt.Errorf("%d events of rolled-back transactions arrived", d.ghosts), "please report this")
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
