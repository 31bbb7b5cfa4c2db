package cdc

import (
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// What we take from the catalogs is what pg_publication_tables lists.
func TestPublishedAsListed(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"14", "15", "17", "18"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			pg := devtest.Postgres(t, devenv.PostgresOptions{Version: version})
			conn := connectTo(t, pg.URL())
			mustExec(t, t.Context(), conn, `
				CREATE SCHEMA s;
				CREATE TABLE plain (id int, doubled int GENERATED ALWAYS AS (id * 2) STORED, gone int, payload text);
				ALTER TABLE plain DROP gone;
				CREATE TABLE child (more int) INHERITS (plain);
				CREATE TABLE root (id int, payload text) PARTITION BY LIST (id);
				CREATE TABLE leaf PARTITION OF root FOR VALUES IN (1);
				CREATE TABLE branch PARTITION OF root FOR VALUES IN (2, 3) PARTITION BY LIST (id);
				CREATE TABLE twig PARTITION OF branch FOR VALUES IN (2);
				CREATE TABLE s.twig PARTITION OF branch FOR VALUES IN (3);
				CREATE UNLOGGED TABLE unlogged (id int);
				CREATE VIEW look AS SELECT id FROM plain`)
			for i, options := range []string{
				"", "FOR ALL TABLES", "FOR TABLE plain", "FOR TABLE ONLY plain", "FOR TABLE root", "FOR TABLE leaf", "FOR TABLE branch",
				"FOR TABLE root, plain, twig", "FOR TABLE branch, leaf, s.twig", "FOR TABLE plain (payload)", "FOR TABLE ONLY plain (doubled, id), child WHERE (id > 3)",
				"FOR TABLES IN SCHEMA public", "FOR TABLES IN SCHEMA s", "FOR TABLES IN SCHEMA public, TABLE s.twig", "FOR TABLES IN SCHEMA s, TABLE root, plain",
			} {
				for _, with := range []string{"publish = 'insert'", "publish_via_partition_root = true", "publish_generated_columns = stored"} {
					name := fmt.Sprintf("p%d", i)
					if _, err := conn.Exec(t.Context(), "CREATE PUBLICATION "+name+" "+options+" WITH ("+with+")"); err != nil {
						if version == "18" {
							t.Errorf("%s: %v", options, err)
						}
						continue // not of this version
					}
					for _, table := range []Table{
						{"public", "plain"}, {"public", "child"}, {"public", "root"}, {"public", "leaf"}, {"public", "branch"}, {"public", "twig"},
						{"s", "twig"}, {"public", "unlogged"}, {"public", "look"}, {"pg_catalog", "pg_class"}, {"public", "none"},
					} {
						comparePublished(t, conn, Config{Publication: name, Table: table}, options+" WITH "+with)
					}
					mustExec(t, t.Context(), conn, "DROP PUBLICATION "+name)
				}
			}
		})
	}
}

// comparePublished compares with the server's own view, which names columns
// from PostgreSQL 15 on, and leaves out generated ones from 16 on.
func comparePublished(t *testing.T, conn *pgx.Conn, c Config, what string) {
	t.Helper()
	p, err := readPublication(t.Context(), conn, c)
	if err != nil {
		t.Fatal(err)
	}
	cover, err := readCover(t.Context(), conn, c)
	if err != nil {
		t.Fatal(err)
	}
	var covers bool
	var tables int
	var columns []string
	err = conn.QueryRow(t.Context(), `
		SELECT coalesce(bool_or(schemaname = $2 AND tablename = $3), false), count(DISTINCT (schemaname, tablename)),
		       coalesce(max(to_jsonb(t) ->> 'attnames') FILTER (WHERE schemaname = $2 AND tablename = $3)::jsonb, '[]')
		  FROM pg_publication_tables t WHERE pubname = $1`, c.Publication, c.Table.Schema, c.Table.Name).Scan(&covers, &tables, &columns)
	if err != nil {
		t.Fatal(err)
	}
	if p.Covers != covers || cover.covered != covers || p.Tables != tables {
		t.Errorf("%s: %s: got %v and %v of %d, want %v of %d", what, c.Table, p.Covers, cover.covered, p.Tables, covers, tables)
	}
	if serverVersion(t, conn) >= 160000 && !slices.Equal(p.Columns, columns) {
		t.Errorf("%s: %s: got the columns %q, want %q", what, c.Table, p.Columns, columns)
	}
}

// A lock on the table is no reason to wait, nor is a change that waits for one.
func TestTableLocked(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	sink := newMemory(false)
	c := configFor(name)
	first := start(t, c, sink)
	first.await(t, Streaming)
	if err := first.stop(t); err != nil {
		t.Fatal(err)
	}
	insertRows(t, conn, 1, 1)
	mustExec(t, t.Context(), conn, "BEGIN; LOCK TABLE outbox")
	start(t, c, sink)
	sink.await(t, 1)
	c, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readCover(t.Context(), connect(t, name), c); err != nil {
		t.Errorf("the watch says %v", err)
	}
	if got := statuses(Check(t.Context(), c)); got["publication"] != fault.OK {
		t.Errorf("check says %v", got)
	}
	if _, err := Inspect(t.Context(), c); err != nil {
		t.Errorf("status says %v", err)
	}
}
