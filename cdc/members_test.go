package cdc

import (
	"strings"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// Rows below the table that the publication does not send are refused, and noticed.
func TestMembers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ create, says string }{
		"unlogged partition": {"CREATE TABLE outbox (id uuid) PARTITION BY HASH (id); CREATE UNLOGGED TABLE part PARTITION OF outbox FOR VALUES WITH (MODULUS 1, REMAINDER 0)", "public.part"},
		"heir":               {"CREATE TABLE outbox (id uuid); CREATE TABLE heir () INHERITS (outbox)", "public.heir"},
		"partitions":         {"CREATE TABLE outbox (id uuid) PARTITION BY HASH (id); CREATE TABLE part PARTITION OF outbox FOR VALUES WITH (MODULUS 1, REMAINDER 0)", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databaseName, conn := database(t)
			mustExec(t, t.Context(), conn, "DROP TABLE outbox")
			for sql := range strings.SplitSeq(tc.create, "; ") {
				mustExec(t, t.Context(), conn, sql)
			}
			c := configFor(databaseName)
			c.Columns = []string{"id"}
			_, err := Init(t.Context(), c)
			switch {
			case tc.says == "" && err != nil:
				t.Error(err)
			case tc.says != "" && (err == nil || fault.KindOf(err) != fault.Usage || !strings.Contains(err.Error(), tc.says) || fault.HintOf(err) == ""):
				t.Errorf("got %v (hint %q), want an error that names %s", err, fault.HintOf(err), tc.says)
			}
		})
	}
}
