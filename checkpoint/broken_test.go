package checkpoint

import (
	"math/rand/v2"
	"testing"

	"github.com/jackc/pglogrepl"
)

// broken is a tracker in the oracle's style with one rule missing. Each rule
// was broken by a real relay. The oracle has to find every one of them, or it
// would not find them in the Tracker either.
type broken struct {
	oracle
	rule string
	best pglogrepl.LSN
}

type brokenTx struct {
	*oracleTx
	b *broken
}

func (b *broken) Begin() subjectTx {
	x := &oracleTx{}
	b.entries = append(b.entries, x)
	return &brokenTx{x, b}
}

func (b *broken) Idle(lsn pglogrepl.LSN) {
	if n := len(b.entries); n > 0 && !b.entries[n-1].ended && b.rule != "keepalive inside of a transaction" {
		return
	}
	if b.rule == "keepalive out of its place" {
		b.best = max(b.best, lsn)
		return
	}
	b.entries = append(b.entries, &oracleTx{lsn: lsn, ended: true})
}

func (b *broken) Confirmed() pglogrepl.LSN {
	switch b.rule {
	case "last acknowledged": // a plain maximum
		for _, e := range b.entries {
			if e.complete() {
				b.best = max(b.best, e.lsn)
			}
		}
	case "moves back": // the last of the prefix, not the highest
		b.best = b.start
		for _, e := range b.entries {
			if !e.complete() {
				break
			}
			b.best = e.lsn
		}
		return b.best
	}
	b.best = max(b.best, b.confirmed())
	return b.best
}

func (x *brokenTx) Add(int) { x.unacked++ }

func (x *brokenTx) Done(int) {
	if x.unacked--; x.b.rule == "LSN of a row" && x.b.entries[0] == x.oracleTx && x.ended {
		x.b.best = max(x.b.best, x.lsn-8)
	}
	if x.b.rule == "one of its events is enough" {
		x.unacked = 0
	}
}

func (x *brokenTx) Fail(bytes int, _ error) {
	x.Done(bytes)
	if x.b.rule != "failure counts as done" {
		x.failed++
	}
}

func (x *brokenTx) End(lsn pglogrepl.LSN) {
	x.lsn, x.ended = lsn, true
	switch x.b.rule {
	case "end LSN plus one":
		x.lsn++
	case "start of the commit record":
		x.lsn -= 40
	case "complete at its end":
		x.unacked = 0
	}
}

// TestOracleFindsBrokenTrackers proves the oracle by mutation.
func TestOracleFindsBrokenTrackers(t *testing.T) {
	t.Parallel()
	first := rand.Uint64()
	found := func(rule string) int {
		for i := range 300 {
			fresh := func(start pglogrepl.LSN) subject {
				return &broken{oracle: *newOracle(start), rule: rule, best: start}
			}
			if drive(&seeded{rand.New(rand.NewPCG(first+uint64(i), 1)), 400}, fresh, nil) != nil {
				return i
			}
		}
		return -1
	}
	if i := found("none"); i >= 0 {
		t.Errorf("seed %d: a right tracker is refused in run %d", first, i)
	}
	for _, rule := range []string{
		"last acknowledged", "keepalive out of its place", "keepalive inside of a transaction", "LSN of a row",
		"end LSN plus one", "start of the commit record", "moves back", "failure counts as done",
		"one of its events is enough", "complete at its end",
	} {
		if found(rule) < 0 {
			t.Errorf("seed %d: %q was not found in 300 runs", first, rule)
		}
	}
}
