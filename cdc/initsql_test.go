package cdc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
)

// statements splits SQL as psql does: at semicolons that stand in no dollar quotes and no comment.
func statements(sql string) []string {
	var all []string
	var b strings.Builder
	quoted := false
	for line := range strings.Lines(sql) {
		b.WriteString(line)
		code, _, _ := strings.Cut(line, "--")
		quoted = quoted != (strings.Count(code, "$outbox_cdc$")%2 == 1)
		if !quoted && strings.HasSuffix(strings.TrimSpace(code), ";") {
			all = append(all, b.String())
			b.Reset()
		}
	}
	return all
}

// asPsql runs the SQL as psql does by default, going on after an error, and
// returns the errors with their hints, once for a transaction.
func asPsql(t *testing.T, conn *pgx.Conn, sql string) (errs []string) {
	t.Helper()
	for _, statement := range statements(sql) {
		_, err := conn.Exec(t.Context(), statement, pgx.QueryExecModeSimpleProtocol)
		if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code != "25P02" {
			errs = append(errs, e.Message+" hint: "+e.Hint)
		} else if !ok && err != nil {
			t.Fatal(err)
		}
	}
	return errs
}

// complete stands for the mark of a set-up that is.
const complete = "complete"

// setUpState is what a set-up leaves behind.
type setUpState struct {
	table     bool
	published bool
	comment   string // of the publication; complete for the mark that a relay would write
	slot      string // "": there is none
}

func readSetUp(t *testing.T, conn *pgx.Conn) (s setUpState) {
	t.Helper()
	err := conn.QueryRow(t.Context(), `SELECT to_regclass('public.outbox') IS NOT NULL, EXISTS (SELECT FROM pg_publication),
		coalesce((SELECT obj_description(oid, 'pg_publication') FROM pg_publication), ''),
		coalesce((SELECT format('%s %s %s', slot_name, plugin, confirmed_flush_lsn) FROM pg_replication_slots), '')`).
		Scan(&s.table, &s.published, &s.comment, &s.slot)
	if err != nil {
		t.Fatal(err)
	}
	if s.published {
		cat, err := readCatalog(t.Context(), conn, mustDefaults())
		if err != nil {
			t.Fatal(err)
		}
		if s.comment == markPrefix+string(cat.readyMark()) {
			s.comment = complete
		}
	}
	return s
}

// What --print-sql prints can be run again at any time: it completes what is
// missing, hides no loss, and leaves no slot where it cannot complete it.
func TestInitSQL(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"14", "17"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			testInitSQL(t, devtest.Postgres(t, devenv.PostgresOptions{Version: version}))
		})
	}
}

