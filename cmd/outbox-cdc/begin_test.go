package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestOtherSideIsLeftAlone: what uses Postgres only needs nothing that is
// Kafka's, and is as strict as ever about the rest.
func TestOtherSideIsLeftAlone(t *testing.T) {
	t.Parallel()
	secrets := writeFile(t, "relay.yaml", "kafka:\n  tls: {enabled: true, ca_file: /nowhere/ca.pem}\n"+
		"  sasl: {mechanism: PLAIN, username: relay, password_file: /nowhere/password}\n")
	unknown := writeFile(t, "unknown.yaml", "kafka: {sasl: {pasword_file: /nowhere/password}}\n")
	address := unreachable(t)
	for name, tc := range map[string]struct {
		args   []string
		code   int
		stderr string
	}{
		"print-sql":           {[]string{"init", "--print-sql", "--config", secrets}, 0, ""},
		"print-sql, no URL":   {[]string{"init", "--print-sql", "--postgres-url-file=/nowhere/url"}, 0, ""},
		"init":                {[]string{"init", "--postgres-url", address, "--config", secrets}, 5, "connection refused"},
		"status":              {[]string{"status", "--postgres-url", address, "--config", secrets}, 5, "connection refused"},
		"run --stdout":        {[]string{"run", "--stdout", "--startup-timeout=10ms", "--http-listen=", "--postgres-url", address, "--config", secrets}, 5, "connection refused"},
		"run":                 {[]string{"run", "--postgres-url", address, "--config", secrets}, 2, "/nowhere/password"},
		"run, no authority":   {[]string{"run", "--http-listen=", "--postgres-url", address, "--config", secrets, "--kafka-sasl-password=x"}, 2, "/nowhere/ca.pem"},
		"check":               {[]string{"check", "--postgres-url", address, "--config", secrets}, 2, "/nowhere/password"},
		"check, no authority": {[]string{"check", "--postgres-url", address, "--config", secrets, "--kafka-sasl-password=x"}, 2, "/nowhere/ca.pem"},
		"init, no URL file":   {[]string{"init", "--postgres-url-file=/nowhere/url"}, 2, "/nowhere/url"},
		"status, unknown key": {[]string{"status", "--postgres-url", address, "--config", unknown}, 2, "pasword_file"},
		"init, unknown key":   {[]string{"init", "--print-sql", "--config", unknown}, 2, "pasword_file"},
		"status, bad value":   {[]string{"status", "--postgres-url", address, "--kafka-compression=brotli"}, 2, "kafka.compression"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := runCommand(t, nil, tc.args...)
			if got.code != tc.code || !strings.Contains(got.stderr, tc.stderr) {
				t.Errorf("exit code %d, want %d with %q in\n%s", got.code, tc.code, tc.stderr, got.stderr)
			}
		})
	}
}

// TestSignalWhileConfigurationIsRead: the file is a pipe to which nobody
// writes. For the relay that is a clean stop, for other commands an interruption.
func TestSignalWhileConfigurationIsRead(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{"run": 0, "init": 1, "check": 1, "status": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pipe := filepath.Join(t.TempDir(), "relay.yaml")
			if err := syscall.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			c := command(t.Context(), nil, name, "--postgres-url", unreachable(t), "--config", pipe)
			c.Stderr = &stderr
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(pipe, os.O_WRONLY, 0) // returns when the command has opened it to read
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			ended(t, c, want)
			if want == 0 && stderr.Len() > 0 || want == 1 && stderr.String() != "outbox-cdc: stop: interrupted\n" {
				t.Errorf("stderr %q", stderr.String())
			}
		})
	}
}

// TestSecretFromAPipe: what can be read only once is not waited for again.
func TestSecretFromAPipe(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "url")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	url, written := unreachable(t), make(chan error, 1)
	go func() { written <- os.WriteFile(pipe, []byte(url), 0o600) }()
	got := runCommand(t, nil, "run", "--stdout", "--http-listen=", "--startup-timeout=100ms", "--postgres-url-file", pipe)
	if err := <-written; err != nil || got.code != 5 || !strings.Contains(got.stderr, "connection refused") {
		t.Errorf("exit code %d, %v\n%s", got.code, err, got.stderr)
	}
}

// ended sends SIGTERM and waits for the exit code.
func ended(t *testing.T, c *exec.Cmd, want int) {
	t.Helper()
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	limit := time.AfterFunc(20*time.Second, func() { _ = c.Process.Kill() })
	defer limit.Stop()
	err := c.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	} else if ok && exit.ExitCode() < 0 {
		t.Fatalf("the signal was not taken: %v", exit)
	}
	if got := c.ProcessState.ExitCode(); got != want {
		t.Errorf("exit code %d, want %d", got, want)
	}
}

// TestSignalBeforeAnything: a signal that is older than the command.
func TestSignalBeforeAnything(t *testing.T) {
	t.Parallel()
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	code := run(signals, []string{"run", "--stdout", "--http-listen=127.0.0.1:0", "--postgres-url", unreachable(t)})
	if code != 0 {
		t.Errorf("exit code %d, want 0: nothing was left undone", code)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a := &app{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	if err := a.execute(ctx, []string{"run", "--postgres-url=postgres://h/db"}); err != nil {
		t.Errorf("run: %v", err)
	}
	if err := a.execute(ctx, []string{"init", "--print-sql"}); !errors.Is(err, context.Canceled) {
		t.Errorf("init: %v, want that it was cancelled", err)
	}
}

// silent is the URL of a Postgres that takes connections and never answers.
func silent(t *testing.T) (url string, reached <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	taken := make(chan struct{}, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			taken <- struct{}{}
		}
	}()
	return "postgres://relay@" + l.Addr().String() + "/app?sslmode=disable", taken
}

func TestSignalWhileWaitingForPostgres(t *testing.T) {
	t.Parallel()
	url, reached := silent(t)
	var stderr bytes.Buffer
	c := command(t.Context(), nil, "status", "--postgres-url", url)
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	<-reached
	ended(t, c, 1)
	if stderr.String() != "outbox-cdc: stop: interrupted\n" {
		t.Errorf("stderr %q", stderr.String())
	}
}

// TestLookingIsBounded: commands that only look end by themselves.
func TestLookingIsBounded(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]int{"status": 5, "check": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, _ := silent(t)
			begun := time.Now()
			got := runCommand(t, nil, name, "--startup-timeout=200ms", "--kafka-brokers", refusing(t), "--postgres-url", url)
			if got.code != code {
				t.Errorf("exit code %d, want %d\n%s", got.code, code, got.stderr)
			}
			if took := time.Since(begun); took > 8*time.Second { // a connection attempt takes 10 s
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestRepeatedFlags(t *testing.T) {
	t.Parallel()
	l := mustLoad(t, given{args: []string{"--kafka-brokers=a:1,b:2", "--kafka-brokers=c:3", "--postgres-slot=x", "--postgres-slot=y"}})
	if got := l.Kafka.Brokers; !reflect.DeepEqual(got, []string{"c:3"}) {
		t.Errorf("brokers %v: the last flag counts, as for every other setting", got)
	}
	if l.Postgres.Slot != "y" {
		t.Errorf("slot %q", l.Postgres.Slot)
	}
}
