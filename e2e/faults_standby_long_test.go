//go:build long

package e2e_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// An active instance that stands still keeps its connection open: only
// wal_sender_timeout, 10 s, frees the slot. When it wakes up, the slot is
// somebody else's, and it stands by.
func TestLongFaultActiveInstanceFrozen(t *testing.T) {
	t.Parallel()
	s := newStage(t, sharedPostgres(t, "17"), sharedKafka(t).Brokers())
	first := s.run()
	first.AwaitState("streaming")
	l := s.write(3000, 0)
	second := s.takeOver(first, "kill -STOP", func(r *rig.Relay) { r.Signal(syscall.SIGSTOP) }, 16*time.Second)
	first.Signal(syscall.SIGCONT)
	first.AwaitState("standby")
	s.more(1000)
	second.Stop()
	first.AwaitState("streaming")
	l.end()
	records := s.finish(first)
	t.Logf("%d records, %d of them repeats: none lost, order kept", len(records), rig.Repeats(t, records))
}
