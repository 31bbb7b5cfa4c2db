package cdc

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// The schema that newcomers read is the one that init creates.
func TestSchemaIsPublished(t *testing.T) {
	t.Parallel()
	published, err := os.ReadFile("../testdata/schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	if string(published) != schemaSQL {
		t.Error("testdata/schema.sql and cdc/schema.sql differ")
	}
}

func TestInit(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	mustExec(t, t.Context(), conn, "DROP TABLE outbox")
	c := configFor(name)
	first, err := Init(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"table public.outbox", "publication outbox_cdc", "slot " + name}; !slices.Equal(first.Created, want) || first.Rows != 0 {
		t.Errorf("created %q with %d rows, want %q", first.Created, first.Rows, want)
	}
	again, err := Init(t.Context(), c)
	if err != nil || len(again.Created) > 0 || len(again.Existing) != 3 {
		t.Errorf("a second init: %+v, %v", again, err)
	}
	sink := newMemory(false)
	start(t, c, sink).await(t, Streaming)
	mustExec(t, t.Context(), conn, insertSQL, "a", `{}`)
	sink.await(t, 1)
}

// Rows that are there before the slot are counted, since run does not send them.
func TestInitCountsRows(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	mustExec(t, t.Context(), conn, insertSQL, "a", `{}`)
	mustExec(t, t.Context(), conn, insertSQL, "b", `{}`)
	if report, err := Init(t.Context(), configFor(name)); err != nil || report.Rows != 2 {
		t.Errorf("got %+v, %v; want 2 rows", report, err)
	}
}

// What --print-sql prints is what a DBA can run, and a role without rights then streams.
func TestInitSQLSuffices(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	mustExec(t, t.Context(), conn, "DROP TABLE outbox")
	c := configFor(name)
	sql, err := InitSQL(c)
	if err != nil {
		t.Fatal(err)
	}
	if errs := asPsql(t, conn, sql); len(errs) > 0 {
		t.Fatal(errs)
	}
	role := name + "_relay"
	mustExec(t, t.Context(), conn, "CREATE ROLE "+role+" LOGIN REPLICATION PASSWORD 'secret'")
	c.URL = shared.URLFor(name, role, "secret")
	sink := newMemory(false)
	start(t, c, sink).await(t, Streaming)
	mustExec(t, t.Context(), conn, insertSQL, "a", `{}`)
	sink.await(t, 1)
}

func serverVersion(t *testing.T, conn *pgx.Conn) (version int) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		t.Fatal(err)
	}
	return version
}

// The first host that takes writes is used, and one that does not answer is passed over.
func TestMultiHost(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	standby, err := shared.Standby(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Close(); err != nil {
			t.Error(err)
		}
	})
	c := configFor(name)
	c.URL = strings.Replace(c.URL, shared.Addr(), "127.0.0.1:1,"+standby.Addr()+","+shared.Addr(), 1)
	sink := newMemory(false)
	start(t, c, sink).await(t, Streaming)
	mustExec(t, t.Context(), conn, insertSQL, "a", `{}`)
	sink.await(t, 1)
}

// A slot of another database is an error that suggests a name.
func TestSlotOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	name, _ := database(t)
	if _, err := Init(t.Context(), configFor(name)); err != nil {
		t.Fatal(err)
	}
	other, _ := database(t)
	c := configFor(other)
	c.Slot = name
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.Usage, suggestSlot(name, other))
}

