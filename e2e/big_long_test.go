//go:build long

package e2e_test

import (
	"bytes"
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
)

func TestLongBigCrowd(t *testing.T) {
	t.Parallel()
	manyWriters(t, time.Minute)
}

// census counts the rows of one transaction as they arrive. Its memory is
// small, as there are many.
type census struct {
	seen     []bool         // by number
	last     map[string]int // number by key
	arrived  int            // different rows
	repeats  int
	disorder []string
}

func (c *census) add(r *devenv.Record) {
	// As jsonb is printed. A million of them are too many for package json.
	text, _, _ := bytes.Cut(bytes.TrimPrefix(r.Value, []byte(`{"n": `)), []byte(","))
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n >= len(c.seen) {
		c.disorder = append(c.disorder, "no row of the transaction: "+string(r.Value))
		return
	}
	if c.seen[n] {
		c.repeats++
		return
	}
	c.seen[n] = true
	c.arrived++
	if n < c.last[string(r.Key)] {
		c.disorder = append(c.disorder, "key "+string(r.Key))
	}
	c.last[string(r.Key)] = n
}

// One transaction with a million rows arrives whole, in order and in the
// memory of any other.
func TestLongBigTransaction(t *testing.T) {
	t.Parallel()
	const rows, keys = 1_000_000, 5000
	s := bareStage(t, sharedPostgres(t, "17"), sharedKafka(t).Brokers())
	s.init()
	r := s.run()
	r.AwaitState("streaming")
	m := watchMemory(r)
	began := time.Now()
	s.exec(s.url, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload)
		SELECT $1, 'key-' || n % $2::int, 'order.changed', jsonb_build_object('n', n, 'pad', repeat('x', 100)) FROM generate_series(1, $3::int) n`, s.name, keys, rows)
	committed := time.Now()
	c := &census{seen: make([]bool, rows+1), last: make(map[string]int, keys)}
	s.drain(r, 4*time.Minute)
	drained := time.Now()
	most := m.stop()
	total := 0
	for _, end := range s.ends() {
		total += int(end)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	records := 0
	if err := devenv.Tail(ctx, s.brokers, []string{s.topic()}, nil, func(r *devenv.Record) {
		c.add(r)
		if records++; records == total {
			cancel()
		}
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("a transaction of %d rows: inserted and committed in %v, all acknowledged and confirmed %v later; %d records: lost %d, %d out of order, %d repeats, at most %.1f MiB resident",
		rows, committed.Sub(began).Round(time.Millisecond), drained.Sub(committed).Round(time.Millisecond), records, rows-c.arrived, len(c.disorder), c.repeats, float64(most)/mib)
	if records != rows || c.arrived != rows || c.repeats != 0 {
		t.Errorf("%d records, %d of %d rows, %d repeats", records, c.arrived, rows, c.repeats)
	}
	for _, what := range c.disorder[:min(10, len(c.disorder))] {
		t.Error(what)
	}
	if most > enough {
		t.Errorf("%d MiB resident", most/mib)
	}
}
