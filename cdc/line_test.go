package cdc

import (
	"testing"
	"time"
)

// opened returns a line that stands where it would begin to run.
func opened(t *testing.T) *line {
	t.Helper()
	name, _ := database(t)
	r, err := New(configFor(name), newMemory(false))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := r.prepare(t.Context(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeSQL(conn) })
	l, err := r.open(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.stream.close)
	return l
}

// Silence arouses suspicion, but for that of a line which does not read.
func TestSilenceOfALineThatDoesNotRead(t *testing.T) {
	t.Parallel()
	l := opened(t)
	now := time.Now()
	for i, step := range []struct {
		reading   bool
		suspicion int
	}{
		{true, 0}, {true, 0}, // two questions
		{false, 0}, // nobody listens to the answer
		{true, 0}, {true, 0}, {true, 1},
	} {
		now = now.Add(statusInterval)
		asked := l.stream.lastAsk
		if err := l.keepUp(now, step.reading); err != nil {
			t.Fatal(err)
		}
		if got := len(l.watch.suspect); got != step.suspicion {
			t.Errorf("step %d: %d suspicions, want %d", i, got, step.suspicion)
		}
		if asks := l.stream.lastAsk != asked; asks != step.reading {
			t.Errorf("step %d: asked for a reply: %v, want %v", i, asks, step.reading)
		}
	}
}

// A drain looks up at its end, though no report is due.
func TestWakeAtTheLimit(t *testing.T) {
	t.Parallel()
	l := opened(t)
	now := time.Now()
	l.stream.lastSent = now
	if got, want := l.wake(now), now.Add(statusInterval); !got.Equal(want) {
		t.Errorf("wakes after %v, want %v", got.Sub(now), want.Sub(now))
	}
	l.limit = now.Add(time.Second)
	if got := l.wake(now); !got.Equal(l.limit) {
		t.Errorf("draining: wakes after %v, want %v", got.Sub(now), l.limit.Sub(now))
	}
	l.limit = now.Add(time.Hour)
	if got, want := l.wake(now), now.Add(statusInterval); !got.Equal(want) {
		t.Errorf("long drain: wakes after %v, want %v", got.Sub(now), want.Sub(now))
	}
}