// What another instance did meanwhile is looked at again, but not for ever; any
// other failure is what it is.
func TestInitRaced(t *testing.T) {
	t.Parallel()
	for message, tc := range map[string]struct {
		code string
		says string
	}{
		"made meanwhile":             {codeDuplicateObject, "keep changing"},
		"tuple concurrently updated": {codeInternalError, "keep changing"},
		"disk on fire":               {codeInternalError, "create publication"},
	} {
		t.Run(message, func(t *testing.T) {
			t.Parallel()
			name, conn := database(t)
			mustExec(t, t.Context(), conn, fmt.Sprintf(`
				CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE '%s' USING ERRCODE = '%s'; END $$;
				CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('CREATE PUBLICATION') EXECUTE FUNCTION refuse()`, message, tc.code))
			_, err := Init(t.Context(), configFor(name))
			if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), message) ||
				strings.Contains(err.Error(), "keep changing") != (tc.says == "keep changing") {
				t.Errorf("got %v, want %q and %q", err, tc.says, message)
			}
		})
	}
}

// statuses maps each check to its outcome.
func statuses(findings []fault.Finding) map[string]fault.Status {
	m := map[string]fault.Status{}
	for _, f := range findings {
		m[f.Check] = f.Status
	}
	return m
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		before func(t *testing.T, c *Config, conn *pgx.Conn)
		want   map[string]fault.Status
		hint   string // of a finding that is not ok
	}{
		"before the first start": {
			want: map[string]fault.Status{"postgres connection": fault.OK, "postgres server": fault.OK, "replication connection": fault.OK,
				"table": fault.OK, "publication": fault.Warn, "slot": fault.Warn},
			hint: "outbox-cdc init",
		},
		"set up": {
			before: func(t *testing.T, c *Config, _ *pgx.Conn) {
				if _, err := Init(t.Context(), *c); err != nil {
					t.Fatal(err)
				}
			},
			want: map[string]fault.Status{"publication": fault.OK, "slot": fault.OK, "table": fault.OK},
		},
		"no table": {
			before: func(t *testing.T, _ *Config, conn *pgx.Conn) { mustExec(t, t.Context(), conn, "DROP TABLE outbox") },
			want:   map[string]fault.Status{"table": fault.Fail},
			hint:   "outbox-cdc init",
		},
		"wrong password": {
			before: func(t *testing.T, c *Config, conn *pgx.Conn) {
				mustExec(t, t.Context(), conn, "CREATE ROLE "+c.Slot+"_w LOGIN REPLICATION PASSWORD 'right'")
				c.URL = shared.URLFor(c.Slot, c.Slot+"_w", "wrong")
			},
			want: map[string]fault.Status{"postgres connection": fault.Fail},
			hint: "password",
		},
		"no replication": {
			before: func(t *testing.T, c *Config, conn *pgx.Conn) {
				mustExec(t, t.Context(), conn, "CREATE ROLE "+c.Slot+"_n LOGIN PASSWORD 'right'")
				c.URL = shared.URLFor(c.Slot, c.Slot+"_n", "right")
			},
			want: map[string]fault.Status{"postgres connection": fault.OK, "replication connection": fault.Fail},
			hint: "ALTER ROLE",
		},
		"not the owner": {
			before: func(t *testing.T, c *Config, conn *pgx.Conn) {
				mustExec(t, t.Context(), conn, "CREATE ROLE "+c.Slot+"_o LOGIN REPLICATION PASSWORD 'right'")
				mustExec(t, t.Context(), conn, "GRANT CREATE ON DATABASE "+c.Slot+" TO "+c.Slot+"_o")
				c.URL = shared.URLFor(c.Slot, c.Slot+"_o", "right")
			},
			want: map[string]fault.Status{"replication connection": fault.OK, "publication": fault.Fail},
			hint: "owner run `outbox-cdc init`",
		},
		"no right to create": {
			before: func(t *testing.T, c *Config, conn *pgx.Conn) {
				mustExec(t, t.Context(), conn, "CREATE ROLE "+c.Slot+"_c LOGIN REPLICATION PASSWORD 'right'")
				mustExec(t, t.Context(), conn, "ALTER TABLE outbox OWNER TO "+c.Slot+"_c")
				c.URL = shared.URLFor(c.Slot, c.Slot+"_c", "right")
			},
			want: map[string]fault.Status{"replication connection": fault.OK, "publication": fault.Fail},
			hint: "GRANT CREATE ON DATABASE",
		},
		"not the owner, set up": {
			before: func(t *testing.T, c *Config, conn *pgx.Conn) {
				if _, err := Init(t.Context(), *c); err != nil {
					t.Fatal(err)
				}
				mustExec(t, t.Context(), conn, "CREATE ROLE "+c.Slot+"_s LOGIN REPLICATION PASSWORD 'right'")
				c.URL = shared.URLFor(c.Slot, c.Slot+"_s", "right")
			},
			want: map[string]fault.Status{"publication": fault.OK, "slot": fault.OK},
		},
		"not the owner, nothing remembered": {
			before: func(t *testing.T, c *Config, conn *pgx.Conn) {
				if _, err := Init(t.Context(), *c); err != nil {
					t.Fatal(err)
				}
				mustExec(t, t.Context(), conn, "COMMENT ON PUBLICATION outbox_cdc IS 'the shop''s'")
				mustExec(t, t.Context(), conn, "CREATE ROLE "+c.Slot+"_t LOGIN REPLICATION PASSWORD 'right'")
				c.URL = shared.URLFor(c.Slot, c.Slot+"_t", "right")
			},
			want: map[string]fault.Status{"publication": fault.Warn, "slot": fault.OK},
			hint: "owner run `outbox-cdc init`",
		},
		"slot gone": {
			before: func(t *testing.T, c *Config, conn *pgx.Conn) {
				if _, err := Init(t.Context(), *c); err != nil {
					t.Fatal(err)
				}
				mustExec(t, t.Context(), conn, "SELECT pg_drop_replication_slot($1)", c.Slot)
			},
			want: map[string]fault.Status{"publication": fault.OK, "slot": fault.Fail},
			hint: "outbox-cdc recover",
		},
		"recovery unfinished": {
			before: func(t *testing.T, c *Config, conn *pgx.Conn) {
				if _, err := Init(t.Context(), *c); err != nil {
					t.Fatal(err)
				}
				mustExec(t, t.Context(), conn, "COMMENT ON PUBLICATION outbox_cdc IS 'outbox-cdc: recovering'")
			},
			want: map[string]fault.Status{"publication": fault.OK, "slot": fault.Fail},
			hint: "outbox-cdc recover",
		},
		"begun by another role": {
			before: func(t *testing.T, c *Config, conn *pgx.Conn) {
				if _, err := Init(t.Context(), *c); err != nil {
					t.Fatal(err)
				}
				mustExec(t, t.Context(), conn, "COMMENT ON PUBLICATION outbox_cdc IS 'outbox-cdc: creating'")
				mustExec(t, t.Context(), conn, "CREATE ROLE "+c.Slot+"_o LOGIN REPLICATION PASSWORD 'right'")
				c.URL = shared.URLFor(c.Slot, c.Slot+"_o", "right")
			},
			want: map[string]fault.Status{"publication": fault.OK, "slot": fault.Fail},
			hint: "publication's owner run",
		},
		"not published": {
			before: func(t *testing.T, c *Config, conn *pgx.Conn) {
				if _, err := Init(t.Context(), *c); err != nil {
					t.Fatal(err)
				}
				mustExec(t, t.Context(), conn, "ALTER PUBLICATION outbox_cdc DROP TABLE outbox")
			},
			want: map[string]fault.Status{"publication": fault.Fail, "slot": fault.OK}, // said once
			hint: "ADD TABLE",
		},
		"publishes too much": {
			before: func(t *testing.T, c *Config, conn *pgx.Conn) {
				mustExec(t, t.Context(), conn, "CREATE PUBLICATION outbox_cdc FOR TABLE outbox")
				if _, err := Init(t.Context(), *c); err != nil {
					t.Fatal(err)
				}
			},
			want: map[string]fault.Status{"publication": fault.Warn, "slot": fault.OK},
			hint: "SET (publish = 'insert')",
		},
		"nothing listens": {
			before: func(_ *testing.T, c *Config, _ *pgx.Conn) { c.URL = "postgres://x@127.0.0.1:1/x" },
			want:   map[string]fault.Status{"postgres connection": fault.Fail},
			hint:   "host and port",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, conn := database(t)
			c := configFor(database)
			if tc.before != nil {
				tc.before(t, &c, conn)
			}
			findings := Check(t.Context(), c)
			got := statuses(findings)
			hints := ""
			for _, f := range findings {
				if f.Status != fault.OK {
					hints += f.Hint + "\n"
					if f.Hint == "" {
						t.Errorf("finding without a remedy: %+v", f)
					}
				}
			}
			for check, want := range tc.want {
				if got[check] != want {
					t.Errorf("%s: got %q, want %q (%+v)", check, got[check], want, findings)
				}
			}
			if !strings.Contains(hints, tc.hint) {
				t.Errorf("the remedies do not say %q:\n%s", tc.hint, hints)
			}
		})
	}
}

