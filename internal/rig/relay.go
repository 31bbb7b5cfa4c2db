// Package rig runs the relay as its users do, as a process of its own, against
// real servers, and tells what a consumer has seen of it.
package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	buildOnce sync.Once
	buildPath string
	errBuild  error
)

// Binary compiles the command, once for the test process, and returns its path.
// Remove is for TestMain.
func Binary(t testing.TB) string {
	t.Helper()
	buildOnce.Do(func() {
		var dir string
		if dir, errBuild = os.MkdirTemp("", "outbox-cdc-rig-"); errBuild != nil {
			return
		}
		buildPath = filepath.Join(dir, "outbox-cdc")
		_, here, _, _ := runtime.Caller(0)
		cmd := exec.Command("go", "build", "-o", buildPath, "./cmd/outbox-cdc")
		cmd.Dir = filepath.Join(filepath.Dir(here), "..", "..")
		if out, err := cmd.CombinedOutput(); err != nil {
			errBuild = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if errBuild != nil {
		t.Fatal(errBuild)
	}
	return buildPath
}

// Remove deletes what Binary made.
func Remove() {
	if buildPath != "" {
		_ = os.RemoveAll(filepath.Dir(buildPath))
	}
}

// Relay is a running `outbox-cdc run`.
type Relay struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  *buffer
	out  *buffer
	done chan struct{} // closed when it has ended
}

// buffer keeps the last megabyte of a process's output.
type buffer struct {
	mu   sync.Mutex
	text []byte
}

const keptOutput = 1 << 20

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	if over := len(b.text) - keptOutput; over > 0 {
		b.text = b.text[over:]
	}
	return len(p), nil
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

// Start runs the command with arguments and environment (KEY=value) of its
// own; nothing OUTBOX_CDC_* is inherited. HTTP listens on any free port. The
// process is killed at the end of the test, if it still runs.
func Start(t testing.TB, env []string, args ...string) *Relay {
	t.Helper()
	r := &Relay{t: t, log: &buffer{}, out: &buffer{}, done: make(chan struct{})}
	r.cmd = exec.Command(Binary(t), args...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "OUTBOX_CDC_") && !strings.HasPrefix(kv, "PG") {
			r.cmd.Env = append(r.cmd.Env, kv)
		}
	}
	r.cmd.Env = append(append(r.cmd.Env, "OUTBOX_CDC_HTTP_LISTEN=127.0.0.1:0"), env...)
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.log
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = r.cmd.Wait() // the exit code is in ProcessState
		close(r.done)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of `outbox-cdc %s`:\n%s", strings.Join(args, " "), tailOf(r.Log(), 8<<10))
		}
		r.Kill()
	})
	return r
}

// Run is Start with the command `run`.
func Run(t testing.TB, env ...string) *Relay {
	t.Helper()
	return Start(t, env, "run")
}

func tailOf(s string, n int) string { return s[max(0, len(s)-n):] }

// PID returns the process id.
func (r *Relay) PID() int { return r.cmd.Process.Pid }

// Log returns what it wrote to standard error.
func (r *Relay) Log() string { return r.log.String() }

// Stdout returns what it wrote to standard output.
func (r *Relay) Stdout() string { return r.out.String() }

// Signal sends a signal.
func (r *Relay) Signal(s syscall.Signal) { _ = r.cmd.Process.Signal(s) }

// Kill ends it with SIGKILL and waits.
func (r *Relay) Kill() {
	_ = r.cmd.Process.Kill()
	<-r.done
}

// Done is closed when the process has ended.
func (r *Relay) Done() <-chan struct{} { return r.done }

// Wait returns the exit code when the process ends by itself; -1 for a signal.
func (r *Relay) Wait(timeout time.Duration) int {
	r.t.Helper()
	select {
	case <-r.done:
		return r.cmd.ProcessState.ExitCode()
	case <-time.After(timeout):
		r.t.Fatalf("the relay did not end within %v", timeout)
		return -1
	}
}

// Stop sends SIGTERM and returns the exit code.
func (r *Relay) Stop() int {
	r.t.Helper()
	r.Signal(syscall.SIGTERM)
	return r.Wait(30 * time.Second)
}

var httpAddress = regexp.MustCompile(`"http":"([^"]+)"`)

// HTTP returns the base URL of its HTTP server, as its log names it.
func (r *Relay) HTTP() string {
	r.t.Helper()
	var found []string
	Eventually(r.t, 10*time.Second, "the log names the HTTP address", func() bool {
		found = httpAddress.FindStringSubmatch(r.Log())
		return found != nil || r.ended()
	})
	if found == nil {
		r.t.Fatalf("the relay ended:\n%s", r.Log())
	}
	return "http://" + found[1]
}

func (r *Relay) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// Get returns the status and body of a path, or 0 when the server does not answer.
func (r *Relay) Get(path string) (int, string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.HTTP()+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, ""
	}
	return res.StatusCode, string(body)
}

// State returns the state and reason of /readyz.
func (r *Relay) State() (state, reason string, ready bool) {
	code, body := r.Get("/readyz")
	var s struct{ State, Reason string }
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		return "", "", false
	}
	return s.State, s.Reason, code == http.StatusOK
}

// AwaitState waits until /readyz tells that state.
func (r *Relay) AwaitState(state string) {
	r.t.Helper()
	Eventually(r.t, 60*time.Second, "state "+state, func() bool {
		if r.ended() {
			r.t.Fatalf("the relay ended with %d:\n%s", r.cmd.ProcessState.ExitCode(), r.Log())
		}
		got, _, _ := r.State()
		return got == state
	})
}

// RSS returns the resident memory of the process in bytes (Linux).
func (r *Relay) RSS() (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", r.PID()))
	if err != nil {
		return 0, err
	}
	var size, resident int
	if _, err := fmt.Sscan(string(data), &size, &resident); err != nil {
		return 0, errors.Join(errors.New("read statm"), err)
	}
	return resident * os.Getpagesize(), nil
}

// Eventually waits for what only a server can be asked for.
func Eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// CPU returns the processor time, user and system, of a process that has ended.
func (r *Relay) CPU() time.Duration {
	<-r.done
	return r.cmd.ProcessState.UserTime() + r.cmd.ProcessState.SystemTime()
}
