package walsim

import (
	"sync"
	"sync/atomic"
	"time"
)

// Meter measures by how much the machine is too slow for what runs on it: the
// time by which a goroutine that only waits is late. Limits are prolonged by
// it. Use StartMeter.
type Meter struct {
	lost atomic.Int64 // in all
	quit chan struct{}
	done sync.WaitGroup
}

const meterInterval = 100 * time.Millisecond

// StartMeter begins to measure. The Meter must be stopped.
func StartMeter() *Meter {
	m := &Meter{quit: make(chan struct{})}
	m.done.Go(func() {
		for before := time.Now(); ; {
			select {
			case <-m.quit:
				return
			case <-time.After(meterInterval):
				now := time.Now()
				m.lost.Add(int64(now.Sub(before) - meterInterval))
				before = now
			}
		}
	})
	return m
}

// Stop ends it.
func (m *Meter) Stop() {
	close(m.quit)
	m.done.Wait()
}

// Late returns the time that was lost since the beginning. It counts several
// times: what has more to do than to wait is later than the meter.
func (m *Meter) Late() time.Duration { return 4 * time.Duration(m.lost.Load()) }
