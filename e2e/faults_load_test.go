package e2e_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	writers      = 2
	rowsPerTx    = 10
	keysOfWriter = 500
)

// load is writers that commit transactions of rowsPerTx rows, each to keys of
// its own. A connection that is lost is opened again: whether the transaction
// that it was in the midst of was committed is for the table to tell.
type load struct {
	committed atomic.Int64 // rows whose commit was answered
	broken    atomic.Int64 // transactions without an answer
	quit      chan struct{}
	stop      func()
	wait      sync.WaitGroup
}

// write starts the load: rows a second, until there are that many in all (0: until end).
func (s *stage) write(rate, rows int) *load {
	s.t.Helper()
	l := &load{quit: make(chan struct{})}
	l.stop = sync.OnceFunc(func() { close(l.quit) })
	s.loads++
	for w := range writers {
		l.wait.Go(func() {
			l.writer(s.t, s.url, s.name, fmt.Sprintf("load%d-writer%d", s.loads, w), time.Second*writers*rowsPerTx/time.Duration(rate), rows/writers/rowsPerTx)
		})
	}
	s.t.Cleanup(func() {
		l.stop()
		l.wait.Wait()
	})
	return l
}

// end stops the writers, each behind its transaction, and waits for them.
func (l *load) end() {
	l.stop()
	l.wait.Wait()
}

const insertSQL = `
INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT $1, key, 'order.changed', jsonb_build_object('n', n, 'pad', repeat('x', 200))
  FROM unnest($2::text[], $3::bigint[]) AS r(key, n)`

func (l *load) writer(t *testing.T, url, kind, name string, interval time.Duration, transactions int) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.Background())
		}
	}()
	keys, numbers := make([]string, rowsPerTx), make([]int64, rowsPerTx)
	n := int64(0)
	for done := 0; transactions == 0 || done < transactions; {
		select {
		case <-l.quit:
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		var err error
		if conn == nil {
			if conn, err = pgx.Connect(ctx, url); err != nil {
				cancel()
				continue // the server is away: that is for the test to know
			}
		}
		for i := range rowsPerTx {
			n++
			keys[i], numbers[i] = fmt.Sprintf("%s-%d", name, n%keysOfWriter), n
		}
		if _, err = conn.Exec(ctx, insertSQL, kind, keys, numbers); err == nil {
			l.committed.Add(rowsPerTx)
			done++
		} else {
			l.broken.Add(1)
			_ = conn.Close(ctx)
			conn = nil
		}
		expired := ctx.Err() != nil
		cancel()
		if expired {
			t.Errorf("a transaction had no answer for 30 s: %v", err)
			return
		}
	}
}
