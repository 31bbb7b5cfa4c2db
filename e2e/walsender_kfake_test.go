package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/walsim"
	"github.com/outbox-cdc/outbox-cdc/sink"
)

const (
	topic      = "outbox.event." + walsim.AggregateType
	partitions = 4
	// seedVariable replays one run, with its log.
	seedVariable = "OUTBOX_CDC_SEED"
)

// TestWalsenderKfake runs the relay between a scripted walsender and an
// in-process Kafka, with faults on both sides: no status update may confirm a
// transaction whose records are not in Kafka's log at that moment.
func TestWalsenderKfake(t *testing.T) {
	t.Parallel()
	if text := os.Getenv(seedVariable); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		count, err := carry(t.Context(), seed, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
		if t.Logf("%+v", count); err != nil {
			t.Fatal(err)
		}
		return
	}
	runs := uint64(12)
	if testing.Short() {
		runs = 4
	}
	var all sync.WaitGroup
	first := rand.Uint64()
	for seed := first; seed != first+runs; seed++ {
		all.Go(func() {
			count, err := carry(t.Context(), seed, slog.New(slog.DiscardHandler))
			if t.Logf("seed %d: %+v", seed, count); err != nil {
				t.Errorf("seed %d (%s=%d replays it): %v", seed, seedVariable, seed, err)
			}
		})
	}
	all.Wait()
}

// carry is one run: everything in it is drawn from the seed.
func carry(ctx context.Context, seed uint64, log *slog.Logger) (walsim.Count, error) {
	rng := rand.New(rand.NewPCG(seed, 4))
	wal := walsim.Generate(walsim.Plan{Seed: seed, Transactions: 300, MaxRows: 1 + rng.IntN(10)})
	oracle := walsim.NewOracle(wal)
	network := &network{rng: rand.New(rand.NewPCG(seed, 5)), cuts: rng.IntN(12), clean: make(map[string]bool)}
	kafka, err := devenv.StartKfake(devenv.KfakeOptions{Brokers: 3, Options: []kfake.Opt{
		kfake.SeedTopics(partitions, topic), kfake.ListenFn(network.listen),
	}})
	if err != nil {
		return walsim.Count{}, err
	}
	defer kafka.Close()
	kafka.Cluster.Fault(refusals(seed)...)
	tail, err := newTail(kafka, network, oracle)
	if err != nil {
		return walsim.Count{}, err
	}
	defer tail.client.Close()
	server, err := walsim.Start(walsim.Config{
		WAL: wal, Script: walsim.Chaos(seed, rng.IntN(5)), Buffer: []int{0, 8192}[rng.IntN(2)],
		Observe: func(step walsim.Step) {
			if step.Kind == walsim.Heard { // first what Kafka has at this moment
				tail.catchUp(ctx)
			}
			oracle.Observe(step)
		},
	})
	if err != nil {
		return walsim.Count{}, err
	}
	defer server.Close()
	limit := []int{5, 100, 50_000}[rng.IntN(3)]
	err = relay(ctx, cdc.Config{URL: server.URL(), InFlightEvents: limit, Log: log}, kafka, func() bool { return server.Confirmed() >= wal.End() })
	server.Close()
	err = errors.Join(err, oracle.Err(), server.Unexpected(), tail.err)
	if missing := oracle.Missing(); err == nil && len(missing) > 0 {
		err = fmt.Errorf("%d events are not in Kafka, the first is %s", len(missing), missing[0])
	}
	return oracle.Count(), err
}

// relay runs a relay with a Kafka sink until done, and ends it in order.
func relay(ctx context.Context, c cdc.Config, kafka *devenv.Kfake, done func() bool) error {
	builder, err := sink.NewBuilder(sink.RecordConfig{Columns: sink.DefaultColumns(), Source: "//walsim"})
	if err != nil {
		return err
	}
	c.Columns = builder.RequiredColumns()
	out, err := sink.NewKafka(sink.KafkaConfig{Brokers: kafka.Addrs(), Log: c.Log}, builder)
	if err != nil {
		return err
	}
	r, err := cdc.New(c, out)
	if err != nil {
		return errors.Join(err, out.Close(ctx))
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	result := make(chan error, 1)
	go func() { result <- r.Run(running) }()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case err := <-result:
			return errors.Join(fmt.Errorf("Run ended: %w", err), out.Close(ctx))
		case <-deadline:
			err = fmt.Errorf("not done after 60 s: relay %+v, sink %+v", r.Stats(), out.Stats())
		case <-tick.C:
			continue
		}
		break
	}
	stop()
	return errors.Join(err, <-result, out.Close(ctx))
}

