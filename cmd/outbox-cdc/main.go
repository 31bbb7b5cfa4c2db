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

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

func main() { os.Exit(run(os.Args[1:])) }

// run executes one command. The first SIGINT or SIGTERM asks it to stop, and
// `outbox-cdc run` then drains; the second cuts that short.
func run(args []string) int {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()

	a := &app{stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ()}
	done := make(chan error, 1)
	go func() { done <- a.execute(ctx, args) }()
	return report(a.stderr, supervise(signals, stop, done))
}

// supervise waits for the command's outcome.
func supervise(signals <-chan os.Signal, stop func(), done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-signals:
		stop()
	}
	select {
	case err := <-done:
		return err
	case s := <-signals:
		return fault.New(fault.Unexpected, "stop", fmt.Errorf("cut short by a second signal (%v)", s),
			"what was not acknowledged yet is sent again at the next start")
	}
}

// report prints an error as the operator reads it and returns the exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	if errors.Is(err, context.Canceled) && fault.KindOf(err) == fault.Unexpected {
		err = errors.New("stop: interrupted")
	}
	fmt.Fprintf(w, "outbox-cdc: %v\n", err)
	if hint := fault.HintOf(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
	return int(fault.KindOf(err))
}
