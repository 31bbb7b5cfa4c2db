package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
)

// TestWithServers runs the commands against a real Postgres. Each subtest has a
// database and a slot of its own.
func TestWithServers(t *testing.T) {
	t.Parallel()
	postgres := devtest.Postgres(t, devenv.PostgresOptions{Settings: map[string]string{"max_slot_wal_keep_size": "1GB"}})
	kafka := devtest.Kfake(t, devenv.KfakeOptions{})
	brokers := strings.Join(kafka.Addrs(), ",")
	for name, test := range map[string]func(*testing.T, *site){
		"lifecycle":           testLifecycle,
		"stdout":              testStdout,
		"no init":             testNoInit,
		"lost slot":           testLostSlot,
		"poison":              testPoison,
		"wrong password":      testWrongPassword,
		"kafka unreachable":   testKafkaUnreachable,
		"missing column":      testMissingColumn,
		"recovery":            testRecoverProgress,
		"recovery alone":      testRecoverWithoutKafka,
		"first start refused": testFirstStartRefused,
		"neither side":        testFirstStartWithNeitherSide,
		"first start waits":   testFirstStartWaits,
		"slot without kafka":  testSlotWithoutKafka,
	} {
		// Not parallel: slots of one server wait for each other's transactions.
		t.Run(name, func(t *testing.T) { test(t, newSite(t, postgres, brokers)) })
	}
}

// site is a database with the default outbox table, and the environment of a relay for it.
type site struct {
	postgres *devenv.Postgres
	database string
	conn     *pgx.Conn
	env      []string
}

