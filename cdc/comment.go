package cdc

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// errMarkChanged says that the mark is not what was decided by.
var errMarkChanged = errors.New("the publication's comment was changed by another instance")

// lockMarkSQL lets one transaction at a time write the mark: with the lock that
// COMMENT takes, two would write one over the other.
func lockMarkSQL(c Config) string {
	return fmt.Sprintf("SELECT pg_advisory_xact_lock(hashtext('outbox-cdc mark'), hashtext(%s))", literal(c.Publication))
}

// setMark writes the mark, if the comment still is what it was.
func setMark(ctx context.Context, conn *pgx.Conn, c Config, was string, m mark) error {
	return setComment(ctx, conn, c, was, markPrefix+string(m))
}

// setComment writes the comment, if it still is what it was; otherwise it
// returns errMarkChanged. A recovery that has begun meanwhile must not be forgotten.
func setComment(ctx context.Context, conn *pgx.Conn, c Config, was, comment string) error {
	const op = "comment on publication"
	// Each statement sees what the one before has waited for. A session that vanishes lets go.
	begin := "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '10s'; " + lockMarkSQL(c)
	err := exec(ctx, conn, op, begin)
	if err == nil {
		err = replaceComment(ctx, conn, c, was, comment)
	}
	if err != nil {
		_ = exec(ctx, conn, op, "ROLLBACK") // a connection on which that fails is of no more use
		return err
	}
	return exec(ctx, conn, op, "COMMIT")
}

func replaceComment(ctx context.Context, conn *pgx.Conn, c Config, was, comment string) error {
	var is string
	err := queryRow(ctx, conn, []any{&is}, `SELECT coalesce((SELECT obj_description(oid, 'pg_publication') FROM pg_publication WHERE pubname = $1), '')`, c.Publication)
	switch {
	case err != nil:
		return postgresError("look up publication", err)
	case is != was:
		return errMarkChanged
	}
	return exec(ctx, conn, "comment on publication", fmt.Sprintf("COMMENT ON PUBLICATION %s IS %s", ident(c.Publication), literal(comment)))
}
