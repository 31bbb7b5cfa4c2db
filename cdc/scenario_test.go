package cdc_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/walsim"
)

// steps keeps what a session did, for what the oracle does not look at.
type steps struct {
	mu  sync.Mutex
	all []walsim.Step
}

func (s *steps) add(step walsim.Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, step)
}

func (s *steps) list() []walsim.Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

func stuck(s *scripted) { s.stuck = true }

// scene starts a relay on a server, with a sink that set changes.
func scene(t *testing.T, plan walsim.Plan, script walsim.Script, limit int, set func(*scripted)) (*rig, *steps, *walsim.WAL) {
	t.Helper()
	wal := walsim.Generate(plan)
	oracle := walsim.NewOracle(wal)
	oracle.MaxSilence = 4 * time.Second
	seen := &steps{}
	r, err := newRig(walsim.Config{WAL: wal, Script: script, Socket: 4096, Observe: func(step walsim.Step) {
		oracle.Observe(step)
		seen.add(step)
	}}, oracle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.verdict(); err != nil {
			t.Error(err)
		}
	})
	sink := newScripted(oracle, plan.Seed, set)
	if err := r.start(t.Context(), sink, cdc.Config{InFlightEvents: limit}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	return r, seen, wal
}

func (r *rig) must(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if err, ended := r.await(ok, 20*time.Second); err != nil || ended {
		t.Fatalf("%s: %v", what, err)
	}
}

// Invariants 4 and 7: while the sink is stuck and the window full, nothing
// more is read, and the updates go on. Afterwards everything arrives.
func TestStuckSinkKeepsReporting(t *testing.T) {
	t.Parallel()
	const limit = 10
	r, seen, wal := scene(t, walsim.Plan{Seed: 7, Transactions: 2000, MaxPayload: 4000}, nil, limit, stuck)
	r.must(t, "full window", func() bool { return r.sink.unsettled() == limit })
	r.must(t, "two updates", func() bool { return len(r.server.Updates()) >= 2 })
	updates := r.server.Updates()
	for i, u := range updates[1:] {
		// The oracle says if it is more than statusInterval; less is a waste.
		if gap := u.Clock.Sub(updates[i].Clock); gap < 2*time.Second || u.Flush != updates[0].Flush {
			t.Errorf("update %d: %v after the one before, with flush %s after %s", i+1, gap, u.Flush, updates[0].Flush)
		}
	}
	if most, _ := r.sink.most(); most > limit {
		t.Errorf("%d events in flight, with a limit of %d", most, limit)
	}
	sent := 0
	for _, s := range seen.list() {
		if s.Tx != nil {
			sent += len(s.Tx.Rows)
		}
	}
	if all := len(wal.Events()); sent > all/2 { // the rest waits in the sockets
		t.Errorf("%d of %d rows were sent though the relay does not read", sent, all)
	}
	r.sink.release()
	r.must(t, "all confirmed", func() bool { return r.server.Confirmed() >= wal.End() })
	if missing := r.oracle.Missing(); len(missing) > 0 {
		t.Errorf("%d events missing", len(missing))
	}
}

// Invariant 4: a server that asks is answered at once, however often it asks
// about ten times a second, while acknowledgements are missing.
func TestAnswersWhenAsked(t *testing.T) {
	t.Parallel()
	const asks = 20
	var asked int
	var at time.Time
	script := func(p walsim.Point) walsim.Action {
		switch {
		case !p.Idle || asked == asks:
			return walsim.Action{}
		case asked < asks/2 && time.Since(at) < 250*time.Millisecond: // now and then; in the second half in a flood
			return walsim.Action{}
		}
		asked++
		at = time.Now()
		return walsim.Action{Do: walsim.Ask}
	}
	r, seen, _ := scene(t, walsim.Plan{Seed: 8, Transactions: 5}, script, 1000, stuck)
	answers := func() (took []time.Duration) {
		var waits []time.Time
		for _, s := range seen.list() {
			switch {
			case s.Asks:
				waits = append(waits, s.At)
			case s.Kind == walsim.Heard:
				for _, w := range waits {
					took = append(took, s.At.Sub(w))
				}
				waits = nil
			}
		}
		return took
	}
	r.must(t, "all asked and answered", func() bool { return len(answers()) == asks })
	took := answers()
	slices.Sort(took)
	late := r.meter.Late()
	// The median, for most are answered at once; the last for how long it may take at all.
	if median, last := took[asks/2], took[asks-1]; median > 200*time.Millisecond+late || last > time.Second+late {
		t.Errorf("answers took %v", took)
	}
	if r.sink.unsettled() == 0 {
		t.Error("nothing was in flight")
	}
}

