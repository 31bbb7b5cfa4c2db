package cdc

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// step is what set-up has to do next.
type step int

const (
	proceed    step = iota // slot and publication are there
	createAll              // neither is: a first start
	createSlot             // the publication is there: an interrupted first start, or init
)

var errBeingCreated = errors.New("just being created")

// nextStep decides by what is there. init is for the init command, which may
// also complete what a DBA began. It fails when going on would lose events.
func (cat catalog) nextStep(c Config, init bool) (step, error) {
	if err := cat.usableSlot(c); err != nil {
		return proceed, err
	}
	switch p := cat.publication; {
	case cat.slot != nil && cat.slot.Creating:
		return proceed, fault.New(fault.Unreachable, "open slot",
			fmt.Errorf("slot %q is %w by pid %d, which waits for older transactions", c.Slot, errBeingCreated, cat.slot.ActivePID), "")
	case cat.slot != nil && p == nil:
		return proceed, missingPublication(c)
	case cat.slot != nil && readMark(p.Comment) == recovering:
		return proceed, unfinishedRecovery(c)
	case cat.slot != nil && readMark(p.Comment) == creating && !p.Owned:
		return proceed, interruptedInit(c, "the slot exists")
	case cat.slot != nil && cat.usablePublication(c) != nil:
		return proceed, cat.usablePublication(c)
	case cat.slot != nil && init && p.Owned: // the operator accepts it as it is
		return proceed, nil
	case cat.slot != nil && cat.young:
		return proceed, youngPublication(c)
	case cat.slot != nil:
		return proceed, cat.sameTable(c)
	case p == nil:
		return createAll, nil
	case readMark(p.Comment) == creating && !p.Owned:
		// Whoever cannot write "ready" afterwards could not tell this from a lost slot the next time.
		return proceed, interruptedInit(c, "the slot does not exist yet")
	case init && readMark(p.Comment) == unmarked, readMark(p.Comment) == creating:
		return createSlot, cat.usablePublication(c)
	case readMark(p.Comment) == unmarked:
		return proceed, fault.New(fault.SlotLost, "open slot",
			fmt.Errorf("slot %q does not exist, and publication %q was not made by outbox-cdc, so whether the slot was lost is not known", c.Slot, c.Publication),
			"if there never was a slot, have the publication's owner run `outbox-cdc init`; if there was one: "+recoverHint)
	default:
		return proceed, cat.missingSlot(c)
	}
}

// usableSlot tells whether the slot, if there is one, can be streamed from.
func (cat catalog) usableSlot(c Config) error {
	s := cat.slot
	if err := cat.ownSlot(c); err != nil || s == nil {
		return err
	}
	switch {
	case s.lost():
		reason := s.Invalidation
		if reason == "" {
			reason = "wal_removed"
		}
		return lostSlot(fmt.Errorf("slot %q was invalidated by the server (%s)", c.Slot, reason), recoverHint)
	case s.TwoPhase:
		return fault.New(fault.Usage, "open slot", fmt.Errorf("slot %q decodes prepared transactions when they are prepared (two_phase), before it is known whether they commit", c.Slot),
			"stop every relay of this slot; `outbox-cdc recover --replace-slot` sends what the table holds, with a slot that decodes them when they commit")
	}
	return nil
}

// ownSlot tells whether the slot, if there is one, is of our kind and our database.
func (cat catalog) ownSlot(c Config) error {
	s := cat.slot
	switch {
	case s == nil:
		return nil
	case s.Type == "logical" && s.Database != cat.server.Database:
		return fault.New(fault.Usage, "open slot",
			fmt.Errorf("slot %q belongs to database %q; slot names are the cluster's, and this is database %q", c.Slot, s.Database, cat.server.Database),
			fmt.Sprintf("choose another name, such as postgres.slot: %s", suggestSlot(c.Slot, cat.server.Database)))
	case s.Type != "logical" || s.Plugin != "pgoutput":
		return fault.New(fault.Usage, "open slot",
			fmt.Errorf("slot %q is a %s slot with plugin %q, not a logical one with pgoutput", c.Slot, s.Type, s.Plugin),
			"it belongs to something else: choose another name for postgres.slot")
	}
	return nil
}

