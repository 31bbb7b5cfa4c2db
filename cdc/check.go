package cdc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// Check looks at everything on the Postgres side that Run depends on, and
// changes nothing. The findings come in the order in which they matter; one
// that fails would stop the relay or lose events.
func Check(ctx context.Context, c Config) []fault.Finding {
	c, err := c.withDefaults()
	if err != nil {
		return []fault.Finding{failing("configuration", err)}
	}
	conn, err := connectSQL(ctx, c.URL)
	if err != nil {
		return []fault.Finding{failing("postgres connection", err)}
	}
	defer closeSQL(conn)
	cat, err := readCatalog(ctx, conn, c)
	if err != nil {
		return []fault.Finding{failing("postgres catalog", err)}
	}
	findings := []fault.Finding{
		passed("postgres connection", fmt.Sprintf("database %s as %s, server version %d.%d",
			cat.server.Database, cat.server.Role, cat.server.Version/10000, cat.server.Version%10000)),
		judged("postgres server", "a primary with wal_level "+cat.server.WALLevel, cat.checkServer()),
		checkReplication(ctx, c),
		judged("table", fmt.Sprintf("%s has every mapped column", c.Table), cat.checkTable(c)),
	}
	findings = append(findings, cat.checkRowSecurity(c)...)
	findings = append(findings, cat.checkPublication(c), cat.checkSlot(c))
	return append(findings, checkSettings(ctx, conn, cat)...)
}

func passed(check, detail string) fault.Finding {
	return fault.Finding{Check: check, Status: fault.OK, Detail: detail}
}

func warned(check, detail, hint string) fault.Finding {
	return fault.Finding{Check: check, Status: fault.Warn, Detail: detail, Hint: hint}
}

func failing(check string, err error) fault.Finding {
	return fault.Finding{Check: check, Status: fault.Fail, Detail: err.Error(), Hint: fault.HintOf(err)}
}

func judged(check, good string, err error) fault.Finding {
	if err != nil {
		return failing(check, err)
	}
	return passed(check, good)
}

// checkReplication tries what streaming needs: a walsender connection to the database.
func checkReplication(ctx context.Context, c Config) fault.Finding {
	return judged("replication connection", "accepted", tryReplication(ctx, c))
}

func (cat catalog) checkPublication(c Config) fault.Finding {
	const check = "publication"
	p := cat.publication
	fresh := cat.slot == nil || cat.ownSlot(c) != nil // another's slot says nothing of this publication
	switch {
	case p == nil && fresh && cat.mayPublish(c) != nil:
		return failing(check, cat.mayPublish(c))
	case p == nil && fresh:
		return warned(check, fmt.Sprintf("%q does not exist yet", c.Publication), "`outbox-cdc run` creates it on its first start, and so does `outbox-cdc init`")
	case p == nil:
		return failing(check, missingPublication(c))
	}
	if err := cat.usablePublication(c); err != nil {
		return failing(check, err)
	}
	if err := cat.sameTable(c); err != nil {
		return failing(check, err)
	}
	var unpublished []string
	for _, column := range c.Columns {
		if cat.table != nil && slices.Contains(cat.table.Columns, column) && len(p.Columns) > 0 && !slices.Contains(p.Columns, column) {
			unpublished = append(unpublished, column)
		}
	}
	switch {
	case len(unpublished) > 0:
		return failing(check, fault.New(fault.Usage, "check publication",
			fmt.Errorf("publication %q leaves out the columns %s", c.Publication, strings.Join(unpublished, ", ")),
			fmt.Sprintf("stop every relay of this slot, publish all columns: BEGIN; ALTER PUBLICATION %[1]s DROP TABLE %[2]s; ALTER PUBLICATION %[1]s ADD TABLE %[2]s; COMMIT, and have it accepted: `outbox-cdc init`",
				ident(c.Publication), c.Table.quoted())))
	case p.Tables > 1:
		return warned(check, fmt.Sprintf("%q publishes %d tables: the others are sent to the relay and thrown away there", c.Publication, p.Tables),
			notShared+fmt.Sprintf("ALTER PUBLICATION %s SET TABLE %s", ident(c.Publication), c.Table.quoted()))
	case p.Update || p.Delete || p.Truncate:
		return warned(check, fmt.Sprintf("%q publishes more than inserts: the rest is sent to the relay and thrown away there", c.Publication),
			notShared+insertsOnlySQL(c))
	case !fresh && !cat.remembered():
		return warned(check, fmt.Sprintf("the comment of %q does not say what it shows, and role %q may not or should not change it: "+
			"a table that is taken out or recreated while no relay runs is not noticed", c.Publication, cat.server.Role),
			fmt.Sprintf("COMMENT ON PUBLICATION %s IS NULL, and have its owner run `outbox-cdc init`", ident(c.Publication)))
	}
	return passed(check, fmt.Sprintf("%q publishes the inserts on %s", c.Publication, c.Table))
}

