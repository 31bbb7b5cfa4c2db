package cdc

import (
	"slices"
	"strings"
	"testing"
)

// A recovery sends what the stream would have, where the publication filters rows.
func TestRecoverKeepsFilter(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		sql    string
		keys   []string // recovered, of 1, 2 and 3
		repair bool
	}{
		"filtered":            {"CREATE PUBLICATION p FOR TABLE outbox WHERE (aggregate_id <> '2' OR event_type LIKE 'no%')", []string{"1", "3"}, false},
		"another one's":       {"CREATE TABLE other (LIKE outbox); CREATE PUBLICATION p FOR TABLE outbox, other WHERE (aggregate_id <> '2')", []string{"1", "2", "3"}, false},
		"schema":              {"CREATE PUBLICATION p FOR TABLE outbox WHERE (aggregate_id <> '2'), TABLES IN SCHEMA public", []string{"1", "2", "3"}, false},
		"lost with the table": {"CREATE TABLE other (LIKE outbox); CREATE PUBLICATION p FOR TABLE other WHERE (aggregate_id <> '2')", []string{"1", "2", "3"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, conn := database(t)
			for sql := range strings.SplitSeq(tc.sql, "; ") {
				mustExec(t, t.Context(), conn, sql)
			}
			insertRows(t, conn, 1, 3)
			c := configFor(database)
			c.Publication = "p"
			plan, err := PlanRecover(t.Context(), c, byTime)
			if err != nil || plan.Rows != int64(len(tc.keys)) || (plan.Publication == planRepair) != tc.repair {
				t.Errorf("plan %+v, %v", plan, err)
			}
			sink := newMemory(false)
			if _, err := recovered(t, c, sink, byTime); err != nil {
				t.Fatal(err)
			}
			if keys := keysOf(sink.records()); !slices.Equal(keys, tc.keys) {
				t.Errorf("recovered %v, want %v", keys, tc.keys)
			}
			streamed := newMemory(false)
			start(t, c, streamed)
			insertRows(t, conn, 1, 3)
			streamed.await(t, len(tc.keys))
			mustExec(t, t.Context(), conn, insertSQL, "end", `{}`)
			if keys := keysOf(streamed.await(t, len(tc.keys)+1)); !slices.Equal(keys, append(slices.Clone(tc.keys), "end")) {
				t.Errorf("streamed %v, want %v and the end", keys, tc.keys)
			}
		})
	}
}
