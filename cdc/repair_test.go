package cdc

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// What a recovery cannot add without harm, or not at all, is refused before anything is changed.
func TestRecoverRefusesToRepair(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ sql, says, mend string }{
		"no primary key": {"ALTER TABLE outbox DROP CONSTRAINT outbox_pkey; CREATE PUBLICATION p FOR TABLE other",
			"has no primary key", "ALTER TABLE outbox REPLICA IDENTITY FULL"},
		"published by its root": {"CREATE TABLE root (LIKE outbox) PARTITION BY LIST (aggregate_type); ALTER TABLE root ATTACH PARTITION outbox DEFAULT; " +
			"CREATE PUBLICATION p FOR TABLE root WITH (publish = 'insert', publish_via_partition_root = true)",
			"as those of the table that it is a partition of", "ALTER TABLE root DETACH PARTITION outbox"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, conn := database(t)
			mustExec(t, t.Context(), conn, "CREATE TABLE other (id int PRIMARY KEY)")
			mustExec(t, t.Context(), conn, tc.sql, pgx.QueryExecModeSimpleProtocol)
			insertRows(t, conn, 1, 1)
			c := configFor(database)
			c.Publication = "p"
			_, err := recovered(t, c, newMemory(false), byTime)
			checkFault(t, err, fault.Usage, tc.says)
			looked := mustDefaults()
			looked.Publication = "p"
			if p, err := readPublication(t.Context(), conn, looked); err != nil || p.Covers || p.Comment != "" {
				t.Errorf("the publication is %+v, %v", p, err)
			}
			mustExec(t, t.Context(), conn, tc.mend)
			if n, err := recovered(t, c, newMemory(false), byTime); err != nil || n != 1 {
				t.Errorf("recovered %d, %v", n, err)
			}
			mustExec(t, t.Context(), conn, "DELETE FROM outbox")
		})
	}
}

// A recovery adds what the publication lacks, says so beforehand, and leaves
// alone what others need of it.
func TestRecoverRepairs(t *testing.T) {
	t.Parallel()
	const partitioned = "DROP TABLE outbox; CREATE TABLE outbox (LIKE parts) PARTITION BY LIST (aggregate_id); CREATE TABLE rest PARTITION OF outbox DEFAULT; "
	for name, tc := range map[string]struct {
		sql    string
		repair []string
		after  string // what it publishes, and of which tables
	}{
		"table taken out": {"CREATE PUBLICATION p FOR TABLE other, outbox; ALTER PUBLICATION p DROP TABLE outbox",
			[]string{`ALTER PUBLICATION "p" ADD TABLE "public"."outbox"`}, "insert update delete truncate: other outbox"},
		"no inserts": {"CREATE PUBLICATION p FOR TABLE other, outbox WITH (publish = 'update, delete')",
			[]string{`ALTER PUBLICATION "p" SET (publish = 'insert, update, delete')`}, "insert update delete: other outbox"},
		"both": {"CREATE PUBLICATION p FOR TABLE other WITH (publish = 'truncate')",
			[]string{`ALTER PUBLICATION "p" ADD TABLE "public"."outbox"`, `ALTER PUBLICATION "p" SET (publish = 'insert, truncate')`}, "insert truncate: other outbox"},
		"as partitions": {partitioned + "CREATE PUBLICATION p FOR TABLE outbox WITH (publish = 'insert')",
			[]string{`ALTER PUBLICATION "p" SET (publish_via_partition_root = true)`}, "insert: outbox"},
		"as partitions, and taken out": {partitioned + "CREATE PUBLICATION p FOR TABLE other WITH (publish = 'insert')",
			[]string{`ALTER PUBLICATION "p" ADD TABLE "public"."outbox"`, `ALTER PUBLICATION "p" SET (publish_via_partition_root = true)`}, "insert: other outbox"},
		"all tables, as partitions": {partitioned + "CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'insert')",
			[]string{`ALTER PUBLICATION "p" SET (publish_via_partition_root = true)`}, "insert: other outbox parts"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, conn := database(t)
			mustExec(t, t.Context(), conn, "CREATE TABLE other (LIKE outbox); CREATE TABLE parts (LIKE outbox INCLUDING DEFAULTS)", pgx.QueryExecModeSimpleProtocol)
			mustExec(t, t.Context(), conn, tc.sql, pgx.QueryExecModeSimpleProtocol)
			c := configFor(database)
			c.Publication = "p"
			plan, err := PlanRecover(t.Context(), c, byTime)
			if err != nil || plan.Publication != planRepair || !slices.Equal(plan.Repair, tc.repair) {
				t.Errorf("plan %+v, %v, want %q", plan, err, tc.repair)
			}
			if _, err := recovered(t, c, newMemory(false), byTime); err != nil {
				t.Fatal(err)
			}
			var after string
			if err := conn.QueryRow(t.Context(), `SELECT concat_ws(' ', CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,
				CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END) || ': ' ||
				(SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = 'p') FROM pg_publication`).Scan(&after); err != nil || after != tc.after {
				t.Errorf("it publishes %q, %v, want %q", after, err, tc.after)
			}
		})
	}
}
