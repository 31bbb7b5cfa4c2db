package sink

import (
	"bytes"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Invariant 7: what a large event or a large request needed is given back.
func TestLargeBuffersAreGivenBack(t *testing.T) {
	t.Parallel()
	m := &message{buf: make([]byte, 0, 1<<20)}
	m.fill(&record{key: []byte("key"), value: make([]byte, 100)})
	if n := cap(m.buf); n > 1000 {
		t.Errorf("a message of 103 bytes keeps %d", n)
	}
	before := &m.buf[0]
	if m.fill(&record{key: []byte("key"), value: make([]byte, 50)}); &m.buf[0] != before {
		t.Error("a message does not use its memory again")
	}

	const most = 1 << 18
	var e encoder
	e.grow(most, 2*most)
	e.grow(10, 100)
	if r, p, h, hp := cap(e.records), cap(e.pointers), cap(e.headers), cap(e.headerPs); max(r, p, h, hp) >= most {
		t.Errorf("the encoder keeps room for %d records (%d), %d headers (%d)", r, p, h, hp)
	}
	records, headers := &e.records[:1][0], &e.headers[:1][0]
	if e.grow(5, 50); &e.records[:1][0] != records || &e.headers[:1][0] != headers {
		t.Error("the encoder does not use its memory again")
	}

	s := NewStdout(&bytes.Buffer{}, builder(t))
	l := newLedger()
	s.Publish(event(0, "orders", []byte("key"), make([]byte, 2<<20)), l.ack(0))
	l.awaitDone(t, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := cap(s.scratch); n > 1<<20 {
		t.Errorf("standard output keeps %d bytes", n)
	}
}

// An event is not convicted by a limit that could not be read again, and that
// is not asked for as fast as the broker answers.
func TestOversizedByAnOldLimit(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	setLimit(t, cluster, "orders", 5000)
	tune := quick()
	tune.shortBackoff, tune.maxAskBackoff = 4*time.Millisecond, time.Hour
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	l.awaitDone(t, 1)
	setLimit(t, cluster, "orders", 50_000)
	const times = 7
	unread := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Resource: "orders", Err: kerr.UnknownTopicOrPartition, Count: times})
	began := time.Now()
	k.Publish(event(1, "orders", []byte("key"), make([]byte, 6000)), l.ack(1))
	l.awaitDone(t, 2)
	if unread.Hits() != times {
		t.Errorf("the limit was read again %d times in vain, want %d", unread.Hits(), times)
	}
	if took := time.Since(began); took < 4<<(times-1)*time.Millisecond {
		t.Errorf("asked %d times within %v", times, took)
	}
}
