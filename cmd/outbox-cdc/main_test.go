package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// asCommand makes the test binary be the command, so that exit codes and
// streams are those of a real process.
const asCommand = "TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// command returns the command with only the given environment.
func command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, os.Args[0], args...)
	// The race detector would wait a second at each exit.
	c.Env = append([]string{asCommand + "=1", "GORACE=atexit_sleep_ms=0"}, env...)
	return c
}

type outcome struct {
	code           int
	stdout, stderr string
}

// runCommand runs the command to its end.
func runCommand(t *testing.T, env []string, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := command(t.Context(), env, args...)
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("run %v: %v", args, err)
	} else if ok && exit.ExitCode() < 0 {
		t.Fatalf("run %v: %v", args, exit)
	}
	return outcome{c.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func TestReport(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  error
		code int
		want string
	}{
		"clean":       {nil, 0, ""},
		"plain":       {errors.New("write output: broken pipe"), 1, "outbox-cdc: write output: broken pipe\n"},
		"interrupted": {fmt.Errorf("check: %w", context.Canceled), 1, "outbox-cdc: stop: interrupted\n"},
		"unreached":   {fault.New(fault.Unreachable, "connect", context.Canceled, "look"), 1, "outbox-cdc: stop: interrupted\n"},
		"recovery":    {fault.New(fault.Unreachable, "recover", context.Canceled, "begin anew"), 1, "outbox-cdc: stop: interrupted\nhint: begin anew\n"},
		"usage":       {fault.New(fault.Usage, "read x", errors.New("no"), "try y"), 2, "outbox-cdc: read x: no\nhint: try y\n"},
		"poison":      {fault.New(fault.Poison, "publish", errors.New("too large"), ""), 3, "outbox-cdc: publish: too large\n"},
		"slot lost":   {fault.New(fault.SlotLost, "open slot", errors.New("gone"), "recover"), 4, "outbox-cdc: open slot: gone\nhint: recover\n"},
		"unreachable": {fmt.Errorf("outer: %w", fault.New(fault.Unreachable, "connect", errors.New("refused"), "look")), 5,
			"outbox-cdc: outer: connect: refused\nhint: look\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w bytes.Buffer
			if got := report(&w, tc.err); got != tc.code {
				t.Errorf("exit code %d, want %d", got, tc.code)
			}
			if w.String() != tc.want {
				t.Errorf("printed %q, want %q", w.String(), tc.want)
			}
		})
	}
}

// TestSuperviseCuts: of a burst only the first signal counts; one that comes later cuts.
func TestSuperviseCuts(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		after []time.Duration // of the first signal, each later one
		cut   time.Duration   // 0: not at all
	}{
		"one signal":             {nil, 0},
		"two at once":            {[]time.Duration{0}, 0},
		"a burst":                {[]time.Duration{0, time.Millisecond, 400 * time.Millisecond}, 0},
		"a later one":            {[]time.Duration{600 * time.Millisecond}, 600 * time.Millisecond},
		"a later one of a burst": {[]time.Duration{0, 300 * time.Millisecond, 2 * time.Second}, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const drained = 10 * time.Second
				signals, done := make(chan os.Signal, 1+len(tc.after)), make(chan error, 1)
				begun := time.Now()
				var sender sync.WaitGroup
				sender.Go(func() {
					signals <- syscall.SIGTERM
					for _, d := range tc.after {
						time.Sleep(time.Until(begun.Add(d)))
						signals <- syscall.SIGTERM
					}
				})
				err := supervise(signals, func() { time.AfterFunc(drained, func() { done <- nil }) }, done)
				took := time.Since(begun)
				sender.Wait()
				switch {
				case tc.cut == 0 && (err != nil || took != drained):
					t.Errorf("ended after %v with %v, want a clean stop after %v", took, err, drained)
				case tc.cut != 0 && (err == nil || took != tc.cut):
					t.Errorf("ended after %v with %v, want a cut after %v", took, err, tc.cut)
				case tc.cut != 0 && (fault.KindOf(err) != fault.Unexpected || !strings.Contains(err.Error(), "second signal")):
					t.Errorf("got %v, want an unexpected error about a second signal", err)
				}
			})
		})
	}
}

