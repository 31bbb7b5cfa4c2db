//go:build long

package e2e_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// sample is what the relay said of itself at a moment.
type sample struct {
	at       time.Time
	acked    uint64 // events that the broker has acknowledged
	inFlight int    // events handed to the sink and not acknowledged
	reported pglogrepl.LSN
}

// watcher samples a relay's status until it dies.
type watcher struct {
	samples []sample
	done    chan struct{}
}

func watchRelay(r *rig.Relay) *watcher {
	w := &watcher{done: make(chan struct{})}
	base := r.HTTP()
	go func() {
		defer close(w.done)
		defer http.DefaultClient.CloseIdleConnections()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			asked := time.Now()
			s, err := readStatus(base)
			if err != nil {
				return
			}
			lsn, err := pglogrepl.ParseLSN(s.Relay.ReportedLSN)
			if err != nil {
				return
			}
			w.samples = append(w.samples, sample{asked, s.Kafka.Published, s.Relay.InFlightEvents, lsn})
			<-tick.C
		}
	}()
	return w
}

// at returns the last sample before a moment; before the first one the relay
// had done nothing.
func (w *watcher) at(moment time.Time) sample {
	<-w.done
	var found sample
	for _, s := range w.samples {
		if !s.at.After(moment) {
			found = s
		}
	}
	return found
}

// kill is one kill -9, and what is known of the moment.
type kill struct {
	at      time.Time
	arrived int // records of that run in the broker's log
	watcher *watcher
}

// moment is how long an acknowledged event may go unreported.
const moment = 200 * time.Millisecond

// bound returns how many records may be repeated: those that were not
// acknowledged a moment before, that is what was in flight then and what was
// streamed since. It does not depend on when the last sample was taken.
func (k *kill) bound() int { return k.arrived - int(k.watcher.at(k.at.Add(-moment)).acked) }

// rate returns the events acknowledged per second in the relay's last second.
func (k *kill) rate() float64 {
	first, last := k.watcher.at(k.at.Add(-time.Second)), k.watcher.at(k.at)
	if first.at.IsZero() && len(k.watcher.samples) > 0 {
		first.at = k.watcher.samples[0].at
	}
	return float64(last.acked-first.acked) / max(last.at.Sub(first.at).Seconds(), 0.001)
}

// What a kill -9 repeats is what stood between the broker's log and the slot's
// position: the events in flight, and those that were acknowledged since the
// last report. Nothing else, however long the relay ran.
func TestLongFaultKillTwentyTimes(t *testing.T) {
	const (
		kills = 20
		rows  = 200_000
		rate  = 10_000
	)
	pg := devtest.Postgres(t, devenv.PostgresOptions{Version: "17"})
	kafka := devtest.Kafka(t, devenv.KafkaOptions{})
	s := newStage(t, pg, kafka.Brokers())
	began := time.Now()
	l := s.write(rate, rows)
	var done []kill
	var ends []map[int32]int64
	logged, seen := 0, 0
	for i := range kills {
		r := s.run()
		w := watchRelay(r)
		// Spread over the load; but each run gets past what it repeats, for else the
		// next one repeats it.
		s.await(max((i+1)*rows/(kills+1), seen+500+i%4*500))
		k := kill{at: time.Now(), watcher: w}
		r.Kill()
		ends = append(ends, s.ends())
		k.arrived = length(ends[i]) - logged
		logged += k.arrived
		done = append(done, k)
		rig.Eventually(t, 30*time.Second, "the consumer is at the topic's end", func() bool {
			_, records := s.seen.Distinct()
			return records >= logged
		})
		seen, _ = s.seen.Distinct()
	}
	r := s.run()
	l.wait.Wait()
	records := s.finish(r)
	t.Logf("%d rows, %d kills in %v: none lost, order kept", rows, kills, time.Since(began).Round(time.Second))
	if got := l.committed.Load(); got != rows {
		t.Errorf("%d rows were committed, want %d", got, rows)
	}
	repeats := repeatsBetween(records, ends)
	if len(repeats[0]) != 0 {
		t.Errorf("%d repeats before the first kill", len(repeats[0]))
	}
	judge(t, done, repeats[1:])
}

// judge compares the repeats behind each kill with their bound.
func judge(t *testing.T, kills []kill, repeats [][]*devenv.Record) {
	t.Helper()
	t.Logf("kill  repeats  of these reported  in flight  in flight or streamed in %v  events/s", moment)
	worst := 0
	for i, k := range kills {
		last := k.watcher.at(k.at)
		got, reported := len(repeats[i]), 0
		for _, r := range repeats[i] {
			if mustPosition(t, r).LSN < uint64(last.reported) {
				reported++ // the server was told; its walsender died of the kill before it had read that
			}
		}
		t.Logf("%4d  %7d  %17d  %9d  %30d  %8.0f", i+1, got, reported, last.inFlight, k.bound(), k.rate())
		if got-reported > k.bound()+rowsPerTx { // a position stands between transactions
			t.Errorf("kill %d repeated %d events, of which %d were reported; %d were in flight or streamed in %v", i+1, got, reported, k.bound(), moment)
		}
		worst = max(worst, got)
	}
	t.Logf("at worst %d repeats", worst)
}

func length(ends map[int32]int64) int {
	n := 0
	for _, end := range ends {
		n += int(end)
	}
	return n
}
