package walsim

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
)

// TestOracle tells an oracle of a short history, and of one thing more that it
// must find or must let pass.
func TestOracle(t *testing.T) {
	t.Parallel()
	event := func(id, key string) *Event { return &Event{ID: id, Key: key, Payload: "{}"} }
	a, b, c := event("a", "k"), event("b", "k"), event("c", "other")
	wal := &WAL{Start: 100, Records: []Record{
		{Start: 200, End: 240, Tx: &Tx{Rows: []Row{{LSN: 110, Event: a}, {LSN: 150, Event: c}}}},
		{Start: 240, End: 280, Tx: &Tx{Rows: []Row{{LSN: 120, Event: b}}}},
	}}
	first, second := wal.Records[0].Tx, wal.Records[1].Tx
	opened := time.Now()
	sent := func(o *Oracle, lsn pglogrepl.LSN, confirms bool, tx *Tx) {
		o.Observe(Step{Kind: Sent, Session: 1, LSN: lsn, Confirms: confirms, Tx: tx})
	}
	heard := func(o *Oracle, after time.Duration, write, flush pglogrepl.LSN) {
		o.Observe(Step{Kind: Heard, Session: 1, Update: &Update{Write: write, Flush: flush, Apply: flush, At: opened.Add(after), Clock: opened.Add(after)}})
	}
	for name, tc := range map[string]struct {
		do   func(*Oracle)
		says string // "": nothing is wrong
	}{
		"nothing confirmed": {func(o *Oracle) { heard(o, time.Second, 300, 100) }, ""},
		"all confirmed": {func(o *Oracle) {
			o.Acked("c")
			o.Acked("a")
			o.Acked("b")
			heard(o, time.Second, 300, 300)
		}, ""},
		"the prefix confirmed":   {func(o *Oracle) { o.Acked("a"); o.Acked("c"); heard(o, time.Second, 300, 240) }, ""},
		"half a transaction":     {func(o *Oracle) { o.Acked("a"); heard(o, time.Second, 300, 240) }, "Invariant 1"},
		"behind a gap":           {func(o *Oracle) { o.Acked("b"); heard(o, time.Second, 300, 280) }, "Invariant 1"},
		"a keepalive too early":  {func(o *Oracle) { o.Acked("a"); o.Acked("c"); heard(o, time.Second, 300, 300) }, "Invariant 1"},
		"a row's position":       {func(o *Oracle) { heard(o, time.Second, 300, 110) }, "Invariant 1"},
		"a commit's start":       {func(o *Oracle) { o.Acked("a"); o.Acked("c"); heard(o, time.Second, 300, 200) }, "Invariant 2"},
		"zero":                   {func(o *Oracle) { heard(o, time.Second, 300, 0) }, "Invariant 2"},
		"write never sent":       {func(o *Oracle) { heard(o, time.Second, 299, 100) }, "Invariant 2"},
		"write behind flush":     {func(o *Oracle) { o.Acked("a"); o.Acked("c"); heard(o, time.Second, 110, 240) }, "write"},
		"flush goes back":        {func(o *Oracle) { o.Acked("a"); o.Acked("c"); heard(o, 1e9, 300, 240); heard(o, 2e9, 300, 100) }, "after 0/F0"},
		"silence":                {func(o *Oracle) { heard(o, 4*time.Second, 300, 100) }, "Invariant 4"},
		"silence at the end":     {func(o *Oracle) { o.Observe(Step{Kind: Closed, Session: 1, At: opened.Add(4 * time.Second)}) }, "Invariant 4"},
		"hurry":                  {func(o *Oracle) { heard(o, 1e9, 300, 100); heard(o, 1.05e9, 300, 100); heard(o, 2e9, 300, 100) }, "apart"},
		"the last one may hurry": {func(o *Oracle) { heard(o, 1e9, 300, 100); heard(o, 1.05e9, 300, 100) }, ""},
		"a clock that was set": {func(o *Oracle) {
			for _, at := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second} {
				o.Observe(Step{Kind: Heard, Session: 1, Update: &Update{Write: 300, Flush: 100, Apply: 100,
					At: opened.Add(at), Clock: opened.Add(10*time.Second - at/20)}})
			}
		}, ""},
		"another session's": {func(o *Oracle) { o.Observe(Step{Kind: Heard, Session: 2, Update: &Update{}}) }, "outside"},
		"in order":          {func(o *Oracle) { o.Arrived(*a); o.Arrived(*b); o.Arrived(*a) }, ""},
		"out of order":      {func(o *Oracle) { o.Arrived(*b); o.Arrived(*c); o.Arrived(*a) }, "Invariant 5"},
		"another value":     {func(o *Oracle) { o.Arrived(Event{ID: "a", Key: "k", Payload: "{ }"}) }, "was"},
		"rolled back":       {func(o *Oracle) { o.Arrived(Event{ID: "x"}) }, "never committed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := NewOracle(wal)
			o.MaxSilence, o.MinSpacing = 3*time.Second, 100*time.Millisecond
			o.Observe(Step{Kind: Opened, Session: 1, At: opened, LSN: 100})
			sent(o, 110, false, nil)
			sent(o, 240, true, first)
			sent(o, 120, false, nil)
			sent(o, 280, true, second)
			sent(o, 300, true, nil)
			tc.do(o)
			switch err := o.Err(); {
			case tc.says == "" && err != nil:
				t.Errorf("found %v", err)
			case tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)):
				t.Errorf("found %v, want %q", err, tc.says)
			}
		})
	}
	o := NewOracle(wal)
	o.Acked("b")
	if got := o.Missing(); len(got) != 2 || got[0] != "a" || got[1] != "c" {
		t.Errorf("missing %v", got)
	}
}
