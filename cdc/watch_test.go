package cdc

import (
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
		w := &watch{config: c, walsender: uint32(slot.ActivePID), interrupt: func() {}, heard: &heard, cover: before}
		if err := w.look(t.Context(), conn, suspicion{asked: time.Now().Add(-time.Hour), heard: 7}); err != nil {
			t.Fatal(err)
		}
		if err := w.Err(); (err != nil) != test.cut || err != nil && fault.KindOf(err) != fault.Unreachable {
			t.Errorf("heard %d bytes, 7 when it was suspected: got %v, want it cut: %v", test.heard, err, test.cut)
		}
	}
}
