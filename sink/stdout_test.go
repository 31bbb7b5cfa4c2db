package sink

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

func TestStdout(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := NewStdout(&out, builder(t))
	l := newLedger()
	payloads := [][]byte{[]byte(`{"a": "b"}`), []byte("{\n\"a\\n\\\"\":\n1}"), []byte(`text "x"`), nil, {0xff, 0}, []byte("")}
	for i, p := range payloads {
		ev := event(i, "orders", []byte("key"), p)
		if i == 3 {
			ev.Row.Values[2] = nil
		}
		s.Publish(ev, l.ack(i))
	}
	l.awaitDone(t, len(payloads))
	const head = `{"topic":"orders","key":"key","timestamp":"2026-11-23T17:47:26.298695Z","headers":{"content-type":"application/json","ce_specversion":"1.0","ce_id":"id-0","ce_type":"Happened","ce_source":"//test","ce_time":"2026-11-23T17:47:26.298695Z","ce_subject":"key","outbox-lsn":"1/0/1/0"},"value":{"a": "b"}}`
	lines := bytes.Split(bytes.TrimSuffix(out.Bytes(), []byte("\n")), []byte("\n"))
	if len(lines) != len(payloads) || string(lines[0]) != head {
		t.Errorf("got %d lines, the first\n%s\nwant\n%s", len(lines), lines[0], head)
	}
	for i, want := range []string{`{"a": "b"}`, `{"a\n\"":1}`, `"text \"x\""`, `null`, ``, `""`} {
		var line map[string]json.RawMessage
		if err := json.Unmarshal(lines[i], &line); err != nil {
			t.Fatal(err)
		}
		if got := string(line["value"]); got != want {
			t.Errorf("line %d: got value %s, want %s", i, got, want)
		}
		if i == 3 && string(line["key"]) != "null" {
			t.Errorf("got key %s, want null", line["key"])
		}
		if i == 4 && string(line["value_base64"]) != `"/wA="` {
			t.Errorf("got %s", line["value_base64"])
		}
	}
}

// brokenPipe takes one write, refuses the second, and would take more.
type brokenPipe struct{ n int }

var errPipe = errors.New("broken pipe")

func (p *brokenPipe) Write(b []byte) (int, error) {
	if p.n++; p.n == 2 {
		return 0, errPipe
	}
	return len(b), nil
}

// Nothing is acknowledged that was not written, and nothing goes out behind an error.
func TestStdoutFails(t *testing.T) {
	t.Parallel()
	pipe := &brokenPipe{}
	s := NewStdout(pipe, builder(t))
	l := newLedger()
	for i := range 3 {
		s.Publish(event(i, "orders", []byte("key"), []byte("1")), l.ack(i))
	}
	l.await(t, "all settled", func(done, failed int) bool { return done == 1 && failed == 2 })
	for _, n := range []int{1, 2} {
		if err := l.failure(n); !errors.Is(err, errPipe) {
			t.Errorf("event %d: got %v", n, err)
		}
	}
	s.Publish(event(3, "orders", []byte("key"), []byte("1")), l.ack(3))
	if err := l.failure(3); !errors.Is(err, errPipe) {
		t.Errorf("an event before Reset: got %v", err)
	}
	s.Reset()
	s.Publish(event(4, "or ders", []byte("key"), []byte("1")), l.ack(4))
	if err := l.failure(4); fault.KindOf(err) != fault.Poison {
		t.Errorf("got %v, want poison", err)
	}
	s.Reset()
	s.Publish(event(5, "orders", []byte("key"), []byte("1")), l.ack(5))
	l.await(t, "an event after Reset", func(done, _ int) bool { return done == 2 })
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
	s.Publish(event(6, "orders", []byte("key"), []byte("1")), l.ack(6))
	if err := l.failure(6); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

// lineIDs returns the events' numbers in what was written.
func lineIDs(tb testing.TB, lines *bufio.Scanner, n int) []int {
	tb.Helper()
	var got []int
	for range n {
		if !lines.Scan() {
			tb.Fatalf("got %d lines, want %d: %v", len(got), n, lines.Err())
		}
		var l struct{ Headers map[string]string }
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			tb.Fatal(err)
		}
		var id int
		if _, err := fmt.Sscanf(l.Headers[headerID], "id-%d", &id); err != nil {
			tb.Fatal(err)
		}
		got = append(got, id)
	}
	return got
}

// A reader that stalls holds neither Publish nor Reset up, and what it has not
// taken is not acknowledged.
func TestStdoutWithAStalledReader(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe() // a write waits until all of it is read
	defer r.Close()
	s := NewStdout(w, builder(t))
	old, fresh := newLedger(), newLedger()
	for i := range 1000 {
		s.Publish(event(i, "orders", []byte("key"), []byte("1")), old.ack(i))
	}
	if done, failed := old.counts(); done+failed > 0 {
		t.Errorf("got %d done and %d failed before anything was read", done, failed)
	}
	lines := bufio.NewScanner(r)
	if got := lineIDs(t, lines, 100); !slices.Equal(got, numbers(0, 100)) {
		t.Errorf("got %v", got)
	}
	old.await(t, "what was read is acknowledged", func(done, _ int) bool { return done >= 99 })
	eventually(t, "another line is being written", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.writing != nil
	})
	s.Reset() // one line is on its way and stays
	old.await(t, "the rest is given back", func(_, failed int) bool { return failed >= 800 })
	if err := old.failure(999); !errors.Is(err, ErrReset) {
		t.Errorf("got %v, want ErrReset", err)
	}
	for i := range 200 {
		s.Publish(event(5000+i, "orders", []byte("key"), []byte("1")), fresh.ack(i))
	}
	done, failed := old.counts()
	taken := 1000 - failed // those that were read or are on their way
	if done > taken {
		t.Errorf("got %d done and %d failed of 1000", done, failed)
	}
	want := append(numbers(100, taken), numbers(5000, 5200)...)
	if got := lineIDs(t, lines, len(want)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	fresh.awaitDone(t, 200)
	old.await(t, "all settled", func(done, failed int) bool { return done == taken && done+failed == 1000 })
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Close gives a stalled reader its time, and no more.
func TestStdoutCloseWithAStalledReader(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	s := NewStdout(w, builder(t))
	l := newLedger()
	for i := range 10 {
		s.Publish(event(i, "orders", []byte("key"), []byte("1")), l.ack(i))
	}
	eventually(t, "a line is being written", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.writing != nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want to hear of the line that is lost", err)
	}
	if done, failed := l.counts(); done != 0 || failed != 10 {
		t.Errorf("got %d done and %d failed, want 0 and 10", done, failed)
	}
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	_ = r.Close()
	wait(t, "the end of the writer", ended) // it settles nothing twice
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Close waits for the line that the reader is about to take.
func TestStdoutCloseAwaitsTheReader(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	defer r.Close()
	s := NewStdout(w, builder(t))
	l := newLedger()
	s.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	eventually(t, "a line is being written", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.writing != nil
	})
	closed := make(chan error, 1)
	go func() { closed <- s.Close(t.Context()) }()
	eventually(t, "Close", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.closed
	})
	if got := lineIDs(t, bufio.NewScanner(r), 1); !slices.Equal(got, []int{0}) {
		t.Errorf("got %v", got)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if done, failed := l.counts(); done != 1 || failed != 0 {
		t.Errorf("got %d done and %d failed, want 1 and 0", done, failed)
	}
}
