package cdc

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// otherSlot is another slot of this database that streams could come from.
type otherSlot struct {
	Name   string
	Active bool
}

const otherSlotsSQL = `
SELECT slot_name::text, active FROM pg_replication_slots
 WHERE database = current_database() AND plugin = 'pgoutput' AND NOT temporary AND slot_name <> $1
 ORDER BY slot_name`

// readOtherSlots lists the slots beside name: one of them may be the one that is meant.
func readOtherSlots(ctx context.Context, conn *pgx.Conn, name string) ([]otherSlot, error) {
	rows, err := conn.Query(ctx, otherSlotsSQL, name)
	if err != nil {
		return nil, postgresError("list slots", err)
	}
	slots, err := pgx.CollectRows(rows, pgx.RowToStructByPos[otherSlot])
	if err != nil {
		return nil, postgresError("list slots", err)
	}
	return slots, nil
}

// missingSlot tells of a slot that was there once: dropped, or never under this
// name. Recovery would make another slot and leave the real one to retain WAL.
func (cat catalog) missingSlot(c Config) error {
	hint := "check postgres.slot for a wrong name"
	if len(cat.others) > 0 {
		names := make([]string, len(cat.others))
		for i, s := range cat.others {
			names[i] = fmt.Sprintf("%q", s.Name)
			if s.Active {
				names[i] += " (in use)"
			}
		}
		hint += ": this database has " + strings.Join(names, ", ")
	}
	return lostSlot(fmt.Errorf("slot %q does not exist, though publication %q says that it was created", c.Slot, c.Publication),
		hint+"; if the slot was dropped, "+recoverHint)
}

// unused returns the names of the other slots that nobody streams from.
func (cat catalog) unused() []string {
	var names []string
	for _, s := range cat.others {
		if !s.Active {
			names = append(names, s.Name)
		}
	}
	return names
}
