//go:build long

package e2e_test

import (
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// Without a startup timeout the relay waits for either side for ever, and says
// so about every 10 s: never silent, never a flood.
func TestLongBadInputSaysItAgain(t *testing.T) {
	t.Parallel()
	const watched = 25 * time.Second
	r := rig.Run(t, "OUTBOX_CDC_KAFKA_BROKERS="+closedPort(t),
		"OUTBOX_CDC_POSTGRES_URL=postgres://relay:"+secret+"@"+closedPort(t)+"/app?sslmode=disable")
	<-time.After(watched)
	for _, side := range []struct {
		event    string
		min, max int
	}{
		{`"event":"outbox.starting"`, 2, 4},
		{`"event":"outbox.kafka_unreachable"`, 2, 6},
	} {
		n := strings.Count(r.Log(), side.event)
		t.Logf("%s: %d lines in %v", side.event, n, watched)
		if n < side.min || n > side.max {
			t.Errorf("want %d to %d", side.min, side.max)
		}
	}
	if code, body := r.Get("/readyz"); code != 503 || !strings.Contains(body, "refused") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code := r.Stop(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	if strings.Contains(r.Log(), secret) {
		t.Error("the password is in the log")
	}
}
