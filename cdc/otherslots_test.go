package cdc

import (
	"slices"
	"strings"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// A mistyped slot name is not taken for a loss without a word about the slots that are there.
func TestMistypedSlot(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := initiated(t, name)
	other := name + "_other"
	mustExec(t, t.Context(), conn, "SELECT pg_create_logical_replication_slot($1, 'test_decoding')", name+"_foreign")
	mustExec(t, t.Context(), conn, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", other)
	c.Slot = other
	run := start(t, c, newMemory(false))
	run.await(t, Streaming)
	c.Slot = name + "_typo"
	err := start(t, c, newMemory(false)).wait(t)
	want := `check postgres.slot for a wrong name: this database has "` + name + `", "` + other + `" (in use); if the slot was dropped, `
	if fault.KindOf(err) != fault.SlotLost || !strings.HasPrefix(fault.HintOf(err), want) || !strings.Contains(fault.HintOf(err), "outbox-cdc recover") {
		t.Errorf("%v hint: %s\nwant %s", err, fault.HintOf(err), want)
	}
	for _, slot := range []string{c.Slot, name} {
		c.Slot = slot
		plan, err := PlanRecover(t.Context(), c, byTime)
		if err != nil || slices.Contains(plan.UnusedSlots, name) == (slot == name) || len(plan.UnusedSlots) > 1 {
			t.Errorf("for slot %s: plan %+v, %v", slot, plan, err)
		}
	}
}
