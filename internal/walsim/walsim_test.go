package walsim

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

func TestGenerate(t *testing.T) {
	t.Parallel()
	if a, b := Generate(Plan{Seed: 5}), Generate(Plan{Seed: 5}); !reflect.DeepEqual(a, b) {
		t.Error("equal plans give different WALs")
	}
	// What makes the stream a hard one must occur.
	var backToBack, backwards, empty, other, null, crossing int
	for seed := range uint64(20) {
		w := Generate(Plan{Seed: seed})
		var last pglogrepl.LSN
		for i, r := range w.Records {
			if r.Start < w.Start || r.End <= r.Start || i > 0 && r.Start < w.Records[i-1].End {
				t.Fatalf("record %d is at %s-%s", i, r.Start, r.End)
			}
			if r.Tx == nil {
				continue
			}
			if i > 0 && w.Records[i-1].Tx != nil && w.Records[i-1].End == r.Start {
				backToBack++
			}
			if len(r.Tx.Rows) == 0 {
				empty++
			}
			for _, row := range r.Tx.Rows {
				if row.LSN < last {
					backwards++
				}
				last = row.LSN
				switch {
				case row.Event == nil:
					other++
				case row.Event.Key == "":
					null++
				}
			}
		}
		if w.Start>>32 != w.End()>>32 {
			crossing++
		}
	}
	for what, n := range map[string]int{
		"commit records back to back": backToBack, "row LSNs that go back": backwards, "empty transactions": empty,
		"rows of another table": other, "NULL keys": null, "LSNs that cross 4 GiB": crossing,
	} {
		if n == 0 {
			t.Errorf("no %s", what)
		}
	}
}

// client is a replication connection that has started.
type client struct {
	t    *testing.T
	conn *pgconn.PgConn
}

func connect(t *testing.T, s *Server) client {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), s.URL()+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return client{t, conn}
}

func (c client) start(at pglogrepl.LSN) error {
	return pglogrepl.StartReplication(c.t.Context(), c.conn, `"outbox_cdc"`, at, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication, PluginArgs: []string{"proto_version '1'", `publication_names '"outbox_cdc"'`},
	})
}

// commits reads until that many commits came, and returns their end LSNs.
func (c client) commits(n int) (ends []pglogrepl.LSN) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	for len(ends) < n {
		msg, err := c.conn.ReceiveMessage(ctx)
		if err != nil {
			c.t.Fatalf("after %d commits: %v", len(ends), err)
		}
		data, ok := msg.(*pgproto3.CopyData)
		if !ok || data.Data[0] != pglogrepl.XLogDataByteID {
			continue
		}
		x, err := pglogrepl.ParseXLogData(data.Data[1:])
		if err != nil {
			c.t.Fatal(err)
		}
		m, err := pglogrepl.Parse(x.WALData)
		if err != nil {
			c.t.Fatal(err)
		}
		if m, ok := m.(*pglogrepl.CommitMessage); ok {
			if m.TransactionEndLSN != x.WALStart {
				c.t.Errorf("commit at %s ends at %s", x.WALStart, m.TransactionEndLSN)
			}
			ends = append(ends, m.TransactionEndLSN)
		}
	}
	return ends
}

func (c client) confirm(s *Server, at pglogrepl.LSN) {
	c.t.Helper()
	if err := pglogrepl.SendStandbyStatusUpdate(c.t.Context(), c.conn, pglogrepl.StandbyStatusUpdate{WALWritePosition: at, WALFlushPosition: at}); err != nil {
		c.t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); s.Confirmed() < at; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("confirmed %s, want %s", s.Confirmed(), at)
		}
	}
}

func serve(t *testing.T, c Config) *Server {
	t.Helper()
	s, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// sendable returns the records of the transactions that are sent.
func sendable(w *WAL) (records []Record) {
	for _, r := range w.Records {
		if r.Tx != nil && len(r.Tx.Rows) > 0 {
			records = append(records, r)
		}
	}
	return records
}

// A session sends every transaction whose commit record starts at or behind
// the confirmed position, and none before it.
func TestSlot(t *testing.T) {
	t.Parallel()
	w := Generate(Plan{Seed: 3})
	txs := sendable(w)
	// One whose commit record starts where the one before ended.
	next := 1 + slices.IndexFunc(txs[1:], func(r Record) bool {
		i := slices.IndexFunc(txs, func(o Record) bool { return o.Start == r.Start })
		return txs[i-1].End == r.Start
	})
	if next == 0 {
		t.Fatal("no commit records back to back: choose another seed")
	}
	s := serve(t, Config{WAL: w})
	first := connect(t, s)
	if err := first.start(0); err != nil {
		t.Fatal(err)
	}
	for i, end := range first.commits(len(txs)) {
		if end != txs[i].End {
			t.Fatalf("commit %d ends at %s, want %s", i, end, txs[i].End)
		}
	}
	first.confirm(s, txs[next-1].End)

	second := connect(t, s)
	if err, ok := errors.AsType[*pgconn.PgError](second.start(0)); !ok || err.Code != codeObjectInUse {
		t.Fatalf("a slot that is held: %v", err)
	}
	if err := first.conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		err := second.start(w.Start) // an older position than the confirmed one is passed over
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		second = connect(t, s)
	}
	if end := second.commits(1)[0]; end != txs[next].End {
		t.Errorf("the first commit after confirming %s ends at %s, want %s", txs[next-1].End, end, txs[next].End)
	}
	second.confirm(s, w.End()+1<<30) // not checked for an upper bound
}

// Each way to end a session ends it, and what was not flushed comes again.
func TestDeeds(t *testing.T) {
	t.Parallel()
	w := Generate(Plan{Seed: 4, Transactions: 10})
	txs := sendable(w)
	for deed, says := range map[Deed]string{Close: "EOF", Reset: "reset", Tear: "EOF", Fatal: "57P01", Finish: "", Crash: "reset"} {
		t.Run(fmt.Sprint(deed), func(t *testing.T) {
			t.Parallel()
			s := serve(t, Config{WAL: w, Script: func(p Point) Action {
				if p.Session == 1 && p.Idle {
					return Action{Do: deed}
				}
				return Action{}
			}})
			c := connect(t, s)
			if err := c.start(0); err != nil {
				t.Fatal(err)
			}
			for done := false; !done; {
				msg, err := c.conn.ReceiveMessage(t.Context())
				if _, ended := msg.(*pgproto3.CommandComplete); ended {
					done = true
				}
				if err != nil {
					done = true
					if says == "" || !strings.Contains(err.Error(), says) {
						t.Errorf("ended with %v, want %q", err, says)
					}
				}
			}
			again := connect(t, s)
			for deadline := time.Now().Add(10 * time.Second); again.start(0) != nil; again = connect(t, s) {
				if time.Now().After(deadline) {
					t.Fatal("the slot stays active")
				}
			}
			if got := again.commits(len(txs)); got[0] != txs[0].End {
				t.Errorf("started again behind the first transaction")
			}
		})
	}
}

// What the server does not know it refuses, and lists.
func TestUnexpected(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{WAL: Generate(Plan{Transactions: 1})})
	conn, err := pgconn.Connect(t.Context(), s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "SELECT pg_sleep(1)").ReadAll(); err == nil {
		t.Error("an unknown query was answered")
	}
	if err := s.Unexpected(); err == nil || !strings.Contains(err.Error(), "pg_sleep") {
		t.Errorf("unexpected: %v", err)
	}
}