// notShared precedes what would end another subscriber's stream in silence.
const notShared = "leave it if somebody else subscribes to it; otherwise "

// mayPublish tells whether the role may create the publication. Only the
// table's owner may publish it.
func (cat catalog) mayPublish(c Config) error {
	fail := func(format, hint string, args ...any) error {
		return fault.New(fault.Unexpected, "check publication",
			fmt.Errorf("%q does not exist yet, and role %q "+format, append([]any{c.Publication, cat.server.Role}, args...)...), hint)
	}
	switch {
	case cat.table != nil && !cat.table.Owned:
		return fail("does not own table %s", "have the table's owner run `outbox-cdc init`, or the SQL that `outbox-cdc init --print-sql` prints", c.Table)
	case !cat.server.MayCreate:
		return fail("has no right to create it", fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s, or have the table's owner run `outbox-cdc init`",
			ident(cat.server.Database), ident(cat.server.Role)))
	}
	return nil
}

func (cat catalog) checkSlot(c Config) fault.Finding {
	const check = "slot"
	s := cat.slot
	// What is wrong with the publication itself is a finding of its own.
	if _, err := cat.nextStep(c, false); err != nil && err.Error() != cat.checkPublication(c).Detail {
		return failing(check, err)
	}
	switch {
	case s == nil:
		return warned(check, fmt.Sprintf("%q does not exist yet", c.Slot), "`outbox-cdc run` creates it on its first start, and so does `outbox-cdc init`")
	case s.WALStatus == unreserved:
		return warned(check, fmt.Sprintf("%q: %s", c.Slot, unreservedDetail), unreservedHint)
	case s.Active:
		return passed(check, fmt.Sprintf("%q is held by pid %d, confirmed up to %s", c.Slot, s.ActivePID, s.ConfirmedLSN))
	}
	return passed(check, fmt.Sprintf("%q is free, confirmed up to %s", c.Slot, s.ConfirmedLSN))
}

const settingsSQL = `
SELECT coalesce(current_setting('synchronous_standby_names', true), ''),
       coalesce(current_setting('max_slot_wal_keep_size', true), ''),
       coalesce(current_setting('idle_replication_slot_timeout', true), '0'),
       ` + freeSlotsSQL + `,
       current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication),
       current_setting('server_encoding')`

// checkSettings warns of server settings that hurt later rather than now.
func checkSettings(ctx context.Context, conn *pgx.Conn, cat catalog) []fault.Finding {
	var syncNames, keep, idle, encoding string
	var slots, senders int
	if err := queryRow(ctx, conn, []any{&syncNames, &keep, &idle, &slots, &senders, &encoding}, settingsSQL); err != nil {
		return []fault.Finding{failing("server settings", postgresError("read server settings", err))}
	}
	var findings []fault.Finding
	if strings.Contains(syncNames, "*") {
		findings = append(findings, failing("synchronous_standby_names", fault.New(fault.Unexpected, "check server",
			errors.New("synchronous_standby_names has '*', which matches the relay: commits would wait for it"),
			"name the standbys instead")))
	}
	if encoding == "SQL_ASCII" {
		findings = append(findings, warned("server_encoding", "SQL_ASCII: a row with bytes that are not UTF-8 stops the relay",
			"make sure that only UTF-8 is written to the outbox table, or move the database to UTF8"))
	}
	if keep == "-1" {
		findings = append(findings, warned("max_slot_wal_keep_size", "unlimited: WAL piles up for as long as no relay runs, until the disk is full",
			"ALTER SYSTEM SET max_slot_wal_keep_size to what the disk can spare, then SELECT pg_reload_conf(); a relay away for longer loses its slot"))
	}
	if idle != "0" {
		findings = append(findings, warned("idle_replication_slot_timeout", "a relay that is stopped, or that Kafka has not answered since it was started, for longer than "+idle+" loses its slot",
			"set it to 0, or longer than any maintenance window"))
	}
	switch {
	case cat.slot == nil && slots <= 0:
		findings = append(findings, failing("max_replication_slots", noFreeSlot("check server")))
	case senders <= 0:
		findings = append(findings, warned("max_wal_senders", "every walsender is taken at the moment", "raise max_wal_senders and restart the server"))
	}
	return findings
}
