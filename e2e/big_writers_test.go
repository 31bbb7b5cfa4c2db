package e2e_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

const (
	crowd    = 200 // writers at the same time
	accounts = 100 // keys, which they share: writers meet
)

// manyWriters has a crowd write for a while. A writer locks the counters of its
// keys before it writes their next numbers, so that a key's numbers are in the
// order of its commits, without gaps: what is rolled back takes its number back.
func manyWriters(t *testing.T, lasts time.Duration) {
	pg := devtest.Postgres(t, devenv.PostgresOptions{Version: "17", Settings: map[string]string{"max_connections": "250"}})
	s := newStage(t, pg, sharedKafka(t).Brokers())
	s.exec(s.url, "CREATE TABLE counter (key int PRIMARY KEY, n bigint NOT NULL)")
	s.exec(s.url, "INSERT INTO counter SELECT k, 0 FROM generate_series(0, $1::int - 1) k", accounts)
	r := s.run()
	r.AwaitState("streaming")
	m := watchMemory(r)
	conns := make([]*pgx.Conn, crowd)
	for i := range conns {
		conns[i] = s.connect(s.url)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var committed, rolledBack atomic.Int64
	var all sync.WaitGroup
	for i, conn := range conns {
		all.Go(func() {
			defer func() { _ = conn.Close(context.Background()) }()
			random := rand.New(rand.NewPCG(7, uint64(i)))
			tick := time.NewTicker(200 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				keys := random.Perm(accounts)[:1+random.IntN(3)]
				commit := random.IntN(10) > 0
				if err := count(conn, s.name, keys, commit); err != nil {
					t.Error(err)
					return
				}
				if commit {
					committed.Add(int64(len(keys)))
				} else {
					rolledBack.Add(int64(len(keys)))
				}
				select {
				case <-ctx.Done():
				case <-tick.C:
				}
			}
		})
	}
	all.Wait()
	behind := statusOf(t, r).Relay.InFlightEvents
	s.await(int(committed.Load()))
	records := s.finish(r)
	most, repeats := m.stop(), rig.Repeats(t, records)
	t.Logf("%d writers for %v: %d rows committed, %d rolled back, %d in flight at the end; %s",
		crowd, lasts, committed.Load(), rolledBack.Load(), behind, tally(records, repeats, most))
	if int64(len(records)) != committed.Load() || repeats != 0 {
		t.Errorf("%d records of %d rows, %d repeats", len(records), committed.Load(), repeats)
	}
	if most > enough {
		t.Errorf("%d MiB resident", most/mib)
	}
	whole(t, s.rows())
}

// count is a transaction that counts keys up and writes the events.
func count(conn *pgx.Conn, kind string, keys []int, commit bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	slices.Sort(keys) // locks in one order
	for _, key := range keys {
		if _, err := tx.Exec(ctx, `WITH c AS (UPDATE counter SET n = n + 1 WHERE key = $2 RETURNING key, n)
			INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload)
			SELECT $1, 'account-' || key, 'counted', jsonb_build_object('n', n) FROM c`, kind, key); err != nil {
			return err
		}
	}
	if commit {
		return tx.Commit(ctx)
	}
	return tx.Rollback(ctx)
}

// whole checks that a key's numbers have no gaps: else the oracle were wrong.
func whole(t *testing.T, rows map[string]row) {
	t.Helper()
	count, last := map[string]int64{}, map[string]int64{}
	for _, r := range rows {
		count[r.key]++
		last[r.key] = max(last[r.key], r.n)
	}
	for key, n := range count {
		if last[key] != n {
			t.Errorf("key %s has %d events, and the last has number %d", key, n, last[key])
		}
	}
}

func TestBigCrowd(t *testing.T) {
	t.Parallel()
	manyWriters(t, 15*time.Second)
}
