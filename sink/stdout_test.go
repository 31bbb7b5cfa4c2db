package sink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"

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

// brokenPipe takes n writes.
type brokenPipe struct{ n int }

var errPipe = errors.New("broken pipe")

func (p *brokenPipe) Write(b []byte) (int, error) {
	if p.n--; p.n < 0 {
		return 0, errPipe
	}
	return len(b), nil
}

// Nothing is acknowledged that was not written, and nothing goes out behind an error.
func TestStdoutFails(t *testing.T) {
	t.Parallel()
	pipe := &brokenPipe{n: 1}
	s := NewStdout(pipe, builder(t))
	l := newLedger()
	for i := range 3 {
		s.Publish(event(i, "orders", []byte("key"), []byte("1")), l.ack(i))
		pipe.n = max(pipe.n, 0) + i // the third write would pass
	}
	if done, failed := l.counts(); done != 1 || failed != 2 {
		t.Errorf("got %d done and %d failed, want 1 and 2", done, failed)
	}
	if err := l.failure(1); !errors.Is(err, errPipe) {
		t.Errorf("got %v", err)
	}
	s.Reset()
	s.Publish(event(3, "or ders", []byte("key"), []byte("1")), l.ack(3))
	if err := l.failure(3); fault.KindOf(err) != fault.Poison {
		t.Errorf("got %v, want poison", err)
	}
	s.Reset()
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
	s.Publish(event(4, "orders", []byte("key"), []byte("1")), l.ack(4))
	if err := l.failure(4); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}
