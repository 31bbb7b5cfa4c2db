package cdc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// checkRights tries what recovery does once it has begun: its mark keeps every
// relay from streaming, so it is not set for a role that could not go on.
func (v *recovery) checkRights(ctx context.Context) error {
	if err := tryReplication(ctx, v.config); err != nil {
		return err
	}
	if err := v.checkFreeSlot(ctx); err != nil {
		return err
	}
	sql, args := v.selectFrom(v.columns())
	if _, err := v.conn.Exec(ctx, fmt.Sprintf("%s ORDER BY %s LIMIT 0", sql, v.order()), args...); err != nil {
		return v.unreadable("read rows", err)
	}
	return nil
}

// checkFreeSlot tells whether the slot that gives the snapshot can be created,
// unless it takes the place of one that is dropped.
func (v *recovery) checkFreeSlot(ctx context.Context) error {
	if v.plan.Slot == planReplace {
		return nil
	}
	var free int
	if err := queryRow(ctx, v.conn, []any{&free}, "SELECT "+freeSlotsSQL); err != nil {
		return postgresError("count slots", err)
	}
	if free <= 0 {
		return noFreeSlot("recover")
	}
	return nil
}

// columns are those that the stream shows too.
func (v *recovery) columns() string {
	p := v.cat.publication
	if p == nil || !p.Covers || len(p.Columns) == 0 {
		return "*"
	}
	quoted := make([]string, len(p.Columns))
	for i, column := range p.Columns {
		quoted[i] = ident(column)
	}
	return strings.Join(quoted, ", ")
}

const freeSlotsSQL = "current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots)::int"

const freeSlotHint = "raise max_replication_slots and restart the server, or drop a slot that nobody uses: SELECT pg_drop_replication_slot(name)"

func noFreeSlot(op string) error {
	return fault.New(fault.Unexpected, op, errors.New("every replication slot is taken"), freeSlotHint)
}
