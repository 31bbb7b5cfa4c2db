package e2e_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// secret is the password of every URL below: no output may have it.
const secret = "hunter2-Zk9"

// badInput is a command that cannot work. In its strings {name} is the
// database, a role's prefix and the slot, {url} the connection string of the
// role that roleSQL creates, {elsewhere} and {tls} variations of it, {closed} a
// port that nobody listens at, {taken} one that somebody does, {file} the
// configuration's path.
type badInput struct {
	name    string
	bare    bool     // the database has no outbox yet
	sql     string   // run first, as the superuser
	env     []string // besides the right ones
	args    []string
	file    string // YAML
	code    int
	says    string // the beginning of the error
	also    []string
	mend    string // SQL that mends it: the same command then streams
	mendRun string // arguments of the command that mends it, run as the superuser
}

const roleSQL = `CREATE ROLE {name}_relay LOGIN REPLICATION PASSWORD '` + secret + `'; GRANT CREATE ON DATABASE {name} TO {name}_relay`

var badInputs = []badInput{
	// The connection string.
	{name: "no URL", env: []string{"OUTBOX_CDC_POSTGRES_URL="}, code: 2, says: "read configuration: postgres.url is not set", also: []string{"OUTBOX_CDC_POSTGRES_URL"}},
	{name: "URL that is none", env: []string{"OUTBOX_CDC_POSTGRES_URL=postgres://relay:" + secret + "@[::1/app"}, code: 2, says: "read postgres.url: "},
	{name: "URL with a bad port", env: []string{"OUTBOX_CDC_POSTGRES_URL=postgres://relay:" + secret + "@db:port/app"}, code: 2, says: "read postgres.url: "},
	{name: "URL with a bad escape", env: []string{"OUTBOX_CDC_POSTGRES_URL=postgres://relay:%zz" + secret + "@db/app"}, code: 2, says: "read postgres.url: "},
	{name: "URL with a bad setting", env: []string{"OUTBOX_CDC_POSTGRES_URL=postgres://relay:" + secret + "@db/app?sslmode=perhaps"}, code: 2, says: "read postgres.url: "},
	{name: "no such host", env: []string{"OUTBOX_CDC_POSTGRES_URL=postgres://relay:" + secret + "@no-such-host.invalid/app", "OUTBOX_CDC_STARTUP_TIMEOUT=2s"}, code: 5,
		says: "reach postgres: gave up after 2s: ", also: []string{"no-such-host.invalid", "postgres.url"}},
	{name: "wrong port", env: []string{"OUTBOX_CDC_POSTGRES_URL=postgres://relay:" + secret + "@{closed}/app?sslmode=disable", "OUTBOX_CDC_STARTUP_TIMEOUT=1s"}, code: 5,
		says: "reach postgres: gave up after 1s: ", also: []string{"refused", "postgres.url"}},
	{name: "wrong password", sql: roleSQL + `; ALTER ROLE {name}_relay PASSWORD 'other'`, env: []string{"OUTBOX_CDC_POSTGRES_URL={url}"}, code: 2,
		says: "connect to postgres: ", also: []string{"password authentication failed", "check the user and the password"}, mend: `ALTER ROLE {name}_relay PASSWORD '` + secret + `'`},
	{name: "unknown user", env: []string{"OUTBOX_CDC_POSTGRES_URL={url}"}, code: 2, says: "connect to postgres: ", also: []string{"28P01"}, mend: roleSQL},
	{name: "unknown database", sql: roleSQL, env: []string{"OUTBOX_CDC_POSTGRES_URL={elsewhere}"}, code: 2, says: "connect to postgres: ", also: []string{"{name}_no", "check the database name"}},
	{name: "TLS that the server lacks", env: []string{"OUTBOX_CDC_POSTGRES_URL={tls}"}, code: 2, says: "connect to postgres: ", also: []string{"does not offer TLS"}},

	// The database.
	{name: "missing table", bare: true, code: 2, says: `check table: table public.outbox does not exist in database "{name}"`, also: []string{"outbox-cdc init"}, mendRun: "init"},
	{name: "another table", env: []string{"OUTBOX_CDC_TABLE_NAME=app.events"}, code: 2, says: `check table: table app.events does not exist in database "{name}"`, also: []string{"table.name"}},
	{name: "another table that is there", sql: `CREATE TABLE events (id uuid PRIMARY KEY, aggregate_type text, aggregate_id text, event_type text, payload jsonb)`, env: []string{"OUTBOX_CDC_TABLE_NAME=events"}, code: 4,
		says: `check publication: publication "outbox_cdc" does not publish table public.events`, also: []string{`ADD TABLE "public"."events"`, "outbox-cdc recover"}, mend: `ALTER PUBLICATION outbox_cdc ADD TABLE events`, mendRun: "init"},
	{name: "missing columns", bare: true, sql: `CREATE TABLE outbox (id uuid PRIMARY KEY, aggregate_type text, body jsonb)`, code: 2,
		says: "check table: table public.outbox lacks the columns aggregate_id, event_type, payload; it has id, aggregate_type, body", also: []string{"table.columns"},
		mend: `ALTER TABLE outbox ADD aggregate_id text, ADD event_type text, ADD payload jsonb`},
	{name: "missing column that was asked for", env: []string{"OUTBOX_CDC_TABLE_COLUMNS_SUBJECT=topic_name"}, code: 2, says: "check table: table public.outbox lacks the columns topic_name;", also: []string{"table.columns"},
		mend: `ALTER TABLE outbox ADD topic_name text`},
	{name: "topic of a missing column", env: []string{"OUTBOX_CDC_ROUTE_TOPIC=events.{shop}"}, code: 2, says: "check table: table public.outbox lacks the columns shop;", also: []string{"route.topic"},
		mend: `ALTER TABLE outbox ADD shop text`},
	{name: "header of a missing column", env: []string{"OUTBOX_CDC_HEADERS_EXTRA=shop"}, code: 2, says: "check table: table public.outbox lacks the columns shop;", also: []string{"headers.extra"},
		mend: `ALTER TABLE outbox ADD shop text`},
	{name: "a view", bare: true, sql: `CREATE VIEW outbox AS SELECT 1 AS id`, code: 2, says: "check table: public.outbox is not a table"},
	{name: "unlogged table", bare: true, sql: `CREATE UNLOGGED TABLE outbox (id uuid PRIMARY KEY, aggregate_type text, aggregate_id text, event_type text, payload jsonb)`, code: 2,
		says: "check table: table public.outbox is unlogged", also: []string{"SET LOGGED"}, mend: `ALTER TABLE outbox SET LOGGED`},
	{name: "role without REPLICATION", sql: roleSQL + `; ALTER ROLE {name}_relay NOREPLICATION`, env: []string{"OUTBOX_CDC_POSTGRES_URL={url}"}, code: 1,
		says: "connect for replication: ", also: []string{"ALTER ROLE <role> REPLICATION"}, mend: `ALTER ROLE {name}_relay REPLICATION`},
	{name: "role that may not create", bare: true, sql: roleSQL + `; CREATE TABLE outbox (id uuid PRIMARY KEY, aggregate_type text, aggregate_id text, event_type text, payload jsonb)`,
		env: []string{"OUTBOX_CDC_POSTGRES_URL={url}"}, code: 1, says: "check publication: ", also: []string{"does not own table", "outbox-cdc init"}, mendRun: "init"},
	{name: "--no-init", bare: true, sql: `CREATE TABLE outbox (id uuid PRIMARY KEY, aggregate_type text, aggregate_id text, event_type text, payload jsonb)`, args: []string{"--no-init"}, code: 4,
		says: `open slot: slot "{name}" does not exist, and --no-init forbids to create it`, also: []string{"outbox-cdc init"}, mendRun: "init"},
	{name: "slot lost", sql: `SELECT pg_drop_replication_slot('{name}')`, code: 4, says: `open slot: slot "{name}" does not exist`, also: []string{"outbox-cdc recover"}, mendRun: "recover --yes"},
	{name: "publication lost", sql: `DROP PUBLICATION outbox_cdc`, code: 4, says: "check publication: ", also: []string{"outbox-cdc recover"}, mendRun: "recover --yes"},
	{name: "slot of another plugin", bare: true, sql: `CREATE TABLE outbox (id uuid PRIMARY KEY, aggregate_type text, aggregate_id text, event_type text, payload jsonb); SELECT pg_create_physical_replication_slot('{name}')`, code: 2,
		says: `open slot: slot "{name}" is a physical slot`, also: []string{"postgres.slot"}, mend: `SELECT pg_drop_replication_slot('{name}')`},

	// The brokers.
	{name: "unreachable broker", env: []string{"OUTBOX_CDC_KAFKA_BROKERS={closed}", "OUTBOX_CDC_STARTUP_TIMEOUT=1s"}, code: 5, says: "connect to kafka: ", also: []string{"refused", "kafka.brokers"}},
	{name: "both unreachable", env: []string{"OUTBOX_CDC_KAFKA_BROKERS={closed}", "OUTBOX_CDC_POSTGRES_URL=postgres://relay:" + secret + "@{closed}/app", "OUTBOX_CDC_STARTUP_TIMEOUT=1s"}, code: 5, says: ""},
	{name: "no broker", env: []string{"OUTBOX_CDC_KAFKA_BROKERS="}, code: 2, says: "read configuration: kafka.brokers (OUTBOX_CDC_KAFKA_BROKERS) must name at least one broker"},
	{name: "broker that is a URL", env: []string{"OUTBOX_CDC_KAFKA_BROKERS=kafka://db:9092"}, code: 2, says: "configure: ", also: []string{"kafka://db:9092"}},
	{name: "SASL without a password", env: []string{"OUTBOX_CDC_KAFKA_SASL_MECHANISM=PLAIN", "OUTBOX_CDC_KAFKA_SASL_USERNAME=relay"}, code: 2, says: "configure: SASL wants a user and a password", also: []string{"kafka.sasl.username"}},
	{name: "CA file that is not there", env: []string{"OUTBOX_CDC_KAFKA_TLS_ENABLED=true", "OUTBOX_CDC_KAFKA_TLS_CA_FILE=/no/such/ca.pem"}, code: 2, says: "configure: kafka.tls.ca_file: ", also: []string{"/no/such/ca.pem"}},

	// The configuration.
	{name: "unknown key", file: "kafka: {brokrs: [a:1]}", code: 2, says: "read {file}: line 1: ", also: []string{"brokrs", "brokers"}},
	{name: "unknown section", file: "postgress: {url: x}", code: 2, says: "read {file}: line 1: ", also: []string{"postgress", "hint: ", "postgres"}},
	{name: "not YAML", file: "kafka: [", code: 2, says: "read {file}: line 1: "},
	{name: "file that is not there", args: []string{"--config", "/no/such/relay.yaml"}, code: 2, says: "read configuration: ", also: []string{"/no/such/relay.yaml"}},
	{name: "unknown flag", args: []string{"--kafka-brokrs=a:1"}, code: 2, says: "read command line: ", also: []string{"--kafka-brokrs"}},
	{name: "duration", file: "startup_timeout: soon", code: 2, says: "read {file}: line 1: ", also: []string{"startup_timeout", "soon"}},
	{name: "size", env: []string{"OUTBOX_CDC_LIMITS_IN_FLIGHT_BYTES=lots"}, code: 2, says: "read environment: limits.in_flight_bytes (OUTBOX_CDC_LIMITS_IN_FLIGHT_BYTES) is \"lots\""},
	{name: "choice", env: []string{"OUTBOX_CDC_FORMAT=avro"}, code: 2, says: `read configuration: format is "avro"`, also: []string{"cloudevents-binary"}},
	{name: "not built yet", env: []string{"OUTBOX_CDC_DELIVERY=exactly_once"}, code: 2, says: "read configuration: delivery: exactly_once (OUTBOX_CDC_DELIVERY) is not built yet"},
	{name: "slot name", env: []string{"OUTBOX_CDC_POSTGRES_SLOT=My-Slot"}, code: 2, says: `configure: postgres.slot "My-Slot" is not a valid slot name`},
	{name: "table name", env: []string{"OUTBOX_CDC_TABLE_NAME=a.b.c"}, code: 2, says: "read configuration: table.name (OUTBOX_CDC_TABLE_NAME) "},
	{name: "topic", env: []string{"OUTBOX_CDC_ROUTE_TOPIC=outbox.{aggregate_type"}, code: 2, says: "configure: ", also: []string{"outbox.{aggregate_type"}},
	{name: "secret file that is not there", args: []string{"--postgres-url-file=/no/such/url"}, code: 2, says: "read postgres.url_file: ", also: []string{"/no/such/url"}},
	{name: "address in use", env: []string{"OUTBOX_CDC_HTTP_LISTEN={taken}"}, code: 2, says: "listen: ", also: []string{"http.listen"}},
}

