package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

// unreachable returns the URL of a Postgres that refuses connections.
func unreachable(t *testing.T) string {
	t.Helper()
	return "postgres://relay:hunter2@" + refusing(t) + "/app?sslmode=disable"
}

// refusing returns an address where nobody listens.
func refusing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// relayProcess is a running `outbox-cdc run` and its log.
type relayProcess struct {
	*exec.Cmd
	log *bufio.Scanner
}

func startRelay(t *testing.T, env []string, args ...string) *relayProcess {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &relayProcess{Cmd: command(t.Context(), env, append([]string{"run"}, args...)...), log: bufio.NewScanner(r)}
	p.Stderr = w
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		_ = p.Wait()
		_ = r.Close()
	})
	return p
}

// event reads the log up to the line of that event. A relay that does not
// write it in time is killed, which ends the log.
func (p *relayProcess) event(t *testing.T, name string) map[string]any {
	t.Helper()
	defer time.AfterFunc(30*time.Second, func() { _ = p.Process.Kill() }).Stop()
	for p.log.Scan() {
		var line map[string]any
		if err := json.Unmarshal(p.log.Bytes(), &line); err != nil {
			t.Fatalf("a line of the log is not JSON: %s", p.log.Text())
		}
		if line["event"] == name {
			return line
		}
	}
	t.Fatalf("the log ended without %s", name)
	return nil
}

func TestRunWaitsForPostgresAndStops(t *testing.T) {
	t.Parallel()
	// Behind nohup the tests ignore it, and so would what they start: what is caught is not ignored by a child.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(caught) })
	for sig, sink := range map[os.Signal]string{
		syscall.SIGTERM: "--kafka-brokers=" + refusing(t),
		syscall.SIGHUP:  "--stdout",
		os.Interrupt:    "--stdout",
	} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			p := startRelay(t, nil, sink, "--http-listen=127.0.0.1:0", "--postgres-url", unreachable(t))
			started := p.event(t, "outbox.started")
			if _, err := time.Parse(time.RFC3339Nano, started["timestamp"].(string)); err != nil || started["level"] != "info" {
				t.Errorf("log line %v", started)
			}
			address := "http://" + started["http"].(string)
			if code, _ := get(t, address+"/healthz"); code != 200 {
				t.Errorf("/healthz: %d while Postgres is away", code)
			}
			p.event(t, "outbox.starting") // the first attempt has failed
			code, body := get(t, address+"/readyz")
			if code != 503 || !strings.Contains(body, `"ready":false,"state":"starting","reason":`) || !strings.Contains(body, "refused") {
				t.Errorf("/readyz: %d %s", code, body)
			}
			if code, body := get(t, address+"/api/status"); code != 200 || !strings.Contains(body, `"confirmed_lsn":"0/0"`) {
				t.Errorf("/api/status: %d %s", code, body)
			}
			if code, body := get(t, address+"/metrics"); code != 200 || !strings.Contains(body, `outbox_cdc_state{state="starting"} 1`) {
				t.Errorf("/metrics: %d without the relay's state", code)
			}
			if err := p.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			defer time.AfterFunc(30*time.Second, func() { _ = p.Process.Kill() }).Stop()
			rest := readAll(p.log)
			if err := p.Wait(); err != nil {
				t.Errorf("after %v: %v", sig, err)
			}
			if strings.Contains(rest, "hunter2") {
				t.Errorf("the log shows the password:\n%s", rest)
			}
		})
	}
}

func readAll(s *bufio.Scanner) string {
	var b strings.Builder
	for s.Scan() {
		b.WriteString(s.Text() + "\n")
	}
	return b.String()
}

func TestStartupTimeout(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"postgres":   {"--stdout"},
		"both sides": {"--kafka-brokers=" + refusing(t)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := runCommand(t, nil, append([]string{"run", "--http-listen=", "--startup-timeout=300ms", "--postgres-url", unreachable(t)}, args...)...)
			if got.code != 5 {
				t.Errorf("exit code %d, want 5", got.code)
			}
			if n := strings.Count(got.stderr, "outbox-cdc: "); n != 1 {
				t.Errorf("the error is printed %d times:\n%s", n, got.stderr)
			}
		})
	}
}

func TestListenErrorIsUsage(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	got := runCommand(t, nil, "run", "--stdout", "--http-listen="+l.Addr().String(), "--postgres-url", unreachable(t))
	if got.code != 2 || !strings.Contains(got.stderr, "address already in use") || !strings.Contains(got.stderr, "http.listen is \""+l.Addr().String()) {
		t.Errorf("exit code %d, stderr\n%s", got.code, got.stderr)
	}
}

