package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outbox-cdc/outbox-cdc/internal/walsim"
)

const (
	// silence is how long a status update may be put off, on a machine that is
	// busy: the relay's own limit is 3 s.
	silence = 6 * time.Second
	// spacing is how close they may follow each other: 100 ms, rounded.
	spacing = 99 * time.Millisecond
	// patience is how long nothing may move; longer than the longest freeze and
	// what the relay's backoffs add.
	patience = 30 * time.Second
)

// Count is what happened in runs.
type Count struct {
	walsim.Count
	Events, Dead          int // events of the WAL, and dead letters
	Lives, Stopped, Kills int // of relays
	Poisoned              int // of relays: stopped by an event
	Moves, Freezes        int // of a topic's leaders, and of Kafka
}

// Add adds another run's.
func (c *Count) Add(d Count) {
	c.Count.Add(d.Count)
	c.Events += d.Events
	c.Dead += d.Dead
	c.Lives += d.Lives
	c.Stopped += d.Stopped
	c.Kills += d.Kills
	c.Poisoned += d.Poisoned
	c.Moves += d.Moves
	c.Freezes += d.Freezes
}

// run is one run.
type run struct {
	plan    *plan
	rng     *rand.Rand
	log     *slog.Logger
	meter   *walsim.Meter
	network *network
	cluster *kfake.Cluster
	oracle  *walsim.Oracle
	ledger  *ledger
	server  *walsim.Server
	count   Count
}

// Run runs relays through what the seed says, until everything has arrived and
// the slot stands at the WAL's end. It returns what was broken. The relays log to log.
func Run(ctx context.Context, seed uint64, log *slog.Logger) (Count, error) {
	p := newPlan(seed)
	r := &run{plan: p, rng: rand.New(rand.NewPCG(seed, 15)), log: log, network: newNetwork(seed, p), oracle: walsim.NewOracle(p.wal)}
	p.tell(log)
	r.meter = walsim.StartMeter()
	defer r.meter.Stop()
	r.oracle.MaxSilence, r.oracle.MinSpacing, r.oracle.Lost, r.oracle.Lanes = silence, spacing, r.meter.Late, lanes
	var err error
	r.cluster, err = kfake.NewCluster(kfake.NumBrokers(p.brokers), kfake.ListenFn(r.network.listen))
	if err != nil {
		return Count{}, fmt.Errorf("start kfake: %w", err)
	}
	defer r.cluster.Close()
	defer close(r.network.closed)
	if err := r.createTopics(ctx); err != nil {
		return Count{}, err
	}
	r.ledger = newLedger(r.cluster, r.oracle, p.wal, log)
	r.ledger.watch(p.install(r.cluster, seed))
	r.network.begin()
	r.server, err = walsim.Start(walsim.Config{
		WAL: p.wal, Script: p.script(seed), Version: p.version, Messages: p.messages, Buffer: p.buffer, Socket: p.socket,
		Observe: func(step walsim.Step) {
			if step.Kind == walsim.Heard { // first what Kafka has at this moment
				r.ledger.catchUp()
			}
			r.oracle.Observe(step)
		},
	})
	if err != nil {
		return Count{}, err
	}
	defer r.server.Close()
	err = r.carry(ctx)
	r.server.Close()
	r.ledger.catchUp()
	err = errors.Join(r.oracle.Err(), r.server.Unexpected(), err)
	if missing := r.oracle.Missing(); err == nil && len(missing) > 0 {
		err = fmt.Errorf("%d events are nowhere, the first is %s", len(missing), missing[0])
	}
	r.count.Count, r.count.Events, r.count.Dead = r.oracle.Count(), len(r.ledger.events), r.ledger.letters()
	return r.count, err
}

// createTopics makes the topics, before anything goes wrong.
func (r *run) createTopics(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(r.cluster.ListenAddrs()...))
	if err != nil {
		return err
	}
	defer client.Close()
	req := kmsg.NewPtrCreateTopicsRequest()
	add := func(name, limit string) {
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = name, r.plan.partitions, 1
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = "max.message.bytes", &limit
		t.Configs = append(t.Configs, c)
		req.Topics = append(req.Topics, t)
	}
	for _, name := range topics {
		add(name, strconv.Itoa(topicLimit))
	}
	add(deadTopic, strconv.Itoa(deadLimit))
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	for _, t := range resp.Topics {
		err = errors.Join(err, kerr.ErrorForCode(t.ErrorCode))
	}
	return err
}

