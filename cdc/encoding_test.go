package cdc

import (
	"context"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// A database may let bytes in that are no text in UTF-8: what holds such a row
// up is named, before it happens and then.
func TestBytesThatAreNotUTF8(t *testing.T) {
	t.Parallel()
	name, admin := database(t)
	ascii := name + "_ascii"
	mustExec(t, t.Context(), admin, "CREATE DATABASE "+ascii+" ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
	t.Cleanup(func() {
		dropSlot(t, context.Background(), admin, ascii) // behind the relay's end, which its walsender may outlive
		mustExec(t, context.Background(), admin, "DROP DATABASE "+ascii+" WITH (FORCE)")
	})
	conn := connect(t, ascii)
	mustExec(t, t.Context(), conn, schemaSQL)
	c := configFor(ascii)
	r := start(t, c, newMemory(false))
	r.await(t, Streaming)
	findings := statuses(Check(t.Context(), c))
	if findings["server_encoding"] != fault.Warn {
		t.Errorf("check says %v", findings)
	}
	mustExec(t, t.Context(), conn, "SET client_encoding = 'SQL_ASCII'")
	mustExec(t, t.Context(), conn, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ('order', convert_from('\xff', 'SQL_ASCII'), 'x', '{}')`)
	err := r.wait(t)
	checkFault(t, err, fault.Poison, "in the transaction whose commit is at ")
	checkFault(t, err, fault.Poison, "outbox-cdc recover --replace-slot")
	c.Publication = "outbox_cdc"
	replace := RecoverOptions{ReplaceSlot: true}
	_, err = recovered(t, c, newMemory(false), replace)
	checkFault(t, err, fault.Poison, "mend or delete the row")
	mustExec(t, t.Context(), conn, "DELETE FROM outbox")
	if _, err := recovered(t, c, newMemory(false), replace); err != nil {
		t.Fatal(err)
	}
	mustExec(t, t.Context(), conn, "SET client_encoding = 'UTF8'")
	streamsOn(t, conn, c, 1)
}
