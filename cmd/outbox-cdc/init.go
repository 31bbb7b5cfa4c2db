package main

import (
	"context"
	"fmt"

	"github.com/alecthomas/kong"

	"github.com/outbox-cdc/outbox-cdc/cdc"
)

type initCmd struct {
	PrintSQL bool `name:"print-sql" help:"Print the SQL and connect to nothing."`
	configFlags
}

// Help implements kong.HelpProvider.
func (*initCmd) Help() string {
	return `Creates what is missing of the outbox table, the publication and the slot, in that order. Running it again changes nothing,
but that a table is accepted which was recreated, or taken out of the publication for a while: see first that no row was missed.
Run it as the table's owner where the relay's own role may not create publications.

Examples:

    outbox-cdc init --postgres-url postgres://owner@db:5432/app
    outbox-cdc init --print-sql | less` + configHelp
}

// Run sets up the Postgres side.
func (c *initCmd) Run(ctx context.Context, a *app, line *kong.Context) error {
	sides := postgresOnly
	if c.PrintSQL {
		sides = nil
	}
	l, log, err := c.begin(ctx, a, line, sides)
	if err != nil {
		return err
	}
	if c.PrintSQL {
		// The SQL depends on names only; a URL is not asked for.
		if l.Postgres.URL == "" {
			l.Postgres.URL = "postgres:///"
		}
		sql, err := cdc.InitSQL(l.relayConfig(nil, nil))
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(a.stdout, sql)
		return err
	}
	builder, err := l.builder()
	if err != nil {
		return err
	}
	report, err := cdc.Init(ctx, l.relayConfig(builder, log))
	for _, thing := range report.Existing {
		fmt.Fprintln(a.stdout, "exists  ", thing)
	}
	for _, thing := range report.Created {
		fmt.Fprintln(a.stdout, "created ", thing)
	}
	if err == nil && report.Rows > 0 {
		fmt.Fprintf(a.stdout, "\n%d rows were in the table before the slot. `outbox-cdc run` sends what is committed from now on;\n`outbox-cdc recover` sends those.\n", report.Rows)
	}
	return err
}
