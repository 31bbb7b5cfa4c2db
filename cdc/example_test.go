package cdc_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/sink"
)

// The relay in a program of one's own, printing events instead of sending them to Kafka.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	config := cdc.Config{URL: os.Getenv("DATABASE_URL"), Log: slog.Default()}
	source, err := config.Source()
	if err != nil {
		slog.Error("configure", "error", err)
		return
	}
	builder, err := sink.NewBuilder(sink.RecordConfig{Columns: sink.DefaultColumns(), Source: source})
	if err != nil {
		slog.Error("configure", "error", err)
		return
	}
	config.Columns = builder.RequiredColumns()
	relay, err := cdc.New(config, sink.NewStdout(os.Stdout, builder))
	if err != nil {
		slog.Error("configure", "error", err)
		return
	}
	if err := relay.Run(ctx); err != nil {
		if e, ok := errors.AsType[*cdc.Error](err); ok && e.Kind == cdc.SlotLost {
			slog.Error("the slot is lost", "error", e, "hint", e.Hint)
		}
	}
}
