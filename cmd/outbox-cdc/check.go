package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/alecthomas/kong"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
	"github.com/outbox-cdc/outbox-cdc/sink"
)

type checkCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
	configFlags
}

// Help implements kong.HelpProvider.
func (*checkCmd) Help() string {
	return `Looks over Postgres and Kafka and changes nothing. Each finding has the SQL or the setting that mends it. Exit code 1 when
something would stop the relay or lose events.

Examples:

    outbox-cdc check --postgres-url postgres://relay@db:5432/app --kafka-brokers kafka:9092
    outbox-cdc check --config relay.yaml --json` + configHelp
}

// checkReport is what --json prints.
type checkReport struct {
	OK       bool            `json:"ok"`
	Postgres []fault.Finding `json:"postgres"`
	Kafka    []fault.Finding `json:"kafka"`
}

// Run checks both sides at the same time.
func (c *checkCmd) Run(ctx context.Context, a *app, line *kong.Context) error {
	l, _, err := c.begin(ctx, a, line, bothSides)
	if err != nil {
		return err
	}
	builder, err := l.builder()
	if err != nil {
		return err
	}
	kafka, err := l.kafka(builder, nil)
	if err != nil {
		return err
	}
	ctx, cancel := l.lookContext(ctx)
	defer cancel()
	r := checkReport{}
	var sides sync.WaitGroup
	sides.Go(func() { r.Postgres = cdc.Check(ctx, l.relayConfig(builder, nil)) })
	sides.Go(func() { r.Kafka = checkKafka(ctx, kafka, builder) })
	sides.Wait()
	return a.printFindings(r, c.JSON)
}

func checkKafka(ctx context.Context, kafka *sink.Kafka, builder *sink.Builder) []fault.Finding {
	findings := kafka.Check(ctx, builder.Topics())
	closing, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = kafka.Close(closing) // nothing was published
	return findings
}

// printFindings prints the report and returns an error when a check failed.
func (a *app) printFindings(r checkReport, asJSON bool) error {
	failed, total := 0, 0
	for _, findings := range [][]fault.Finding{r.Postgres, r.Kafka} {
		for _, f := range findings {
			total++
			if f.Status == fault.Fail {
				failed++
			}
		}
	}
	r.OK = failed == 0
	if asJSON {
		if err := a.printJSON(r); err != nil {
			return err
		}
	} else {
		a.printSide("Postgres", r.Postgres)
		a.printSide("Kafka", r.Kafka)
	}
	if failed > 0 {
		return fault.New(fault.Unexpected, "check", fmt.Errorf("%d of %d checks failed", failed, total), "each one's hint says what mends it")
	}
	if total == 0 {
		return fault.New(fault.Unexpected, "check", errors.New("nothing was checked"), "")
	}
	return nil
}

func (a *app) printSide(name string, findings []fault.Finding) {
	fmt.Fprintln(a.stdout, name)
	for _, f := range findings {
		fmt.Fprintf(a.stdout, "  %-4s  %s: %s\n", f.Status, f.Check, f.Detail)
		if f.Hint != "" {
			fmt.Fprintf(a.stdout, "        hint: %s\n", f.Hint)
		}
	}
}
