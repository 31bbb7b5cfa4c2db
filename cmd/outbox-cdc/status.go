package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

type statusCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
	configFlags
}

// Help implements kong.HelpProvider.
func (*statusCmd) Help() string {
	return `Reads from Postgres how the slot stands: who holds it, how far it is behind, how much WAL it retains and how much more it
may. No relay has to run. Exit code 4 when no relay could stream from it.

Examples:

    outbox-cdc status --postgres-url postgres://relay@db:5432/app
    outbox-cdc status --config relay.yaml --json` + configHelp
}

// Run prints the slot's status.
func (c *statusCmd) Run(ctx context.Context, a *app, line *kong.Context) error {
	l, log, err := c.begin(ctx, a, line, postgresOnly)
	if err != nil {
		return err
	}
	ctx, cancel := l.lookContext(ctx)
	defer cancel()
	s, err := cdc.Inspect(ctx, l.relayConfig(nil, log))
	if err != nil {
		return err
	}
	if c.JSON {
		err = a.printJSON(s)
	} else {
		err = a.printStatus(s)
	}
	if err == nil && s.Problem != "" {
		err = fault.New(fault.SlotLost, "status", errors.New(s.Problem), s.Hint)
	}
	return err
}

func (a *app) printStatus(s cdc.SlotStatus) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, value) }
	row("database", s.Database)
	row("table", s.Table)
	row("publication", s.Publication)
	switch {
	case !s.Exists:
		row("slot", s.Slot+", does not exist")
		return w.Flush()
	case s.Active:
		row("slot", fmt.Sprintf("%s, held by %s (pid %d)", s.Slot, s.Holder, s.ActivePID))
	default:
		row("slot", s.Slot+", held by nobody")
	}
	row("lag", fmt.Sprintf("%s (confirmed %s, server at %s)", humanBytes(s.LagBytes), s.ConfirmedLSN, s.ServerLSN))
	row("retained WAL", fmt.Sprintf("%s (from %s)", humanBytes(s.RetainedBytes), s.RestartLSN))
	headroom := "unlimited (max_slot_wal_keep_size is -1)"
	if s.Headroom != nil {
		headroom = humanBytes(*s.Headroom)
	}
	row("headroom", headroom)
	walStatus := s.WALStatus
	if s.Invalidation != "" {
		walStatus += ", invalidated: " + s.Invalidation
	}
	row("WAL status", walStatus)
	if s.OldestTransaction > 0 {
		row("oldest transaction", s.OldestTransaction.Truncate(time.Second).String())
	}
	return w.Flush()
}

// humanBytes prints n with a binary unit and one decimal.
func humanBytes(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	v := float64(n)
	for _, unit := range []string{"KiB", "MiB", "GiB"} {
		if v /= 1 << 10; v < 1<<10 {
			return fmt.Sprintf("%.1f %s", v, unit)
		}
	}
	return fmt.Sprintf("%.1f TiB", v/(1<<10))
}
