package cdc

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// youngSQL compares the entry of the table, or of its schema, in the publication
// with the oldest transaction that the slot has still to decode. A publication
// FOR ALL TABLES has none: what changes with each ALTER is no evidence. Neither
// is a transaction that is not the slot's own: it begins with the oldest one of
// all slots, and has one of its own once it was streamed from for a while.
const youngSQL = `
SELECT age(coalesce(
         (SELECT r.xmin FROM pub JOIN pg_publication_rel r ON r.prpubid = pub.oid JOIN ours ON ours.oid = r.prrelid),
         (SELECT n.xmin FROM pub JOIN pg_publication_namespace n ON n.pnpubid = pub.oid
            JOIN pg_class c ON c.relnamespace = n.pnnspid JOIN ours ON ours.oid = c.oid))) BETWEEN 0 AND age(s.catalog_xmin)
       AND EXISTS (SELECT FROM pg_stat_replication_slots WHERE slot_name = $4 AND total_txns > 0)
       AND NOT EXISTS (SELECT FROM pg_replication_slots o WHERE o.slot_name <> $4 AND o.catalog_xmin = s.catalog_xmin)
  FROM pg_replication_slots s WHERE s.slot_name = $4`

// skipsPublications is the first version whose walsender skips a publication
// that did not exist at a point of the WAL, with a warning in the server's log.
// Those before end the stream.
const skipsPublications = 18

// readYoung tells whether the publication may have been made behind the slot's
// position. With a mark we would know: what was dropped and made again has none.
func readYoung(ctx context.Context, conn *pgx.Conn, c Config, cat catalog) (bool, error) {
	p, s := cat.publication, cat.slot
	if p == nil || s == nil || s.Type != "logical" || !p.Covers || p.Comment != "" || cat.server.major() < skipsPublications {
		return false, nil
	}
	var young *bool
	err := queryRow(ctx, conn, []any{&young}, publishedSQL(conn)+youngSQL, c.Publication, c.Table.Schema, c.Table.Name, c.Slot)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) { // dropped just now
		return false, postgresError("compare publication and slot", err)
	}
	return young != nil && *young, nil
}

func youngPublication(c Config) error {
	return fault.New(fault.SlotLost, "check publication",
		fmt.Errorf("publication %q is younger than what slot %q has still to stream: this server skips what was committed before there was one", c.Publication, c.Slot),
		"if it was dropped and made again, "+recoverHint+". If no row was missed, `outbox-cdc init`, run by the publication's owner, accepts it as it is")
}
