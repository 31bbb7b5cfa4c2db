package sink

import (
	"testing"
	"time"
)

// After quiet an event goes out at once; while many come, the next request waits for more.
func TestLinger(t *testing.T) {
	t.Parallel()
	now := time.Now()
	k := &Kafka{tune: defaultTuning, armed: true}
	for _, tc := range []struct {
		name    string
		count   int           // records of the last request
		since   time.Duration // its answer
		bytes   int
		state   senderState
		waiting time.Duration
	}{
		{"the first", 0, time.Hour, 1, busy, 0},
		{"after quiet", 5000, time.Second, 1, busy, 0},
		{"few at a time", fewRecords - 1, 0, 1, busy, 0},
		{"some at a time", 50, 0, 1, lingering, time.Millisecond},
		{"many at a time", 5000, time.Millisecond, 1, lingering, 4 * time.Millisecond},
		{"enough for a batch", 5000, 0, 512 << 10, busy, 0},
	} {
		s := &sender{k: k, ready: make([]*partition, 1), count: tc.count, sent: now.Add(-tc.since), bytes: tc.bytes}
		if state, d := s.wait(now); state != tc.state || d != tc.waiting {
			t.Errorf("%s: got %v, %v, want %v, %v", tc.name, state, d, tc.state, tc.waiting)
		}
	}
}