func TestSuperviseFirstSignalWaits(t *testing.T) {
	t.Parallel()
	signals := make(chan os.Signal, 1)
	signals <- os.Interrupt
	done := make(chan error, 1)
	if err := supervise(signals, func() { done <- nil }, done); err != nil {
		t.Errorf("got %v after a clean stop", err)
	}
}

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name         string
		env, args    []string
		cause, hints string
	}{
		{"no command", nil, nil, "read command line: expected one of", "outbox-cdc --help"},
		{"unknown command", nil, []string{"runn"}, `did you mean "run"?`, "outbox-cdc --help"},
		{"unknown flag", nil, []string{"run", "--postgres-ulr", "x"}, "unknown flag --postgres-ulr", "outbox-cdc run --help"},
		{"commands that are not built", nil, []string{"verify"}, "unexpected argument verify", "outbox-cdc --help"},
		{"wrong type", nil, []string{"run", "--limits-in-flight-events=many"}, `--limits-in-flight-events: expected a whole number, 0 or more, got "many"`, "run --help"},
		{"no URL", []string{"PGHOST=db", "PGUSER=relay", "PGDATABASE=app"}, []string{"run"}, "postgres.url is not set", "OUTBOX_CDC_POSTGRES_URL"},
		{"no URL, init", nil, []string{"init"}, "postgres.url is not set", "PG* variables do not replace it"},
		{"no URL, check", nil, []string{"check"}, "postgres.url is not set", "--postgres-url"},
		{"no URL, status", nil, []string{"status"}, "postgres.url is not set", "postgres.url in the file"},
		{"missing file", nil, []string{"run", "--config", "/nowhere/relay.yaml"}, "open /nowhere/relay.yaml: no such file", "OUTBOX_CDC_CONFIG"},
		{"missing file from the environment", []string{"OUTBOX_CDC_CONFIG=/nowhere/relay.yaml"}, []string{"run"}, "open /nowhere/relay.yaml", "OUTBOX_CDC_CONFIG"},
		{"bad URL", nil, []string{"run", "--postgres-url", "postgres://u:hunter2@h:port/db"}, "the connection string cannot be parsed", "postgres://relay"},
		{"bad slot name", nil, []string{"run", "--stdout", "--http-listen=", "--postgres-url=postgres://h/db", "--postgres-slot=Big"}, `"Big" is not a valid slot name`, "lower-case"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := runCommand(t, tc.env, tc.args...)
			if got.code != 2 {
				t.Errorf("exit code %d, want 2", got.code)
			}
			lines := strings.Split(strings.TrimSuffix(got.stderr, "\n"), "\n")
			if len(lines) != 2 || !strings.HasPrefix(lines[0], "outbox-cdc: ") || !strings.HasPrefix(lines[1], "hint: ") {
				t.Fatalf("standard error is not a cause and a hint:\n%s", got.stderr)
			}
			if !strings.Contains(lines[0], tc.cause) || !strings.Contains(lines[1], tc.hints) {
				t.Errorf("got\n%swant %q and %q", got.stderr, tc.cause, tc.hints)
			}
			if got.stdout != "" || strings.Contains(got.stderr, "hunter2") {
				t.Errorf("stdout %q, stderr %q", got.stdout, got.stderr)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	top := runCommand(t, nil, "--help")
	if top.code != 0 || top.stderr != "" {
		t.Fatalf("exit code %d, stderr %q", top.code, top.stderr)
	}
	for _, name := range []string{"run", "init", "check", "status", "version"} {
		if !strings.Contains(top.stdout, "\n  "+name+" ") {
			t.Errorf("--help does not list %s:\n%s", name, top.stdout)
		}
		got := runCommand(t, nil, name, "--help")
		if got.code != 0 || got.stderr != "" {
			t.Errorf("%s --help: exit code %d, stderr %q", name, got.code, got.stderr)
		}
		if !strings.Contains(got.stdout, "Examples:\n\n    outbox-cdc "+name) {
			t.Errorf("%s --help has no examples:\n%s", name, got.stdout)
		}
	}
	everything := top.stdout + runCommand(t, nil, "run", "--help").stdout
	for _, unbuilt := range []string{"  verify ", "replay", "convert", "exactly_once", "retention", "message-prefix", "OAUTHBEARER"} {
		if strings.Contains(everything, unbuilt) {
			t.Errorf("help mentions %s, which does not work yet", unbuilt)
		}
	}
}
