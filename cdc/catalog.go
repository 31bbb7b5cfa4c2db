package cdc

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
)

// catalog is what the server says of everything the relay depends on, read in one moment.
type catalog struct {
	server      server
	table       *table       // nil: it does not exist
	former      former       // what the mark names, where table is nil
	publication *publication // nil: it does not exist
	slot        *slot        // nil: it does not exist
	cover       *cover       // read before the publication: what changes between is noticed later
	others      []otherSlot  // read when ours does not exist
	young       bool         // the publication is younger than what the slot has still to stream, and may hide a hole
}

type server struct {
	Version    int // server_version_num, such as 170011
	WALLevel   string
	InRecovery bool
	Database   string
	Role       string
	MayCreate  bool // the role may create a publication in the database
}

func (s server) major() int { return s.Version / 10000 }

// former is the table that was published when the publication was marked as ready.
type former struct {
	name  string // that it has now; "": it does not exist
	shown bool   // the publication shows it under that name
}

type table struct {
	Kind        string // pg_class.relkind: r, p, v, …
	Persistence string // pg_class.relpersistence: p, u or t
	Owned       bool   // the role may publish it
	RowSecurity bool   // a policy withholds rows from the role
	Identity    bool   // updates and deletes of it can be published
	Columns     []string
	Generated   []string
	// ByteaDomains are columns of a domain over bytea.
	ByteaDomains []string
	members      members
}

type publication struct {
	Insert, Update, Delete, Truncate bool
	ViaRoot                          bool // changes of partitions are published as the partitioned table's
	Member                           bool // our table is listed, by itself, its schema, or as one of all
	Below                            bool // our table is a partition of one that is listed
	Owned                            bool // we may comment on it and alter it
	Comment                          string
	Covers                           bool     // our table, under its own name, is published
	Columns                          []string // of our table, as published
	Tables                           int      // published in all
}

type slot struct {
	Type, Plugin, Database string
	Active                 bool
	TwoPhase               bool // prepared transactions are decoded when they are prepared
	Creating               bool // not usable yet: its creation waits for older transactions
	ActivePID              int
	RestartLSN             pglogrepl.LSN
	ConfirmedLSN           pglogrepl.LSN
	WALStatus              string // reserved, extended, unreserved or lost
	Invalidation           string // PostgreSQL 17 on; else empty
}

// lost tells whether the server has given up the WAL that the slot needs.
func (s *slot) lost() bool { return s.Invalidation != "" || s.WALStatus == "lost" }

const serverSQL = `
SELECT current_setting('server_version_num')::int, current_setting('wal_level'), pg_is_in_recovery(),
       current_database(), current_user, has_database_privilege(current_database(), 'CREATE')`

// A domain has the output function of its base type, also where that is a domain itself.
const tableSQL = `
SELECT c.relkind::text, c.relpersistence::text, pg_has_role(c.relowner, 'USAGE'), row_security_active(c.oid),
       c.relreplident IN ('f', 'i') OR c.relreplident = 'd' AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary),
       coalesce(array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attname IS NOT NULL), '{}'),
       coalesce(array_agg(a.attname::text) FILTER (WHERE a.attgenerated <> ''), '{}'),
       coalesce(array_agg(a.attname::text) FILTER (WHERE t.typtype = 'd' AND t.typoutput = 'pg_catalog.byteaout'::regproc), '{}')
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_type t ON t.oid = a.atttypid
 WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
 GROUP BY c.oid`

// Columns are those of the entry, or all but generated ones. pg_publication_rel has the
// former from PostgreSQL 15 on, and pg_publication has pubgencols from 18 on:
// to_jsonb gives NULL where they do not exist.
const publicationSQL = `
SELECT p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot,
       EXISTS (SELECT FROM member JOIN ours USING (oid)), EXISTS (SELECT FROM below JOIN ours USING (oid)),
       pg_has_role(p.pubowner, 'USAGE'),
       coalesce(obj_description(p.oid, 'pg_publication'), ''),
       t.oid IS NOT NULL,
       array(SELECT a.attname::text
               FROM pg_attribute a
               LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = a.attrelid
              WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
                AND CASE WHEN to_jsonb(r) ->> 'prattrs' IS NOT NULL THEN to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum)
                    ELSE a.attgenerated = '' OR a.attgenerated = to_jsonb(p) ->> 'pubgencols' END
              ORDER BY a.attnum),
       (SELECT count(*) FROM published)
  FROM pub p
  LEFT JOIN (published JOIN ours USING (oid)) AS t ON true`

// invalidation_reason exists from PostgreSQL 17 on: to_jsonb gives NULL where it does not.
const slotSQL = `
SELECT slot_type, coalesce(plugin::text, ''), coalesce(database::text, ''), active, coalesce(active_pid, 0),
       slot_type = 'logical' AND confirmed_flush_lsn IS NULL,
       coalesce(restart_lsn::text, '0/0'), coalesce(confirmed_flush_lsn::text, '0/0'),
       coalesce(wal_status, ''), coalesce(to_jsonb(s) ->> 'invalidation_reason', ''), two_phase
  FROM pg_replication_slots s
 WHERE slot_name = $1`

