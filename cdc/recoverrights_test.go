package cdc

import (
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// A role that could not go on is told so by the plan, and sets no mark that
// would keep the relay from streaming.
func TestRecoverRights(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ role, grant, says string }{
		"no REPLICATION": {"NOREPLICATION", "GRANT SELECT ON outbox TO ", "ALTER ROLE"},
		"no SELECT":      {"REPLICATION", "", "GRANT SELECT"},
		// It can count the rows, but not read them.
		"SELECT of a column": {"REPLICATION", "GRANT SELECT (id) ON outbox TO ", "GRANT SELECT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, conn := database(t)
			c := initiated(t, database)
			insertRows(t, conn, 1, 2)
			role := database + "_r"
			mustExec(t, t.Context(), conn, "CREATE ROLE "+role+" LOGIN PASSWORD 'right' "+tc.role)
			mustExec(t, t.Context(), conn, "ALTER PUBLICATION outbox_cdc OWNER TO "+role)
			if tc.grant != "" {
				mustExec(t, t.Context(), conn, tc.grant+role)
			}
			c.URL = shared.URLFor(database, role, "right")
			_, err := PlanRecover(t.Context(), c, RecoverOptions{})
			checkFault(t, err, fault.Unexpected, tc.says)
			_, err = recovered(t, c, newMemory(false), RecoverOptions{})
			checkFault(t, err, fault.Unexpected, tc.says)
			p, err := readPublication(t.Context(), conn, c)
			if err != nil || readMark(p.Comment) != ready {
				t.Errorf("the mark is %+v, %v", p, err)
			}
		})
	}
}

// A recovery that could not create its slot does not begin: no relay is kept from streaming.
func TestRecoverWithoutFreeSlot(t *testing.T) {
	t.Parallel()
	pg := devtest.Postgres(t, devenv.PostgresOptions{Settings: map[string]string{"max_replication_slots": "1"}})
	conn := connectTo(t, pg.URL())
	c := Config{URL: pg.URL()}
	if _, err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	_, err := recovered(t, c, newMemory(false), byTime)
	checkFault(t, err, fault.Unexpected, "max_replication_slots")
	streamsOn(t, conn, c, 1)
}
