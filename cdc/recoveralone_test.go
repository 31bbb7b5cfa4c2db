package cdc

import (
	"testing"

	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// One recovery of a slot is at work at a time.
func TestRecoverAlone(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	insertRows(t, conn, 1, 2)
	c := withPublication(name)
	mustExec(t, t.Context(), conn, "SELECT pg_advisory_lock(hashtext('outbox-cdc recover'), hashtext($1))", c.Slot)
	sink := newMemory(false)
	_, err := recovered(t, c, sink, byTime)
	checkFault(t, err, fault.Unexpected, "at work")
	if n := len(sink.records()); n != 0 {
		t.Errorf("%d rows were sent", n)
	}
	mustExec(t, t.Context(), conn, "SELECT pg_advisory_unlock_all()")
	if n, err := recovered(t, c, sink, byTime); err != nil || n != 2 {
		t.Errorf("recovered %d, %v", n, err)
	}
}

// A relay that takes the slot between the recovery's look and its mark may
// stream before it sees that: the recovery does not go on.
func TestRecoverSlotTakenBeforeMark(t *testing.T) {
	t.Parallel()
	name, _ := database(t)
	c := initiated(t, name)
	conn, err := connectSQL(t.Context(), c.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeSQL(conn) })
	v := recovery{config: c, options: byTime, conn: conn}
	if err := v.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := openStream(t.Context(), c, 0, history{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	if err := v.mark(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkFault(t, v.repair(t.Context()), fault.Unexpected, "just now")
}

// crowd is a sink that counts what is in flight.
type crowd struct {
	*memory
	relay *Relay
	most  int
}

func (c *crowd) Publish(ev *decoder.Event, ack Ack) {
	n, _ := c.relay.window.InFlight()
	c.most = max(c.most, n)
	c.memory.Publish(ev, ack)
}

// Invariant 7 holds for a recovery, too.
func TestRecoverKeepsToTheWindow(t *testing.T) {
	t.Parallel()
	const limit, all = 10, 100
	name, conn := database(t)
	mustExec(t, t.Context(), conn, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload)
		SELECT 'order', n::text, 'order.placed', '{}' FROM generate_series(1, $1::int) n`, all)
	c := withPublication(name)
	c.InFlightEvents = limit
	sink := &crowd{memory: newMemory(true)}
	r, err := New(c, sink)
	if err != nil {
		t.Fatal(err)
	}
	sink.relay = r
	done := make(chan error, 1)
	go func() {
		_, err := r.Recover(t.Context(), byTime)
		done <- err
	}()
	settled := 0
	for settled < all {
		for _, rec := range sink.await(t, min(settled+limit, all))[settled:] {
			rec.ack.Done(rec.ev.Size)
			settled++
		}
	}
	if err := <-done; err != nil || sink.most != limit {
		t.Errorf("%v; %d rows in flight, with a limit of %d", err, sink.most, limit)
	}
}
