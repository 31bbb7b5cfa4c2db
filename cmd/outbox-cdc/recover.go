package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
	"github.com/outbox-cdc/outbox-cdc/sink"
)

type recoverCmd struct {
	Since       string `name:"since" placeholder:"TIME" help:"Leave out rows whose timestamp column is older: RFC 3339, a date, or a duration back from now such as 36h."`
	DryRun      bool   `name:"dry-run" help:"Say what would be done, count the rows, and change nothing."`
	Yes         bool   `name:"yes" help:"Do not ask."`
	ReplaceSlot bool   `name:"replace-slot" help:"Drop the slot even though it looks usable. What it has not sent and the table no longer holds is lost."`
	deadLetterFlag
	configFlags
}

// Help implements kong.HelpProvider.
func (*recoverCmd) Help() string {
	return `Sends the rows that the outbox table still holds, after the slot was lost, the table recreated, or before a first start; then
"outbox-cdc run" streams on from there. Nothing that the table holds is skipped. What consumers had received before they receive
again, marked by the header outbox-recovered: they drop it by its id.

Stop every relay of the slot first. A usable slot is kept; a lost one is replaced. Until the last row is acknowledged no relay
streams from the slot; a recovery that was stopped at any step is started again and begins anew, as far back as it began.

Rows come by the column table.columns.order, else by table.columns.timestamp, else as the table holds them: commit order as far as
these columns know it. The role needs REPLICATION, SELECT on the table, and to own the publication.

Examples:

    outbox-cdc recover --config relay.yaml --dry-run
    outbox-cdc recover --config relay.yaml --since 2026-05-01T00:00:00Z --yes` + configHelp
}

// Run recovers.
func (c *recoverCmd) Run(ctx context.Context, a *app, line *kong.Context) error {
	l, _, err := c.begin(ctx, a, line, bothSides)
	if err != nil {
		return err
	}
	l.deadLetterIDs = c.DeadLetterID
	log := newLogger(a.stderr, LogConfig{Level: l.Log.Level, Format: "text"}) // it takes long, and says how far it is
	builder, err := l.builder()
	if err != nil {
		return err
	}
	options := cdc.RecoverOptions{Timestamp: l.Table.Columns.Timestamp, Order: l.Table.Columns.Order, ReplaceSlot: c.ReplaceSlot}
	if options.Since, err = parseSince(c.Since, time.Now()); err != nil {
		return err
	}
	a.setMemoryLimit(l.Limits.InFlightBytes)
	config := l.relayConfig(builder, log)
	plan, err := cdc.PlanRecover(ctx, config, options)
	if err != nil {
		return err
	}
	c.show(a, l, plan)
	if c.DryRun {
		return nil
	}
	if err := c.confirm(ctx, a); err != nil {
		return err
	}
	kafka, err := l.kafka(builder, log)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = kafka.Close(closing) // nothing is left in flight, or it is sent again
	}()
	// Both sides have to answer before anything is changed.
	if err := connectKafka(ctx, l, kafka); err != nil {
		return err
	}
	relay, err := cdc.New(config, kafka)
	if err != nil {
		return err
	}
	n, err := relay.Recover(ctx, options)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%d rows are acknowledged. `outbox-cdc run` streams on from here.\n", n)
	return nil
}

// connectLimit bounds the wait for Kafka when startup_timeout does not: unlike
// the relay, a recovery has an operator who waits for it.
const connectLimit = 10 * time.Second

func connectKafka(ctx context.Context, l *loaded, kafka *sink.Kafka) error {
	limit := connectLimit
	if l.StartupTimeout > 0 {
		limit = l.StartupTimeout
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := kafka.Connect(limited)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// show prints the plan.
func (c *recoverCmd) show(a *app, l *loaded, plan cdc.Recovery) {
	if plan.Problem != "" {
		fmt.Fprintf(a.stdout, "found        %s\n", plan.Problem)
	}
	for _, slot := range plan.UnusedSlots {
		fmt.Fprintf(a.stdout, "found        slot %s exists in this database and is not used: is postgres.slot right?\n", slot)
	}
	fmt.Fprintf(a.stdout, "publication  %s %s\n", plan.Publication, l.Postgres.Publication)
	for _, sql := range plan.Repair {
		fmt.Fprintf(a.stdout, "             %s\n", sql)
	}
	fmt.Fprintf(a.stdout, "slot         %s %s\n", plan.Slot, l.Postgres.Slot)
	if plan.Resumed {
		since := "all rows"
		if !plan.Since.IsZero() {
			since = "rows since " + plan.Since.Format(time.RFC3339)
		}
		fmt.Fprintf(a.stdout, "since        %s, as the recovery that was begun and not finished\n", since)
	}
	fmt.Fprintf(a.stdout, "rows         %d of %s, ordered by %s: consumers that have received them receive them again\n",
		plan.Rows, l.Table.Name, plan.OrderedBy)
}

// confirm asks, unless it was told not to.
func (c *recoverCmd) confirm(ctx context.Context, a *app) error {
	if c.Yes {
		return nil
	}
	fmt.Fprint(a.stdout, "Go on? Type yes: ")
	answer := make(chan string, 1)
	go func() { // stays behind when ctx ends first, and so does the process not
		text, _ := bufio.NewReader(a.stdin).ReadString('\n')
		answer <- strings.TrimSpace(text)
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case text := <-answer:
		if strings.EqualFold(text, "yes") || strings.EqualFold(text, "y") {
			return nil
		}
	}
	return fault.New(fault.Usage, "recover", errors.New("not confirmed: nothing was changed"), "type yes, or pass --yes where nobody can answer")
}

// parseSince reads a time, or a duration back from now. Empty is the zero time.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fault.New(fault.Usage, "read command line", fmt.Errorf("--since %q is neither a time nor a duration", text),
		"give a time such as 2026-05-01T12:00:00Z, a date such as 2026-05-01 (midnight UTC), or a duration back from now such as 36h")
}
