package e2e_test

import (
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// A restart in order repeats nothing: SIGTERM waits for the acknowledgements,
// and the server has the last position before the connection ends.
func TestFaultRestartRepeatsNothing(t *testing.T) {
	const restarts = 6
	t.Parallel()
	s := newStage(t, sharedPostgres(t, "17"), sharedKafka(t).Brokers())
	l := s.write(6000, 0)
	var slowest time.Duration
	for i := range restarts {
		r := s.run()
		s.more(1000 + 300*i)
		began := time.Now()
		if code := r.Stop(); code != 0 {
			t.Fatalf("exit code %d after SIGTERM:\n%s", code, r.Log())
		}
		slowest = max(slowest, time.Since(began))
	}
	r := s.run()
	s.more(1000)
	l.end()
	records := s.finish(r)
	if repeats := rig.Repeats(t, records); repeats != 0 {
		t.Errorf("%d restarts repeated %d of %d events", restarts+1, repeats, len(records))
	}
	t.Logf("%d events, %d restarts: none lost, none repeated; the slowest stop took %v", len(records), restarts+1, slowest.Round(time.Millisecond))
}
