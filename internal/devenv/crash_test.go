//go:build unix

package devenv

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// crashEnv makes the test binary start servers and wait to be killed: "one" PostgreSQL, "three"
// in different states, or these and a "kafka".
const crashEnv = "DEVENV_TEST_CRASH"

// left is what a process that dies may leave behind.
type left struct {
	PIDs      []int    // of servers
	Guardians []int    // their guardians
	Dirs      []string // of the sandboxes
	Segments  []string // ids of System V shared memory
}

// runUntilKilled starts a PostgreSQL that runs, one that it pauses, one that it kills, and
// a Kafka, says where they are, and waits.
func runUntilKilled() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var l left
	add := func(p *process, s *sandbox) {
		l.PIDs = append(l.PIDs, p.pid)
		l.Guardians = append(l.Guardians, s.guardian.Process.Pid)
		l.Dirs = append(l.Dirs, s.dir)
	}
	mode := os.Getenv(crashEnv)
	states := []func(*Postgres) error{(*Postgres).Continue, (*Postgres).Pause, (*Postgres).Kill}
	if mode == "one" {
		states = states[:1]
	}
	for _, state := range states {
		p, err := StartPostgres(ctx, PostgresOptions{})
		exitOn(err)
		l.Segments = append(l.Segments, segment(p.DataDir()))
		l.PIDs = append(l.PIDs, children(p.proc.pid)...)
		add(p.proc, p.box)
		exitOn(state(p))
	}
	if mode == "kafka" {
		k, err := StartKafka(ctx, KafkaOptions{})
		exitOn(err)
		add(k.brokers[0].proc, k.box)
	}
	exitOn(json.NewEncoder(os.Stdout).Encode(l))
	select {}
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// segment reads the id of the server's shared memory from line 7 of postmaster.pid.
func segment(data string) string {
	file, err := os.ReadFile(data + "/postmaster.pid")
	exitOn(err)
	return strings.Fields(strings.Split(string(file), "\n")[6])[1]
}

func segmentExists(t *testing.T, id string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/sysvipc/shm") // columns: key shmid perms …
	if err != nil {
		return false // not Linux
	}
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == id {
			return true
		}
	}
	return false
}

// crash starts the servers in a process of its own.
func crash(t *testing.T, mode string) (*exec.Cmd, left) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), crashEnv+"="+mode)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var l left
	if err := json.Unmarshal(line, &l); err != nil {
		t.Fatal(err)
	}
	return cmd, l
}

func (l left) gone(t *testing.T) bool {
	t.Helper()
	if slices.ContainsFunc(l.PIDs, alive) {
		return false
	}
	if slices.ContainsFunc(l.Dirs, exists) {
		return false
	}
	for _, id := range l.Segments {
		if segmentExists(t, id) {
			return false
		}
	}
	return true
}

func TestNothingIsLeftAfterACrash(t *testing.T) {
	t.Parallel()
	mode := "three"
	if HaveJava() {
		mode = "kafka"
	}
	cmd, l := crash(t, mode)
	if l.gone(t) {
		t.Fatal("the servers did not run")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, fmt.Sprintf("all of this gone: %+v", l), func() bool { return l.gone(t) })
}

// Without guardians, the kernel still ends what runs; nobody removes the files.
func TestKernelEndsServersAfterACrash(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the death signal of a parent is Linux's")
	}
	cmd, l := crash(t, "one")
	for _, pid := range l.Guardians {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	t.Cleanup(func() {
		for _, dir := range l.Dirs {
			_ = os.RemoveAll(dir)
		}
	})
	eventually(t, fmt.Sprintf("%v gone", l.PIDs), func() bool { return !slices.ContainsFunc(l.PIDs, alive) })
}

// The kernel's death signal comes when the thread that started the server ends.
func TestServersOutliveThreads(t *testing.T) {
	t.Parallel()
	p := postgres(t, PostgresOptions{})
	var wg sync.WaitGroup
	all := make(chan struct{})
	for i := range 64 {
		wg.Go(func() {
			runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
			if i == 63 {
				close(all)
			}
			<-all
		})
	}
	wg.Wait()
	if p.proc.waitFor(300 * time.Millisecond) { // a signal is quicker
		t.Error("the server ended with a thread")
	}
}