// readCatalog reads the picture that set-up, checks and status decide by.
func readCatalog(ctx context.Context, conn *pgx.Conn, c Config) (catalog, error) {
	var cat catalog
	s := &cat.server
	err := queryRow(ctx, conn, []any{&s.Version, &s.WALLevel, &s.InRecovery, &s.Database, &s.Role, &s.MayCreate}, serverSQL)
	if err != nil {
		return cat, postgresError("read server settings", err)
	}
	var t table
	err = queryRow(ctx, conn, []any{&t.Kind, &t.Persistence, &t.Owned, &t.RowSecurity, &t.Identity, &t.Columns, &t.Generated, &t.ByteaDomains}, tableSQL, c.Table.Schema, c.Table.Name)
	if cat.table, err = found(&t, err); err != nil {
		return cat, postgresError("look up table", err)
	}
	if cat.cover, err = readCover(ctx, conn, c); err != nil {
		return cat, err
	}
	if cat.table != nil {
		cat.table.members = cat.cover.members
	}
	if cat.publication, err = readPublication(ctx, conn, c); err != nil {
		return cat, err
	}
	if cat.table == nil && cat.publication != nil {
		if cat.former, err = readFormer(ctx, conn, c, cat.publication.Comment); err != nil {
			return cat, err
		}
	}
	cat.slot, err = readSlot(ctx, conn, c.Slot)
	switch {
	case err == nil && cat.slot == nil:
		cat.others, err = readOtherSlots(ctx, conn, c.Slot)
	case err == nil:
		cat.young, err = readYoung(ctx, conn, c, cat)
	}
	return cat, err
}

// torn tells whether another instance's set-up came between the reading of the
// cover and of the publication: a mark must not be made of the two.
func (cat catalog) torn() bool {
	return cat.publication != nil && cat.publication.Covers != cat.cover.covered
}

// readFormer looks up the table that a mark names, if it names one.
func readFormer(ctx context.Context, conn *pgx.Conn, c Config, comment string) (f former, err error) {
	before, ok := readShown(comment)
	if !ok {
		return f, nil
	}
	err = queryRow(ctx, conn, []any{&f.name, &f.shown}, publishedSQL(conn)+`
SELECT n.nspname || '.' || c.relname, EXISTS (SELECT FROM published p WHERE p.oid = c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $4 AND c.relkind IN ('r', 'p')`,
		c.Publication, c.Table.Schema, c.Table.Name, before.table)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return f, postgresError("look up table", err)
	}
	return f, nil
}

// readPublication returns the publication, or nil when there is none.
func readPublication(ctx context.Context, conn *pgx.Conn, c Config) (*publication, error) {
	var p publication
	err := queryRow(ctx, conn, []any{&p.Insert, &p.Update, &p.Delete, &p.Truncate, &p.ViaRoot, &p.Member, &p.Below, &p.Owned, &p.Comment, &p.Covers, &p.Columns, &p.Tables},
		publishedSQL(conn)+publicationSQL, c.Publication, c.Table.Schema, c.Table.Name)
	there, err := found(&p, err)
	if err != nil {
		return nil, postgresError("look up publication", err)
	}
	return there, nil
}

// readSlot returns the slot as pg_replication_slots shows it, or nil when there is none.
func readSlot(ctx context.Context, conn *pgx.Conn, name string) (*slot, error) {
	var s slot
	var restart, confirmed string
	err := queryRow(ctx, conn, []any{&s.Type, &s.Plugin, &s.Database, &s.Active, &s.ActivePID, &s.Creating,
		&restart, &confirmed, &s.WALStatus, &s.Invalidation, &s.TwoPhase}, slotSQL, name)
	if found, err := found(&s, err); found == nil {
		if err != nil {
			err = postgresError("look up slot", err)
		}
		return nil, err
	}
	if s.RestartLSN, err = pglogrepl.ParseLSN(restart); err != nil {
		return nil, postgresError("read the slot's restart_lsn", err)
	}
	if s.ConfirmedLSN, err = pglogrepl.ParseLSN(confirmed); err != nil {
		return nil, postgresError("read the slot's confirmed_flush_lsn", err)
	}
	return &s, nil
}

// found turns "no rows" into nil.
func found[T any](v *T, err error) (*T, error) {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

// ident quotes a name for SQL.
func ident(name string) string { return pgx.Identifier{name}.Sanitize() }

// quoted returns the table as SQL writes it.
func (t Table) quoted() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// literal quotes a string for SQL.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// missing returns those of the wanted columns that the table does not have.
func (t *table) missing(want []string) []string {
	var missing []string
	for _, w := range want {
		if !slices.Contains(t.Columns, w) {
			missing = append(missing, w)
		}
	}
	return missing
}
