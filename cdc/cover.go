package cdc

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// cover is what makes rows of the outbox table come with the stream. What is
// taken out of it looks like an idle outbox, and what was taken out and put
// back leaves a hole: so it has an identity.
type cover struct {
	covered bool   // the publication shows the table, under its own name
	inserts bool   // the publication publishes inserts
	table   uint32 // the table's OID; 0: there is none
	entry   string // the OIDs of publication and entry: another one was taken out and put back
	version string // changes with each ALTER PUBLICATION … SET
}

// A publication FOR ALL TABLES has no entries, and one for a schema none of the table's.
const coverSQL = `
SELECT EXISTS (SELECT FROM pg_publication_tables WHERE pubname = $1 AND schemaname = $2 AND tablename = $3),
       EXISTS (SELECT FROM pg_publication WHERE pubname = $1 AND pubinsert),
       coalesce((SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $2 AND c.relname = $3), 0),
       coalesce((SELECT p.oid || ':' || coalesce((SELECT r.oid::text FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid
                   JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = p.oid AND n.nspname = $2 AND c.relname = $3), '')
                   FROM pg_publication p WHERE p.pubname = $1), ''),
       coalesce((SELECT p.xmin::text FROM pg_publication p WHERE p.pubname = $1), '')`

// fields are what coverSQL's columns are scanned into.
func (v *cover) fields() []any { return []any{&v.covered, &v.inserts, &v.table, &v.entry, &v.version} }

func readCover(ctx context.Context, conn *pgx.Conn, c Config) (*cover, error) {
	var v cover
	if err := queryRow(ctx, conn, v.fields(), coverSQL, c.Publication, c.Table.Schema, c.Table.Name); err != nil {
		return nil, postgresError("look up publication", err)
	}
	return &v, nil
}

// lost tells why rows may be missing from the stream that has begun when the
// cover was before; nil when none are.
func (v *cover) lost(c Config, before *cover) error {
	fail := func(format, hint string, args ...any) error {
		return fault.New(fault.SlotLost, "watch publication", fmt.Errorf("publication %q "+format, append([]any{c.Publication}, args...)...), hint)
	}
	switch {
	case !v.covered:
		return fail("no longer publishes table %s (dropped, dropped and created again, or taken out)",
			fmt.Sprintf("stop every relay of this slot and run `outbox-cdc recover`: it adds the table and sends the rows that are in it. If those need not be sent: ALTER PUBLICATION %s ADD TABLE %s",
				ident(c.Publication), c.Table.quoted()), c.Table)
	case !v.inserts:
		return fail("no longer publishes inserts",
			fmt.Sprintf("ALTER PUBLICATION %s SET (publish = 'insert'); rows that were committed meanwhile are not streamed: %s", ident(c.Publication), recoverHint))
	case v.table != before.table || v.entry != before.entry:
		return fail("publishes table %s again, which was taken out of it, recreated, or replaced by another",
			"rows that were committed meanwhile were not streamed: "+recoverHint+". If there are none, start again", c.Table)
	}
	return nil
}
