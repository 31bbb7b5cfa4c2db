package cdc

import (
	_ "embed"
	"fmt"
	"strings"
)

// initTemplate is what InitSQL fills in. Each step looks for itself at how
// things stand, for psql goes on after an error of the one before; and the step
// that creates the slot writes nothing else, for the server forbids that.
//
//go:embed init.sql
var initTemplate string

// initState begins each step: what is there, and what the publication's comment says.
const initState = `DECLARE
    p         pg_publication;
    s         pg_replication_slots;
    mark      text;
    owned     boolean;
    publishes boolean;
    lost      boolean;
BEGIN
    p := (SELECT whole FROM pg_publication AS whole WHERE pubname = {publication});
    s := (SELECT whole FROM pg_replication_slots AS whole WHERE slot_name = {slot});
    mark := coalesce(substring(obj_description(p.oid, 'pg_publication') FROM '^` + markPrefix + `\s*(creating|ready|recovering)(?:\s|$)'), '');
    owned := coalesce(pg_has_role(p.pubowner, 'USAGE'), false);
    publishes := coalesce(p.pubinsert, false) AND EXISTS (SELECT FROM pg_publication_tables
        WHERE pubname = p.pubname AND schemaname = {schema} AND tablename = {name});
    lost := coalesce(s.wal_status = 'lost', false) OR to_jsonb(s) ->> 'invalidation_reason' IS NOT NULL;
`

// InitSQL returns the SQL that does what Init does, for an owner or a DBA to
// run: statement by statement, as psql does.
func InitSQL(c Config) (string, error) {
	c, err := c.withDefaults()
	if err != nil {
		return "", err
	}
	table := ""
	if c.Table == defaultTable {
		// Where it exists, its owner may have no right to create another.
		table = fmt.Sprintf("DO $outbox_cdc$ BEGIN IF to_regclass(%s) IS NULL THEN\n%sEND IF; END $outbox_cdc$;\n\n", literal(c.Table.quoted()), schemaSQL)
	}
	names := strings.NewReplacer(
		"{slot}", literal(c.Slot), "{publication}", literal(c.Publication),
		"{schema}", literal(c.Table.Schema), "{name}", literal(c.Table.Name),
		"{table name}", strings.NewReplacer("'", "''", "%", "%%").Replace(c.Table.quoted()),
		"{create publication}", createPublicationSQL(c),
		"{mark creating}", commentSQL(c, creating), "{ready}", literal(markPrefix+strings.ReplaceAll(readyFormat, "%d", "%s")),
		"{regclass}", literal(c.Table.quoted())+"::regclass",
	)
	return strings.NewReplacer("{table}", table, "{state}\n", names.Replace(initState)).Replace(names.Replace(initTemplate)), nil
}

func createPublicationSQL(c Config) string {
	return fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s WITH (publish = 'insert', publish_via_partition_root = true)",
		ident(c.Publication), c.Table.quoted())
}

func commentSQL(c Config, m mark) string {
	return fmt.Sprintf("COMMENT ON PUBLICATION %s IS %s", ident(c.Publication), literal(markPrefix+string(m)))
}
