package cdc

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// schemaSQL creates the default outbox table.
//
//go:embed schema.sql
var schemaSQL string

// InitReport says what Init found and did.
type InitReport struct {
	Created  []string // such as "publication outbox_cdc"
	Existing []string
	// Rows that were in the table just after the slot was created and, but for
	// those of that moment, are not sent by Run; counted up to 100,000; -1 when the
	// role may not read the table.
	Rows int64
}

// Init creates what is missing of the default table, publication and slot, in
// that order. It is idempotent. It fails where creating a slot would hide a gap.
func Init(ctx context.Context, c Config) (InitReport, error) {
	c, err := c.withDefaults()
	if err != nil {
		return InitReport{}, err
	}
	conn, err := connectSQL(ctx, c.URL)
	if err != nil {
		return InitReport{}, err
	}
	defer closeSQL(conn)
	_, report, err := setUp(ctx, conn, c, true)
	if pgCode(err) == codeLimitExceeded { // run waits for a slot to become free
		err = noFreeSlot("create slot")
	}
	return report, err
}

// setUp brings publication and slot to where streaming can begin. init tells that the operator asked for it: what
// is missing is created though it may not look like a first start. It returns the catalog as it was last read.
func setUp(ctx context.Context, conn *pgx.Conn, c Config, init bool) (cat catalog, report InitReport, err error) {
	// Each pass reads afresh, for another instance may be at the same work;
	// a first start takes three.
	doubted := false
	var lost error // to another instance
	for range 8 {
		if cat, err = readCatalog(ctx, conn, c); err != nil {
			return cat, report, err
		}
		if err := cat.checkServer(); err != nil {
			return cat, report, err
		}
		if init && cat.mayCreateTable(c) {
			if err := exec(ctx, conn, "create table", schemaSQL); err != nil {
				return cat, report, err
			}
			report.Created = append(report.Created, "table "+c.Table.String())
			continue
		}
		if cat.torn() {
			continue
		}
		next, err := cat.nextStep(c, init)
		if err != nil && !doubted {
			// Slots are no part of a snapshot: what looks like a loss may be
			// another instance's first start, seen before and after a step of it.
			doubted = true
			continue
		}
		if err != nil {
			return cat, report, err
		}
		if err := cat.checkTable(c); err != nil {
			return cat, report, err
		}
		if next == proceed {
			if lost = rememberReady(ctx, conn, c, cat); !raced(lost) {
				report.Existing = existing(c, report.Created)
				return cat, report, lost
			}
			continue
		}
		if c.NoInit && !init {
			return cat, report, fault.New(fault.SlotLost, "open slot", fmt.Errorf("slot %q does not exist, and --no-init forbids to create it", c.Slot),
				"run `outbox-cdc init`, or start without --no-init")
		}
		if next == createAll {
			if err := cat.mayPublish(c); err != nil {
				return cat, report, err
			}
		}
		if !init {
			if err := c.BeforeSlot(ctx); err != nil {
				return cat, report, err
			}
		}
		if err := create(ctx, conn, c, next, cat, &report); raced(err) {
			lost = err
		} else if err != nil {
			return cat, report, err
		}
	}
	cause := fmt.Errorf("publication %q and slot %q keep changing", c.Publication, c.Slot)
	if lost != nil {
		cause = fmt.Errorf("%w: %w", cause, lost)
	}
	return cat, report, fault.New(fault.Unreachable, "set up", cause, "see whether something else creates and drops them")
}

// create does one step of a first start.
func create(ctx context.Context, conn *pgx.Conn, c Config, next step, cat catalog, report *InitReport) error {
	if next == createAll {
		err := exec(ctx, conn, "create publication", createPublicationSQL(c)+";"+commentSQL(c, creating))
		if err == nil {
			report.Created = append(report.Created, "publication "+c.Publication)
		}
		return err
	}
	if readMark(cat.publication.Comment) != creating {
		if err := setMark(ctx, conn, c, cat.publication.Comment, creating); err != nil {
			return err
		}
	}
	if err := createReplicationSlot(ctx, conn, c, cat.server.Version); err != nil {
		return err
	}
	report.Created = append(report.Created, "slot "+c.Slot)
	report.Rows = countRows(ctx, conn, c) // only now: creation waits for transactions that were open, whose rows are not streamed
	return nil
}

// raced tells whether an error of set-up means that another instance was at
// the same work just then.
func raced(err error) bool {
	if errors.Is(err, errMarkChanged) {
		return true
	}
	switch pgCode(err) {
	case codeDuplicateObject, codeUniqueViolation:
		return true
	case codeInternalError: // which may be anything
		return strings.Contains(err.Error(), "concurrently") // "tuple concurrently updated"
	}
	return false
}

// rememberReady marks a publication whose slot is there, where we may.
func rememberReady(ctx context.Context, conn *pgx.Conn, c Config, cat catalog) error {
	p, m := cat.publication, cat.readyMark()
	if p.Comment == markPrefix+string(m) || !cat.mayMark() {
		return nil
	}
	return setMark(ctx, conn, c, p.Comment, m)
}

// createReplicationSlot creates the slot. The server waits for all running
// transactions first.
func createReplicationSlot(ctx context.Context, conn *pgx.Conn, c Config, version int) error {
	args := ""
	if version >= 170000 {
		args = ", false, false, true" // temporary, twophase, failover
	}
	sql := fmt.Sprintf("SELECT pg_create_logical_replication_slot(%s, 'pgoutput'%s)", literal(c.Slot), args)
	err := whileWatched(ctx, c, conn.PgConn(), func(ctx context.Context) error {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return postgresError("create slot", err)
		}
		return nil
	})
	if pgCode(err) == codeInsufficientPrivilege {
		return fault.New(fault.Unexpected, "create slot", errors.Unwrap(err),
			fmt.Sprintf("ALTER ROLE <this role> REPLICATION (on managed Postgres grant its replication role, such as rds_replication) and start again; "+
				"or let the relay's role, which has it, %s, and then run `outbox-cdc init` as the publication's owner", sql))
	}
	return err
}

const (
	// mostRows is as far as rows are counted: more of them take too long.
	mostRows = 100_000
	// countTimeout is the server's, unlike queryTimeout, and does not cost the connection.
	countTimeout = 2 * time.Second
)

// countRows returns how many rows the table holds, mostRows at most, or -1
// when it may not be read or counting takes too long.
func countRows(ctx context.Context, conn *pgx.Conn, c Config) int64 {
	if err := exec(ctx, conn, "count rows", fmt.Sprintf("SET statement_timeout = %d", countTimeout.Milliseconds())); err != nil {
		return -1
	}
	var n int64
	err := queryRow(ctx, conn, []any{&n}, fmt.Sprintf("SELECT count(*) FROM (SELECT FROM %s LIMIT %d) AS counted", c.Table.quoted(), mostRows))
	if exec(ctx, conn, "count rows", "RESET statement_timeout") != nil || err != nil {
		return -1
	}
	return n
}

// existing lists what was there already, given what was created.
func existing(c Config, created []string) []string {
	var there []string
	for _, thing := range []string{"table " + c.Table.String(), "publication " + c.Publication, "slot " + c.Slot} {
		if !slices.Contains(created, thing) {
			there = append(there, thing)
		}
	}
	return there
}
