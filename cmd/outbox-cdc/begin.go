package main

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"time"

	"github.com/alecthomas/kong"
)

// What a command connects to, by section of the configuration. The secrets of
// a side that it leaves alone are not read: whoever runs `init` or `status`
// beside the database may well have none of Kafka's.
var (
	bothSides    = []string{"postgres", "kafka"}
	postgresOnly = []string{"postgres"}
)

// begin is how the commands begin that a person runs: the configuration, with
// its warnings on standard error, and the log of what they have to wait for.
func (f *configFlags) begin(ctx context.Context, a *app, line *kong.Context, sides []string) (*loaded, *slog.Logger, error) {
	l, err := f.load(ctx, a, line, sides)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range l.Warnings {
		fmt.Fprintf(a.stderr, "outbox-cdc: warning: %s\nhint: %s\n", w.Text, w.Hint)
	}
	if slices.Contains(sides, "postgres") {
		if err := l.requireURL(); err != nil {
			return nil, nil, err
		}
	}
	return l, newLogger(a.stderr, LogConfig{Level: "warn", Format: "text"}), nil
}

// lookTimeout bounds the commands that only look. startup_timeout may shorten it.
const lookTimeout = 20 * time.Second

func (l *loaded) lookContext(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := lookTimeout
	if l.StartupTimeout > 0 {
		limit = min(limit, l.StartupTimeout)
	}
	return context.WithTimeout(ctx, limit)
}

// load reads the configuration for a command whose line was parsed. It returns
// ctx's error when that ends first: a file may be a pipe to which nobody
// writes, or lie on a server that does not answer.
func (f *configFlags) load(ctx context.Context, a *app, line *kong.Context, sides []string) (*loaded, error) {
	from := sources{File: f.File, Environ: a.environ, Flags: map[string]reflect.Value{}, Sides: sides}
	if from.File == "" {
		from.File = lookupEnv(a.environ, configEnv)
	}
	for _, s := range settings() {
		for _, p := range line.Path {
			if p.Flag != nil && p.Flag.Name == s.Flag() {
				from.Flags[s.Key] = s.In(&f.Settings)
			}
		}
	}
	var l *loaded
	var err error
	done := make(chan struct{})
	go func() {
		l, err = load(from)
		close(done)
	}()
	select {
	case <-ctx.Done():
	case <-done:
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return l, err
}
