package cdc

import (
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// A table that is gone when the relay starts is no reason to make another one.
// What it is called now is known, and under that name its earlier rows come too.
func TestRenamedTable(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := initiated(t, name)
	insertRows(t, conn, 1, 1)
	mustExec(t, t.Context(), conn, "ALTER TABLE outbox RENAME TO events")
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.Usage, "set table.name: public.events")
	_, err := Init(t.Context(), c)
	checkFault(t, err, fault.Usage, "set table.name: public.events")
	mustExec(t, t.Context(), conn, "INSERT INTO events (aggregate_type, aggregate_id, event_type, payload) VALUES ('order', '2', 'x', '{}')")
	c.Table = Table{"public", "events"}
	sink := newMemory(false)
	r := start(t, c, sink)
	if got := keysOf(sink.await(t, 2)); got[0] != "1" || got[1] != "2" {
		t.Errorf("streamed %v", got)
	}
	if err := r.stop(t); err != nil {
		t.Error(err)
	}
}

// So is one that the publication lost sight of when it moved, though it is there.
func TestTableMovedToAnotherSchema(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := configFor(name)
	c.Publication = name
	mustExec(t, t.Context(), conn, "CREATE SCHEMA archive")
	mustExec(t, t.Context(), conn, "CREATE PUBLICATION "+ident(name)+" FOR TABLES IN SCHEMA public WITH (publish = 'insert')")
	if _, err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	mustExec(t, t.Context(), conn, "ALTER TABLE outbox SET SCHEMA archive")
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.SlotLost, "is now archive.outbox")
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.SlotLost, "outbox-cdc recover")
}

// One that was dropped is a loss.
func TestDroppedTable(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := initiated(t, name)
	insertRows(t, conn, 1, 1)
	mustExec(t, t.Context(), conn, "DROP TABLE outbox")
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.SlotLost, "was dropped")
	_, err := Init(t.Context(), c)
	checkFault(t, err, fault.SlotLost, "was dropped")
	mustExec(t, t.Context(), conn, schemaSQL)
	insertRows(t, conn, 2, 2)
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.SlotLost, "outbox-cdc recover")
	sink := newMemory(false)
	if n, err := recovered(t, c, sink, byTime); err != nil || n != 1 || sink.records()[0].key != "2" {
		t.Errorf("recovered %d, %v: %v", n, err, keysOf(sink.records()))
	}
	sink = newMemory(false)
	start(t, c, sink)
	if got := keysOf(sink.await(t, 1)); got[0] != "1" { // which the slot still had
		t.Errorf("streamed %v", got)
	}
}