// Whatever is wrong is said in two lines, what and what to do about it, with
// the exit code that belongs to it; and where the database was wrong, the same
// command works as soon as that is mended.
func TestBadInput(t *testing.T) {
	t.Parallel()
	pg := sharedPostgres(t, "17")
	kafka := devtest.Kfake(t, devenv.KfakeOptions{})
	taken := listen(t)
	for _, in := range badInputs {
		t.Run(in.name, func(t *testing.T) {
			t.Parallel()
			s := bareStage(t, pg, kafka.Addrs())
			url := pg.URLFor(s.name, s.name+"_relay", secret)
			file := filepath.Join(t.TempDir(), "relay.yaml")
			fill := strings.NewReplacer("{name}", s.name, "{closed}", closedPort(t), "{taken}", taken.Addr().String(), "{file}", file,
				"{url}", url, "{tls}", strings.Replace(url, "=disable", "=require", 1), "{elsewhere}", pg.URLFor(s.name+"_no", s.name+"_relay", secret)).Replace
			if !in.bare {
				s.init()
			}
			s.execAll(fill(in.sql))
			args := append([]string{"run"}, in.args...)
			for _, kv := range in.env {
				s.env = append(s.env, fill(kv))
			}
			if in.file != "" {
				if err := os.WriteFile(file, []byte(in.file), 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "--config", file)
			}
			r := rig.Start(t, s.env, args...)
			if code := r.Wait(20 * time.Second); code != in.code {
				t.Errorf("exit code %d, want %d", code, in.code)
			}
			said := lastLines(r.Log(), 2)
			t.Log(said)
			wantSaid(t, said, "outbox-cdc: "+fill(in.says), in.also, fill)
			if strings.Contains(r.Log()+r.Stdout(), secret) {
				t.Errorf("the password is in the output:\n%s%s", r.Log(), r.Stdout())
			}
			if in.mend == "" && in.mendRun == "" {
				return
			}
			s.execAll(fill(in.mend))
			if in.mendRun != "" {
				s.asSuperuser(strings.Fields(in.mendRun)...)
			}
			r = rig.Start(t, s.env, args...)
			r.AwaitState("streaming")
			if code := r.Stop(); code != 0 || strings.Contains(r.Log(), secret) {
				t.Errorf("mended: exit code %d, and\n%s", code, r.Log())
			}
		})
	}
}

