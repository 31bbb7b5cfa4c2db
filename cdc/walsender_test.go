package cdc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
	"github.com/outbox-cdc/outbox-cdc/internal/walsim"
)

// seedVariable replays one run of TestWalsender, with its log.
const seedVariable = "OUTBOX_CDC_SEED"

// TestWalsender runs the relay between a scripted walsender and a scripted
// sink, with faults on both sides, and an oracle that watches each status
// update. Each seed is another run.
func TestWalsender(t *testing.T) {
	t.Parallel()
	if text := os.Getenv(seedVariable); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := chaos(t.Context(), seed, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
		t.Logf("%+v", sum)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	runs := 48
	if testing.Short() {
		runs = 12
	}
	var mu sync.Mutex
	var total walsim.Count
	var all sync.WaitGroup
	slots := make(chan struct{}, 24) // a run mostly waits
	first := rand.Uint64()
	for i := range uint64(runs) {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			seed := first + i
			count, err := chaos(t.Context(), seed, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Errorf("seed %d (%s=%d replays it): %v", seed, seedVariable, seed, err)
			}
			mu.Lock()
			defer mu.Unlock()
			total.Sessions += count.Sessions
			total.Updates += count.Updates
			total.Moves += count.Moves
			total.Arrivals += count.Arrivals
			total.Repeats += count.Repeats
		})
	}
	all.Wait()
	t.Logf("%d runs: %+v", runs, total)
}

// rig is a relay between a Server and a scripted sink.
type rig struct {
	oracle *walsim.Oracle
	meter  *walsim.Meter
	server *walsim.Server
	sink   *scripted
	relay  *cdc.Relay
	cancel context.CancelFunc
	result chan error
}

func newRig(c walsim.Config, oracle *walsim.Oracle) (*rig, error) {
	oracle.MinSpacing = 99 * time.Millisecond // reportInterval, rounded
	meter := walsim.StartMeter()
	oracle.Lost = meter.Late
	if c.Observe == nil {
		c.Observe = oracle.Observe
	}
	server, err := walsim.Start(c)
	if err != nil {
		meter.Stop()
		return nil, err
	}
	return &rig{oracle: oracle, meter: meter, server: server}, nil
}

// start starts a relay on a sink.
func (r *rig) start(ctx context.Context, sink *scripted, c cdc.Config) error {
	c.URL = r.server.URL()
	c.Columns = []string{"id", "aggregate_id", "payload"}
	c.DrainTimeout = 300 * time.Millisecond
	relay, err := cdc.New(c, sink)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	r.sink, r.relay, r.cancel, r.result = sink, relay, cancel, make(chan error, 1)
	go func() { r.result <- relay.Run(ctx) }()
	return nil
}

// stop ends the relay in order.
func (r *rig) stop() error {
	r.cancel()
	var err error
	select {
	case err = <-r.result:
	case <-time.After(10 * time.Second):
		err = errors.New("Run did not return within 10 s")
	}
	return errors.Join(err, r.sink.Close(context.Background()))
}

// await polls until ok, or returns what Run returned before, or why it took too
// long, of which what the machine was too slow is not counted.
func (r *rig) await(ok func() bool, limit time.Duration) (err error, ended bool) {
	began, late := time.Now(), r.meter.Late()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > limit+r.meter.Late()-late {
			return fmt.Errorf("not within %v: confirmed %s, %d events missing, state %+v",
				limit, r.server.Confirmed(), len(r.oracle.Missing()), r.relay.Stats()), false
		}
		select {
		case err := <-r.result:
			return err, true
		case <-tick.C:
		}
	}
	return nil, false
}

// verdict closes the server and returns what was wrong.
func (r *rig) verdict() error {
	r.server.Close()
	r.meter.Stop()
	return errors.Join(r.oracle.Err(), r.server.Unexpected())
}

func pick[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

// course is what a run does besides what the Script does.
type course struct {
	config           cdc.Config
	end              pglogrepl.LSN // the slot has to get there
	delay            time.Duration // the longest of the sink
	failures, poison int           // of the sink
	restarts         int           // of the relay, in order
}

// chaos is one run: everything in it is drawn from the seed.
func chaos(ctx context.Context, seed uint64, log *slog.Logger) (walsim.Count, error) {
	rng := rand.New(rand.NewPCG(seed, 3))
	wal := walsim.Generate(walsim.Plan{
		Seed: seed, Transactions: 50 + rng.IntN(200), MaxRows: pick(rng, 1, 4, 20),
		Keys: pick(rng, 1, 3, 8), MaxPayload: pick(rng, 20, 300, 3000),
	})
	oracle := walsim.NewOracle(wal)
	oracle.MaxSilence = 4 * time.Second // statusInterval and what a busy machine adds
	r, err := newRig(walsim.Config{
		WAL: wal, Script: walsim.Chaos(seed, rng.IntN(6)), Version: pick(rng, 140010, 170006),
		Messages: pick(rng, false, true), Buffer: pick(rng, 0, 4096, 1<<16), Socket: pick(rng, 0, 4096),
	}, oracle)
	if err != nil {
		return walsim.Count{}, err
	}
	c := course{
		config: cdc.Config{InFlightEvents: pick(rng, 1, 10, 100, 50_000), InFlightBytes: pick(rng, 3000, 100_000, 16<<20), Log: log},
		end:    wal.End(), failures: rng.IntN(3), poison: rng.IntN(2), restarts: rng.IntN(2),
	}
	// A sink that is slower than the walsender makes for many states to report in.
	takes := time.Duration(pick(rng, 100, 500, 1500)) * time.Millisecond
	c.delay = min(2*takes/time.Duration(1+len(wal.Events())/min(c.config.InFlightEvents, 6)), 80*time.Millisecond)
	err = errors.Join(r.carry(ctx, rng, c), r.verdict())
	if missing := oracle.Missing(); err == nil && len(missing) > 0 {
		err = fmt.Errorf("%d events were never acknowledged, the first is %s", len(missing), missing[0])
	}
	return oracle.Count(), err
}

// carry runs relays, one after the other, until the slot stands at the end.
func (r *rig) carry(ctx context.Context, rng *rand.Rand, c course) error {
	for {
		sink := newScripted(r.oracle, rng.Uint64(), func(s *scripted) { s.failures, s.poison, s.delay = c.failures, c.poison, c.delay })
		if err := r.start(ctx, sink, c.config); err != nil {
			return err
		}
		again := time.Now().Add(time.Hour)
		if c.restarts > 0 {
			again = time.Now().Add(time.Duration(rng.IntN(500)) * time.Millisecond)
		}
		err, ended := r.await(func() bool { return r.server.Confirmed() >= c.end || time.Now().After(again) }, 30*time.Second)
		if !ended && err != nil {
			return errors.Join(err, r.stop())
		}
		if ended {
			_ = sink.Close(ctx)
		} else {
			err = r.stop()
		}
		events, bytes := sink.most()
		if limit := c.config.InFlightBytes + 8000; events > c.config.InFlightEvents || bytes >= limit {
			return fmt.Errorf("%d events, %d bytes in flight, past the limits %d, %d (Invariant 7)", events, bytes, c.config.InFlightEvents, limit)
		}
		c.failures, c.poison = sink.left()
		switch {
		case fault.KindOf(err) == fault.Poison: // as if the operator had mended it
		case err != nil:
			return err
		case ended:
			return errors.New("Run returned nil by itself")
		case r.server.Confirmed() >= c.end:
			return nil
		}
		c.restarts--
	}
}