func newSite(t *testing.T, postgres *devenv.Postgres, brokers string) *site {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "_", " ", "_").Replace(t.Name()))
	admin := connect(t, postgres.URL())
	execSQL(t, admin, "CREATE DATABASE "+name)
	url := postgres.URLFor(name, "postgres", "")
	return &site{
		postgres: postgres, database: name, conn: connect(t, url),
		env: []string{"OUTBOX_CDC_POSTGRES_URL=" + url, "OUTBOX_CDC_POSTGRES_SLOT=" + name,
			"OUTBOX_CDC_KAFKA_BROKERS=" + brokers, "OUTBOX_CDC_HTTP_LISTEN=127.0.0.1:0"},
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func execSQL(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

const insertSQL = `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ('order', '42', 'order.placed', '{"total": 12.5}')`

// want runs a command and fails the test when it ends with another exit code.
func (s *site) want(t *testing.T, code int, args ...string) outcome {
	t.Helper()
	got := runCommand(t, s.env, args...)
	if got.code != code {
		t.Fatalf("%v: exit code %d, want %d\nstdout:\n%s\nstderr:\n%s", args, got.code, code, got.stdout, got.stderr)
	}
	return got
}

// await polls until ok, for what only a server can tell.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func testLifecycle(t *testing.T, s *site) {
	if got := s.want(t, 4, "status"); !strings.Contains(got.stderr, "outbox-cdc init") {
		t.Errorf("status before the set-up does not name init:\n%s", got.stderr)
	}
	first := s.want(t, 0, "init")
	for _, thing := range []string{"table public.outbox", "publication outbox_cdc", "slot " + s.database} {
		if !strings.Contains(first.stdout, "created  "+thing) {
			t.Errorf("the first init did not create %s:\n%s", thing, first.stdout)
		}
	}
	if second := s.want(t, 0, "init"); strings.Contains(second.stdout, "created") {
		t.Errorf("the second init created something:\n%s", second.stdout)
	}
	if got := s.want(t, 0, "check"); !strings.Contains(got.stdout, "Postgres\n") || !strings.Contains(got.stdout, "Kafka\n") {
		t.Errorf("check\n%s", got.stdout)
	}
	if got := s.want(t, 0, "status"); !strings.Contains(got.stdout, "held by nobody") {
		t.Errorf("status\n%s", got.stdout)
	}

	p := startRelay(t, s.env)
	address := "http://" + p.event(t, "outbox.started")["http"].(string)
	p.event(t, "outbox.streaming")
	await(t, "ready, once Kafka has answered", func() bool {
		code, body := get(t, address+"/readyz")
		return code == 200 && strings.Contains(body, `"state":"streaming"`)
	})
	execSQL(t, s.conn, insertSQL)
	await(t, "the event is published", func() bool {
		_, body := get(t, address+"/api/status")
		var status statusBody
		if err := json.Unmarshal([]byte(body), &status); err != nil {
			t.Fatal(err)
		}
		return status.Kafka.Published == 1 && status.Relay.InFlightEvents == 0
	})
	if _, body := get(t, address+"/metrics"); !strings.Contains(body, "\noutbox_cdc_events_total 1\n") || !strings.Contains(body, "outbox_cdc_kafka_connected 1") {
		t.Error("/metrics lacks the relay's or Kafka's numbers")
	}
	var status cdc.SlotStatus
	if err := json.Unmarshal([]byte(s.want(t, 0, "status", "--json").stdout), &status); err != nil {
		t.Fatal(err)
	}
	if !status.Active || status.Slot != s.database || !strings.Contains(status.Holder, "outbox-cdc") {
		t.Errorf("status of a slot in use: %+v", status)
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if rest := readAll(p.log); !strings.Contains(rest, "outbox.stopped") {
		t.Errorf("the log does not end with outbox.stopped:\n%s", rest)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	// The drained position was reported: the event does not come again.
	var unconfirmed bool
	err := s.conn.QueryRow(t.Context(), "SELECT count(*) > 0 FROM pg_logical_slot_peek_binary_changes($1, $2, NULL, 'proto_version', '1', 'publication_names', 'outbox_cdc')",
		s.database, nil).Scan(&unconfirmed)
	if err != nil || unconfirmed {
		t.Errorf("after a clean stop: unconfirmed changes: %v, %v", unconfirmed, err)
	}
}

func testStdout(t *testing.T, s *site) {
	s.want(t, 0, "init")
	execSQL(t, s.conn, insertSQL)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	c := command(t.Context(), s.env, "run", "--stdout", "--kafka-brokers=localhost:1")
	c.Stdout = w
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	var line struct {
		Topic string             `json:"topic"`
		Key   string             `json:"key"`
		Value map[string]float64 `json:"value"`
	}
	if err := json.NewDecoder(r).Decode(&line); err != nil {
		t.Fatal(err)
	}
	if line.Topic != "outbox.event.order" || line.Key != "42" || line.Value["total"] != 12.5 {
		t.Errorf("printed %+v", line)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
}

func testNoInit(t *testing.T, s *site) {
	execSQL(t, s.conn, readTree(t, "testdata/schema.sql"))
	got := s.want(t, 4, "run", "--stdout", "--no-init")
	if !strings.Contains(got.stderr, "\nhint: ") || !strings.Contains(got.stderr, "outbox-cdc init") {
		t.Errorf("stderr\n%s", got.stderr)
	}
}

func testLostSlot(t *testing.T, s *site) {
	s.want(t, 0, "init")
	execSQL(t, s.conn, fmt.Sprintf("SELECT pg_drop_replication_slot('%s')", s.database))
	for _, args := range [][]string{{"run", "--stdout"}, {"status"}, {"init"}} {
		if got := s.want(t, 4, args...); !strings.Contains(got.stderr, s.database) || !strings.Contains(got.stderr, "\nhint: ") {
			t.Errorf("%v: stderr\n%s", args, got.stderr)
		}
	}
	s.want(t, 1, "check")
}

func testPoison(t *testing.T, s *site) {
	s.want(t, 0, "init")
	execSQL(t, s.conn, insertSQL) // has no source
	got := s.want(t, 3, "run", "--route-topic=events.{source}")
	if !strings.Contains(got.stderr, "\noutbox-cdc: ") || !strings.Contains(got.stderr, "source") || !strings.Contains(got.stderr, "\nhint: ") {
		t.Errorf("stderr\n%s", got.stderr)
	}
}

func testWrongPassword(t *testing.T, s *site) {
	execSQL(t, s.conn, "CREATE ROLE relay LOGIN REPLICATION PASSWORD 'right'")
	for _, command := range []string{"run", "init", "status"} {
		got := s.want(t, 2, command, "--postgres-url", s.postgres.URLFor(s.database, "relay", "hunter2"))
		if !strings.Contains(got.stderr, "password") || strings.Contains(got.stderr, "hunter2") {
			t.Errorf("%s: stderr\n%s", command, got.stderr)
		}
	}
}

func testKafkaUnreachable(t *testing.T, s *site) {
	s.want(t, 0, "init")
	execSQL(t, s.conn, insertSQL) // in flight when Kafka is given up: nothing is left to drain for
	begun := time.Now()
	got := s.want(t, 5, "run", "--startup-timeout=1s", "--drain-timeout=1m", "--kafka-brokers=127.0.0.1:1")
	if !strings.Contains(got.stderr, "kafka") || strings.Count(got.stderr, "\noutbox-cdc: ") != 1 {
		t.Errorf("stderr\n%s", got.stderr)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if got := s.want(t, 1, "check", "--startup-timeout=1s", "--kafka-brokers=127.0.0.1:1"); !strings.Contains(got.stdout, "Kafka\n  fail") {
		t.Errorf("check\n%s", got.stdout)
	}
}

func testMissingColumn(t *testing.T, s *site) {
	s.want(t, 0, "init")
	got := s.want(t, 2, "run", "--table-columns-subject=nowhere")
	if !strings.Contains(got.stderr, "nowhere") || !strings.Contains(got.stderr, "hint: ") {
		t.Errorf("stderr\n%s", got.stderr)
	}
	// A column that nobody configured may be missing.
	execSQL(t, s.conn, "ALTER TABLE outbox DROP COLUMN traceparent")
	s.want(t, 0, "check")
}