func TestWALLevel(t *testing.T) {
	t.Parallel()
	pg := devtest.Postgres(t, devenv.PostgresOptions{Settings: map[string]string{"wal_level": "replica"}})
	c := Config{URL: pg.URL()}
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.Unexpected, "ALTER SYSTEM SET wal_level")
	if got := statuses(Check(t.Context(), c)); got["postgres server"] != fault.Fail {
		t.Errorf("check says %v", got)
	}
}

func TestInspect(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := configFor(name)
	if s, err := Inspect(t.Context(), c); err != nil || s.Exists || s.Problem == "" || s.Hint == "" {
		t.Errorf("before set-up: %+v, %v", s, err)
	}
	r := start(t, c, newMemory(false))
	r.await(t, Streaming)
	s, err := Inspect(t.Context(), c)
	if err != nil || !s.Exists || !s.Active || s.Problem != "" || !strings.Contains(s.Holder, applicationName) || s.WALStatus != "reserved" {
		t.Errorf("streaming: %+v, %v", s, err)
	}
	if err := r.stop(t); err != nil {
		t.Fatal(err)
	}
	mustExec(t, t.Context(), conn, "CREATE TABLE big AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
	eventually(t, "the slot is free", func() bool { s, err = Inspect(t.Context(), c); return err == nil && !s.Active })
	if s.LagBytes < 1_000_000 || s.RetainedBytes < s.LagBytes {
		t.Errorf("lag %d, retained %d", s.LagBytes, s.RetainedBytes)
	}
}

func TestMetricsAreWellFormed(t *testing.T) {
	t.Parallel()
	r, err := New(Config{URL: "postgres://x"}, newMemory(false))
	if err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.CollectAndLint(r)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	if n := testutil.CollectAndCount(r); n < len(metrics) {
		t.Errorf("%d metrics collected", n)
	}
}

func TestSource(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"postgres://relay:secret@db:5432/app":           "postgres://db/app/outbox",
		"host=db user=relay password=secret dbname=app": "postgres://db/app/outbox",
		"host=/run/postgresql user=relay dbname=app":    "postgres://localhost/app/outbox",
		"postgres://relay@[::1]:5432/my%20app":          "postgres://[::1]/my%20app/outbox",
		"postgres://relay@db":                           "postgres://db/relay/outbox",
	} {
		if got, err := (Config{URL: url}).Source(); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", url, got, err, want)
		}
	}
	got, err := Config{URL: "postgres://db/app", Table: Table{Schema: "Shop", Name: "Events"}}.Source()
	if want := "postgres://db/app/Shop.Events"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	_, err = Config{URL: "postgres://relay:sec ret@db:x/app"}.Source()
	checkFault(t, err, fault.Usage, "cannot be parsed")
	if strings.Contains(err.Error(), "ret") {
		t.Errorf("the password shows: %v", err)
	}
}
