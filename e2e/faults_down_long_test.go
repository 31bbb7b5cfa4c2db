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

// A broker that is down when the relay starts, and later for longer than the
// wal_sender_timeout of 10 s: nothing listens at its port. What was committed
// meanwhile waits in the slot, then in the window, and all of it arrives.
func TestLongFaultBrokerDown(t *testing.T) {
	t.Parallel()
	const down = 30 * time.Second
	kafka := devtest.Kafka(t, devenv.KafkaOptions{})
	s := bareStage(t, sharedPostgres(t, "17"), kafka.Brokers())
	s.init()
	if err := kafka.Kill(1); err != nil {
		t.Fatal(err)
	}
	over := time.NewTimer(down)
	l := s.write(1000, 0)
	r := s.run()
	m := watchMemory(r)
	const waits, hint = "outbox.kafka_unreachable", "check kafka.brokers"
	rig.Eventually(t, 30*time.Second, "the log says what is waited for", func() bool { return strings.Contains(lineWith(r.Log(), waits), hint) })
	<-over.C
	if state, reason, ready := r.State(); ready || reason == "" {
		t.Errorf("without a broker the relay is %s, ready %t, reason %q", state, ready, reason)
	}
	up := func() {
		if err := kafka.Start(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	up()
	began := time.Now()
	s.consume()
	s.await(1)
	t.Logf("down for %v when the relay started: events %v after it was up; the log said: %s",
		down, time.Since(began).Round(time.Millisecond), lineWith(r.Log(), waits))
	s.await(15_000)
	walsender, before := s.walsender(), statusOf(t, r)
	if err := kafka.Kill(1); err != nil {
		t.Fatal(err)
	}
	over.Reset(down)
	full := fullWindow(t, r, down+15*time.Second)
	<-over.C
	up()
	began = time.Now()
	s.more(1)
	again := time.Since(began)
	s.more(15_000)
	l.end()
	after := statusOf(t, r)
	if now := s.walsender(); now != walsender || walsender == 0 || after.Relay.Reconnects != before.Relay.Reconnects {
		t.Errorf("walsender %d before and %d after, %d reconnects: the relay let go of the stream", walsender, now, after.Relay.Reconnects)
	}
	records := s.finish(r)
	most, repeats := m.stop(), rig.Repeats(t, records)
	t.Logf("down for %v under load: window full at %d events and %.1f MiB, events %v after it was up; the log said: %s",
		down, full.Relay.InFlightEvents, float64(full.Relay.InFlightBytes)/mib, again.Round(time.Millisecond), lineWith(r.Log(), waits))
	t.Log(tally(records, repeats, most))
	if repeats != 0 {
		t.Errorf("%d repeats, though the producer is idempotent", repeats)
	}
	if most > enough {
		t.Errorf("%d MiB resident", most/mib)
	}
}