// usablePublication tells whether the publication sends what is inserted into our table.
func (cat catalog) usablePublication(c Config) error {
	p := cat.publication
	switch {
	case !p.Covers && cat.table == nil:
		return cat.missingTable(c)
	case !p.Covers:
		hint := addTableHint(c)
		if cat.table != nil && cat.table.Kind == "p" {
			hint = fmt.Sprintf("ALTER PUBLICATION %s SET (publish_via_partition_root = true), and ADD TABLE %s if it is not in it; %s",
				ident(c.Publication), c.Table.quoted(), meanwhile)
		}
		return fault.New(fault.SlotLost, "check publication",
			fmt.Errorf("publication %q does not publish table %s (it was dropped and created again, or never added)", c.Publication, c.Table), hint)
	case !p.Insert:
		return fault.New(fault.SlotLost, "check publication", fmt.Errorf("publication %q does not publish inserts", c.Publication),
			addInsertsHint(c)+"; "+meanwhile)
	}
	return nil
}

const (
	sentAgain  = "the rows that the table still holds can be sent again"
	stopAndRun = ": stop every relay of this slot and run `outbox-cdc recover"
	asItsOwner = "` as the publication's owner, with REPLICATION and SELECT on the table"
	// recoverHint is the way out when the WAL no longer has what was committed.
	recoverHint = sentAgain + stopAndRun + asItsOwner
	// replaceHint is the same for a slot that only another one can take the place of.
	replaceHint = sentAgain + " with a new slot" + stopAndRun + " --replace-slot" + asItsOwner
)

// meanwhile goes with a hint that mends only what comes.
const meanwhile = "rows that were committed meanwhile are not streamed: " + recoverHint

func unfinishedRecovery(c Config) error {
	return fault.New(fault.SlotLost, "open slot",
		fmt.Errorf("a recovery of slot %q was begun and not finished; streaming on would skip the rows that it has still to send", c.Slot),
		"wait for `outbox-cdc recover` to end, or start it again if it does not run any more")
}

func lostSlot(cause error, hint string) error {
	return fault.New(fault.SlotLost, "open slot", cause, hint)
}

// interruptedInit asks for the owner, without whom the mark "ready" cannot be written.
func interruptedInit(c Config, slot string) error {
	return fault.New(fault.SlotLost, "open slot",
		fmt.Errorf("the set-up of publication %q was begun and not finished (%s), and it belongs to another role", c.Publication, slot),
		"have the publication's owner run `outbox-cdc init`")
}

func missingPublication(c Config) error {
	return fault.New(fault.SlotLost, "check publication",
		fmt.Errorf("slot %q exists and publication %q does not: what was committed while it was missing cannot be streamed", c.Slot, c.Publication),
		"a publication created now does not cover the WAL before it: check postgres.publication for a wrong name; if it was dropped, "+recoverHint)
}

// suggestSlot makes a slot name of its own for a database.
func suggestSlot(slot, database string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, strings.ToLower(database))
	const longest = 63
	clean = clean[:min(len(clean), longest/2)]
	return slot[:min(len(slot), longest-1-len(clean))] + "_" + clean
}

// checkTable tells whether the table is there and can be streamed with the mapping.
func (cat catalog) checkTable(c Config) error {
	switch t := cat.table; {
	case t == nil:
		return cat.missingTable(c)
	case t.Kind != "r" && t.Kind != "p":
		return fault.New(fault.Usage, "check table", fmt.Errorf("%s is not a table", c.Table), "set table.name to the outbox table")
	case t.Persistence != "p":
		return fault.New(fault.Usage, "check table", fmt.Errorf("table %s is unlogged or temporary: its rows never reach the WAL", c.Table),
			fmt.Sprintf("ALTER TABLE %s SET LOGGED", c.Table.quoted()))
	}
	if err := cat.table.members.check(c); err != nil {
		return err
	}
	if missing := cat.table.missing(c.Columns); len(missing) > 0 {
		return fault.New(fault.Usage, "check table",
			fmt.Errorf("table %s lacks the columns %s; it has %s", c.Table, strings.Join(missing, ", "), strings.Join(cat.table.Columns, ", ")),
			fmt.Sprintf("correct %s, or add them to the table", c.askedBy(missing)))
	}
	return cat.checkColumns(c)
}

