package cdc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

const (
	blockersAfter = 2 * time.Second
	blockersEvery = 10 * time.Second
)

// blockersSQL tells whether the backend that creates a slot is at work, and
// whom it waits for now: it waits for one transaction after the other. A
// prepared transaction has no pid.
const blockersSQL = `
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND state IS DISTINCT FROM 'idle'),
       coalesce(string_agg(who, ', '), '')
  FROM (SELECT format('pid %s (%s, for %s)', pid, coalesce(nullif(application_name, ''), usename, '?'),
                      coalesce(date_trunc('second', now() - xact_start)::text, '?')) AS who
          FROM pg_stat_activity
         WHERE pid = ANY (pg_blocking_pids($1))
         UNION ALL
        SELECT format('prepared transaction %L (for %s)', gid, date_trunc('second', now() - prepared))
          FROM pg_prepared_xacts
         WHERE transaction IN (SELECT transactionid FROM pg_locks WHERE pid = $1 AND NOT granted)) AS blockers`

// whileWatched runs create, which creates a slot over conn. The server waits
// for older transactions first, for as long as they last: who they are is
// logged, since nothing else shows it. No time limit tells such a wait from a
// connection that has died; a connection of its own does.
func whileWatched(ctx context.Context, c Config, conn *pgconn.PgConn, create func(context.Context) error) error {
	pid, err := backendPID(ctx, conn)
	if err != nil {
		return err
	}
	watching, cancel := context.WithCancel(ctx)
	var dead error
	var watcher sync.WaitGroup
	watcher.Go(func() {
		dead = reportBlockers(watching, c, pid)
		cancel()
	})
	err = create(watching)
	cancel()
	watcher.Wait()
	if err != nil && dead != nil {
		return dead
	}
	return err
}

// backendPID asks for the pid: through a connection pooler, conn has one that
// the server does not know.
func backendPID(ctx context.Context, conn *pgconn.PgConn) (int64, error) {
	limited, cancel := brief(ctx)
	defer cancel()
	results, err := conn.Exec(limited, "SELECT pg_backend_pid()").ReadAll()
	if err != nil {
		return 0, postgresError("ask for the pid", late(ctx, err))
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return 0, fault.New(fault.Unexpected, "ask for the pid", errors.New("the server gave none"), "")
	}
	pid, err := strconv.ParseInt(string(results[0].Rows[0][0]), 10, 64)
	if err != nil {
		return 0, fault.New(fault.Unexpected, "ask for the pid", err, "")
	}
	return pid, nil
}

// reportBlockers names, until ctx ends, the transactions that slot creation by
// pid waits for. It returns an error when that creation comes to no end: twice
// in a row the server could not be asked, or it did not show pid at work.
func reportBlockers(ctx context.Context, c Config, pid int64) error {
	wait := time.NewTimer(blockersAfter)
	defer wait.Stop()
	for doubts := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-wait.C:
		}
		working, blockers, err := readBlockers(ctx, c, pid)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && pgCode(err) != "": // an answer, if not to the question
			wait.Reset(blockersEvery)
			continue
		case !working:
			if err == nil {
				err = fmt.Errorf("the server has ended backend %d, or its answer got lost", pid)
			}
			if doubts++; doubts == 2 {
				return fault.New(fault.Unreachable, "create slot", fmt.Errorf("no sign of life: %w", err), "")
			}
			wait.Reset(blockersAfter)
			continue
		}
		doubts = 0
		if blockers != "" {
			c.Log.Warn("outbox.slot_creation_waits", "slot", c.Slot, "blocked_by", blockers,
				"hint", "slot creation waits for transactions that are older than it: end them, SELECT pg_terminate_backend(pid), or ROLLBACK PREPARED")
		}
		wait.Reset(blockersEvery)
	}
}

// readBlockers asks over a connection of its own.
func readBlockers(ctx context.Context, c Config, pid int64) (working bool, blockers string, err error) {
	connecting, cancel := brief(ctx)
	defer cancel()
	conn, err := connectSQL(connecting, c.URL)
	if err != nil {
		return false, "", err
	}
	defer closeSQL(conn)
	err = queryRow(ctx, conn, []any{&working, &blockers}, blockersSQL, pid)
	return working, blockers, err
}
