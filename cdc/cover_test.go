package cdc

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// What keeps rows from the stream is noticed, also when it has been undone
// before anybody looked.
func TestCover(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		alter string
		lost  string // "": nothing is
		same  bool
	}{
		"other names":      {"CREATE TABLE t (id int); ALTER TABLE outbox ADD more int; VACUUM FULL outbox", "", true},
		"a comment":        {"COMMENT ON PUBLICATION p IS 'x'", "", true},
		"another table":    {"CREATE TABLE t (id int); ALTER PUBLICATION p ADD TABLE t", "", true},
		"set again":        {"ALTER PUBLICATION p SET TABLE outbox", "", true},
		"more kinds":       {"ALTER PUBLICATION p SET (publish = 'insert, update')", "", false},
		"to and fro":       {"ALTER PUBLICATION p SET (publish = 'update'); ALTER PUBLICATION p SET (publish = 'insert')", "", false},
		"no inserts":       {"ALTER PUBLICATION p SET (publish = 'update')", "no longer publishes inserts", false},
		"taken out":        {"ALTER PUBLICATION p DROP TABLE outbox", "no longer publishes table", false},
		"out and in":       {"ALTER PUBLICATION p DROP TABLE outbox; ALTER PUBLICATION p ADD TABLE outbox", "publishes table public.outbox again", false},
		"dropped":          {"DROP PUBLICATION p", "publication \"p\" does not", false},
		"made again":       {"DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE outbox WITH (publish = 'insert')", "publishes table public.outbox again", false},
		"table made again": {"DROP TABLE outbox; CREATE TABLE outbox (id int); ALTER PUBLICATION p ADD TABLE outbox", "publishes table public.outbox again", false},
		"another in place": {"ALTER TABLE outbox RENAME TO old; CREATE TABLE outbox (id int); ALTER PUBLICATION p ADD TABLE outbox", "publishes table public.outbox again", false},
		"renamed":          {"ALTER TABLE outbox RENAME TO old", "is gone", false},
		"table dropped":    {"DROP TABLE outbox", "is gone", false},
		"to and fro name":  {"ALTER TABLE outbox RENAME TO old; ALTER TABLE old RENAME TO outbox", "", true},
		"another schema":   {"CREATE SCHEMA s; ALTER TABLE outbox SET SCHEMA s", "is gone", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, conn := database(t)
			mustExec(t, t.Context(), conn, "CREATE PUBLICATION p FOR TABLE outbox WITH (publish = 'insert')")
			c, err := Config{URL: shared.URLFor(database, "postgres", ""), Publication: "p"}.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			before, err := readCover(t.Context(), conn, c)
			if err != nil {
				t.Fatal(err)
			}
			for sql := range strings.SplitSeq(tc.alter, "; ") {
				mustExec(t, t.Context(), conn, sql)
			}
			after, err := readCover(t.Context(), conn, c)
			if err != nil {
				t.Fatal(err)
			}
			err = after.lost(c, before)
			if (err == nil) != (tc.lost == "") || err != nil && (fault.KindOf(err) != fault.SlotLost || !strings.Contains(err.Error(), tc.lost) || fault.HintOf(err) == "") {
				t.Errorf("got %v, want %q", err, tc.lost)
			}
			if same := *after == *before; same != tc.same {
				t.Errorf("got the same cover: %v, want %v (%+v, %+v)", same, tc.same, *before, *after)
			}
		})
	}
}

// The relay stops when rows may have been kept from it, and looks a
// publication over that was altered in another way.
func TestPublicationAltered(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		alter string
		fatal string
	}{
		"out and in":   {`ALTER PUBLICATION p DROP TABLE outbox; ALTER PUBLICATION p ADD TABLE outbox`, "again"},
		"no inserts":   {`ALTER PUBLICATION p SET (publish = 'update')`, "no longer publishes inserts"},
		"more columns": {`ALTER PUBLICATION p SET (publish = 'insert, delete')`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, conn := database(t)
			sink := newMemory(false)
			c := configFor(database)
			c.Publication = database
			r := start(t, c, sink)
			r.await(t, Streaming)
			for sql := range strings.SplitSeq(tc.alter, "; ") {
				mustExec(t, t.Context(), conn, strings.ReplaceAll(sql, " p ", " "+ident(database)+" "))
			}
			if tc.fatal != "" {
				if err := r.wait(t); fault.KindOf(err) != fault.SlotLost || !strings.Contains(err.Error(), tc.fatal) {
					t.Errorf("got %v, want it to say %q", err, tc.fatal)
				}
				return
			}
			eventually(t, "another session", func() bool { return r.Stats().Reconnects == 1 })
			mustExec(t, t.Context(), conn, insertSQL, "a", `{}`)
			sink.await(t, 1)
		})
	}
}

