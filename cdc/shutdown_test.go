package cdc

import (
	"errors"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// A fast shutdown of the server is not held up by a relay that waits for
// acknowledgements before it ends, however long it may.
func TestShutdownIsNotHeldUpByAnEnd(t *testing.T) {
	t.Parallel()
	poison := fault.New(fault.Poison, "publish", errors.New("too large"), "")
	for name, tc := range map[string]struct {
		end  func(t *testing.T, r started, got []record) // begins an end that waits for got[1]
		kind fault.Kind                                  // 0: Run returns nil
	}{
		"drain": {end: func(t *testing.T, r started, _ []record) {
			r.cancel()
			r.await(t, Draining)
		}},
		"final error": {end: func(t *testing.T, r started, got []record) {
			got[2].ack.Fail(got[2].ev.Size, poison)
			eventually(t, "one is in flight", func() bool { return r.Stats().InFlightEvents == 1 })
		}, kind: fault.Poison},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pg := devtest.Postgres(t, devenv.PostgresOptions{Version: "17"})
			conn := connectTo(t, pg.URL())
			mustExec(t, t.Context(), conn, schemaSQL)
			sink := newMemory(true)
			c := Config{URL: pg.URL(), DrainTimeout: 40 * time.Second}
			r := start(t, c, sink)
			r.await(t, Streaming)
			insertRows(t, conn, 1, 3)
			got := sink.await(t, 3)
			got[0].ack.Done(got[0].ev.Size)
			tc.end(t, r, got)
			late := meter.Late()
			began := time.Now()
			if err := pg.Stop(t.Context(), devenv.StopFast); err != nil {
				t.Fatal(err)
			}
			// 10 s at most are promised.
			if took := time.Since(began); took > 10*time.Second+meter.Late()-late {
				t.Errorf("the shutdown was held up for %v", took)
			}
			if err := r.wait(t); err != nil && tc.kind == 0 || tc.kind != 0 && fault.KindOf(err) != tc.kind {
				t.Errorf("Run returned %v", err)
			}
			if err := pg.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if at := confirmedLSN(t, connectTo(t, pg.URL()), "outbox_cdc"); at <= got[0].ev.LSN || at > got[1].ev.LSN {
				t.Errorf("confirmed %s; want it behind %s and not beyond %s", at, got[0].ev.LSN, got[1].ev.LSN)
			}
		})
	}
}
