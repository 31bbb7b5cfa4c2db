package cdc

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// youngSQL compares the table's entry in the publication, or what stands for
// it, with the oldest transaction that the slot has still to decode. That is
// its own only once somebody has streamed from it: it begins with the oldest
// one of all slots, which says nothing.
const youngSQL = `
SELECT age(coalesce(
         (SELECT r.xmin FROM pub JOIN pg_publication_rel r ON r.prpubid = pub.oid JOIN ours ON ours.oid = r.prrelid),
         (SELECT s.xmin FROM pub JOIN pg_publication_namespace s ON s.pnpubid = pub.oid
            JOIN pg_class c ON c.relnamespace = s.pnnspid JOIN ours ON ours.oid = c.oid),
         (SELECT xmin FROM pub))) BETWEEN 0 AND age(catalog_xmin)
       AND EXISTS (SELECT FROM pg_stat_replication_slots WHERE slot_name = $4 AND total_txns > 0)
  FROM pg_replication_slots WHERE slot_name = $4`

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
