package cdc

import (
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// A recovery never takes what a policy shows it for all there is, whoever it
// withholds rows from: the owner too, when it is forced.
func TestRecoverUnderRowSecurity(t *testing.T) {
	t.Parallel()
	for name, owner := range map[string]bool{"the owner": true, "another role": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			name, conn := database(t)
			role := name + "_relay"
			mustExec(t, t.Context(), conn, "CREATE ROLE "+role+" LOGIN REPLICATION PASSWORD 'secret'")
			mustExec(t, t.Context(), conn, "GRANT CREATE ON DATABASE "+name+" TO "+role)
			if owner {
				mustExec(t, t.Context(), conn, "ALTER TABLE outbox OWNER TO "+role+"; ALTER TABLE outbox FORCE ROW LEVEL SECURITY")
			} else {
				mustExec(t, t.Context(), conn, "GRANT SELECT ON outbox TO "+role)
			}
			c := initiated(t, name)
			mustExec(t, t.Context(), conn, "ALTER PUBLICATION outbox_cdc OWNER TO "+role)
			dropSlot(t, t.Context(), conn, name)
			insertRows(t, conn, 1, 3)
			c.URL = shared.URLFor(name, role, "secret")
			if got := statuses(Check(t.Context(), c))["row-level security"]; got != "" {
				t.Errorf("without a policy check says %q", got)
			}
			mustExec(t, t.Context(), conn, "ALTER TABLE outbox ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON outbox USING (aggregate_id = '2')")
			if got := statuses(Check(t.Context(), c))["row-level security"]; got != fault.Warn {
				t.Errorf("with a policy check says %q", got)
			}
			_, err := PlanRecover(t.Context(), c, byTime)
			checkFault(t, err, fault.Unexpected, "BYPASSRLS")
			sink := newMemory(false)
			_, err = recovered(t, c, sink, byTime)
			checkFault(t, err, fault.Unexpected, "BYPASSRLS")
			checkFault(t, start(t, c, newMemory(false)).wait(t), fault.SlotLost, "outbox-cdc recover")
			mustExec(t, t.Context(), conn, "ALTER ROLE "+role+" BYPASSRLS")
			if n, err := recovered(t, c, sink, byTime); err != nil || n != 3 {
				t.Errorf("recovered %d, %v", n, err)
			}
			streamsOn(t, conn, c, 4)
		})
	}
}
