//go:build capture

package decoder_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
)

// TestCapture writes testdata/wal/pg*.wal, from PostgreSQL servers started for it. Look at the difference in pg*.txt
// afterwards: it is what the next test run takes for the truth.
func TestCapture(t *testing.T) {
	for _, major := range majors {
		t.Run(major, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			server := devtest.Postgres(t, devenv.PostgresOptions{
				Version:  major,
				Settings: map[string]string{"max_prepared_transactions": "2", "autovacuum": "off"},
			})
			if err := capture(ctx, t, server, walFile(major, "wal")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func capture(ctx context.Context, t *testing.T, server *devenv.Postgres, file string) error {
	conn, err := pgconn.Connect(ctx, server.URL())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := script(ctx, conn, walFile("", "schema.sql")); err != nil {
		return err
	}
	for _, name := range publications {
		slot := fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput')", name)
		if err := conn.Exec(ctx, slot).Close(); err != nil {
			return err
		}
	}
	if err := script(ctx, conn, walFile("", "workload.sql")); err != nil {
		return err
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "# PostgreSQL %s: workload.sql as pgoutput sends it, WALStart and message.\n", conn.ParameterStatus("server_version"))
	fmt.Fprint(&out, "# Written by: go test ./decoder -tags capture -run TestCapture\n")
	for _, name := range publications {
		fmt.Fprintf(&out, "== %s\n", name)
		if err := session(ctx, server.URL(), name, &out); err != nil {
			return fmt.Errorf("session %s: %w", name, err)
		}
	}
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		return err
	}
	t.Logf("%s: %d bytes", file, out.Len())
	return nil
}

// script runs a file of statements. Groups that an empty line parts are sent
// each on its own, as one simple query; a COPY has its data in the group.
func script(ctx context.Context, conn *pgconn.PgConn, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for group := range strings.SplitSeq(string(text), "\n\n") {
		if sql, data, ok := strings.Cut(group, " FROM STDIN;\n"); ok {
			data, _, _ = strings.Cut(data, "\\.")
			_, err = conn.CopyFrom(ctx, strings.NewReader(data), sql+" FROM STDIN")
		} else {
			err = conn.Exec(ctx, group).Close()
		}
		if err != nil {
			return fmt.Errorf("%s: %w, in:\n%s", file, err, group)
		}
	}
	return nil
}

// session writes what slot sends of the publication of its name, up to the
// workload's last message.
func session(ctx context.Context, url, slot string, out *bytes.Buffer) error {
	conn, err := pgconn.Connect(ctx, url+"&replication=database&TimeZone=UTC&DateStyle=ISO&IntervalStyle=postgres&extra_float_digits=3&bytea_output=hex")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	err = pglogrepl.StartReplication(ctx, conn, slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", fmt.Sprintf("publication_names '%s'", slot), "messages 'true'"},
	})
	if err != nil {
		return err
	}
	for {
		received, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		data, ok := received.(*pgproto3.CopyData)
		switch {
		case !ok:
			return fmt.Errorf("received %T", received)
		case len(data.Data) == 0:
			return errors.New("received empty CopyData")
		case data.Data[0] != pglogrepl.XLogDataByteID:
			continue // a keepalive
		}
		x, err := pglogrepl.ParseXLogData(data.Data[1:])
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s %x\n", x.WALStart, x.WALData)
		if bytes.HasSuffix(x.WALData, []byte("of capture")) {
			return nil
		}
	}
}
