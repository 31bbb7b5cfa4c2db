package e2e_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// A slot is lost while services go on writing. No relay makes a new one by
// itself; a recovery that is killed on its way leaves nothing that a relay
// would stream from; the last one completes it, and the relay streams on:
// nothing is lost, and first arrivals are in order.
func TestFaultRecoverLostSlot(t *testing.T) {
	t.Parallel()
	s := newStage(t, sharedPostgres(t, "17"), sharedKafka(t).Brokers())
	l := s.write(1500, 0)
	r := s.run()
	s.more(3000)
	r.Kill()
	s.dropSlot()
	s.refused()

	const (
		marked  = "SELECT coalesce(obj_description(oid, 'pg_publication'), '') LIKE '%recovering%' FROM pg_publication"
		waiting = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active)"
		created = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND NOT active)"
	)
	open := s.connect(s.url)
	t.Cleanup(func() { _ = open.Close(context.Background()) })
	if _, err := open.Exec(t.Context(), "BEGIN; SELECT pg_current_xact_id()"); err != nil { // the creation of a slot waits for it
		t.Fatal(err)
	}
	r = s.recovery()
	rig.Eventually(t, 30*time.Second, "marked, and waiting for the transaction", func() bool { return one[bool](s, marked) && one[bool](s, waiting, s.name) })
	r.Kill()
	// The backend does not see that its client is gone while it waits.
	s.exec(s.url, "SELECT pg_terminate_backend(active_pid, 30000) FROM pg_replication_slots WHERE slot_name = $1", s.name)
	if err := open.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.refused()

	const slow = "OUTBOX_CDC_LIMITS_IN_FLIGHT_EVENTS=1" // a round trip a row: it is killed on its way
	r = s.recovery(slow)
	rig.Eventually(t, 30*time.Second, "slot created", func() bool { return one[bool](s, created, s.name) })
	r.Kill()
	s.refused()
	before := fromTable(s.seen.Records())
	r = s.recovery(slow)
	rig.Eventually(t, 30*time.Second, "rows sent", func() bool { return fromTable(s.seen.Records()) > before })
	r.Kill()
	s.refused()
	killed := fromTable(s.seen.Records())
	for _, more := range []string{"--dry-run", "--since=1s"} { // neither changes anything: nobody says yes to the second
		r = rig.Start(t, s.env, "recover", more)
		if code, want := r.Wait(30*time.Second), map[string]int{"--dry-run": 0, "--since=1s": 2}[more]; code != want || !strings.Contains(r.Stdout(), "slot         keep "+s.name) {
			t.Errorf("recover %s: exit code %d, want %d:\n%s%s", more, code, want, r.Stdout(), r.Log())
		}
	}
	if n := fromTable(s.seen.Records()); n != killed {
		t.Errorf("%d rows were sent by looking", n-killed)
	}
	r = s.recovery()
	if code := r.Wait(60 * time.Second); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, r.Log())
	}
	t.Log(strings.TrimSpace(r.Stdout()))
	r = s.run()
	s.more(1500)
	l.end()
	records := s.finish(r)
	ids, _ := s.seen.Distinct()
	t.Logf("%d events committed: none lost; %d records, %d of them from the table, of these %d by recoveries that were killed",
		ids, len(records), fromTable(records), killed)
}

// recovery starts `outbox-cdc recover`; env is added to the stage's.
func (s *stage) recovery(env ...string) *rig.Relay {
	s.t.Helper()
	return rig.Start(s.t, slices.Concat(s.env, env), "recover", "--yes")
}

// refused checks that a relay does not stream, and says how to recover.
func (s *stage) refused() {
	s.t.Helper()
	// The server may take a moment to see that a killed recovery is gone.
	r := s.run()
	if code := r.Wait(30 * time.Second); code != 4 || !strings.Contains(lastLines(r.Log(), 2), "outbox-cdc recover") {
		s.t.Fatalf("exit code %d, and\n%s", code, lastLines(r.Log(), 2))
	}
}

// fromTable counts the records of rows that were read from the table.
func fromTable(records []devenv.Record) int {
	n := 0
	for i := range records {
		if records[i].Header("outbox-recovered") == "true" {
			n++
		}
	}
	return n
}

// A table that is dropped and created again under a streaming relay is noticed
// while nothing else happens; recovery sends what it holds by then.
func TestFaultRecreatedTable(t *testing.T) {
	t.Parallel()
	s := newStage(t, sharedPostgres(t, "17"), sharedKafka(t).Brokers())
	r := s.run()
	r.AwaitState("streaming")
	s.recreate()
	began := time.Now()
	if code := r.Wait(30 * time.Second); code != 4 {
		t.Fatalf("exit code %d:\n%s", code, r.Log())
	}
	t.Logf("noticed within %v: %s", time.Since(began).Round(time.Second), lastLines(r.Log(), 2))
	s.refused()
	l := s.write(500, 1000)
	l.wait.Wait()
	if r := s.recovery(); r.Wait(60*time.Second) != 0 {
		t.Fatal(r.Log())
	}
	r = s.run()
	s.await(1000)
	records := s.finish(r)
	ids, _ := s.seen.Distinct()
	t.Logf("%d events committed: none lost; %d records, %d of them from the table, %d of them repeats", ids, len(records), fromTable(records), len(records)-ids)
}

// recreate drops the outbox and creates it again.
func (s *stage) recreate() {
	s.t.Helper()
	conn := s.connect(s.url)
	defer func() { _ = conn.Close(s.t.Context()) }()
	if _, err := conn.Exec(s.t.Context(), "CREATE TABLE again (LIKE outbox INCLUDING ALL); DROP TABLE outbox; ALTER TABLE again RENAME TO outbox",
		pgx.QueryExecModeSimpleProtocol); err != nil {
		s.t.Fatal(err)
	}
}
