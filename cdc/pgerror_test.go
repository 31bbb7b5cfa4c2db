package cdc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// What passes by itself is retried; what comes back for ever is not.
func TestPostgresError(t *testing.T) {
	t.Parallel()
	of := func(code string) error {
		return fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code, Message: "the server says"})
	}
	for name, tc := range map[string]struct {
		err  error
		kind fault.Kind
		hint string
	}{
		"broken":           {fmt.Errorf("receive: %w", io.ErrUnexpectedEOF), fault.Unreachable, "host and port"},
		"reset":            {&net.OpError{Op: "read", Err: errors.New("connection reset")}, fault.Unreachable, "host and port"},
		"given up":         {context.Canceled, fault.Unreachable, ""},
		"late":             {errLate, fault.Unreachable, "lock on the table"},
		"unreadable":       {errors.New("cannot scan text into *int"), fault.Unexpected, ""},
		"no row":           {pgx.ErrNoRows, fault.Unexpected, ""},
		"a limit":          {of("53400"), fault.Unreachable, ""},
		"many connections": {of("53300"), fault.Unreachable, "max_wal_senders"},
		"no right":         {of("42501"), fault.Unexpected, "outbox-cdc init"},
		"shutting down":    {of("57P01"), fault.Unreachable, ""},
		"a bad value":      {of("22023"), fault.Unexpected, ""},
		"no TLS":           {errors.New("failed:\n\ta: tls error: server refused TLS connection\n\tb: tls error: server refused TLS connection\n"), fault.Usage, "sslmode"},
		"no TLS first":     {&net.OpError{Op: "a", Err: errors.New("failed:\n\ta: tls error: server refused TLS connection\n\ta: read only connection\n")}, fault.Unreachable, ""},
		"syntax":           {of("42601"), fault.Unexpected, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkFault(t, postgresError("do", tc.err), tc.kind, tc.hint)
		})
	}
	for op, hint := range map[string]string{"create slot": "max_replication_slots", "create replication slot": "max_replication_slots", "read rows": ""} {
		if got := fault.HintOf(postgresError(op, of("53400"))); !strings.Contains(got, hint) || (hint == "") != (got == "") {
			t.Errorf("%s: the hint is %q, want %q", op, got, hint)
		}
	}
}

func TestClosedConnectionIsUnreachable(t *testing.T) {
	t.Parallel()
	name, _ := database(t)
	conn := connect(t, name)
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := readSlot(t.Context(), conn, name)
	checkFault(t, err, fault.Unreachable, "")
}
