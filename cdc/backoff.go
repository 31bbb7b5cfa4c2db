package cdc

import (
	"math/rand/v2"
	"time"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// backoff is the wait before the next try: doubled each time, with jitter so
// that instances that lost the same server do not return together.
type backoff struct{ next time.Duration }

func (b *backoff) reset() { b.next = 0 }

// wait returns how long to wait now: between half of the step and the whole.
func (b *backoff) wait() time.Duration {
	b.next = min(max(2*b.next, minBackoff), maxBackoff)
	return b.next/2 + rand.N(b.next/2)
}
