package devenv

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server that runs, or ran.
type process struct {
	pid  int
	os   *os.Process
	done chan struct{} // closed when it has ended and was waited for
	err  error         // of Wait; read it after done
}

// startProcess starts cmd and calls ended after its end, before done is closed.
//
// The kernel sends the death signal when the thread that started the child ends, not the
// process (prctl(2)). So one goroutine starts the child, keeps its thread to itself, and
// stays until the child has ended.
func startProcess(cmd *exec.Cmd, ended func(pid int)) (*process, error) {
	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.os, p.pid = cmd.Process, cmd.Process.Pid
		started <- nil
		p.err = cmd.Wait()
		ended(p.pid)
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// signal sends sig; a process that has ended is not an error.
func (p *process) signal(sig syscall.Signal) error {
	if err := p.os.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// waitFor reports whether the process ended within d.
func (p *process) waitFor(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
		return false
	}
}

// end sends sig to a process, which may be paused, and SIGKILL when it has not ended in time.
func end(p *process, sig syscall.Signal) {
	_ = p.signal(sig)
	_ = p.signal(sigCont)
	if !p.waitFor(closeTimeout) {
		_ = p.signal(syscall.SIGKILL)
		<-p.done
	}
}

// alive says whether a process that is not our child is there. One that has ended and that
// init has not waited for yet is not.
func alive(pid int) bool {
	if state, _, ok := procStat(strconv.Itoa(pid)); ok {
		return state != "Z" && state != "X"
	}
	return !isDir("/proc/self") && kill(pid, 0) == nil
}

// children returns the processes that pid started and that still run.
func children(pid int) []int {
	self := strconv.Itoa(pid)
	if entries, err := os.ReadDir("/proc"); err == nil && len(entries) > 0 {
		var pids []int
		for _, entry := range entries {
			child, err := strconv.Atoi(entry.Name())
			if _, parent, _ := procStat(entry.Name()); err == nil && parent == self {
				pids = append(pids, child)
			}
		}
		return pids
	}
	out, err := exec.Command("pgrep", "-P", self).Output()
	if err != nil {
		return nil
	}
	var pids []int
	for field := range strings.FieldsSeq(string(out)) {
		if child, err := strconv.Atoi(field); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}

// procStat reads proc(5)'s stat: "pid (name) state ppid …", where name may hold anything.
func procStat(pid string) (state, parent string, ok bool) {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return "", "", false
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return "", "", false
	}
	return string(fields[0]), string(fields[1]), true
}