// What happens to the table between two sessions is noticed by the second one.
func TestPublicationAlteredBetweenSessions(t *testing.T) {
	t.Parallel()
	for name, comment := range map[string]string{
		"mark": "", "mark without OIDs": "'outbox-cdc: ready'", "no mark": "NULL", // of which it knows by itself
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			alteredBetweenSessions(t, comment)
		})
	}
}

func alteredBetweenSessions(t *testing.T, comment string) {
	t.Helper()
	database, conn := database(t)
	c := configFor(database)
	c.Publication = database
	r := start(t, c, newMemory(false))
	r.await(t, Streaming)
	mustExec(t, t.Context(), conn, "BEGIN")
	if comment != "" {
		mustExec(t, t.Context(), conn, "COMMENT ON PUBLICATION "+ident(database)+" IS "+comment)
	}
	mustExec(t, t.Context(), conn, "ALTER PUBLICATION "+ident(database)+" DROP TABLE outbox")
	mustExec(t, t.Context(), conn, "ALTER PUBLICATION "+ident(database)+" ADD TABLE outbox")
	mustExec(t, t.Context(), conn, "COMMIT")
	mustExec(t, t.Context(), conn, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1", database)
	if err := r.wait(t); fault.KindOf(err) != fault.SlotLost || !strings.Contains(err.Error(), "again") {
		t.Errorf("got %v", err)
	}
}

// outAndIn takes the table out of the publication and puts it back, at once.
func outAndIn(t *testing.T, conn *pgx.Conn, publication string) {
	t.Helper()
	mustExec(t, t.Context(), conn, "ALTER PUBLICATION "+ident(publication)+" DROP TABLE outbox; ALTER PUBLICATION "+ident(publication)+" ADD TABLE outbox")
}

// A standby does not take over what has a hole since it began to stand by.
func TestStandbyNoticesHole(t *testing.T) {
	t.Parallel()
	database, conn := database(t)
	c := configFor(database)
	c.Publication = database
	active := start(t, c, newMemory(false))
	active.await(t, Streaming)
	standby := start(t, c, newMemory(false))
	standby.await(t, Standby)
	mustExec(t, t.Context(), conn, "COMMENT ON PUBLICATION "+ident(database)+" IS NULL") // what it knows by itself
	outAndIn(t, conn, database)
	if err := active.stop(t); err != nil {
		t.Fatal(err)
	}
	checkFault(t, standby.wait(t), fault.SlotLost, "again")
}

// So it is with a session that begins anew: what the last one saw is what counts.
func TestReconnectNoticesHole(t *testing.T) {
	t.Parallel()
	database, conn := database(t)
	c := configFor(database)
	c.Publication = database
	r := startWith(t, c, newMemory(false), func(r *Relay) { r.watchInterval = time.Hour })
	r.await(t, Streaming)
	mustExec(t, t.Context(), conn, "COMMENT ON PUBLICATION "+ident(database)+" IS 'the shop''s'")
	outAndIn(t, conn, database)
	mustExec(t, t.Context(), conn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outbox-cdc'")
	checkFault(t, r.wait(t), fault.SlotLost, "again")
}

// Neither does the next start go on over it, until the operator says so.
func TestRestartNoticesHole(t *testing.T) {
	t.Parallel()
	for name, mend := range map[string]func(*testing.T, Config) error{
		"init": func(t *testing.T, c Config) error { _, err := Init(t.Context(), c); return err },
		"recover": func(t *testing.T, c Config) error {
			_, err := recovered(t, c, newMemory(false), byTime)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, conn := database(t)
			c := configFor(database)
			c.Publication = database
			for range 2 { // the first start and the next one
				r := start(t, c, newMemory(false))
				r.await(t, Streaming)
				if err := r.stop(t); err != nil {
					t.Fatal(err)
				}
			}
			outAndIn(t, conn, database)
			for range 2 {
				checkFault(t, start(t, c, newMemory(false)).wait(t), fault.SlotLost, "`outbox-cdc init`")
			}
			if got := statuses(Check(t.Context(), c)); got["publication"] != fault.Fail {
				t.Errorf("check says %v", got)
			}
			if err := mend(t, c); err != nil {
				t.Fatal(err)
			}
			wantMark(t, conn, c)
			start(t, c, newMemory(false)).await(t, Streaming)
		})
	}
}

// A mark without OIDs, as the printed SQL makes it, gets them at a start.
func TestMarkIsCompleted(t *testing.T) {
	t.Parallel()
	database, conn := database(t)
	c := configFor(database)
	c.Publication = database
	if _, err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	mustExec(t, t.Context(), conn, commentSQL(c, ready))
	start(t, c, newMemory(false)).await(t, Streaming)
	wantMark(t, conn, c)
}

// A start says when the publication was altered since the last one: whether it
// published no inserts for a while, nothing tells.
func TestRestartSaysAltered(t *testing.T) {
	t.Parallel()
	database, conn := database(t)
	c := configFor(database)
	c.Publication = database
	if _, err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	const says = "outbox.publication_altered"
	for _, alter := range []string{"", "publish = 'update'", "", "publish_via_partition_root = false", ""} {
		if alter != "" {
			mustExec(t, t.Context(), conn, fmt.Sprintf("ALTER PUBLICATION %s SET (%s)", ident(database), alter))
			mustExec(t, t.Context(), conn, fmt.Sprintf("ALTER PUBLICATION %s SET (publish = 'insert', publish_via_partition_root = true)", ident(database)))
		}
		log := newLogBuffer()
		logged := c
		logged.Log = log.logger()
		r := start(t, logged, newMemory(false))
		r.await(t, Streaming)
		if log.contains(says) != (alter != "") {
			t.Errorf("after %q the log says that it was altered: %v", alter, log.contains(says))
		}
		if err := r.stop(t); err != nil {
			t.Fatal(err)
		}
	}
}

// A relay that may not write the mark tells of an altered publication once, and
// not at each connection.
func TestAlteredIsToldOnce(t *testing.T) {
	t.Parallel()
	database, conn := database(t)
	c := configFor(database)
	c.Publication = database
	if _, err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	mustExec(t, t.Context(), conn, "ALTER PUBLICATION "+ident(database)+" SET (publish = 'insert, update')")
	role := database + "_r"
	mustExec(t, t.Context(), conn, "CREATE ROLE "+role+" LOGIN REPLICATION PASSWORD 'right'")
	t.Cleanup(func() { mustExec(t, context.Background(), conn, "DROP ROLE "+role) })
	c.URL = shared.URLFor(database, role, "right")
	log := newLogBuffer()
	c.Log = log.logger()
	r := start(t, c, newMemory(false))
	for session := range uint64(3) {
		eventually(t, "the session", func() bool { s := r.Stats(); return s.Reconnects == session && s.State == Streaming })
		mustExec(t, t.Context(), conn, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1", database)
	}
	if n := log.count("outbox.publication_altered"); n != 1 || !log.contains("`outbox-cdc init`") {
		t.Errorf("told %d times", n)
	}
}

// wantMark compares the publication's comment with what there is.
func wantMark(t *testing.T, conn *pgx.Conn, c Config) {
	t.Helper()
	c, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	cat, err := readCatalog(t.Context(), conn, c)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cat.publication.Comment, markPrefix+string(cat.readyMark()); got != want || cat.cover.entry == 0 {
		t.Errorf("the comment is %q, want %q", got, want)
	}
}

// What could not be read is not taken for what was seen.
func TestUnreadCoverIsNotKept(t *testing.T) {
	t.Parallel()
	name, _ := database(t)
	conn := connect(t, name)
	r, err := New(configFor(name), newMemory(false))
	if err != nil {
		t.Fatal(err)
	}
	before := &cover{table: 1}
	r.cover = before
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.compareCover(t.Context(), conn); err == nil || r.cover != before {
		t.Errorf("got %v, and the cover is %+v", err, r.cover)
	}
}

// Rows of the table are the outbox's while it has another name, as for a
// migration that swaps names: the stream has them in hand.
func TestTableRenamedAndBack(t *testing.T) {
	t.Parallel()
	database, conn := database(t)
	sink := newMemory(false)
	r := start(t, configFor(database), sink)
	r.await(t, Streaming)
	mustExec(t, t.Context(), conn, insertSQL, "a", `{}`)
	mustExec(t, t.Context(), conn, "ALTER TABLE outbox RENAME TO aside")
	mustExec(t, t.Context(), conn, strings.Replace(insertSQL, "outbox", "aside", 1), "b", `{}`)
	mustExec(t, t.Context(), conn, "ALTER TABLE aside RENAME TO outbox")
	mustExec(t, t.Context(), conn, insertSQL, "c", `{}`)
	for i, rec := range sink.await(t, 3) {
		if want := string("abc"[i]); rec.key != want {
			t.Errorf("event %d has key %q, want %q", i, rec.key, want)
		}
	}
}
