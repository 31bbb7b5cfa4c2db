package sink

import "time"

// said is what was logged of one event.
type said struct {
	at     time.Time
	silent int // lines that were not logged since
}

// due tells whether a line of the event is to be logged, or one of it just was.
// unlogged goes into the line: how many were not. Kafka.mu is held.
func (k *Kafka) due(event string, now time.Time) (unlogged []any, due bool) {
	last := k.said[event]
	if now.Sub(last.at) < k.tune.logEvery {
		last.silent++
		k.said[event] = last
		return nil, false
	}
	k.said[event] = said{at: now}
	if last.silent > 0 {
		unlogged = []any{"unlogged", last.silent}
	}
	return unlogged, true
}
