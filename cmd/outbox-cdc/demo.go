//go:build !nodevenv

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

type demoCmd struct {
	Events int    `name:"events" placeholder:"N" help:"Stop after N events, with exit code 0. Without it the demo runs until Ctrl-C."`
	Rate   int    `name:"rate" default:"5" help:"Transactions a second of the order service."`
	Listen string `name:"listen" default:"127.0.0.1:8099" help:"Address of the HTTP server; any free port is used when it is taken."`
}

// Help implements kong.HelpProvider.
func (*demoCmd) Help() string {
	return `Shows the whole job on this machine: a throw-away PostgreSQL, an in-process Kafka, the relay, and a small order service that
writes an order and its event in one transaction, and rolls some of them back. Each event is printed as a consumer receives it
from Kafka. Nothing is left behind but, in the cache directory of your account, the PostgreSQL that was downloaded and prepared.

Examples:

    outbox-cdc demo
    outbox-cdc demo --events 20
    outbox-cdc demo --rate 200 --events 2000`
}

// demo is a running demonstration.
type demo struct {
	command  *demoCmd
	app      *app
	postgres *devenv.Postgres
	kafka    *devenv.Kfake
	orders   *orderService
	show     *display
}

// Run shows the demo until ctx ends or enough events have arrived.
func (c *demoCmd) Run(ctx context.Context, a *app) error {
	if c.Events < 0 || c.Rate < 1 {
		return fault.New(fault.Usage, "read command line", fmt.Errorf("--events is %d and --rate %d", c.Events, c.Rate),
			"--events is 1 or more, or 0 for no end; --rate is 1 or more")
	}
	d := &demo{command: c, app: a, show: newDisplay(a.stdout, c.Events)}
	defer d.close()
	if err := d.startServers(ctx); err != nil {
		return err
	}
	return d.run(ctx)
}

func (d *demo) startServers(ctx context.Context) error {
	d.show.say("starting a throw-away PostgreSQL (the first time it may have to be downloaded) …")
	var err error
	if d.postgres, err = devenv.StartPostgres(ctx, devenv.PostgresOptions{}); err != nil {
		return fault.New(fault.Unexpected, "start postgres", err, "install PostgreSQL 14 or later, or allow access to Maven Central for its download")
	}
	// With its topics, as an operator creates them: otherwise the first events
	// wait until they are made, and the latencies shown are Kafka's.
	topics := kfake.SeedTopics(3, demoTopics...)
	if d.kafka, err = devenv.StartKfake(devenv.KfakeOptions{Options: []kfake.Opt{topics}}); err != nil {
		return fault.New(fault.Unexpected, "start kafka", err, "")
	}
	d.show.say("PostgreSQL %s at %s, an in-process Kafka at %s", d.postgres.Version(), d.postgres.Addr(), d.kafka.Addrs()[0])
	conn, err := pgx.Connect(ctx, d.postgres.URL())
	if err != nil {
		return fault.New(fault.Unexpected, "connect to the demo's postgres", err, "")
	}
	d.orders = &orderService{conn: conn, show: d.show}
	return d.orders.createTables(ctx, d.postgres.URL())
}

// run lets service, relay and consumer work side by side.
func (d *demo) run(parent context.Context) error {
	process, err := d.assemble()
	if err != nil {
		return err
	}
	defer process.close()
	ctx, stop := context.WithCancelCause(parent)
	defer stop(nil)
	relayed := make(chan error, 1)
	go func() {
		err := process.run(ctx, 0)
		relayed <- err
		stop(err)
	}()
	consuming, stopConsumer := context.WithCancel(context.WithoutCancel(ctx))
	defer stopConsumer()
	consumed := make(chan error, 1)
	go func() { consumed <- devenv.Tail(consuming, d.kafka.Addrs(), demoTopics, nil, d.show.event) }()

	served := make(chan error, 1)
	go func() { served <- d.orders.run(ctx, d.command.Rate, process.relay.Stats) }()

	select {
	case <-ctx.Done():
	case <-d.show.enough:
	case err = <-consumed:
	}
	stop(nil)
	err = firstError(err, <-served, <-relayed)
	stopConsumer()
	return firstError(d.show.summary(process.relay.Stats()), err)
}

// assemble makes the relay as `outbox-cdc run` does, by the default configuration.
func (d *demo) assemble() (*process, error) {
	l, err := load(sources{Environ: []string{
		"OUTBOX_CDC_POSTGRES_URL=" + d.postgres.URL(),
		"OUTBOX_CDC_KAFKA_BROKERS=" + d.kafka.Addrs()[0],
		"OUTBOX_CDC_LOG_LEVEL=warn", "OUTBOX_CDC_LOG_FORMAT=text",
		"OUTBOX_CDC_HTTP_LISTEN=" + d.command.Listen,
	}})
	if err != nil {
		return nil, err
	}
	log := newLogger(d.app.stderr, l.Log)
	p, err := (&runCmd{}).assemble(d.app, l, log)
	if err != nil && fault.KindOf(err) == fault.Usage && d.command.Listen != anyPort {
		d.command.Listen = anyPort
		return d.assemble()
	}
	if err == nil {
		d.show.say("the relay's health, metrics and status: http://%s/\n", p.address())
	}
	return p, err
}

const anyPort = "127.0.0.1:0"

func (d *demo) close() {
	if d.orders != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = d.orders.conn.Close(ctx)
	}
	if d.kafka != nil {
		d.kafka.Close()
	}
	if d.postgres != nil {
		_ = d.postgres.Close()
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
