package walsim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
)

// Plan says what a generated WAL is like.
type Plan struct {
	Seed         uint64
	Transactions int // committed ones; 0: 100
	MaxRows      int // of a transaction; 0: 8
	Keys         int // different ones, besides NULL; 0: 8
	MaxPayload   int // bytes, about; 0: 300
	// Alter may change an event before it is written, all but its ID; nil: none is.
	Alter func(rng *rand.Rand, e *Event)
}

// Generate returns the WAL of several transactions at a time that write rows,
// commit or roll back, among other tables' records and messages. Equal plans
// give equal WALs.
func Generate(p Plan) *WAL {
	g := &generator{
		plan: Plan{p.Seed, cmp.Or(p.Transactions, 100), cmp.Or(p.MaxRows, 8), cmp.Or(p.Keys, 8), cmp.Or(p.MaxPayload, 300), p.Alter},
		rng:  rand.New(rand.NewPCG(p.Seed, 0)),
		xid:  740,
		now:  time.Date(2026, time.January, 2, 3, 4, 5, 678_901_000, time.UTC),
	}
	// The second and third cross into the next 4 GiB, where the halves of X/Y change.
	starts := []pglogrepl.LSN{0x16B3748, 0x1_FFFF_FE00, 0x7_FFFF_0028}
	g.next = starts[g.rng.IntN(len(starts))]
	g.wal.Start = g.next
	for g.committed < g.plan.Transactions {
		g.step()
	}
	for len(g.open) > 0 {
		g.abort()
	}
	g.record(1 + g.rng.IntN(5000)) // the position moves past the last commit
	return &g.wal
}

type generator struct {
	plan      Plan
	rng       *rand.Rand
	wal       WAL
	next      pglogrepl.LSN
	xid       uint32
	now       time.Time
	open      []*Tx
	committed int
	events    int
}

// step does one thing that some session of the database does.
func (g *generator) step() {
	switch n := g.rng.IntN(20); {
	case n < 3 && len(g.open) < 5:
		g.open = append(g.open, &Tx{XID: g.xid, First: g.next})
		g.xid++
	case n < 13 && len(g.open) > 0:
		g.row(g.open[g.rng.IntN(len(g.open))])
	case n < 15 && len(g.open) > 0:
		g.commit()
		for len(g.open) > 0 && g.rng.IntN(2) == 0 { // commit records back to back
			g.commit()
		}
	case n == 15 && len(g.open) > 0:
		g.abort()
	case n == 16:
		g.record(40 + g.rng.IntN(200)).Message = &Message{Prefix: "canary", Content: fmt.Sprint(g.next)}
	case n > 16:
		g.record(30 + g.rng.IntN(20_000)) // other tables, vacuum, checkpoints
	}
}

// record writes a record of that many bytes; records are aligned to 8.
func (g *generator) record(size int) *Record {
	if g.rng.IntN(12) == 0 {
		g.next += 24 // the header of the next page
	}
	start := g.next
	g.next += pglogrepl.LSN((size + 7) &^ 7)
	g.wal.Records = append(g.wal.Records, Record{Start: start, End: g.next})
	return &g.wal.Records[len(g.wal.Records)-1]
}

func (g *generator) row(tx *Tx) {
	if len(tx.Rows) >= g.plan.MaxRows {
		return
	}
	row := Row{Announce: g.rng.IntN(40) == 0}
	size := 60
	if g.rng.IntN(12) > 0 {
		row.Event = g.event()
		size += len(row.Event.Payload)
	}
	row.LSN = g.record(size).Start
	if len(tx.Rows) == 0 {
		tx.First = row.LSN
	}
	tx.Rows = append(tx.Rows, row)
}

func (g *generator) event() *Event {
	r := g.rng
	g.events++
	e := &Event{
		ID:   fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", r.Uint32(), r.IntN(1<<16), r.IntN(1<<12), r.IntN(1<<12), r.Uint64N(1<<48)),
		Type: "order.placed",
	}
	if k := r.IntN(g.plan.Keys + 1); k > 0 {
		e.Key = fmt.Sprintf("key-%d", k)
	}
	e.Payload = fmt.Sprintf(`{"n": %d, "pad": "%s"}`, g.events, strings.Repeat("x", r.IntN(g.plan.MaxPayload)))
	if g.plan.Alter != nil {
		g.plan.Alter(r, e)
	}
	return e
}

func (g *generator) take() *Tx {
	i := g.rng.IntN(len(g.open))
	tx := g.open[i]
	g.open = slices.Delete(g.open, i, i+1)
	return tx
}

func (g *generator) commit() {
	tx := g.take()
	g.now = g.now.Add(time.Duration(1+g.rng.IntN(3000)) * time.Microsecond)
	tx.Time = g.now
	g.record(34 + g.rng.IntN(100)).Tx = tx
	g.committed++
}

func (g *generator) abort() {
	g.take()
	g.record(34)
}
