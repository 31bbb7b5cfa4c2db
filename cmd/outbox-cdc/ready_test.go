package main

import (
	"strings"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
)

// A relay does not take the slot before Kafka has answered once, for another
// instance might publish; later on it keeps it while Kafka is away.
func TestNotReadyBeforeKafka(t *testing.T) {
	t.Parallel()
	postgres := devtest.Postgres(t, devenv.PostgresOptions{})
	s := newSite(t, postgres, "127.0.0.1:1")
	s.want(t, 0, "init")
	p := startRelay(t, s.env)
	address := "http://" + p.event(t, "outbox.started")["http"].(string)
	p.event(t, "outbox.starting")
	await(t, "/readyz says what Kafka's error is", func() bool {
		code, body := get(t, address+"/readyz")
		if code != 503 || !strings.Contains(body, `"state":"starting"`) || !strings.Contains(body, "kafka has not taken us in yet") {
			t.Fatalf("/readyz: %d %s", code, body)
		}
		return strings.Contains(body, "connection refused")
	})
	if _, body := get(t, address+"/metrics"); !strings.Contains(body, "\noutbox_cdc_ready 0\n") {
		t.Error("/metrics says that the relay is ready")
	}
}
