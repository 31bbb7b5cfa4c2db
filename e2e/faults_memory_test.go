package e2e_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

const (
	mib = 1 << 20
	// enough is what the relay may have resident with its default limits, whatever comes.
	enough = 128 * mib
)

// memory watches the largest resident size of a process until stop.
type memory struct {
	quit, done chan struct{}
	most       int
}

func watchMemory(r *rig.Relay) *memory {
	m := &memory{quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(m.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if n, err := r.RSS(); err == nil {
				m.most = max(m.most, n)
			}
			select {
			case <-m.quit:
				return
			case <-tick.C:
			}
		}
	}()
	return m
}

func (m *memory) stop() int {
	close(m.quit)
	<-m.done
	return m.most
}

// fullWindow waits until the relay has stopped reading, with a window that the broker does not empty.
func fullWindow(t *testing.T, r *rig.Relay, limit time.Duration) liveStatus {
	t.Helper()
	var s liveStatus
	rig.Eventually(t, limit, "the window is full", func() bool {
		before := s.Relay
		s = statusOf(t, r)
		return s.Relay.InFlightEvents > 0 && s.Relay.Events == before.Events && s.Relay.Backpressure > before.Backpressure
	})
	return s
}

// tally says what finish has proven.
func tally(records []devenv.Record, repeats, most int) string {
	return fmt.Sprintf("%d records: lost 0, order kept, %d repeats, at most %.1f MiB resident", len(records), repeats, float64(most)/mib)
}
