// Command outbox-cdc streams a Postgres outbox table to Kafka.
//
// Each subcommand has a file of its own. This one turns the outcome into the
// process's: an error becomes `outbox-cdc: <op>: <cause>` and `hint: …` on
// standard error, once, and the exit code of its fault.Kind.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

func main() {
	// Before anything else: until then a signal would end the process by its
	// default action, with a code that is none of ours.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as it is behind nohup
		signal.Notify(signals, syscall.SIGHUP) // a terminal that is closed
	}
	os.Exit(run(signals, os.Args[1:]))
}

// run executes one command. The first SIGINT, SIGTERM or SIGHUP asks it to stop, and
// `outbox-cdc run` then drains; a later one cuts that short.
func run(signals <-chan os.Signal, args []string) int {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()

	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ()}
	done := make(chan error, 1)
	go func() { done <- a.execute(ctx, args) }()
	return report(a.stderr, supervise(signals, stop, done))
}

// burst is how long after the first signal more of them mean the same: some
// supervisors signal the process group and the process, and a shell's trap
// forwards what the terminal has sent to everyone already.
const burst = 500 * time.Millisecond

// supervise waits for the command's outcome.
func supervise(signals <-chan os.Signal, stop func(), done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-signals:
		stop()
	}
	for first := time.Now(); ; {
		select {
		case err := <-done:
			return err
		case s := <-signals:
			if time.Since(first) < burst {
				continue
			}
			return fault.New(fault.Unexpected, "stop", fmt.Errorf("cut short by a second signal (%v)", s),
				"what was not acknowledged yet is sent again at the next start")
		}
	}
}

// report prints an error as the operator reads it and returns the exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	// Only a signal cancels. What it interrupted may call that unreachable.
	if kind := fault.KindOf(err); errors.Is(err, context.Canceled) && (kind == fault.Unexpected || kind == fault.Unreachable) {
		hint := ""
		if f, ok := errors.AsType[*fault.Error](err); ok && f.Op == "recover" { // what it has begun stands
			hint = f.Hint
		}
		err = fault.New(fault.Unexpected, "stop", errors.New("interrupted"), hint)
	}
	fmt.Fprintf(w, "outbox-cdc: %v\n", err)
	if hint := fault.HintOf(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
	return int(fault.KindOf(err))
}
