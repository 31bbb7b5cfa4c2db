package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"strings"
	"time"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
	"github.com/outbox-cdc/outbox-cdc/sink"
)

// life is one of a relay, from its start to its end.
type life struct {
	relay  *cdc.Relay
	probe  *probe
	cancel context.CancelFunc
	result chan error
}

// start starts a relay with a sink, as a process would. only are the events that
// go to the dead letters by the operator's word.
func (r *run) start(ctx context.Context, only []string) (*life, error) {
	p := r.plan
	builder, err := sink.NewBuilder(sink.RecordConfig{Columns: sink.DefaultColumns(), Source: "//sim"})
	if err != nil {
		return nil, err
	}
	log := slog.New(witness{r.log.Handler(), r.oracle})
	out, err := sink.NewKafka(sink.KafkaConfig{
		Brokers: r.cluster.ListenAddrs(), Compression: p.compression, Log: log,
		DeadLetters: sink.DeadLetters{Topic: deadTopic, All: p.allDead, Only: only},
	}, builder)
	if err != nil {
		return nil, err
	}
	l := &life{
		probe: &probe{
			Kafka: out, oracle: r.oracle, maxEvents: p.events, maxBytes: p.bytes, held: p.held,
			rng: rand.New(rand.NewPCG(r.rng.Uint64(), 0)),
		},
		result: make(chan error, 1),
	}
	l.relay, err = cdc.New(cdc.Config{
		URL: r.server.URL(), Columns: builder.RequiredColumns(), DrainTimeout: p.drain,
		InFlightEvents: p.events, InFlightBytes: p.bytes, Log: log,
	}, l.probe)
	if err != nil {
		return nil, errors.Join(err, out.Close(ctx))
	}
	l.probe.relay = l.relay
	ctx, l.cancel = context.WithCancel(ctx)
	go func() { l.result <- l.relay.Run(ctx) }()
	r.count.Lives++
	return l, nil
}

// await returns what Run returns, which has been told to end.
func (l *life) await() error {
	select {
	case err := <-l.result:
		return err
	case <-time.After(patience):
		return fmt.Errorf("%w: %+v", errHangs, l.relay.Stats())
	}
}

// errHangs is a relay that was told to end and does not.
var errHangs = fmt.Errorf("the relay did not end within %v", patience)

// close ends the sink of a relay that has ended.
func (l *life) close(wait time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	_ = l.probe.Close(ctx) // says that it gave up on what is sent again
}

// stop ends a relay as SIGTERM does.
func (l *life) stop() error {
	l.cancel()
	err := l.await()
	l.close(2 * time.Second)
	l.probe.ended()
	return err
}

// kill ends a relay as SIGKILL does: nothing more is heard of it, whatever is
// under way.
func (r *run) kill(l *life) error {
	r.server.Lose()
	l.cancel()
	l.close(0)
	err := l.await()
	l.probe.ended()
	r.server.Admit()
	if errors.Is(err, errHangs) {
		return err
	}
	return nil // the rest would have died with the process
}

// deadLetterID is how the hint of a poison error names the way out.
var deadLetterID = regexp.MustCompile(`--dead-letter-id (\S+)`)

// mend is the operator, whose relay has ended by itself: it returns the event
// that the next one is to send to the dead letters.
func (r *run) mend(err error) (only []string, _ error) {
	if fault.KindOf(err) != fault.Poison {
		return nil, fmt.Errorf("the relay ended: %w", err)
	}
	id := deadLetterID.FindStringSubmatch(fault.HintOf(err))
	switch {
	case id == nil && strings.Contains(err.Error(), "topic "+deadTopic) && r.ledger.anyFinal():
		r.count.Poisoned++
		return nil, nil // there is no other way out than to mend the broker, which mends itself
	case id == nil:
		return nil, fmt.Errorf("poison without a way out: %w; hint: %s", err, fault.HintOf(err))
	}
	names := strings.Split(id[1], ",")
	e := r.ledger.events[names[len(names)-1]]
	if e == nil {
		return nil, fmt.Errorf("poison that was never committed: %w", err)
	}
	if faultOf(e) == "" && !r.ledger.anyFinal() {
		return nil, fmt.Errorf("nothing is wrong with event %s: %w", e.ID, err)
	}
	r.count.Poisoned++
	return names, nil
}
