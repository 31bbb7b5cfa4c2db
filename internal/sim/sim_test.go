package sim

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	seedVariable  = "OUTBOX_CDC_SEED"  // replays one run, with its log
	seedsVariable = "OUTBOX_CDC_SEEDS" // how many runs there are
	// parallel is how many runs are under way: one mostly waits.
	parallel = 48
)

func number(t *testing.T, variable string, otherwise uint64) (n uint64, set bool) {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n, true
}

// TestSim runs as many seeds as it is told to, and stops at the first that fails.
func TestSim(t *testing.T) {
	t.Parallel()
	if seed, set := number(t, seedVariable, 0); set {
		count, err := Run(t.Context(), seed, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
		if t.Logf("%+v", count); err != nil {
			t.Fatal(err)
		}
		return
	}
	seeds := uint64(200)
	if testing.Short() {
		seeds = 30
	}
	seeds, _ = number(t, seedsVariable, seeds)
	total, clean := sweep(t, rand.Uint64(), seeds)
	t.Logf("%d seeds: %+v", clean, total)
	if t.Failed() || clean < 200 {
		return
	}
	for what, n := range map[string]int{
		"session that ended": total.Sessions - total.Lives, "repeat": total.Repeats, "dead letter": total.Dead, "relay stopped": total.Stopped - int(clean),
		"relay killed": total.Kills, "relay stopped by poison": total.Poisoned, "leader moved": total.Moves, "freeze": total.Freezes,
	} {
		if n <= 0 {
			t.Errorf("no %s: the runs prove nothing of it", what)
		}
	}
}

// sweep runs seeds from first on. It reports the first that fails, and starts no other then.
func sweep(t *testing.T, first, seeds uint64) (total Count, clean uint64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	var all sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for i := uint64(0); i < seeds && ctx.Err() == nil; i++ {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			seed := first + i
			count, err := Run(ctx, seed, slog.New(slog.DiscardHandler))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case ctx.Err() != nil:
			case err != nil:
				t.Errorf("seed %d failed, after %d that did not; %s=%d go test -run '^TestSim$' ./internal/sim replays it: %v",
					seed, clean, seedVariable, seed, err)
				cancel()
			default:
				total.Add(count)
				if clean++; clean%500 == 0 {
					t.Logf("%d seeds are clean", clean)
				}
			}
		})
	}
	all.Wait()
	return total, clean
}
