package cdc

import (
	"fmt"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// members are tables below ours whose rows do not come with it, by name, as
// SQL writes them; the publication does not tell.
type members struct {
	unlogged string // partitions that write no WAL
	foreign  string // partitions that are another server's
	heirs    string // tables that inherit from ours: their rows come under their own names
}

// membersSQL goes with publishedSQL. A partition that is being detached gets no rows any more.
const membersSQL = `
,
beneath AS (
    SELECT i.inhrelid AS oid FROM ours JOIN pg_inherits i ON i.inhparent = ours.oid WHERE NOT i.inhdetachpending
     UNION
    SELECT i.inhrelid FROM beneath b JOIN pg_inherits i ON i.inhparent = b.oid WHERE NOT i.inhdetachpending),
members AS (
    SELECT coalesce(string_agg(name, ', ' ORDER BY name) FILTER (WHERE partition AND kind = 'r' AND persistence <> 'p'), '') AS unlogged,
           coalesce(string_agg(name, ', ' ORDER BY name) FILTER (WHERE partition AND kind = 'f'), '') AS "foreign",
           coalesce(string_agg(name, ', ' ORDER BY name) FILTER (WHERE NOT partition), '') AS heirs
      FROM (SELECT format('%I.%I', n.nspname, c.relname) AS name, c.relkind AS kind, c.relpersistence AS persistence, c.relispartition AS partition
              FROM beneath JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace) AS one)`

// check tells whether rows of the table can be missing from the stream.
func (m members) check(c Config) error {
	const op = "check table"
	moved := fmt.Sprintf("; rows in them are streamed once they are inserted into %s", c.Table)
	switch {
	case m.unlogged != "":
		return fault.New(fault.Usage, op, fmt.Errorf("partitions of table %s are unlogged: %s; their rows never reach the WAL", c.Table, m.unlogged),
			"ALTER TABLE … SET LOGGED for each of them. Rows that are in them now are not streamed: "+recoverHint)
	case m.foreign != "":
		return fault.New(fault.Usage, op, fmt.Errorf("partitions of table %s are foreign tables: %s; their rows never reach the WAL of this server", c.Table, m.foreign),
			fmt.Sprintf("ALTER TABLE %s DETACH PARTITION … for each of them%s", c.Table.quoted(), moved))
	case m.heirs != "":
		return fault.New(fault.Usage, op, fmt.Errorf("tables inherit from table %s: %s; their rows are replicated as theirs, not as the outbox's", c.Table, m.heirs),
			fmt.Sprintf("ALTER TABLE … NO INHERIT %s for each of them, or make the outbox a partitioned table%s", c.Table.quoted(), moved))
	}
	return nil
}
