package cdc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// queryTimeout is how long the server may take for an answer. Over a link that
// has lost everything none ever comes, and nothing else says so.
const queryTimeout = 5 * time.Second

// brief bounds one question to the server: every one but those that rightly
// take long, which are the creation of a slot and a recovery's reading of the table.
func brief(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, queryTimeout)
}

// queryRow asks for one row and scans it into fields.
func queryRow(ctx context.Context, conn *pgx.Conn, fields []any, sql string, args ...any) error {
	limited, cancel := brief(ctx)
	defer cancel()
	return late(ctx, conn.QueryRow(limited, sql, args...).Scan(fields...))
}

// exec runs one or several statements.
func exec(ctx context.Context, conn *pgx.Conn, op, sql string) error {
	limited, cancel := brief(ctx)
	defer cancel()
	// The simple protocol, for some of these are several statements.
	if _, err := conn.Exec(limited, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		return postgresError(op, late(ctx, err))
	}
	return nil
}

// errLate says that the server has not answered in time.
var errLate = fmt.Errorf("no answer within %v: %w", queryTimeout, context.DeadlineExceeded)

// late returns errLate for an error that our time limit has made; ctx is the
// context without it.
func late(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return errLate
	}
	return err
}
