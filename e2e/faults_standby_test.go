package e2e_test

import (
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// The slot is the lock: the second instance waits for it, and has it soon
// after the first has died.
func TestFaultStandbyTakesOver(t *testing.T) {
	t.Parallel()
	s := newStage(t, sharedPostgres(t, "17"), sharedKafka(t).Brokers())
	active := s.run()
	active.AwaitState("streaming")
	l := s.write(3000, 0)
	active = s.takeOver(active, "kill -9", (*rig.Relay).Kill, 5*time.Second)
	active = s.takeOver(active, "SIGTERM", func(r *rig.Relay) { r.Stop() }, 5*time.Second)
	l.end()
	records := s.finish(active)
	t.Logf("%d records, %d of them repeats: none lost, order kept", len(records), rig.Repeats(t, records))
}

// takeOver starts a standby, ends the active instance and returns the standby
// when it streams.
func (s *stage) takeOver(active *rig.Relay, how string, end func(*rig.Relay), limit time.Duration) *rig.Relay {
	s.t.Helper()
	standby := s.run()
	standby.AwaitState("standby")
	rig.Eventually(s.t, 60*time.Second, "ready to stand by, once Kafka has answered", func() bool {
		_, reason, ready := standby.State()
		return ready && strings.Contains(reason, "holds the slot") && strings.Contains(reason, "outbox-cdc")
	})
	s.more(2000)
	began := time.Now()
	end(active)
	standby.AwaitState("streaming")
	took := time.Since(began)
	s.t.Logf("%s: taken over after %v", how, took.Round(time.Millisecond))
	if took > limit {
		s.t.Errorf("%s: the standby took over after %v, want %v at most", how, took, limit)
	}
	s.more(1000)
	return standby
}

// A standby finds out by itself that its link has lost everything, and is there
// when it is needed.
func TestFaultStandbyLinkSilent(t *testing.T) {
	t.Parallel()
	s := newStage(t, sharedPostgres(t, "17"), sharedKafka(t).Brokers())
	active := s.run()
	active.AwaitState("streaming")
	proxy := newProxy(t, s.pg.Addr())
	standby := rig.Run(t, append(s.env, "OUTBOX_CDC_POSTGRES_URL="+s.via(proxy.address()))...)
	standby.AwaitState("standby")
	if n := proxy.silence(false); n == 0 {
		t.Fatal("the standby has no connection")
	}
	if code := active.Stop(); code != 0 {
		t.Fatalf("exit code %d after SIGTERM:\n%s", code, active.Log())
	}
	began := time.Now()
	standby.AwaitState("streaming")
	took := time.Since(began)
	if took > 20*time.Second {
		t.Errorf("took over after %v", took)
	}
	l := s.write(1000, 0)
	s.more(500)
	l.end()
	records := s.finish(standby)
	t.Logf("taken over after %v; %d records, %d of them repeats: none lost, order kept", took.Round(time.Millisecond), len(records), rig.Repeats(t, records))
}
