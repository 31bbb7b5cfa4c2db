package sink

import (
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
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

// A broker that the last answer did not name keeps the connection that it has, and gets no other.
func TestBrokerThatIsNotNamed(t *testing.T) {
	t.Parallel()
	s := newSender(&Kafka{brokers: make(map[int32]string)}, 5)
	open := sarama.NewBroker("127.0.0.1:1")
	s.conn, s.connAddr = open, "127.0.0.1:1"
	if err := s.connect(); err != nil || s.conn != open {
		t.Errorf("got %v, want the connection to stay", err)
	}
	s.disconnect()
	if err := s.connect(); err == nil || !strings.Contains(err.Error(), "has left the cluster") {
		t.Errorf("got %v, want that the broker has left", err)
	}
}
