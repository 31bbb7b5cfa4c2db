//go:build long

package e2e_test

import (
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// networkFault is one way in which a network is bad for a while.
type networkFault struct {
	name   string
	toxics []toxic
	// A fault that lets nothing through lasts so long, as often as times says.
	lasts time.Duration
	times int
	// Through one that is only slow, so many events pass, and it lasts as well.
	passes int
	says   string // in the log while it lasts
}

// Where sliced, a byte is a packet of its own, and what the relay sends to
// Kafka comes in small pieces.
const (
	byByte   = `"average_size": 1, "size_variation": 0, "delay": 0`
	inPieces = `"average_size": 64, "size_variation": 32, "delay": 10`
)

const slowFor = 5 * time.Second

var kafkaFaults = []networkFault{
	{name: "cut, what was acknowledged is not heard", toxics: []toxic{{kind: "reset_peer", attributes: `"timeout": 0`}}, lasts: time.Second, times: 4},
	{name: "cut, what is sent does not arrive", toxics: []toxic{{kind: "reset_peer", attributes: `"timeout": 100`, upstream: true}}, lasts: time.Second, times: 3},
	// Longer than the sink waits for an answer, and than wal_sender_timeout.
	{name: "half-open", toxics: both("timeout", `"timeout": 0`), lasts: 20 * time.Second, times: 1, says: "i/o timeout"},
	{name: "half-open, acknowledgements only", toxics: []toxic{{kind: "timeout", attributes: `"timeout": 0`}}, lasts: 3 * time.Second, times: 2},
	{name: "slow: latency and jitter", toxics: both("latency", `"latency": 150, "jitter": 100`), passes: 2000},
	{name: "slow: bandwidth", toxics: []toxic{{kind: "bandwidth", attributes: `"rate": 200`, upstream: true}, {kind: "bandwidth", attributes: `"rate": 1`}}, passes: 1500},
	{name: "sliced", toxics: []toxic{{kind: "slicer", attributes: inPieces, upstream: true}, {kind: "slicer", attributes: byByte}}, passes: 1500},
}

var postgresFaults = []networkFault{
	{name: "sliced", toxics: both("slicer", byByte), passes: 1000},
	{name: "slow: latency and jitter", toxics: both("latency", `"latency": 150, "jitter": 100`), passes: 2000},
	{name: "slow: bandwidth", toxics: []toxic{{kind: "bandwidth", attributes: `"rate": 200`}, {kind: "bandwidth", attributes: `"rate": 1`, upstream: true}}, passes: 1000},
	{name: "cut", toxics: both("reset_peer", `"timeout": 0`), lasts: time.Second, times: 3},
}

// play makes the network bad and good again, and returns for how long nothing
// came once it was good.
func (f networkFault) play(s *stage, r *rig.Relay, b *badNetwork) time.Duration {
	s.t.Helper()
	var again time.Duration
	for range f.times {
		said := strings.Count(r.Log(), f.says)
		b.poison(f.toxics)
		<-time.After(f.lasts) // the fault's own time
		if f.says != "" && strings.Count(r.Log(), f.says) == said {
			s.t.Errorf("%s: the log does not say %q", f.name, f.says)
		}
		b.heal()
		good := time.Now()
		s.more(1)
		again = max(again, time.Since(good))
		s.more(500)
	}
	if f.passes > 0 {
		over := time.NewTimer(slowFor)
		b.poison(f.toxics)
		s.more(f.passes)
		<-over.C
		b.heal()
	}
	return again
}

// A bad network between the relay and Kafka, then between it and Postgres,
// costs time. Only a new connection to Postgres repeats what was on its way.
func TestLongFaultNetwork(t *testing.T) {
	t.Parallel()
	var toKafka *badNetwork
	kafka := devtest.Kafka(t, devenv.KafkaOptions{Advertise: func(broker string) string {
		toKafka = newBadNetwork(t, broker)
		return toKafka.address()
	}})
	pg := sharedPostgres(t, "17")
	toPostgres := newBadNetwork(t, pg.Addr())
	s := bareStage(t, pg, kafka.Brokers())
	s.reach = around{toKafka.address(), kafka.Brokers()[0]}.configure
	s.init()
	s.consume()
	s.env = append(s.env, "OUTBOX_CDC_KAFKA_BROKERS="+toKafka.address(), "OUTBOX_CDC_POSTGRES_URL="+s.via(toPostgres.address()))
	l := s.write(1000, 0)
	r := s.run()
	m := watchMemory(r)
	s.more(2000)
	walsender := s.walsender()
	var ends []map[int32]int64
	var names []string
	play := func(side string, faults []networkFault, b *badNetwork) {
		for _, f := range faults {
			s.catchUp(r, 90*time.Second) // or what passes were left from the fault before
			began := time.Now()
			again := f.play(s, r, b)
			s.more(1500)
			status := statusOf(t, r)
			t.Logf("%s, %s: %v with what followed; events %v after it was good; %d batches sent again and %d reconnects to Postgres so far", side, f.name,
				time.Since(began).Round(100*time.Millisecond), again.Round(time.Millisecond), status.Kafka.Retries, status.Relay.Reconnects)
			ends = append(ends, s.ends())
			names = append(names, side+", "+f.name)
		}
	}
	play("Kafka", kafkaFaults, toKafka)
	if now, reconnects := s.walsender(), statusOf(t, r).Relay.Reconnects; now != walsender || walsender == 0 || reconnects != 0 {
		t.Errorf("walsender %d before and %d after, %d reconnects: the relay let go of the stream", walsender, now, reconnects)
	}
	play("Postgres", postgresFaults, toPostgres)
	l.end()
	records := s.finish(r)
	most := m.stop()
	t.Log(tally(records, rig.Repeats(t, records), most))
	for i, repeats := range repeatsBetween(records, ends)[:len(ends)] {
		t.Logf("%s: %d repeats", names[i], len(repeats))
		if len(repeats) > 0 && i < len(kafkaFaults) {
			t.Errorf("%s: %d repeats, though the producer is idempotent", names[i], len(repeats))
		}
	}
	if most > enough {
		t.Errorf("%d MiB resident", most/mib)
	}
}
