//go:build long

package e2e_test

import (
	"context"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// A broker that stands still for longer than the wal_sender_timeout of 10 s
// fills the window. The relay stops reading and goes on reporting: the
// connection lives, and memory is bounded.
func TestLongFaultBrokerFrozen(t *testing.T) {
	const frozen = 16 * time.Second
	pg := devtest.Postgres(t, devenv.PostgresOptions{Version: "17"})
	kafka := devtest.Kafka(t, devenv.KafkaOptions{})
	s := newStage(t, pg, kafka.Brokers())
	r := s.run()
	l := s.write(6000, 0)
	s.more(5000)
	m := watchMemory(r)
	walsender, before := s.walsender(), statusOf(t, r)
	thaw := time.NewTimer(frozen)
	if err := kafka.Pause(1); err != nil {
		t.Fatal(err)
	}
	full := fullWindow(t, r, frozen)
	<-thaw.C
	last := statusOf(t, r)
	if last.Relay.InFlightEvents < full.Relay.InFlightEvents {
		t.Errorf("%d events in flight when the window was full, %d later: the broker is not frozen", full.Relay.InFlightEvents, last.Relay.InFlightEvents)
	}
	seen, _ := s.seen.Distinct()
	if err := kafka.Continue(1); err != nil {
		t.Fatal(err)
	}
	thawed := time.Now()
	s.await(seen + 1)
	resumed := time.Since(thawed)
	s.more(20_000)
	l.end()
	after := statusOf(t, r)
	still := s.walsender()
	if still != walsender || walsender == 0 {
		t.Errorf("walsender %d before and %d after the freeze", walsender, still)
	}
	if after.Relay.Reconnects != before.Relay.Reconnects {
		t.Errorf("%d reconnects, %d before the freeze", after.Relay.Reconnects, before.Relay.Reconnects)
	}
	records := s.finish(r)
	most := m.stop()
	t.Logf("broker frozen for %v: window full at %d events and %.1f MiB; walsender %d before, %d after; events again %v after; %d records, %d repeats; at most %.1f MiB resident",
		frozen, full.Relay.InFlightEvents, float64(full.Relay.InFlightBytes)/mib, walsender, still, resumed.Round(time.Millisecond),
		len(records), rig.Repeats(t, records), float64(most)/mib)
	if repeats := rig.Repeats(t, records); repeats != 0 {
		t.Errorf("%d repeats, though the producer is idempotent", repeats)
	}
	// The window's 16 MiB, once as messages and once as they are sent, under a collector that is told a limit.
	if most > 96*mib {
		t.Errorf("%d MiB resident", most/mib)
	}
}

// A broker that is killed keeps its log and its producers' numbers: what was
// in flight is sent again, and refused where it had arrived.
func TestLongFaultBrokerKilled(t *testing.T) {
	const kills = 3
	pg := devtest.Postgres(t, devenv.PostgresOptions{Version: "17"})
	kafka := devtest.Kafka(t, devenv.KafkaOptions{})
	s := newStage(t, pg, kafka.Brokers())
	r := s.run()
	l := s.write(3000, 0)
	s.more(2000)
	walsender := s.walsender()
	for range kills {
		s.more(2000)
		if err := kafka.Kill(1); err != nil {
			t.Fatal(err)
		}
		if err := kafka.Start(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		up := time.Now()
		s.more(1)
		t.Logf("events %v after the broker was up", time.Since(up).Round(time.Millisecond))
	}
	s.more(2000)
	l.end()
	if got := s.walsender(); got != walsender {
		t.Errorf("walsender %d before and %d after: the relay let go of the stream", walsender, got)
	}
	status := statusOf(t, r)
	records := s.finish(r)
	repeats := rig.Repeats(t, records)
	t.Logf("broker killed %d times: %d records, %d repeats, %d batches sent again, %d reconnects; none lost, order kept",
		kills, len(records), repeats, status.Kafka.Retries, status.Relay.Reconnects)
	if repeats != 0 {
		t.Errorf("%d repeats, though the producer is idempotent", repeats)
	}
}

// A walsender whose client does not read would hold a fast shutdown up for
// ever: the relay lets go, and goes on when both sides are back.
func TestLongFaultShutdownWhileFrozen(t *testing.T) {
	pg := devtest.Postgres(t, devenv.PostgresOptions{Version: "17"})
	kafka := devtest.Kafka(t, devenv.KafkaOptions{})
	s := newStage(t, pg, kafka.Brokers(), "OUTBOX_CDC_LIMITS_IN_FLIGHT_EVENTS=5000")
	r := s.run()
	l := s.write(4000, 0)
	s.more(5000)
	if err := kafka.Pause(1); err != nil {
		t.Fatal(err)
	}
	full := fullWindow(t, r, 30*time.Second)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := pg.Stop(ctx, devenv.StopFast); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	t.Logf("fast shutdown with %d events in flight and a frozen broker took %v", full.Relay.InFlightEvents, took.Round(time.Millisecond))
	if took > 15*time.Second {
		t.Errorf("the relay held the shutdown up for %v", took)
	}
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := kafka.Continue(1); err != nil {
		t.Fatal(err)
	}
	s.more(5000)
	l.end()
	records := s.finish(r)
	t.Logf("%d records, %d repeats: none lost, order kept", len(records), rig.Repeats(t, records))
}