func wantSaid(t *testing.T, said, begins string, also []string, fill func(string) string) {
	t.Helper()
	what, hint, _ := strings.Cut(said, "\n")
	if !strings.HasPrefix(what, begins) {
		t.Errorf("the error does not begin with %q", begins)
	}
	if len(hint) < len("hint: and a few words") || !strings.HasPrefix(hint, "hint: ") {
		t.Errorf("no hint")
	}
	for _, part := range also {
		if !strings.Contains(said, fill(part)) {
			t.Errorf("lacks %q", fill(part))
		}
	}
}

// execAll runs statements one by one as the superuser: some of them refuse a
// transaction with others.
func (s *stage) execAll(sql string) {
	s.t.Helper()
	for statement := range strings.SplitSeq(sql, "; ") {
		if statement != "" {
			s.exec(s.url, statement)
		}
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// closedPort is host:port of a listener that is gone.
func closedPort(t *testing.T) string {
	t.Helper()
	l := listen(t)
	_ = l.Close()
	return l.Addr().String()
}

// A server that cannot decode its WAL says so, and a restart mends it.
func TestBadInputWALLevel(t *testing.T) {
	t.Parallel()
	pg := devtest.Postgres(t, devenv.PostgresOptions{Version: "17", Settings: map[string]string{"wal_level": "replica"}})
	kafka := devtest.Kfake(t, devenv.KfakeOptions{})
	s := bareStage(t, pg, kafka.Addrs())
	s.exec(s.url, `CREATE TABLE outbox (id uuid PRIMARY KEY, aggregate_type text, aggregate_id text, event_type text, payload jsonb)`)
	r := s.run()
	if code := r.Wait(20 * time.Second); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	said := lastLines(r.Log(), 2)
	t.Log(said)
	wantSaid(t, said, `outbox-cdc: check server: wal_level is "replica"`, []string{"ALTER SYSTEM SET wal_level = 'logical'"}, strings.TrimSpace)
	s.exec(s.url, "ALTER SYSTEM SET wal_level = 'logical'")
	if err := pg.Stop(t.Context(), devenv.StopFast); err != nil {
		t.Fatal(err)
	}
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.run().AwaitState("streaming")
}

// A side that is away at the start is waited for, and that is said.
func TestBadInputServersComeLater(t *testing.T) {
	t.Parallel()
	pg := devtest.Postgres(t, devenv.PostgresOptions{Version: "17"})
	kafka := devtest.Kfake(t, devenv.KfakeOptions{})
	s := newStage(t, pg, kafka.Addrs(), "OUTBOX_CDC_STARTUP_TIMEOUT=1m")
	if err := pg.Stop(t.Context(), devenv.StopFast); err != nil {
		t.Fatal(err)
	}
	r := s.run()
	rig.Eventually(t, 10*time.Second, "the log says that Postgres is away", func() bool {
		return strings.Contains(r.Log(), "outbox.starting") && strings.Contains(r.Log(), "refused")
	})
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.write(1000, 500).wait.Wait()
	t.Logf("%d records", len(s.finish(r)))
}
