package cdc_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/walsim"
)

// lines is a log that is looked at afterwards.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A server that lacks what was acknowledged is told of, wherever its WAL has
// parted, and streamed from.
func TestTimelineDiverged(t *testing.T) {
	t.Parallel()
	wal := walsim.Generate(walsim.Plan{Seed: 13, Transactions: 20})
	same := func(timeline int32, history string) walsim.Identity {
		return walsim.Identity{System: walsim.DefaultSystem, Timeline: timeline, History: history}
	}
	var last walsim.Record // that committed events
	for _, r := range wal.Records {
		if r.Tx != nil && slices.ContainsFunc(r.Tx.Rows, func(row walsim.Row) bool { return row.Event != nil }) {
			last = r
		}
	}
	left := func(timeline int32, at fmt.Stringer) string { return fmt.Sprintf("%d\t%s\tno reason\n", timeline, at) }
	for name, tc := range map[string]struct {
		before, after walsim.Identity
		stuck         bool   // nothing is acknowledged
		says          string // "": nothing
	}{
		"the same":                {same(2, ""), same(2, ""), false, ""},
		"promoted":                {same(1, ""), same(2, left(1, last.End)), false, ""},
		"promoted, one behind":    {same(1, ""), same(2, left(1, last.Start)), false, "server_has_until=" + last.Start.String()},
		"promoted, older":         {same(1, ""), same(2, left(1, wal.Start)), false, "server_has_until=" + wal.Start.String()},
		"older, none was seen":    {same(1, ""), same(2, left(1, wal.Start)), true, ""},
		"old primary back":        {same(2, left(1, wal.Start)), same(1, ""), false, "an old primary that is back"},
		"primary back, none seen": {same(2, left(1, wal.Start)), same(1, ""), true, ""},
		"promoted from elsewhere": {same(2, left(1, wal.Start)), same(3, left(1, wal.End())), false, "an old primary that is back"},
		"another cluster":         {same(1, ""), walsim.Identity{System: "1", Timeline: 1}, false, "another database cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			oracle := walsim.NewOracle(wal)
			var cut atomic.Bool
			r, err := newRig(walsim.Config{WAL: wal, Script: func(p walsim.Point) walsim.Action {
				if cut.Load() && p.Session == 1 {
					return walsim.Action{Do: walsim.Reset}
				}
				return walsim.Action{}
			}}, oracle)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := r.verdict(); err != nil {
					t.Error(err)
				}
			})
			r.server.Become(tc.before)
			log := &lines{}
			sink := newScripted(oracle, 13, func(s *scripted) { s.stuck = tc.stuck })
			if err := r.start(t.Context(), sink, cdc.Config{Log: slog.New(slog.NewTextHandler(log, nil))}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := r.stop(); err != nil {
					t.Error(err)
				}
			})
			if tc.stuck {
				r.must(t, "all handed over", func() bool { return sink.unsettled() == len(wal.Events()) })
			} else {
				r.must(t, "all confirmed", func() bool { return r.server.Confirmed() >= wal.End() })
			}
			r.server.Become(tc.after)
			cut.Store(true)
			r.must(t, "it streams on", func() bool {
				return r.server.Sessions() == 2 && r.relay.Stats().State == cdc.Streaming
			})
			said := strings.Contains(log.String(), "outbox.timeline_diverged")
			if said != (tc.says != "") || !strings.Contains(log.String(), tc.says) {
				t.Errorf("the log should say %q:\n%s", tc.says, log)
			}
		})
	}
}