// refusals are what brokers answer now and then: of the first two kinds the
// records are not in the log, of the next two they are.
func refusals(seed uint64) []kfake.Fault {
	rng := rand.New(rand.NewPCG(seed, 6)) // used by the cluster's goroutine alone
	var faults []kfake.Fault
	for _, err := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend, kerr.InvalidProducerEpoch,
	} {
		f := kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: err, Count: 1 + rng.IntN(4), When: func(kmsg.Request) bool { return rng.IntN(25) == 0 }}
		if err == kerr.InvalidProducerEpoch { // the sink starts over
			f.Count = 1
		}
		faults = append(faults, f)
	}
	return faults
}

// network is where the brokers listen: requests and responses are late, each
// connection by itself, so that responses overtake each other; some responses
// are lost with their connection, after the broker has done its work.
type network struct {
	mu    sync.Mutex
	rng   *rand.Rand
	cuts  int
	clean map[string]bool // addresses of clients that are left alone
}

func (n *network) listen(kind, address string) (net.Listener, error) {
	l, err := net.Listen(kind, address)
	if err != nil {
		return nil, err
	}
	return &listener{l, n}, nil
}

// draw returns how late something is, and whether it is lost.
func (n *network) draw(client string) (delay time.Duration, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.clean[client] {
		return 0, false
	}
	if n.cuts > 0 && n.rng.IntN(40) == 0 {
		n.cuts--
		return 0, true
	}
	return time.Duration(n.rng.IntN(12)) * time.Millisecond, false
}

// dial connects a client that is left alone.
func (n *network) dial(ctx context.Context, kind, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, kind, address)
	if err == nil {
		n.mu.Lock()
		n.clean[conn.LocalAddr().String()] = true
		n.mu.Unlock()
	}
	return conn, err
}

type listener struct {
	net.Listener
	network *network
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &late{conn, l.network}, nil
}

// late is a broker's end of a connection.
type late struct {
	net.Conn
	network *network
}

func (c *late) Write(p []byte) (int, error) {
	delay, cut := c.network.draw(c.RemoteAddr().String())
	if cut {
		_ = c.Close()
		return 0, net.ErrClosed
	}
	if delay > 0 {
		<-time.After(delay)
	}
	return c.Conn.Write(p)
}

// tail follows the topic and tells the oracle what is in it.
type tail struct {
	kafka  *devenv.Kfake
	client *kgo.Client
	oracle *walsim.Oracle

	mu   sync.Mutex
	next [partitions]int64
	err  error
}

func newTail(kafka *devenv.Kfake, network *network, oracle *walsim.Oracle) (*tail, error) {
	from := make(map[int32]kgo.Offset)
	for p := range int32(partitions) {
		from[p] = kgo.NewOffset().AtStart()
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(kafka.Addrs()...), kgo.Dialer(network.dial),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.FetchMaxWait(50*time.Millisecond))
	if err != nil {
		return nil, err
	}
	return &tail{kafka: kafka, client: client, oracle: oracle}, nil
}

// catchUp reads what the partitions' high watermarks of this moment cover.
func (t *tail) catchUp(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for _, info := range t.kafka.Cluster.PartitionInfos(topic) {
		for t.next[info.Partition] < info.HighWatermark && t.err == nil {
			fetches := t.client.PollFetches(ctx)
			t.err = ctx.Err()
			fetches.EachRecord(func(r *kgo.Record) {
				t.next[r.Partition] = r.Offset + 1
				e := walsim.Event{Key: string(r.Key), Payload: string(r.Value)}
				for _, h := range r.Headers {
					switch h.Key {
					case "ce_id":
						e.ID = string(h.Value)
					case "ce_type":
						e.Type = string(h.Value)
					}
				}
				t.oracle.Arrived(e)
				t.oracle.Acked(e.ID)
			})
		}
	}
}
