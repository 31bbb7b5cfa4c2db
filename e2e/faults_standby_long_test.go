//go:build long

package e2e_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// An active instance that stands still, or whose network has died, keeps its
// connection open: only wal_sender_timeout, 10 s, frees the slot. When it is
// back, the slot is somebody else's, and it stands by.
func TestLongFaultActiveInstanceFrozen(t *testing.T) {
	for _, test := range []struct {
		name         string
		freeze, thaw func(*rig.Relay, *tcpProxy)
	}{
		{
			"kill -STOP",
			func(r *rig.Relay, _ *tcpProxy) { r.Signal(syscall.SIGSTOP) },
			func(r *rig.Relay, _ *tcpProxy) { r.Signal(syscall.SIGCONT) },
		},
		{
			"half-open network",
			func(_ *rig.Relay, p *tcpProxy) { p.dead.Store(true); p.silence(false) },
			func(_ *rig.Relay, p *tcpProxy) { p.dead.Store(false) },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, sharedPostgres(t, "17"), sharedKafka(t).Brokers())
			proxy := newProxy(t, s.pg.Addr())
			first := rig.Run(t, append(s.env, "OUTBOX_CDC_POSTGRES_URL="+s.via(proxy.address()))...)
			first.AwaitState("streaming")
			l := s.write(3000, 0)
			second := s.takeOver(first, test.name, func(r *rig.Relay) { test.freeze(r, proxy) }, 16*time.Second)
			test.thaw(first, proxy)
			first.AwaitState("standby")
			s.more(1000)
			second.Stop()
			first.AwaitState("streaming")
			l.end()
			records := s.finish(first)
			t.Logf("%d records, %d of them repeats: none lost, order kept", len(records), rig.Repeats(t, records))
		})
	}
}