// A fast shutdown waits for every walsender's client. A relay that can neither
// read nor confirm lets go within 10 s.
func TestShutdownIsNotHeldUp(t *testing.T) {
	t.Parallel()
	stopped := false
	r, seen, wal := scene(t, walsim.Plan{Seed: 9, Transactions: 300}, func(p walsim.Point) walsim.Action {
		if p.Record > 100 && !stopped {
			stopped = true
			return walsim.Action{Do: walsim.Stop, Refuse: time.Second}
		}
		return walsim.Action{}
	}, 5, stuck)
	began, late := time.Now(), r.meter.Late()
	closed := func() bool {
		return slices.ContainsFunc(seen.list(), func(s walsim.Step) bool { return s.Kind == walsim.Closed })
	}
	r.must(t, "the session ends", closed)
	if took := time.Since(began); took > 10*time.Second+r.meter.Late()-late {
		t.Errorf("the shutdown was held up for %v", took)
	}
	if at := r.server.Confirmed(); at != wal.Start {
		t.Errorf("confirmed %s, though nothing was acknowledged", at)
	}
	r.sink.release()
	r.must(t, "all confirmed after the restart", func() bool { return r.server.Confirmed() >= wal.End() })
}

// A walsender whose client has gone holds the slot for a while: the relay
// waits for it, and then goes on where the slot stands.
func TestSlotStillHeld(t *testing.T) {
	t.Parallel()
	cut := false
	r, _, wal := scene(t, walsim.Plan{Seed: 10, Transactions: 20}, func(p walsim.Point) walsim.Action {
		if p.Idle && !cut {
			cut = true
			return walsim.Action{Do: walsim.Reset, Hold: 5 * time.Second} // long enough to be seen by a busy machine
		}
		return walsim.Action{}
	}, 1000, stuck)
	r.must(t, "standby", func() bool { return r.relay.Stats().State == cdc.Standby })
	r.sink.release()
	r.must(t, "all confirmed", func() bool { return r.server.Confirmed() >= wal.End() })
	if n := r.server.Sessions(); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
}

// Invariant 7: what the sink has on the wire when a session ends counts in the next one.
func TestWindowSpansSessions(t *testing.T) {
	t.Parallel()
	const limit = 10
	var cut atomic.Bool
	r, _, wal := scene(t, walsim.Plan{Seed: 11, Transactions: 40}, func(p walsim.Point) walsim.Action {
		if cut.Load() && p.Session == 1 {
			return walsim.Action{Do: walsim.Reset}
		}
		return walsim.Action{}
	}, limit, func(s *scripted) { s.delay = 3 * time.Second })
	r.must(t, "full window", func() bool { return r.sink.unsettled() == limit })
	cut.Store(true)
	r.must(t, "second session", func() bool { return r.server.Sessions() == 2 })
	r.sink.release()
	r.must(t, "all confirmed", func() bool { return r.server.Confirmed() >= wal.End() })
	if most, _ := r.sink.most(); most > limit {
		t.Errorf("%d events in flight, with a limit of %d", most, limit)
	}
}

// A walsender begins to read before the confirmed position, and its keepalives
// say so. They move nothing back.
func TestKeepaliveBeforeTheStart(t *testing.T) {
	t.Parallel()
	asked, paused := false, false
	r, seen, wal := scene(t, walsim.Plan{Seed: 12, Transactions: 20}, func(p walsim.Point) walsim.Action {
		switch {
		case p.Session == 1 && p.Idle && p.Sent == p.Confirmed:
			return walsim.Action{Do: walsim.Reset}
		case p.Session == 2 && p.Sent < p.Confirmed && !asked:
			asked = true
			return walsim.Action{Do: walsim.Ask}
		case asked && !paused: // until it is answered
			paused = true
			return walsim.Action{Do: walsim.Pause, For: 400 * time.Millisecond}
		}
		return walsim.Action{}
	}, 1000, func(*scripted) {})
	r.must(t, "an answer in the second session", func() bool {
		list := seen.list()
		return slices.ContainsFunc(list, func(s walsim.Step) bool { return s.Asks && s.LSN < wal.End() }) &&
			list[len(list)-1].Kind == walsim.Heard && list[len(list)-1].Session == 2
	})
}
