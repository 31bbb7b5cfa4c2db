//go:build long

package e2e_test

import (
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

const (
	soakVariable = "OUTBOX_CDC_SOAK" // how long it lasts, such as 10m
	seedVariable = "OUTBOX_CDC_SEED" // draws the faults
	soakTime     = time.Minute
	soakRate     = 2000 // rows a second
)

// soak is two instances on one slot, under load, and everything that is played on them.
type soak struct {
	*stage
	kafka                *devenv.Kafka
	toKafka, toPostgres  *badNetwork
	rng                  *rand.Rand
	relays               [2]*rig.Relay
	memory               [2]*memory
	most                 int // bytes resident, of relays that have ended
	goroutines, lastGoes int // of an active relay that had nothing to do: the first and the last number
	played               map[string]int
}

// start starts the instance i.
func (s *soak) start(i int) {
	s.relays[i] = s.run()
	s.memory[i] = watchMemory(s.relays[i])
}

// ended takes note of what the instance i has used.
func (s *soak) ended(i int) { s.most = max(s.most, s.memory[i].stop()) }

// replace ends the active instance, and starts another one in its place.
func (s *soak) replace(end func(*rig.Relay)) {
	s.t.Helper()
	i := s.active()
	end(s.relays[i])
	s.ended(i)
	s.start(i)
}

// active returns the instance that streams; one does soon.
func (s *soak) active() int {
	s.t.Helper()
	active := 0
	rig.Eventually(s.t, time.Minute, "an instance streams", func() bool {
		for i, r := range s.relays {
			select {
			case <-r.Done():
				s.t.Fatalf("an instance has ended:\n%s", r.Log())
			default:
			}
			if state, _, _ := r.State(); state == "streaming" {
				active = i
				return true
			}
		}
		return false
	})
	return active
}

var goroutinesOf = regexp.MustCompile(`(?m)^go_goroutines (\d+)`)

// census counts the goroutines of the active instance.
func (s *soak) census() int {
	s.t.Helper()
	n := 0
	rig.Eventually(s.t, time.Minute, "go_goroutines", func() bool {
		_, text := s.relays[s.active()].Get("/metrics")
		m := goroutinesOf.FindStringSubmatch(text)
		if m == nil {
			return false
		}
		var err error
		n, err = strconv.Atoi(m[1])
		return err == nil
	})
	return n
}

func (s *soak) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// moment is a fault's own time.
func (s *soak) moment(most time.Duration) {
	<-time.After(time.Duration(s.rng.Int64N(int64(most))))
}

// network plays one fault of a network's.
func (s *soak) network(b *badNetwork, faults []networkFault) {
	f := faults[s.rng.IntN(len(faults))]
	b.poison(f.toxics)
	s.moment(10 * time.Second)
	b.heal()
}

// fault plays one fault, and leaves everything running.
func (s *soak) fault() (name string) {
	ctx := s.t.Context()
	switch s.rng.IntN(10) {
	case 0:
		name = "kill -9 of the active instance"
		s.replace((*rig.Relay).Kill)
	case 1:
		name = "SIGTERM of the active instance"
		s.replace(func(r *rig.Relay) { r.Stop() })
	case 2:
		name = "broker killed"
		s.must(s.kafka.Kill(1))
		s.moment(5 * time.Second)
		s.must(s.kafka.Start(ctx, 1))
	case 3:
		name = "broker restarted"
		s.must(s.kafka.StopBroker(ctx, 1))
		s.must(s.kafka.Start(ctx, 1))
	case 4:
		name = "broker frozen"
		s.must(s.kafka.Pause(1))
		s.moment(15 * time.Second)
		s.must(s.kafka.Continue(1))
	case 5, 6:
		name = "bad network to Kafka"
		s.network(s.toKafka, kafkaFaults)
	case 7:
		name = "bad network to Postgres"
		s.network(s.toPostgres, postgresFaults)
	case 8:
		name = "Postgres restarted"
		s.must(s.pg.Stop(ctx, pickOf(s.rng, devenv.StopFast, devenv.StopImmediate)))
		s.must(s.pg.Start(ctx))
	default:
		name = "Postgres killed"
		s.must(s.pg.Kill())
		s.must(s.pg.Start(ctx))
	}
	return name
}

func pickOf[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

// TestLongSoak plays faults at random, one after the other, on two instances at
// 2,000 rows a second: nothing is lost, the keys keep their order, memory stays
// bounded, and no goroutine is left behind.
func TestLongSoak(t *testing.T) {
	lasts := soakTime
	if text := os.Getenv(soakVariable); text != "" {
		var err error
		if lasts, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", soakVariable, err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedVariable, err)
		}
	}
	t.Logf("%s=%d draws these faults again", seedVariable, seed)
	s := newSoak(t, seed)
	l := s.write(soakRate, 0)
	s.more(2000)
	s.goroutines = s.census()
	for began := time.Now(); time.Since(began) < lasts; {
		name := s.fault()
		s.played[name]++
		mended := time.Now()
		s.more(1)
		again := time.Since(mended)
		t.Logf("%v: %s; events %v after it was mended", time.Since(began).Round(time.Second), name, again.Round(time.Millisecond))
		s.more(soakRate)
	}
	l.end()
	s.catchUp(s.relays[s.active()], 3*time.Minute)
	s.lastGoes = s.census()
	active := s.active()
	s.relays[1-active].Stop()
	s.ended(1 - active)
	records := s.finish(s.relays[active])
	s.ended(active)
	t.Logf("%v, %v: %d of %d transactions without an answer; %s; %d goroutines in the beginning, %d at the end", lasts, s.played,
		l.broken.Load(), l.broken.Load()+l.committed.Load()/rowsPerTx, tally(records, rig.Repeats(t, records), s.most), s.goroutines, s.lastGoes)
	if s.most > enough {
		t.Errorf("%d MiB resident", s.most/mib)
	}
	// A connection to a broker, or a question to Postgres, may come or go.
	if s.lastGoes > s.goroutines+10 {
		t.Errorf("%d goroutines, %d in the beginning", s.lastGoes, s.goroutines)
	}
}

func newSoak(t *testing.T, seed uint64) *soak {
	t.Helper()
	s := &soak{rng: rand.New(rand.NewPCG(seed, 0)), played: map[string]int{}}
	s.kafka = devtest.Kafka(t, devenv.KafkaOptions{Advertise: func(broker string) string {
		s.toKafka = newBadNetwork(t, broker)
		return s.toKafka.address()
	}})
	pg := devtest.Postgres(t, devenv.PostgresOptions{Version: "17"})
	s.toPostgres = newBadNetwork(t, pg.Addr())
	s.stage = bareStage(t, pg, s.kafka.Brokers())
	s.reach = around{s.toKafka.address(), s.kafka.Brokers()[0]}.configure
	s.init()
	s.consume()
	s.env = append(s.env, "OUTBOX_CDC_KAFKA_BROKERS="+s.toKafka.address(), "OUTBOX_CDC_POSTGRES_URL="+s.via(s.toPostgres.address()))
	for i := range s.relays {
		s.start(i)
	}
	return s
}
