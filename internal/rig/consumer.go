package rig

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
)

// Consumer keeps every record of some topics, from their beginning.
type Consumer struct {
	t       testing.TB
	mu      sync.Mutex
	records []devenv.Record
	byID    map[string]int // times that an event id was seen
}

// Consume reads the topics until the test ends.
func Consume(t testing.TB, brokers []string, configure func(*sarama.Config), topics ...string) *Consumer {
	t.Helper()
	c := &Consumer{t: t, byID: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- devenv.Tail(ctx, brokers, topics, configure, c.add) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *Consumer) add(r *devenv.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records = append(c.records, *r)
	c.byID[id(r)]++
}

func id(r *devenv.Record) string {
	if v := r.Header("ce_id"); v != "" {
		return v
	}
	return r.Header("id")
}

// Records returns what has arrived: in order within each partition.
func (c *Consumer) Records() []devenv.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]devenv.Record(nil), c.records...)
}

// Distinct returns how many different event ids have arrived, and how many records.
func (c *Consumer) Distinct() (ids, records int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.byID), len(c.records)
}

// Await waits until n different events have arrived and returns all records.
func (c *Consumer) Await(n int, limit time.Duration) []devenv.Record {
	c.t.Helper()
	Eventually(c.t, limit, fmt.Sprintf("%d events at the consumer", n), func() bool {
		got, _ := c.Distinct()
		return got >= n
	})
	return c.Records()
}

// Position is the outbox-lsn header: timeline/LSN/number.
type Position struct {
	Timeline int
	LSN      uint64
	Seq      int
}

// PositionOf reads the header of a record.
func PositionOf(r *devenv.Record) (Position, error) {
	var p Position
	parts := strings.Split(r.Header("outbox-lsn"), "/")
	if len(parts) != 4 {
		return p, fmt.Errorf("outbox-lsn is %q", r.Header("outbox-lsn"))
	}
	high, err1 := strconv.ParseUint(parts[1], 16, 32)
	low, err2 := strconv.ParseUint(parts[2], 16, 32)
	timeline, err3 := strconv.Atoi(parts[0])
	seq, err4 := strconv.Atoi(parts[3])
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			return p, fmt.Errorf("outbox-lsn is %q: %w", r.Header("outbox-lsn"), err)
		}
	}
	return Position{timeline, high<<32 | low, seq}, nil
}

// Before orders positions of one timeline.
func (p Position) Before(q Position) bool {
	return p.LSN < q.LSN || p.LSN == q.LSN && p.Seq < q.Seq
}

// Repeats counts the records beyond the first of each event, and fails the
// test if first arrivals of one key are not in commit order, or one key is in
// two partitions.
func Repeats(t testing.TB, records []devenv.Record) int {
	t.Helper()
	repeats := 0
	seen := map[string]bool{}
	last := map[string]Position{}
	partition := map[string]int32{}
	for i := range records {
		r := &records[i]
		if seen[id(r)] {
			repeats++
			continue
		}
		seen[id(r)] = true
		if r.Key == nil {
			continue
		}
		key := r.Topic + "\x00" + string(r.Key)
		if p, known := partition[key]; known && p != r.Partition {
			t.Fatalf("key %q is in the partitions %d and %d of %s", r.Key, p, r.Partition, r.Topic)
		}
		partition[key] = r.Partition
		at, err := PositionOf(r)
		if err != nil {
			t.Fatalf("event %s: %v", id(r), err)
		}
		if before, known := last[key]; known && at.Before(before) {
			t.Fatalf("key %q: %v arrived first behind %v (event %s)", r.Key, at, before, id(r))
		}
		last[key] = at
	}
	return repeats
}
