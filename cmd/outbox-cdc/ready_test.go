package main

import (
	"strings"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
)

// An idle relay streams without Kafka, but is not ready before Kafka has
// answered once; later on it may be idle while Kafka is away.
func TestNotReadyBeforeKafka(t *testing.T) {
	t.Parallel()
	postgres := devtest.Postgres(t, devenv.PostgresOptions{})
	s := newSite(t, postgres, "127.0.0.1:1")
	s.want(t, 0, "init")
	p := startRelay(t, s.env)
	address := "http://" + p.event(t, "outbox.started")["http"].(string)
	p.event(t, "outbox.streaming")
	await(t, "/readyz says what Kafka's error is", func() bool {
		code, body := get(t, address+"/readyz")
		if code != 503 || !strings.Contains(body, `"state":"streaming"`) || !strings.Contains(body, "kafka has not taken us in yet") {
			t.Fatalf("/readyz: %d %s", code, body)
		}
		return strings.Contains(body, "connection refused")
	})
	if _, body := get(t, address+"/metrics"); !strings.Contains(body, "\noutbox_cdc_ready 0\n") {
		t.Error("/metrics says that the relay is ready")
	}
}
