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
	covered     bool   // the publication shows the table, under its own name
	inserts     bool   // the publication publishes inserts
	table       uint32 // the table's OID; 0: there is none
	publication uint32 // the publication's OID; 0: there is none
	entry       uint32 // the OID of the table's entry in it: another one was taken out and put back
	version     string // changes with each ALTER PUBLICATION … SET
	members     members
}

// A publication FOR ALL TABLES has no entries, and one for a schema none of the table's.
const coverSQL = membersSQL + `
SELECT EXISTS (SELECT FROM published JOIN ours USING (oid)),
       EXISTS (SELECT FROM pub WHERE pubinsert),
       coalesce((SELECT oid FROM ours), 0),
       coalesce((SELECT oid FROM pub), 0),
       coalesce((SELECT r.oid FROM pg_publication_rel r JOIN pub ON pub.oid = r.prpubid JOIN ours ON ours.oid = r.prrelid), 0),
       coalesce((SELECT xmin::text FROM pub), ''),
       unlogged, "foreign", heirs
  FROM members`

func readCover(ctx context.Context, conn *pgx.Conn, c Config) (*cover, error) {
	var v cover
	fields := []any{&v.covered, &v.inserts, &v.table, &v.publication, &v.entry, &v.version, &v.members.unlogged, &v.members.foreign, &v.members.heirs}
	if err := queryRow(ctx, conn, fields, publishedSQL(conn)+coverSQL, c.Publication, c.Table.Schema, c.Table.Name); err != nil {
		return nil, postgresError("look up publication", err)
	}
	return &v, nil
}

// lost tells why rows may be missing from the stream that has begun when the
// cover was before; nil when none are.
func (v *cover) lost(c Config, before *cover) error {
	const op = "watch publication"
	switch {
	case v.publication == 0:
		return missingPublication(c)
	case v.table == 0:
		return fault.New(fault.SlotLost, op, fmt.Errorf("table %s is gone: it was dropped, renamed, or moved to another schema", c.Table),
			"if it has another name now, under which the publication shows it: rename it back, or set table.name, and start again; if it was dropped, or the publication is one of a schema that it has left: "+
				"put it back, and "+recoverHint)
	case !v.covered:
		return fault.New(fault.SlotLost, op,
			fmt.Errorf("publication %q no longer publishes table %s (it was taken out, or dropped and created again)", c.Publication, c.Table), addTableHint(c))
	case !v.inserts:
		return fault.New(fault.SlotLost, op, fmt.Errorf("publication %q no longer publishes inserts", c.Publication),
			addInsertsHint(c)+"; "+meanwhile)
	case v.table != before.table || v.publication != before.publication || v.entry != before.entry:
		return replacedTable(op, c)
	}
	return v.members.check(c)
}

// replacedTable says that the publication shows the table, and for a while did not.
func replacedTable(op string, c Config) error {
	return fault.New(fault.SlotLost, op,
		fmt.Errorf("publication %q publishes table %s again, which was taken out of it, recreated, or replaced by another", c.Publication, c.Table),
		"rows that were committed meanwhile were not streamed: "+recoverHint+
			". If no row was missed, `outbox-cdc init`, run by the publication's owner, accepts the publication as it is")
}

// addTableHint is the way out when the publication does not show the table.
func addTableHint(c Config) string {
	return fmt.Sprintf("stop every relay of this slot and run `outbox-cdc recover`: it adds the table and sends the rows that are in it. "+
		"If those need not be sent: ALTER PUBLICATION %s ADD TABLE %s, then `outbox-cdc init`", ident(c.Publication), c.Table.quoted())
}

// addInsertsHint has the publication publish inserts.
func addInsertsHint(c Config) string {
	return insertsOnlySQL(c) + ", with what else its other subscribers need, if there are any"
}

// insertsOnlySQL has the publication publish inserts, and nothing else.
func insertsOnlySQL(c Config) string {
	return fmt.Sprintf("ALTER PUBLICATION %s SET (publish = 'insert')", ident(c.Publication))
}