func testInitSQL(t *testing.T, pg *devenv.Postgres) {
	const begun = "outbox-cdc: creating"
	create := "SELECT pg_create_logical_replication_slot('outbox_cdc', 'pgoutput')"
	drop := "SELECT pg_drop_replication_slot('outbox_cdc')"
	for name, tc := range map[string]struct {
		before  []string // after a first run, which completes
		fails   string   // part of the only error; "": nothing fails
		comment string   // afterwards
		slot    string   // "same", "new" or ""
	}{
		"again":                   {nil, "", complete, "same"},
		"slot dropped":            {[]string{drop}, "outbox-cdc recover", complete, ""},
		"slot of another plugin":  {[]string{drop, "SELECT pg_create_logical_replication_slot('outbox_cdc', 'test_decoding')"}, "belongs to something else", complete, "same"},
		"begun, another plugin":   {[]string{drop, "SELECT pg_create_logical_replication_slot('outbox_cdc', 'test_decoding')", "COMMENT ON PUBLICATION outbox_cdc IS 'outbox-cdc: creating'"}, "belongs to something else", begun, "same"},
		"recovering":              {[]string{"COMMENT ON PUBLICATION outbox_cdc IS 'outbox-cdc: recovering'"}, "not finished", "outbox-cdc: recovering", "same"},
		"recovering, no slot":     {[]string{drop, "COMMENT ON PUBLICATION outbox_cdc IS 'outbox-cdc: recovering'"}, "not finished", "outbox-cdc: recovering", ""},
		"interrupted, no slot":    {[]string{drop, "COMMENT ON PUBLICATION outbox_cdc IS 'outbox-cdc: creating'"}, "", complete, "new"},
		"interrupted at the end":  {[]string{"COMMENT ON PUBLICATION outbox_cdc IS 'outbox-cdc: creating'"}, "", complete, "same"},
		"a DBA's publication":     {[]string{drop, "COMMENT ON PUBLICATION outbox_cdc IS 'the shop''s'"}, "", complete, "new"},
		"a DBA's, with slot":      {[]string{"COMMENT ON PUBLICATION outbox_cdc IS 'the shop''s'"}, "", "the shop's", "same"},
		"publication dropped":     {[]string{"DROP PUBLICATION outbox_cdc"}, "outbox_cdc does not", "", "same"},
		"both dropped":            {[]string{drop, "DROP PUBLICATION outbox_cdc"}, "", complete, "new"},
		"table not published":     {[]string{drop, "COMMENT ON PUBLICATION outbox_cdc IS 'outbox-cdc: creating'", "ALTER PUBLICATION outbox_cdc DROP TABLE outbox"}, "does not publish", begun, ""},
		"another role's":          {[]string{drop, "COMMENT ON PUBLICATION outbox_cdc IS 'outbox-cdc: creating'", "SET ROLE stranger"}, "another role", begun, ""},
		"another role's, with it": {[]string{"COMMENT ON PUBLICATION outbox_cdc IS 'outbox-cdc: creating'", "SET ROLE stranger"}, "another role", begun, "same"},
		"in one transaction":      {[]string{drop, "DROP PUBLICATION outbox_cdc", "DROP TABLE outbox", "BEGIN"}, "has performed writes", "", ""},
		"the slot replaced":       {[]string{drop, create}, "", complete, "same"},
		// Without CREATE on the database there is no publication, and so no slot.
		"no right to publish": {[]string{drop, "DROP PUBLICATION outbox_cdc", "ALTER TABLE outbox OWNER TO owner", "SET ROLE owner"}, "permission denied for database", "", ""},
		// Where the table is there, nothing is asked of the schema.
		"no right to create tables": {[]string{"GRANT CREATE ON DATABASE no_right_to_create_tables TO owner", drop, "DROP PUBLICATION outbox_cdc",
			"ALTER TABLE outbox OWNER TO owner", "REVOKE CREATE ON SCHEMA public FROM PUBLIC", "SET ROLE owner"}, "", complete, "new"},
	} {
		t.Run(name, func(t *testing.T) { // not parallel: they use one slot name, one after the other
			database := strings.ToLower(strings.NewReplacer(" ", "_", "'", "", ",", "").Replace(name))
			admin := connectFor(t, pg.URL())
			mustExec(t, t.Context(), admin, "CREATE DATABASE "+database)
			for _, role := range []string{"owner", "stranger"} {
				mustExec(t, t.Context(), admin, fmt.Sprintf("DO $$ BEGIN CREATE ROLE %s REPLICATION; EXCEPTION WHEN duplicate_object THEN NULL; END $$", role))
			}
			t.Cleanup(func() {
				_, _ = admin.Exec(context.Background(), "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
			})
			conn := connectFor(t, pg.URLFor(database, "postgres", ""))
			sql, err := InitSQL(Config{URL: "postgres:///"})
			if err != nil {
				t.Fatal(err)
			}
			if errs := asPsql(t, conn, sql); len(errs) > 0 {
				t.Fatalf("the first run: %q", errs)
			}
			if s := readSetUp(t, conn); !s.table || s.comment != complete || s.slot == "" {
				t.Fatalf("the first run leaves %+v", s)
			}
			for _, sql := range tc.before {
				mustExec(t, t.Context(), conn, sql)
			}
			before := readSetUp(t, conn)
			errs := asPsql(t, conn, sql)
			if conn.PgConn().TxStatus() != 'I' {
				mustExec(t, t.Context(), conn, "ROLLBACK")
			}
			if tc.fails == "" && len(errs) > 0 || tc.fails != "" && (len(errs) != 1 || !strings.Contains(errs[0], tc.fails)) {
				t.Errorf("errors %q, want %q", errs, tc.fails)
			}
			after := readSetUp(t, conn)
			if slot := slotChange(before.slot, after.slot); after.comment != tc.comment || slot != tc.slot {
				t.Errorf("slot %q, want %q; before %+v, after %+v", slot, tc.slot, before, after)
			}
			if tc.fails != "" {
				if after.table != before.table || after.published != before.published || after.comment != before.comment {
					t.Errorf("it failed and changed %+v to %+v", before, after)
				}
				return
			}
			if errs := asPsql(t, conn, sql); len(errs) > 0 || readSetUp(t, conn) != after {
				t.Errorf("once more: %q, %+v, want %+v", errs, readSetUp(t, conn), after)
			}
		})
	}
}

func slotChange(before, after string) string {
	switch after {
	case "":
		return ""
	case before:
		return "same"
	}
	return "new"
}

func connectFor(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
