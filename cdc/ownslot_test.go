package cdc

import (
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// A slot that decodes a transaction when it is prepared would send what may
// still be rolled back.
func TestTwoPhaseSlot(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c := withPublication(name)
	mustExec(t, t.Context(), conn, createPublicationSQL(mustDefaults()))
	mustExec(t, t.Context(), conn, "SELECT pg_create_logical_replication_slot($1, 'pgoutput', false, true)", name)
	checkFault(t, start(t, c, newMemory(false)).wait(t), fault.Usage, "two_phase")
	if got := statuses(Check(t.Context(), c)); got["slot"] != fault.Fail {
		t.Errorf("check says %v", got)
	}
	_, err := recovered(t, c, newMemory(false), byTime)
	checkFault(t, err, fault.Usage, "--replace-slot")
	eventually(t, "the next recovery", func() bool { // the server may take a moment to see that the first is gone
		_, err := recovered(t, c, newMemory(false), RecoverOptions{ReplaceSlot: true})
		return err == nil
	})
	streamsOn(t, conn, c, 1)
}

// A recovery drops a slot that is lost, but none that is another's.
func TestRecoverLeavesOthersSlots(t *testing.T) {
	t.Parallel()
	c, err := Config{URL: "postgres://x"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]slot{
		"physical":           {Type: "physical", WALStatus: "lost"},
		"another plugin's":   {Type: "logical", Plugin: "wal2json", Database: "app", WALStatus: "lost"},
		"another database's": {Type: "logical", Plugin: "pgoutput", Database: "shop", WALStatus: "lost"},
	} {
		v := recovery{config: c, options: RecoverOptions{ReplaceSlot: true}, cat: catalog{
			server: server{Version: 170000, Database: "app"}, table: &table{Kind: "r"}, cover: &cover{}, slot: &s,
			publication: &publication{Insert: true, Covers: true, Owned: true, Comment: "outbox-cdc: ready"},
		}}
		if err := v.choose(); fault.KindOf(err) != fault.Usage {
			t.Errorf("%s: got %v, and the plan %+v", name, err, v.plan)
		}
	}
}
