package cdc

import (
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
)

// publishedSQL begins a query about publication $1 and table $2.$3. It names
// pub, the publication; ours, the table; and published, what rows of the
// publication arrive under the names of.
//
// That is what pg_publication_tables lists, but that view opens each table: it
// waits while one is locked, as for a change of its columns, or for a change
// that itself waits; and it fails when one is dropped meanwhile. The catalogs
// that it reads can be read without a lock on any table.
func publishedSQL(conn *pgx.Conn) string {
	listed := listedSQL
	if major(conn) >= 15 {
		listed += schemasSQL
	}
	return "WITH RECURSIVE" + listed + ")," + memberSQL
}

// listedSQL begins with what is listed by itself, or by being a table. An entry
// in a publication FOR ALL TABLES can only be an exception (PostgreSQL 19).
const listedSQL = `
pub AS (SELECT p.xmin, p.* FROM pg_publication p WHERE p.pubname = $1),
ours AS (SELECT c.oid, c.relkind
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $2 AND c.relname = $3),
listed AS (
    SELECT r.prrelid AS oid FROM pub JOIN pg_publication_rel r ON r.prpubid = pub.oid WHERE NOT pub.puballtables
     UNION
    SELECT c.oid FROM pub JOIN pg_class c ON pub.puballtables
     WHERE NOT EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = pub.oid AND r.prrelid = c.oid)`

// schemasSQL adds what FOR TABLES IN SCHEMA lists (PostgreSQL 15 on).
const schemasSQL = `
     UNION
    SELECT c.oid FROM pub JOIN pg_publication_namespace s ON s.pnpubid = pub.oid JOIN pg_class c ON c.relnamespace = s.pnnspid`

// memberSQL goes on to what is published: with publish_via_partition_root a partitioned table stands for all of its
// partitions, otherwise these for it.
const memberSQL = `
member AS (SELECT c.oid, c.relkind
             FROM listed l JOIN pg_class c ON c.oid = l.oid WHERE c.relkind IN ('r', 'p') AND pg_relation_is_publishable(c.oid)),
below AS (
    SELECT i.inhrelid AS oid FROM member m JOIN pg_inherits i ON i.inhparent = m.oid WHERE m.relkind = 'p' AND NOT i.inhdetachpending
     UNION
    SELECT i.inhrelid FROM below JOIN pg_inherits i ON i.inhparent = below.oid WHERE NOT i.inhdetachpending),
published AS (
    SELECT m.oid FROM pub, member m WHERE pub.pubviaroot AND m.oid NOT IN (SELECT oid FROM below)
     UNION
    SELECT m.oid FROM pub, member m WHERE NOT pub.pubviaroot AND m.relkind = 'r'
     UNION
    SELECT c.oid FROM pub, below b JOIN pg_class c ON c.oid = b.oid
     WHERE NOT pub.pubviaroot AND c.relkind = 'r' AND pg_relation_is_publishable(c.oid))`

// major is the version that the server has told of, such as 17.
func major(conn *pgx.Conn) (n int) {
	// Such as 17.4 (Debian …) or 19beta1.
	if _, err := fmt.Sscanf(conn.PgConn().ParameterStatus("server_version"), "%d", &n); err != nil {
		return math.MaxInt // a server that is older than that says what it lacks
	}
	return n
}
