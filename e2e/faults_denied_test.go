package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// A server that turns the relay away under load: its sessions are terminated,
// its password is changed before the file that holds it, all walsenders are
// taken. One process rides it out, and says what it waits for.
func TestFaultPostgresTurnsTheRelayAway(t *testing.T) {
	t.Parallel()
	const walsenders = 3
	pg := devtest.Postgres(t, devenv.PostgresOptions{Version: "17", Settings: map[string]string{"max_wal_senders": "3"}})
	s := newStage(t, pg, sharedKafka(t).Brokers())
	s.exec(s.url, "CREATE ROLE relay LOGIN REPLICATION PASSWORD 'first'")
	file := filepath.Join(t.TempDir(), "url")
	login := func(password string) {
		if err := os.WriteFile(file, []byte(pg.URLFor(s.name, "relay", password)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	login("first")
	s.env = append(slices.DeleteFunc(s.env, func(kv string) bool { return strings.HasPrefix(kv, "OUTBOX_CDC_POSTGRES_URL=") }), "OUTBOX_CDC_POSTGRES_URL_FILE="+file)
	terminate := func() {
		s.exec(s.url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'relay'")
	}
	r := s.run()
	l := s.write(2000, 0)
	s.more(1000)

	terminate()
	s.more(1000)

	s.exec(s.url, "ALTER ROLE relay PASSWORD 'second'")
	terminate()
	s.said(r, "password authentication failed", "check the user and the password")
	if state, reason, ready := r.State(); state != "reconnecting" || ready || !strings.Contains(reason, "password") {
		t.Errorf("state %s, ready %v, reason %q", state, ready, reason)
	}
	login("second")
	s.more(1000)

	var taken []*pgx.Conn
	free := func() {
		for _, conn := range taken {
			_ = conn.Close(context.Background())
		}
		taken = nil
	}
	defer free()
	rig.Eventually(t, 30*time.Second, "all walsenders are taken", func() bool {
		terminate()
		for len(taken) < walsenders {
			conn, err := pgx.Connect(t.Context(), s.url+"&replication=database")
			if err != nil {
				return false
			}
			taken = append(taken, conn)
		}
		return true
	})
	s.said(r, "max_wal_senders")
	free()
	s.more(1000)

	l.end()
	records := s.finish(r)
	t.Logf("terminated, locked out by its password, and by others' walsenders: %d records, %d repeats: none lost, order kept",
		len(records), rig.Repeats(t, records))
}

// said waits until the log has all the texts.
func (s *stage) said(r *rig.Relay, texts ...string) {
	s.t.Helper()
	for _, text := range texts {
		rig.Eventually(s.t, 40*time.Second, "the log says "+text, func() bool { return strings.Contains(r.Log(), text) })
	}
}