func TestRunLogsWarnings(t *testing.T) {
	t.Parallel()
	p := startRelay(t, []string{"OUTBOX_CDC_POSTGRESURL=x", "OUTBOX_CDC_PORT=tcp://10.0.0.1:8099", "OUTBOX_CDC_LOG_LEVEL=warn"},
		"--stdout", "--http-listen=", "--startup-timeout=10ms", "--postgres-url", unreachable(t))
	line := p.event(t, "outbox.configuration")
	if line["level"] != "warn" || line["warning"] != "unknown environment variable OUTBOX_CDC_POSTGRESURL" || line["hint"] != "the nearest known one is OUTBOX_CDC_POSTGRES_URL" {
		t.Errorf("log line %v", line)
	}
	if rest := readAll(p.log); strings.Contains(rest, "OUTBOX_CDC_PORT") {
		t.Errorf("what Kubernetes injects is warned of:\n%s", rest)
	}
}

func TestTextLog(t *testing.T) {
	t.Parallel()
	got := runCommand(t, nil, "run", "--log-format=text", "--stdout", "--http-listen=", "--startup-timeout=10ms", "--postgres-url", unreachable(t))
	if !strings.Contains(got.stderr, "level=info event=outbox.started ") {
		t.Errorf("log\n%s", got.stderr)
	}
}

// TestCommandsWithoutPostgres: what a person runs says why it fails, with the
// exit code of a side that is not reachable.
func TestCommandsWithoutPostgres(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"init", "status"} {
		got := runCommand(t, nil, name, "--postgres-url", unreachable(t))
		if got.code != 5 || !strings.Contains(got.stderr, "connection refused") || !strings.Contains(got.stderr, "\nhint: ") {
			t.Errorf("%s: exit code %d, stderr\n%s", name, got.code, got.stderr)
		}
	}
}

func TestCheckWithoutEitherSide(t *testing.T) {
	t.Parallel()
	broker := refusing(t)
	args := []string{"check", "--startup-timeout=2s", "--kafka-brokers", broker, "--postgres-url", unreachable(t)}
	got := runCommand(t, nil, args...)
	if got.code != 1 || !strings.Contains(got.stdout, "Postgres\n  fail") || !strings.Contains(got.stdout, "Kafka\n  fail") {
		t.Errorf("exit code %d, stdout\n%s", got.code, got.stdout)
	}
	got = runCommand(t, nil, append(args, "--json")...)
	var r checkReport
	if err := json.Unmarshal([]byte(got.stdout), &r); err != nil {
		t.Fatalf("%v in\n%s", err, got.stdout)
	}
	if got.code != 1 || r.OK || len(r.Postgres) == 0 || len(r.Kafka) == 0 || r.Postgres[0].Hint == "" {
		t.Errorf("exit code %d, report %+v", got.code, r)
	}
}

func TestPrintSQL(t *testing.T) {
	t.Parallel()
	got := runCommand(t, []string{"OUTBOX_CDC_POSTGRES_SLOT=orders"}, "init", "--print-sql")
	if got.code != 0 || got.stderr != "" {
		t.Fatalf("exit code %d, stderr %s", got.code, got.stderr)
	}
	for _, want := range []string{"CREATE PUBLICATION", "pg_create_logical_replication_slot('orders'", "CREATE TABLE"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("lacks %s:\n%s", want, got.stdout)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	got := runCommand(t, nil, "version", "--json")
	var info versionInfo
	if err := json.Unmarshal([]byte(got.stdout), &info); err != nil || got.code != 0 {
		t.Fatalf("exit code %d, %v in %s", got.code, err, got.stdout)
	}
	for _, library := range []string{"sarama", "pgx", "pglogrepl"} {
		if !strings.HasPrefix(info.Libraries[library], "v") {
			t.Errorf("%s has version %q", library, info.Libraries[library])
		}
	}
	if info.Version == "" || info.Commit == "" || !strings.HasPrefix(info.Go, "go1.") {
		t.Errorf("version %+v", info)
	}
	if text := runCommand(t, nil, "version"); !strings.HasPrefix(text.stdout, "outbox-cdc "+info.Version+"\ncommit ") {
		t.Errorf("text\n%s", text.stdout)
	}
}

// failingWriter is standard output with nobody behind it.
type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestOutputErrorIsReported(t *testing.T) {
	t.Parallel()
	a := &app{stdout: failingWriter{}, stderr: io.Discard}
	if err := a.execute(t.Context(), []string{"version", "--json"}); err == nil {
		t.Error("a closed pipe is not noticed")
	}
}

// The first failure stays the cause, also when the process is told to stop
// while it ends.
func TestFirstFailure(t *testing.T) {
	t.Parallel()
	refused := errors.New("kafka refuses")
	parent, stop := context.WithCancel(t.Context())
	ctx, fail := context.WithCancelCause(parent)
	defer fail(nil)
	relay := errors.New("the relay says")
	if err := firstFailure(ctx, relay); !errors.Is(err, relay) {
		t.Errorf("while nothing is wrong: %v", err)
	}
	fail(refused)
	stop()
	if err := firstFailure(ctx, nil); !errors.Is(err, refused) {
		t.Errorf("stopped behind a failure: %v", err)
	}
	ctx, fail = context.WithCancelCause(parent)
	defer fail(nil)
	fail(refused)
	if err := firstFailure(ctx, nil); err != nil {
		t.Errorf("a failure behind the stop: %v", err)
	}
}