// done tells whether there is nothing left to do.
func (r *run) done() bool {
	return r.server.Confirmed() >= r.plan.wal.End() && len(r.plan.acts) == 0
}

// carry runs relays, one after the other, until all is done.
func (r *run) carry(ctx context.Context) error {
	var only []string
	for {
		l, err := r.start(ctx, only)
		if err != nil {
			return err
		}
		only = nil
		do, ended, err := r.attend(ctx, l)
		switch {
		case ended:
			l.close(2 * time.Second)
			l.probe.ended()
			r.log.Debug("sim.ended", "error", err)
			if only, err = r.mend(err); err != nil {
				return err
			}
		case err != nil:
			return errors.Join(err, l.stop())
		case do == kill:
			r.log.Debug("sim.kill")
			r.count.Kills++
			if err := r.kill(l); err != nil {
				return fmt.Errorf("killed: %w", err)
			}
		default:
			r.log.Debug("sim.stop")
			r.count.Stopped++
			if only, err = r.stopped(l.stop()); err != nil {
				return err
			}
		}
		if !ended && r.done() {
			return nil
		}
	}
}

// stopped takes what a relay returned that was told to stop.
func (r *run) stopped(err error) (only []string, _ error) {
	if err == nil {
		return nil, nil
	}
	return r.mend(err) // it met poison while it drained
}

// attend does what is due until the relay is to end, or has ended.
func (r *run) attend(ctx context.Context, l *life) (do deed, ended bool, err error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	limit, arrived, confirmed := time.Duration(0), -1, r.server.Confirmed()
	began := time.Now()
	for {
		if r.oracle.Err() != nil {
			return stop, false, errors.New("broken")
		}
		n, c := r.ledger.progress(), r.server.Confirmed()
		if n != arrived || c != confirmed {
			limit, arrived, confirmed = time.Since(began)-r.meter.Late()+patience, n, c
		}
		if time.Since(began)-r.meter.Late() > limit {
			return stop, false, fmt.Errorf("nothing moved for %v: confirmed %s of %s, %d of %d events arrived, relay %+v",
				patience, c, r.plan.wal.End(), n, len(r.ledger.events), l.relay.Stats())
		}
		switch do, due := r.due(n); {
		case due && (do == stop || do == kill):
			return do, false, nil
		case due:
			r.disturb(do)
			continue
		case r.done():
			return stop, false, nil
		}
		select {
		case err := <-l.result:
			if err == nil {
				err = errors.New("Run returned nil by itself")
			}
			return stop, true, err
		case <-ctx.Done():
			return stop, false, ctx.Err()
		case <-r.ledger.changed:
		case <-tick.C:
		}
	}
}

// due returns the next deed when so many events have arrived.
func (r *run) due(arrived int) (deed, bool) {
	if acts := r.plan.acts; len(acts) > 0 && acts[0].at <= arrived {
		r.plan.acts = acts[1:]
		return acts[0].do, true
	}
	return 0, false
}

func (r *run) disturb(do deed) {
	if do == freeze {
		r.count.Freezes++
		d := r.plan.freeze
		if d < silence {
			d = time.Duration(r.rng.Int64N(int64(d)))
		}
		r.log.Debug("sim.freeze", "for", d)
		r.network.freeze(d)
		return
	}
	r.count.Moves++
	topic := pick(r.rng, append([]string{deadTopic}, topics...)...)
	all := r.rng.IntN(2) == 0 // as when a broker is restarted
	r.network.holdBack(time.Duration(r.rng.IntN(400)) * time.Millisecond)
	for partition := range r.plan.partitions {
		if to := r.rng.Int32N(int32(r.plan.brokers)); all || r.rng.IntN(2) == 0 {
			r.log.Debug("sim.move", "topic", topic, "partition", partition, "to", to)
			if err := r.cluster.MoveTopicPartition(topic, partition, to); err != nil {
				r.oracle.Breach("move a partition: %v", err)
			}
		}
	}
}
