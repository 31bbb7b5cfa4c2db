package cdc

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// A publication that publishes the table's whole schema, too, filters nothing.
const filterSQL = `
SELECT coalesce(pg_get_expr(r.prqual, r.prrelid), '')
  FROM pub JOIN pg_publication_rel r ON r.prpubid = pub.oid JOIN ours ON ours.oid = r.prrelid
 WHERE NOT EXISTS (SELECT FROM pg_publication_namespace s JOIN pg_class c ON c.relnamespace = s.pnnspid WHERE s.pnpubid = pub.oid AND c.oid = ours.oid)`

// readFilter takes over the row filter of the publication (PostgreSQL 15 on):
// what it keeps from the stream is not for recovery to send either. A repair
// changes a filter only where the publication does not show the table. Without a
// time limit, for unlike other looks at the catalog this one locks the table.
func (v *recovery) readFilter(ctx context.Context) error {
	c, p := v.config, v.cat.publication
	if v.cat.server.major() < 15 || p == nil || !p.Covers {
		return nil
	}
	err := v.conn.QueryRow(ctx, publishedSQL(v.conn)+filterSQL, c.Publication, c.Table.Schema, c.Table.Name).Scan(&v.filter)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return postgresError("read row filter", err)
	}
	return nil
}
