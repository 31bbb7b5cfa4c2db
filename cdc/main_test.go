package cdc

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/walsim"
)

// shared is one Postgres for the package; each test has a database of its own.
var shared *devenv.Postgres

// meter prolongs what a test waits for by what the machine is too slow.
var meter *walsim.Meter

func TestMain(m *testing.M) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var err error
	shared, err = devenv.StartPostgres(ctx, devenv.PostgresOptions{Version: "17", Settings: map[string]string{
		"max_replication_slots": "50", "max_wal_senders": "50", "max_connections": "200", "max_prepared_transactions": "5",
	}})
	if err != nil {
		slog.Error("start postgres", "error", err)
		os.Exit(1)
	}
	meter = walsim.StartMeter()
	code := m.Run()
	meter.Stop()
	if err := shared.Close(); err != nil {
		slog.Error("stop postgres", "error", err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			slog.Error("goroutines left behind", "error", err)
			code = 1
		}
	}
	os.Exit(code)
}

// database creates a database with the default outbox table for one test.
func database(t *testing.T, more ...string) (name string, conn *pgx.Conn) {
	t.Helper()
	name = "t" + time.Now().Format("150405") + suffix()
	admin, err := pgx.Connect(t.Context(), shared.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		mustExec(t, ctx, admin, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '`+name+`' AND active`)
		eventually(t, "slots dropped", func() bool {
			_, err := admin.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1`, name)
			return err == nil
		})
		mustExec(t, ctx, admin, "DROP DATABASE "+name+" WITH (FORCE)")
		_ = admin.Close(ctx)
	})
	mustExec(t, t.Context(), admin, "CREATE DATABASE "+name)
	for _, sql := range more {
		mustExec(t, t.Context(), admin, sql)
	}
	conn, err = pgx.Connect(t.Context(), shared.URLFor(name, "postgres", ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	mustExec(t, t.Context(), conn, schemaSQL)
	return name, conn
}

// connect opens another connection to a test's database.
func connect(t *testing.T, name string) *pgx.Conn {
	t.Helper()
	return connectTo(t, shared.URLFor(name, "postgres", ""))
}

func connectTo(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func mustExec(t *testing.T, ctx context.Context, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// eventually waits for a condition of a server, which can only be asked.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

var (
	suffixMu sync.Mutex
	suffixN  int
)

func suffix() string {
	suffixMu.Lock()
	defer suffixMu.Unlock()
	suffixN++
	return string(rune('a'+suffixN/26)) + string(rune('a'+suffixN%26))
}

// record is an event as the sink of these tests keeps it.
type record struct {
	id, key, payload string
	ev               decoder.Event
	ack              Ack
}

// memory is a sink whose acknowledgements the test gives.
type memory struct {
	hold bool // do not acknowledge by itself

	mu      sync.Mutex
	got     []record
	changed chan struct{}
	resets  int
}

func newMemory(hold bool) *memory { return &memory{hold: hold, changed: make(chan struct{}, 1)} }

func (m *memory) Publish(ev *decoder.Event, ack Ack) {
	value := func(column string) string {
		i := ev.Row.Relation.Index(column)
		if i < 0 {
			return ""
		}
		return string(ev.Row.Values[i])
	}
	m.mu.Lock()
	m.got = append(m.got, record{id: value("id"), key: value("aggregate_id"), payload: value("payload"), ev: *ev, ack: ack})
	hold := m.hold
	m.mu.Unlock()
	if !hold {
		ack.Done(ev.Size)
	}
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func (m *memory) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.resets++
}

func (m *memory) records() []record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]record(nil), m.got...)
}

// await returns the records as soon as there are n.
func (m *memory) await(t *testing.T, n int) []record {
	t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		if got := m.records(); len(got) >= n {
			return got
		}
		select {
		case <-m.changed:
		case <-timeout:
			t.Fatalf("got %d of %d events", len(m.records()), n)
		}
	}
}

// started is a relay that runs for a test.
type started struct {
	*Relay
	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned
	result *error        // what it returned
}

func start(t *testing.T, c Config, s Sink) started {
	t.Helper()
	return startWith(t, c, s, func(*Relay) {})
}

// startWith is start for a relay that set changes before it runs.
func startWith(t *testing.T, c Config, s Sink, set func(*Relay)) started {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	r, err := New(c, s)
	if err != nil {
		t.Fatal(err)
	}
	set(r)
	ctx, cancel := context.WithCancel(context.Background())
	run := started{r, cancel, make(chan struct{}), new(error)}
	go func() {
		defer close(run.done)
		*run.result = r.Run(ctx)
		if *run.result != nil {
			c.Log.Info("Run returned", "error", *run.result)
		}
	}()
	t.Cleanup(func() { _ = run.stop(t) })
	return run
}

// stop ends the relay in order and returns what Run returned.
func (s started) stop(t *testing.T) error {
	t.Helper()
	s.cancel()
	return s.wait(t)
}

// wait returns what Run returns by itself.
func (s started) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-s.done:
		return *s.result
	case <-time.After(60 * time.Second):
		t.Error("Run did not return within 60 s")
		return nil
	}
}

func (s started) await(t *testing.T, state State) {
	t.Helper()
	eventually(t, "state "+string(state), func() bool { return s.Stats().State == state })
}

// logBuffer is a log that a test waits on.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func newLogBuffer() *logBuffer { return &logBuffer{} }

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func (b *logBuffer) contains(part string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.text.String(), part)
}

func (b *logBuffer) count(part string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), part)
}

func (b *logBuffer) await(t *testing.T, part string) {
	t.Helper()
	eventually(t, "log line with "+part, func() bool { return b.contains(part) })
}
