package e2e_test

import (
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
)

// Postgres goes away under load, in order and not, and comes back. The server
// writes its slots down now and then, so a crash may repeat what was reported
// since; nothing is lost, and the relay is one process all the while.
func TestFaultPostgresRestarts(t *testing.T) {
	t.Parallel()
	pg := devtest.Postgres(t, devenv.PostgresOptions{Version: "17", Fsync: true})
	s := newStage(t, pg, sharedKafka(t).Brokers())
	l := s.write(3000, 0)
	r := s.run()
	faults := []struct {
		name string
		do   func() error
	}{
		{"fast shutdown", func() error { return pg.Stop(t.Context(), devenv.StopFast) }},
		{"immediate shutdown", func() error { return pg.Stop(t.Context(), devenv.StopImmediate) }},
		{"kill -9 of all processes", pg.Kill},
	}
	var ends []map[int32]int64
	for _, fault := range faults {
		s.more(1500)
		began := time.Now()
		if err := fault.do(); err != nil {
			t.Fatalf("%s: %v", fault.name, err)
		}
		down := time.Since(began)
		ends = append(ends, s.ends())
		if err := pg.Start(t.Context()); err != nil {
			t.Fatalf("%s: %v", fault.name, err)
		}
		up := time.Now()
		s.more(1)
		t.Logf("%s: down after %v; events %v after it was up", fault.name, down.Round(time.Millisecond), time.Since(up).Round(time.Millisecond))
		if down > 10*time.Second {
			t.Errorf("%s took %v", fault.name, down)
		}
	}
	s.more(1500)
	l.end()
	records := s.finish(r)
	repeats := repeatsBetween(records, ends)
	for i, fault := range faults {
		t.Logf("%s: %d repeats", fault.name, len(repeats[i+1]))
	}
	if len(repeats[0])+len(repeats[1]) != 0 {
		t.Errorf("%d repeats before and %d after a fast shutdown, which waits until everything is confirmed", len(repeats[0]), len(repeats[1]))
	}
	if rows := s.rows(); int64(len(rows)) < l.committed.Load() {
		t.Errorf("the table has %d rows, and %d were committed", len(rows), l.committed.Load())
	}
	t.Logf("%d records, %d transactions broken by the server: none lost, order kept", len(records), l.broken.Load())
}
