package cdc

import (
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// A server that takes connections and does not answer was not reached.
func TestStartupTimeoutBoundsSetUp(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	mustExec(t, t.Context(), conn, "BEGIN; LOCK TABLE pg_catalog.pg_publication")
	c := configFor(name)
	c.StartupTimeout = time.Second
	began := time.Now()
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.Unreachable, "gave up after 1s")
	if took := time.Since(began); took > queryTimeout {
		t.Errorf("gave up after %v", took)
	}
}

// A query that is not answered ends the session, and the next one goes on.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	mustExec(t, t.Context(), conn, "BEGIN; LOCK TABLE pg_catalog.pg_publication")
	log := newLogBuffer()
	c := configFor(name)
	c.Log = log.logger()
	r := start(t, c, newMemory(false))
	log.await(t, "no answer within")
	mustExec(t, t.Context(), conn, "COMMIT")
	r.await(t, Streaming)
}
