package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
	"github.com/outbox-cdc/outbox-cdc/sink"
)

type runCmd struct {
	Stdout bool `name:"stdout" help:"Write events to standard output, one JSON object a line, instead of to Kafka. They count as published."`
	NoInit bool `name:"no-init" help:"Do not create publication and slot when neither is there; exit with 4 instead."`
	deadLetterFlag
	configFlags
}

// Help implements kong.HelpProvider.
func (*runCmd) Help() string {
	return `The relay. On a first start it creates publication and slot, as soon as Kafka has answered. It stops at SIGTERM or Ctrl-C
after what is in flight was acknowledged; another signal, more than half a second later, cuts that short. A second instance
stands by and takes over.

An event that cannot be published (too large, no valid topic, refused by the brokers, …) ends it with exit code 3 and an error
that names the event. With on_poison: dead_letter such events go to dead_letter_topic, with the reason in their headers, and the
relay goes on once that is acknowledged.

Exit codes: 0 clean stop; 1 unexpected error; 2 usage or configuration; 3 an event that cannot be published; 4 slot lost or
missing; 5 a side not reachable within startup_timeout.

Examples:

    outbox-cdc run --postgres-url postgres://relay@db:5432/app --kafka-brokers kafka:9092
    outbox-cdc run --config relay.yaml --log-level debug
    outbox-cdc run --config relay.yaml --dead-letter-id 0190c6f0-7a00-7000-8000-000000000001
    outbox-cdc run --postgres-url postgres://relay@db:5432/app --stdout` + configHelp
}

// closeTimeout is for what is left to do once the relay has drained or given up.
const closeTimeout = 2 * time.Second

// Run relays until ctx ends, or something ends it.
func (c *runCmd) Run(ctx context.Context, a *app, line *kong.Context) error {
	sides := bothSides
	if c.Stdout {
		sides = postgresOnly
	}
	l, err := c.load(ctx, a, line, sides)
	if ctx.Err() != nil {
		return nil // told to stop before anything had begun: a clean stop
	}
	if err != nil {
		return err
	}
	if err := l.requireURL(); err != nil {
		return err
	}
	log := newLogger(a.stderr, l.Log)
	for _, w := range l.Warnings {
		log.Warn("outbox.configuration", "warning", w.Text, "hint", w.Hint)
	}
	l.deadLetterIDs = c.DeadLetterID
	p, err := c.assemble(a, l, log)
	if err != nil {
		return err
	}
	defer p.close()
	limit := a.setMemoryLimit(l.Limits.InFlightBytes)
	log.Info("outbox.started", "version", readVersion().Version, "http", p.address(), "memory_limit_bytes", limit)
	return p.run(ctx, l.StartupTimeout)
}

// closer is a sink that can be closed: it gives up what is in flight when ctx ends.
type closer interface {
	cdc.Sink
	Close(ctx context.Context) error
}

// process is the parts of `outbox-cdc run`.
type process struct {
	relay *cdc.Relay
	sink  closer
	kafka *sink.Kafka // nil with --stdout
	http  *server     // nil without http.listen

	connected chan struct{} // closed when Kafka has taken us in
}

// assemble makes the parts and lets nothing connect yet, but the HTTP server
// listens: /healthz answers while the rest waits for either side.
func (c *runCmd) assemble(a *app, l *loaded, log *slog.Logger) (_ *process, err error) {
	builder, err := l.builder()
	if err != nil {
		return nil, err
	}
	p := &process{connected: make(chan struct{})}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if c.Stdout {
		p.sink = sink.NewStdout(a.stdout, builder)
	} else {
		if p.kafka, err = l.kafka(builder, log); err != nil {
			return nil, err
		}
		p.sink = p.kafka
	}
	config := l.relayConfig(builder, log)
	config.NoInit = c.NoInit
	if p.kafka != nil {
		config.BeforeSlot, config.SinkNotReady = p.awaitKafka, p.kafkaNotReady
	}
	if p.relay, err = cdc.New(config, p.sink); err != nil {
		return nil, err
	}
	if l.HTTP.Listen == "" {
		return p, nil
	}
	parts := []prometheus.Collector{p.relay}
	if p.kafka != nil {
		parts = append(parts, p.kafka)
	}
	registry, err := newRegistry(parts...)
	if err != nil {
		return nil, err
	}
	p.http, err = listen(l.HTTP.Listen, newHandler(p.relay.Stats, p.status, registry), log)
	return p, err
}

// run relays until ctx ends and everything in flight is settled, or until one of the parts fails for good.
func (p *process) run(parent context.Context, startupTimeout time.Duration) error {
	ctx, fail := context.WithCancelCause(parent)
	defer fail(nil)
	var others sync.WaitGroup
	defer others.Wait()
	if p.kafka != nil {
		others.Go(func() {
			if err := p.connect(ctx, startupTimeout); err != nil {
				fail(err)
				// Nothing will be acknowledged any more: there is nothing to drain.
				p.closeSink(0)
				return
			}
		})
	}
	if p.http != nil {
		others.Go(func() {
			select {
			case err := <-p.http.failed:
				fail(err)
			case <-ctx.Done():
			}
		})
	}
	err := firstFailure(ctx, p.relay.Run(ctx))
	fail(nil)
	return err
}

// firstFailure returns what ctx was cancelled for, or else err: what the relay
// says behind another part's failure is the consequence of that, also when the
// process is told to stop meanwhile.
func firstFailure(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// connect waits for the cluster's first answer, for timeout at most unless that is 0.
// It returns nil too when ctx ends.
func (p *process) connect(ctx context.Context, timeout time.Duration) error {
	connecting, cancel := ctx, context.CancelFunc(func() {})
	if timeout > 0 {
		connecting, cancel = context.WithTimeout(ctx, timeout)
	}
	defer cancel()
	err := p.kafka.Connect(connecting)
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		close(p.connected)
	}
	return err
}

// kafkaPatience is how long a relay waits for Kafka before it says so and looks at Postgres again.
const kafkaPatience = 3 * time.Second

// awaitKafka keeps the relay from creating the slot, and from taking it, until
// Kafka has taken us in. With a wrong password, a broker that is not trusted or
// none at all, what stayed behind of a first start would be a slot that nobody
// reads, and WAL that piles up for it; rows committed before the slot exists are
// outside of the promise. And an instance that can publish must be able to have it.
func (p *process) awaitKafka(ctx context.Context) error {
	select {
	case <-p.connected:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(kafkaPatience):
		why := p.kafkaNotReady()
		if why == "" { // just now
			return nil
		}
		return fault.New(fault.Unreachable, "take slot", errors.New(why),
			"see that the brokers can be reached and take the relay in: the slot is created, and taken, once Kafka has answered")
	}
}

func (p *process) closeSink(wait time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	_ = p.sink.Close(ctx) // says only that it gave up on what is sent again at the next start
}

func (p *process) close() {
	if p.sink != nil {
		p.closeSink(closeTimeout)
	}
	if p.http != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		p.http.Close(ctx)
	}
}

func (p *process) address() string {
	if p.http == nil {
		return ""
	}
	return p.http.Address()
}
