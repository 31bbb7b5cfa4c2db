package cdc

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// before is told of each query just before it is asked.
type before func(sql string)

func (b before) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	b(q.SQL)
	return ctx
}

func (b before) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// connectTraced is connectSQL with something that happens between two queries.
func connectTraced(t *testing.T, url string, b before) *pgx.Conn {
	t.Helper()
	c, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	pin(&c.Config, url)
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	c.Tracer = b
	conn, err := pgx.ConnectConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeSQL(conn) })
	return conn
}

// What another instance creates while the catalog is read is no loss.
func TestLossIsDoubtedOnce(t *testing.T) {
	t.Parallel()
	name, other := database(t)
	c, err := withPublication(name).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, t.Context(), other, createPublicationSQL(c))
	mustExec(t, t.Context(), other, commentSQL(c, ready))
	looked, created := false, false
	conn := connectTraced(t, c.URL, func(sql string) {
		if looked && !created { // the slot was missing
			created = true
			mustExec(t, t.Context(), other, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", c.Slot)
		}
		looked = sql == slotSQL
	})
	if _, _, err := setUp(t.Context(), conn, c, false); err != nil || !created {
		t.Errorf("got %v; the slot was created meanwhile: %v", err, created)
	}
	dropSlot(t, t.Context(), other, c.Slot)
	if _, _, err := setUp(t.Context(), conn, c, false); err == nil {
		t.Error("a slot that is gone for good is not noticed")
	}
}

// A mark is not made of a cover and a publication of two moments.
func TestTornCatalogIsReadAgain(t *testing.T) {
	t.Parallel()
	name, other := database(t)
	c, err := withPublication(name).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, t.Context(), other, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", c.Slot)
	created := false
	conn := connectTraced(t, c.URL, func(sql string) {
		if strings.HasSuffix(sql, publicationSQL) && !created { // the cover was read
			created = true
			mustExec(t, t.Context(), other, createPublicationSQL(c))
		}
	})
	if _, _, err := setUp(t.Context(), conn, c, true); err != nil || !created {
		t.Fatalf("got %v; the publication was created meanwhile: %v", err, created)
	}
	wantMark(t, other, c)
}

// The comment of a publication that a DBA made and described stays theirs.
func TestCommentOfOthersIsLeftAlone(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	c, err := withPublication(name).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	const comment = "outbox of the shop"
	mustExec(t, t.Context(), conn, createPublicationSQL(c))
	mustExec(t, t.Context(), conn, "COMMENT ON PUBLICATION "+ident(c.Publication)+" IS "+literal(comment))
	mustExec(t, t.Context(), conn, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", c.Slot)
	start(t, c, newMemory(false)).await(t, Streaming)
	if p, err := readPublication(t.Context(), conn, c); err != nil || p.Comment != comment {
		t.Errorf("the comment is %+v, %v", p, err)
	}
}
