package cdc

import (
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// A line that has heard something since it was suspected is not cut, though
// its walsender has read the question.
func TestSuspicionIsRefuted(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	r := start(t, configFor(name), newMemory(false))
	r.await(t, Streaming)
	c, err := configFor(name).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	slot, err := readSlot(t.Context(), conn, name)
	if err != nil {
		t.Fatal(err)
	}
	before, err := readCover(t.Context(), conn, c)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the walsender has read a question", func() bool {
		var read *time.Time
		err := conn.QueryRow(t.Context(), replySQL, slot.ActivePID).Scan(&read)
		return err == nil && read != nil
	})
	for _, test := range []struct {
		heard int64
		cut   bool
	}{{heard: 8}, {heard: 7, cut: true}} {
		var heard atomic.Int64
		heard.Store(test.heard)
		w := &watch{config: c, walsender: uint32(slot.ActivePID), interrupt: func() {}, heard: &heard, cover: before, sight: new(sight), reserve: new(reserve)}
		if err := w.look(t.Context(), conn, suspicion{asked: time.Now().Add(-time.Hour), heard: 7}); err != nil {
			t.Fatal(err)
		}
		if err := w.Err(); (err != nil) != test.cut || err != nil && fault.KindOf(err) != fault.Unreachable {
			t.Errorf("heard %d bytes, 7 when it was suspected: got %v, want it cut: %v", test.heard, err, test.cut)
		}
	}
}

// A watch that sees nothing says so, and after a while the relay is not ready,
// until it sees again.
func TestWatchIsBlind(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	log := newLogBuffer()
	c := configFor(name)
	c.Log = log.logger()
	sink := newMemory(false)
	r := startWith(t, c, sink, func(r *Relay) { r.watchInterval, r.blindFor = 50*time.Millisecond, 3*time.Second })
	r.await(t, Streaming)
	mustExec(t, t.Context(), conn, "BEGIN; LOCK pg_publication IN ACCESS EXCLUSIVE MODE")
	log.await(t, "outbox.watch_blind")
	eventually(t, "not ready", func() bool { return strings.Contains(r.Stats().NotReady, "could not be watched") })
	if s := r.Stats(); s.State != Streaming || !log.contains("no answer within") || !log.contains("hint=") {
		t.Errorf("state %s; the log should have the error and its hint:\n%s", s.State, &log.text)
	}
	mustExec(t, t.Context(), conn, "COMMIT")
	eventually(t, "ready", func() bool { return r.Stats().Ready })
	mustExec(t, t.Context(), conn, insertSQL, "a", `{}`)
	sink.await(t, 1)
}

// It says so once a moment, and nothing of what is over at once.
func TestBlindnessIsSaidNowAndThen(t *testing.T) {
	t.Parallel()
	log := newLogBuffer()
	s := &sight{log: log.logger()}
	said := func() int { return log.count("outbox.watch_blind") }
	now := time.Now()
	s.lost(now.Add(time.Hour), errLate) // it has just begun
	if said() != 0 {
		t.Error("a blink was said")
	}
	s.back()
	s.lost(now.Add(-2*blinkFor), errLate)
	s.lost(now, errLate)
	if n := said(); n != 1 {
		t.Errorf("said %d times at once", n)
	}
	s.nag.at = now.Add(-2 * nagInterval)
	s.lost(now, errLate)
	if n := said(); n != 2 {
		t.Errorf("said %d times, after a while", n)
	}
}

// So it is when no plain connection can be made any more: the stream goes on.
func TestWatchCannotConnect(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	log := newLogBuffer()
	c := configFor(name)
	if _, err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	role := name + "_relay"
	mustExec(t, t.Context(), conn, "CREATE ROLE "+role+" LOGIN REPLICATION PASSWORD 'secret'")
	c.URL = shared.URLFor(name, role, "secret")
	c.Log = log.logger()
	sink := newMemory(false)
	r := startWith(t, c, sink, func(r *Relay) { r.watchInterval, r.blindFor = 50*time.Millisecond, letGoAfter+time.Second })
	r.await(t, Streaming)
	mustExec(t, t.Context(), conn, "ALTER ROLE "+role+" NOLOGIN")
	mustExec(t, t.Context(), conn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'outbox-cdc' AND backend_type = 'client backend'`)
	log.await(t, "outbox.watch_blind")
	eventually(t, "not ready", func() bool { return strings.Contains(r.Stats().NotReady, "not permitted to log in") })
	mustExec(t, t.Context(), conn, insertSQL, "a", `{}`)
	sink.await(t, 1)
	mustExec(t, t.Context(), conn, "ALTER ROLE "+role+" LOGIN")
	eventually(t, "ready", func() bool { return r.Stats().Ready })
	if n := r.Stats().Reconnects; n != 0 {
		t.Errorf("%d reconnects", n)
	}
}

// Whatever was found before, a server that is stopping is let go of.
func TestStoppingGoesFirst(t *testing.T) {
	t.Parallel()
	w := &watch{interrupt: func() {}}
	for _, err := range []error{errLate, errServerStopping} {
		if w.found(err); !errors.Is(w.Err(), err) {
			t.Errorf("got %v after %v was found", w.Err(), err)
		}
	}
	if w.found(errLate); !errors.Is(w.Err(), errServerStopping) {
		t.Errorf("got %v in the end", w.Err())
	}
}

// A walsender that no longer holds the slot is noticed, though the connection to it may look alive.
func TestWatchMissesItsWalsender(t *testing.T) {
	t.Parallel()
	l := opened(t)
	w := l.watch
	conn := connectTo(t, w.config.URL)
	if err := w.look(t.Context(), conn, suspicion{}); err != nil || w.Err() != nil {
		t.Fatalf("got %v, %v while it streams", err, w.Err())
	}
	w.walsender++
	if err := w.look(t.Context(), conn, suspicion{}); err != nil {
		t.Fatal(err)
	}
	checkFault(t, w.Err(), fault.Unreachable, "no longer holds slot")
}

// While the line hears from the server, a watch that cannot connect is patient.
func TestReconnectIsPatient(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tries atomic.Int64
	var server sync.WaitGroup
	t.Cleanup(server.Wait)
	t.Cleanup(func() { _ = listener.Close() })
	server.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
			tries.Add(1)
		}
	})
	var heard atomic.Int64
	heard.Store(8)
	w := &watch{
		config: Config{URL: "postgres://x@" + listener.Addr().String() + "/x?sslmode=disable"},
		heard:  &heard, suspect: make(chan suspicion, 1), sight: &sight{log: newLogBuffer().logger()},
	}
	ended := make(chan error, 1)
	go func() {
		_, err := w.reconnect(t.Context(), false, false)
		ended <- err
	}()
	w.suspect <- suspicion{asked: time.Now(), heard: 7} // and it has heard more since
	eventually(t, "the suspicion is taken", func() bool { return len(w.suspect) == 0 })
	before := tries.Load()
	eventually(t, "it goes on", func() bool { return tries.Load() > before+2 || len(ended) > 0 })
	if len(ended) > 0 {
		t.Fatalf("it gave up though the line hears: %v", <-ended)
	}
	w.suspect <- suspicion{asked: time.Now(), heard: 8}
	checkFault(t, <-ended, fault.Unreachable, "no sign of life")
}
