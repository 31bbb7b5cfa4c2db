package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// concurrently writes from several sessions at once.
func (b *bed) concurrently(sessions, transactions int) {
	b.t.Helper()
	if err := b.write(sessions, transactions)(); err != nil {
		b.t.Fatal(err)
	}
}

// write starts sessions that write. The function that it returns lets each
// finish the transactions that it was to write at least, and waits.
func (b *bed) write(sessions, transactions int) (finish func() error) {
	b.t.Helper()
	b.exec(b.conn, fmt.Sprintf("INSERT INTO counter SELECT 'key-' || g FROM generate_series(0, %d) g ON CONFLICT DO NOTHING", counters-1))
	errs := make([]error, sessions)
	enough := make(chan struct{})
	var all sync.WaitGroup
	for i := range sessions {
		conn := b.connect(b.name)
		all.Go(func() {
			w := writer{conn: conn, random: rand.New(rand.NewPCG(17, uint64(i))), topics: []string{b.name, b.name + ".aside"}}
			for n := 0; errs[i] == nil; n++ {
				if n >= transactions {
					select {
					case <-enough:
						return
					default:
					}
				}
				errs[i] = w.transaction(b.t.Context())
			}
		})
	}
	return func() error {
		close(enough)
		all.Wait()
		return errors.Join(errs...)
	}
}

const counters = 12 // keys: few, so that sessions meet

// writer is one session of a service.
type writer struct {
	conn   *pgx.Conn
	random *rand.Rand
	topics []string
}

// transaction counts some keys up and inserts an event for each count. A
// rollback takes both back: the counts of committed events have no gaps, and
// since the counter's row is locked until the commit, they are the commit order.
func (w *writer) transaction(ctx context.Context) error {
	tx, err := w.conn.Begin(ctx)
	if err != nil {
		return err
	}
	keys := w.random.Perm(counters)[:1+w.random.IntN(3)]
	slices.Sort(keys) // locks in one order
	for _, key := range keys {
		if w.random.IntN(4) == 0 {
			// Some work that is thought better of.
			inner, err := tx.Begin(ctx) // a savepoint
			if err == nil {
				err = errors.Join(w.events(ctx, inner, key), inner.Rollback(ctx))
			}
			if err != nil {
				return err
			}
		}
		if err := w.events(ctx, tx, key); err != nil {
			return err
		}
	}
	if w.random.IntN(5) == 0 {
		return tx.Rollback(ctx)
	}
	return tx.Commit(ctx)
}

func (w *writer) events(ctx context.Context, tx pgx.Tx, key int) error {
	// One topic for each key: across topics there is no order.
	_, err := tx.Exec(ctx, `WITH c AS (UPDATE counter SET n = n + $3 WHERE key = 'key-' || $2::int::text RETURNING key, n)
		INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload)
		SELECT $1, key, 'counted', jsonb_build_object('n', g) FROM c, generate_series(n - $3 + 1, n) g`,
		w.topics[key%2], key, 1+w.random.IntN(3))
	return err
}

// large commits many rows in one transaction, with keys of their own.
func (b *bed) large(rows int) {
	b.t.Helper()
	b.larges++
	b.exec(b.conn, fmt.Sprintf(`INSERT INTO outbox (aggregate_id, event_type, payload)
		SELECT 'large-%d-' || g %% 97, 'made', jsonb_build_object('n', (g - 1) / 97 + 1) FROM generate_series(1, %d) g`, b.larges, rows))
}

// A restart in order repeats nothing and loses nothing, though services go on
// writing: what was read was sent, acknowledged and confirmed before the end.
func TestRestartsUnderLoad(t *testing.T) {
	b := newBed(t, "17", "")
	b.defaultOutbox(b.env())
	b.exec(b.conn, `CREATE TABLE counter (key text PRIMARY KEY, n int NOT NULL DEFAULT 0)`)
	topics := []string{b.topic(), b.topic() + ".aside"}
	consumer := rig.Consume(t, b.brokers, nil, topics...)
	begun := time.Now()
	relay := rig.Run(t, b.env()...)
	const sessions, restarts = 3, 3
	finish := b.write(sessions, 1)
	for range restarts {
		relay.AwaitState("streaming")
		seen, _ := consumer.Distinct()
		b.large(5000) // it is stopped amid this transaction, most of the time
		consumer.Await(seen+150, time.Minute)
		if code := relay.Stop(); code != 0 {
			t.Fatalf("SIGTERM: exit code %d, want 0", code)
		}
		relay = rig.Run(t, b.env()...)
	}
	if err := finish(); err != nil {
		t.Fatal(err)
	}
	records := b.delivered(relay, b.name, consumer, topics...)
	entries := b.entries("public.outbox")
	want := spec{topic: b.typedTopic, headers: cloudEvent(b.source("outbox"), "application/json")}
	report(t, want.compare(entries, records))
	t.Logf("%d events of %d sessions, %d restarts, %d repeats, %v", len(entries), sessions, restarts, rig.Repeats(t, records),
		time.Since(begun).Round(time.Millisecond))
}