// mayCreateTable tells whether init may create the table: a set-up that is there had one.
func (cat catalog) mayCreateTable(c Config) bool {
	return cat.table == nil && c.Table == defaultTable && cat.slot == nil && (cat.publication == nil || readMark(cat.publication.Comment) == unmarked)
}

// missingTable says what became of the table, as far as the mark helps to find out.
func (cat catalog) missingTable(c Config) error {
	const op = "check table"
	gone := fmt.Errorf("table %s does not exist in database %q", c.Table, cat.server.Database)
	if cat.publication != nil {
		before, ok := readShown(cat.publication.Comment)
		switch {
		case cat.former.shown:
			return fault.New(fault.Usage, op, fmt.Errorf("%w; what publication %q was made for is now %s", gone, c.Publication, cat.former.name),
				fmt.Sprintf("set table.name: %s, under which its earlier rows are streamed as well; or rename it back", cat.former.name))
		case cat.former.name != "":
			return fault.New(fault.SlotLost, op, fmt.Errorf("%w: it is now %s, which publication %q does not show", gone, cat.former.name, c.Publication),
				"put it back, and what was inserted since was not streamed: "+recoverHint)
		case ok && before.table != 0:
			return fault.New(fault.SlotLost, op, fmt.Errorf("%w: the table of publication %q was dropped", gone, c.Publication),
				"put it back (`outbox-cdc init --print-sql` prints what creates the default one), and what was inserted since was not streamed: "+recoverHint)
		}
	}
	hint := "check table.name"
	if cat.mayCreateTable(c) {
		hint += ", or run `outbox-cdc init`, which creates this table"
	}
	return fault.New(fault.Usage, op, gone, hint)
}

// askedBy names the settings that ask for the columns.
func (c Config) askedBy(columns []string) string {
	if c.AskedBy == nil {
		return "table.columns"
	}
	var settings []string
	for _, column := range columns {
		if s := c.AskedBy(column); s != "" && !slices.Contains(settings, s) {
			settings = append(settings, s)
		}
	}
	return cmp.Or(strings.Join(settings, " and "), "table.columns")
}

// checkColumns tells whether the stream shows the mapped columns as they are.
func (cat catalog) checkColumns(c Config) error {
	for _, column := range c.Columns {
		switch {
		case slices.Contains(cat.table.Generated, column) && !cat.publishesGenerated(column):
			return fault.New(fault.Usage, "check table",
				fmt.Errorf("column %q of table %s is generated: logical replication leaves it out", column, c.Table),
				"map a column that is written, or publish it (PostgreSQL 18 on, stored columns only): ALTER PUBLICATION … SET (publish_generated_columns = stored)")
		case slices.Contains(cat.table.ByteaDomains, column):
			// The stream names the domain, not what it is made of: the value would go out as its text, \x….
			return fault.New(fault.Usage, "check table",
				fmt.Errorf("column %q of table %s is of a domain over bytea, which the stream does not show as bytea", column, c.Table),
				fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s TYPE bytea, with the domain's constraint as one of the table", c.Table.quoted(), ident(column)))
		}
	}
	return nil
}

// publishesGenerated tells whether the publication sends a generated column.
func (cat catalog) publishesGenerated(column string) bool {
	return cat.server.Version >= 180000 && cat.publication != nil && slices.Contains(cat.publication.Columns, column)
}

// checkServer tells whether the server can decode its WAL at all.
func (cat catalog) checkServer() error {
	s := cat.server
	switch {
	case s.Version < 140000:
		return fault.New(fault.Unexpected, "check server", fmt.Errorf("server version %d.%d is too old", s.Version/10000, s.Version%10000),
			"outbox-cdc needs PostgreSQL 14 or later")
	case s.InRecovery:
		return fault.New(fault.Unreachable, "check server", errors.New("the server is a standby"),
			"name the primary in postgres.url, or all hosts: the one that takes writes is used")
	case s.WALLevel != "logical" && s.Version < 190000: // 19 raises it by itself when the first logical slot is created
		return fault.New(fault.Unexpected, "check server", fmt.Errorf("wal_level is %q", s.WALLevel),
			"ALTER SYSTEM SET wal_level = 'logical', then restart the server (on managed Postgres: its logical replication parameter)")
	}
	return nil
}
