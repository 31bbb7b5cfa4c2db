package cdc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// mark is what the publication's comment remembers for the time when the slot
// is missing: without it, a first start and a lost slot look the same.
type mark string

const (
	unmarked   mark = ""           // somebody else made the publication
	creating   mark = "creating"   // written before the slot is created
	ready      mark = "ready"      // written after it
	recovering mark = "recovering" // a new slot is there, but not yet every row that the lost one held
)

const markPrefix = "outbox-cdc: "

// readMark finds the mark in a publication's comment.
func readMark(comment string) mark {
	word, ok := strings.CutPrefix(comment, markPrefix)
	if !ok {
		return unmarked
	}
	switch m := mark(strings.Fields(word + " -")[0]); m {
	case creating, ready, recovering:
		return m
	default:
		return unmarked
	}
}

// shown is what a restart compares: which table is published, by which entry of
// the publication, and the version of that. pg_upgrade keeps the table's OID alone.
type shown struct {
	major        int // of the server
	table, entry uint32
	version      string
}

const readyFormat = string(ready) + " v%d %d:%d %s"

// readyMark is ready with what is shown now.
func (cat catalog) readyMark() mark {
	return mark(fmt.Sprintf(readyFormat, cat.server.major(), cat.cover.table, cat.cover.entry, cat.cover.version))
}

// readShown returns what was shown when the publication was marked as ready. A
// mark without that, as a DBA's SQL writes it, is no evidence.
func readShown(comment string) (before shown, ok bool) {
	n, _ := fmt.Sscanf(comment, markPrefix+readyFormat, &before.major, &before.table, &before.entry, &before.version)
	const table = 3 // parts: all but the version
	return before, n >= table
}

// remembered tells whether the comment says, or whoever completes the set-up writes there, what is shown.
func (cat catalog) remembered() bool {
	_, ok := readShown(cat.publication.Comment)
	m := readMark(cat.publication.Comment)
	return ok || cat.mayMark() || m == creating || m == recovering
}

// mayMark tells whether the mark can be written: the comment of a publication
// that a DBA made and described is left alone.
func (cat catalog) mayMark() bool {
	p := cat.publication
	return p.Owned && (p.Comment == "" || readMark(p.Comment) != unmarked)
}

// sameTable tells whether the publication shows the table that it showed when
// it was marked as ready.
func (cat catalog) sameTable(c Config) error {
	before, ok := readShown(cat.publication.Comment)
	if !ok {
		return nil
	}
	if before.table != cat.cover.table || before.major == cat.server.major() && before.entry != cat.cover.entry {
		return replacedTable("check publication", c)
	}
	return nil
}

// altered tells whether the publication was altered since it was marked as
// ready: it may have published no inserts for a while.
func (cat catalog) altered() bool {
	before, ok := readShown(cat.publication.Comment)
	return ok && before.major == cat.server.major() && before.entry == cat.cover.entry &&
		before.version != "" && before.version != cat.cover.version
}

// errMarkChanged says that the mark is not what was decided by.
var errMarkChanged = errors.New("the publication's comment was changed by another instance")

// lockMarkSQL lets one transaction at a time write the mark: with the lock that
// COMMENT takes, two would write one over the other.
func lockMarkSQL(c Config) string {
	return fmt.Sprintf("SELECT pg_advisory_xact_lock(hashtext('outbox-cdc mark'), hashtext(%s))", literal(c.Publication))
}

// setMark writes the mark, if the comment still is what it was; otherwise it
// returns errMarkChanged. A recovery that has begun meanwhile must not be forgotten.
func setMark(ctx context.Context, conn *pgx.Conn, c Config, was string, m mark) error {
	const op = "comment on publication"
	// Each statement sees what the one before has waited for. A session that vanishes lets go.
	begin := "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '10s'; " + lockMarkSQL(c)
	err := exec(ctx, conn, op, begin)
	if err == nil {
		err = stillMarked(ctx, conn, c, was)
	}
	if err == nil {
		err = exec(ctx, conn, op, commentSQL(c, m))
	}
	if err != nil {
		_ = exec(ctx, conn, op, "ROLLBACK") // a connection on which that fails is of no more use
		return err
	}
	return exec(ctx, conn, op, "COMMIT")
}

// stillMarked compares the comment with what it was.
func stillMarked(ctx context.Context, conn *pgx.Conn, c Config, was string) error {
	var is string
	err := queryRow(ctx, conn, []any{&is}, `SELECT coalesce((SELECT obj_description(oid, 'pg_publication') FROM pg_publication WHERE pubname = $1), '')`, c.Publication)
	switch {
	case err != nil:
		return postgresError("look up publication", err)
	case is != was:
		return errMarkChanged
	}
	return nil
}
