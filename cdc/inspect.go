package cdc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// SlotStatus is the slot as the server sees it, with or without a running relay.
type SlotStatus struct {
	Slot        string `json:"slot"`
	Publication string `json:"publication"`
	Table       string `json:"table"`
	Database    string `json:"database"`
	Exists      bool   `json:"exists"`
	Problem     string `json:"problem,omitempty"` // why a relay could not stream from it
	Hint        string `json:"hint,omitempty"`    // what mends that

	Active       bool   `json:"active"`
	ActivePID    int    `json:"active_pid,omitempty"`
	Holder       string `json:"holder,omitempty"`
	WALStatus    string `json:"wal_status,omitempty"`
	Invalidation string `json:"invalidation_reason,omitempty"`

	ServerLSN    string `json:"server_lsn"`
	ConfirmedLSN string `json:"confirmed_lsn,omitempty"`
	RestartLSN   string `json:"restart_lsn,omitempty"`
	// LagBytes is WAL written and not confirmed; RetainedBytes is WAL that the
	// server keeps for the slot. Headroom is what it may still grow by before
	// it is invalidated; nil when there is no limit, 0 when that has happened.
	LagBytes      int64  `json:"lag_bytes"`
	RetainedBytes int64  `json:"retained_bytes"`
	Headroom      *int64 `json:"headroom_bytes,omitempty"`
	// OldestTransaction is how long the oldest transaction with an xid has run;
	// it is what holds RestartLSN back.
	OldestTransaction time.Duration `json:"oldest_transaction_ns"`
}

const inspectSQL = `
SELECT pg_current_wal_flush_lsn()::text,
       coalesce(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), s.confirmed_flush_lsn), 0)::bigint,
       coalesce(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), s.restart_lsn), 0)::bigint,
       s.safe_wal_size,
       coalesce((SELECT extract(epoch FROM max(now() - a.xact_start)) FROM pg_stat_activity a WHERE a.backend_xid IS NOT NULL), 0)::float8
  FROM (SELECT 1) AS one LEFT JOIN pg_replication_slots s ON s.slot_name = $1`

// Inspect reads the slot's status. A slot that is missing or lost is part of
// the answer, not an error.
func Inspect(ctx context.Context, c Config) (SlotStatus, error) {
	c, err := c.withDefaults()
	if err != nil {
		return SlotStatus{}, err
	}
	conn, err := connectSQL(ctx, c.URL)
	if err != nil {
		return SlotStatus{}, err
	}
	defer closeSQL(conn)
	return inspect(ctx, conn, c)
}

func inspect(ctx context.Context, conn *pgx.Conn, c Config) (SlotStatus, error) {
	cat, err := readCatalog(ctx, conn, c)
	if err != nil {
		return SlotStatus{}, err
	}
	s := SlotStatus{Slot: c.Slot, Publication: c.Publication, Table: c.Table.String(), Database: cat.server.Database}
	if err := cat.checkServer(); err != nil {
		return s, err
	}
	if step, err := cat.nextStep(c, false); err != nil {
		s.Problem, s.Hint = err.Error(), fault.HintOf(err)
	} else if step != proceed {
		s.Problem, s.Hint = "not set up yet", "`outbox-cdc run` sets it up on its first start, and so does `outbox-cdc init`"
	}
	var oldest float64
	err = queryRow(ctx, conn, []any{&s.ServerLSN, &s.LagBytes, &s.RetainedBytes, &s.Headroom, &oldest}, inspectSQL, c.Slot)
	if err != nil {
		return s, postgresError("read slot status", err)
	}
	s.OldestTransaction = time.Duration(oldest * float64(time.Second))
	if there := cat.slot; there != nil {
		s.Exists, s.Active, s.ActivePID = true, there.Active, there.ActivePID
		s.WALStatus, s.Invalidation = there.WALStatus, there.Invalidation
		s.ConfirmedLSN, s.RestartLSN = there.ConfirmedLSN.String(), there.RestartLSN.String()
		if there.lost() {
			s.Headroom = new(int64)
		}
		if s.Active {
			if s.Holder, err = readHolder(ctx, conn, s.ActivePID); err != nil {
				return s, err
			}
			s.Holder = cmp.Or(s.Holder, fmt.Sprintf("pid %d", s.ActivePID))
		}
	}
	return s, nil
}

const holderSQL = `
SELECT format('%s from %s, since %s', coalesce(nullif(application_name, ''), usename, '?'), coalesce(host(client_addr), 'local'),
              coalesce(date_trunc('second', backend_start)::text, '?'))
  FROM pg_stat_activity WHERE pid = $1`

// readHolder describes the process that holds the slot; it is empty when that
// has ended meanwhile.
func readHolder(ctx context.Context, conn *pgx.Conn, pid int) (who string, err error) {
	if err := queryRow(ctx, conn, []any{&who}, holderSQL, pid); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", postgresError("look up the slot's holder", err)
	}
	return who, nil
}
