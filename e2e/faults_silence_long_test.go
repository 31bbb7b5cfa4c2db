//go:build long

package e2e_test

import (
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// A row that takes longer to arrive than a connection may be silent is no
// silence: its bytes come.
func TestLongFaultSlowLink(t *testing.T) {
	t.Parallel()
	const rate, size = 150_000, 3_000_000
	s := newStage(t, sharedPostgres(t, "17"), sharedKafka(t).Brokers())
	p := newSlowProxy(t, s.pg.Addr(), rate)
	s.env = append(s.env, "OUTBOX_CDC_POSTGRES_URL="+s.via(p.address()), "OUTBOX_CDC_KAFKA_COMPRESSION=gzip")
	r := s.run()
	r.AwaitState("streaming")
	began := time.Now()
	s.exec(s.url, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload)
		SELECT $1, 'k', 'large', jsonb_build_object('n', 1, 'pad', repeat('x', $2))`, s.name, size)
	s.await(1)
	t.Logf("%d bytes at %d bytes/s arrived after %v", size, rate, time.Since(began).Round(100*time.Millisecond))
	if now := statusOf(t, r); now.Relay.Reconnects != 0 {
		t.Errorf("%d reconnects over a link that lives", now.Relay.Reconnects)
	}
	if repeats := rig.Repeats(t, s.finish(r)); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
}

// A connection that died without a word is noticed by the replies that do not
// come, whichever of the relay's connections it is.
func TestLongFaultSilentConnection(t *testing.T) {
	for _, test := range []struct {
		name            string
		replicationOnly bool
		dead            time.Duration // new connections are silent too, for so long
		idle            bool          // nothing is written while it is silent
	}{
		{name: "replication connection", replicationOnly: true},
		{name: "replication connection, idle outbox", replicationOnly: true, idle: true},
		{name: "both connections"},
		{name: "both connections, idle outbox", idle: true},
		{name: "the whole network for a while", dead: 20 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, sharedPostgres(t, "17"), sharedKafka(t).Brokers())
			p := newProxy(t, s.pg.Addr())
			// The last of several settings of one name wins.
			s.env = append(s.env, "OUTBOX_CDC_POSTGRES_URL="+s.via(p.address()))
			r := s.run()
			l := s.write(1000, 0)
			s.more(1000)
			if test.idle {
				l.end()
			}
			before := statusOf(t, r)
			p.dead.Store(test.dead > 0)
			silenced := p.silence(test.replicationOnly)
			began := time.Now()
			if test.dead > 0 {
				<-time.After(test.dead)
				p.dead.Store(false)
			}
			healed := time.Now()
			rig.Eventually(t, time.Minute, "the relay streams again", func() bool {
				now := statusOf(t, r)
				return now.Relay.State == "streaming" && now.Relay.Reconnects > before.Relay.Reconnects
			})
			took := time.Since(began)
			t.Logf("%d connections fell silent: streaming again after %v, %v after the network was back",
				silenced, took.Round(10*time.Millisecond), time.Since(healed).Round(10*time.Millisecond))
			if limit := 20 * time.Second; time.Since(healed) > limit {
				t.Errorf("the relay took longer than %v to reconnect", limit)
			}
			if test.idle {
				l = s.write(1000, 0)
			}
			s.more(1000)
			l.end()
			records := s.finish(r)
			t.Logf("%d records, %d repeats: none lost, order kept", len(records), rig.Repeats(t, records))
		})
	}
}
