package cdc

import (
	"context"
	"fmt"
	"strings"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// nextRepair returns the next statement that the publication needs to show what
// is inserted into the table, and what is expected of it; "" when it needs none.
// What it publishes besides may be somebody else's, and stays.
func (v *recovery) nextRepair(p publication) (sql string, then publication) {
	c := v.config
	partitioned := v.cat.table.Kind == "p"
	switch {
	case !p.Covers && !p.Member:
		p.Member, p.Covers = true, !partitioned || p.ViaRoot
		return fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s", ident(c.Publication), c.Table.quoted()), p
	case !p.Covers && partitioned && !p.ViaRoot:
		p.ViaRoot, p.Covers = true, true
		return fmt.Sprintf("ALTER PUBLICATION %s SET (publish_via_partition_root = true)", ident(c.Publication)), p
	case !p.Insert:
		p.Insert = true
		return fmt.Sprintf("ALTER PUBLICATION %s SET (publish = '%s')", ident(c.Publication), p.published()), p
	}
	return "", p
}

// repairable tells whether statements can mend the publication, and break nothing else.
func (v *recovery) repairable(p publication) error {
	const op, own = "recover", "choose another name for postgres.publication, of one for this table alone, and recover with --replace-slot"
	t := v.cat.table
	switch {
	case p.Covers:
	case p.Below && (p.ViaRoot || t.Kind == "p"):
		return fault.New(fault.Usage, op, fmt.Errorf("publication %q shows the rows of %s as those of the table that it is a partition of", v.config.Publication, v.config.Table),
			"set table.name to the partitioned table; or "+own)
	case !p.Member && (p.Update || p.Delete) && !t.Identity:
		return fault.New(fault.Usage, op, fmt.Errorf("publication %q publishes updates or deletes, and %s has no primary key: added to it, the table would refuse them", v.config.Publication, v.config.Table),
			fmt.Sprintf("give the table a primary key, or ALTER TABLE %s REPLICA IDENTITY FULL; or %s", v.config.Table.quoted(), own))
	}
	return nil
}

// published is the value of the publish parameter.
func (p publication) published() string {
	var all []string
	for _, operation := range []struct {
		name string
		is   bool
	}{{"insert", p.Insert}, {"update", p.Update}, {"delete", p.Delete}, {"truncate", p.Truncate}} {
		if operation.is {
			all = append(all, operation.name)
		}
	}
	return strings.Join(all, ", ")
}

// planRepair lists the statements.
func (v *recovery) planRepair(p publication) {
	for {
		sql, then := v.nextRepair(p)
		if sql == "" {
			return
		}
		v.plan.Repair, p = append(v.plan.Repair, sql), then
	}
}

// repair makes the publication show the table, and looks at things as they are now.
func (v *recovery) repair(ctx context.Context) error {
	c := v.config
	for range 3 { // at most; each looks at what the one before has brought about
		p, err := readPublication(ctx, v.conn, c)
		if err != nil {
			return err
		}
		if p == nil {
			return missingPublication(c)
		}
		sql, _ := v.nextRepair(*p)
		if sql == "" {
			break
		}
		if err := exec(ctx, v.conn, "repair publication", sql); err != nil {
			return err
		}
	}
	// A relay that took the slot before the mark was there sees it now and lets go.
	cat, err := readCatalog(ctx, v.conn, c)
	switch {
	case err != nil:
		return err
	case cat.publication == nil:
		return missingPublication(c)
	case cat.slot != nil && cat.slot.Active:
		return fault.New(fault.Unexpected, "recover", fmt.Errorf("pid %d took slot %q just now", cat.slot.ActivePID, c.Slot),
			"stop every relay of this slot and start `outbox-cdc recover` again")
	}
	v.cat = cat
	return cat.usablePublication(c)
}
