package cdc

import (
	"cmp"
	"strings"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

func TestReadMark(t *testing.T) {
	t.Parallel()
	for comment, want := range map[string]mark{
		"":                              unmarked,
		"outbox of the shop":            unmarked,
		"outbox-cdc: creating":          creating,
		"outbox-cdc: ready":             ready,
		"outbox-cdc: recovering":        recovering,
		"outbox-cdc: ready and waiting": ready,
		"outbox-cdc: ready v17 1:2":     ready,
		"outbox-cdc: ":                  unmarked,
		"outbox-cdc: readyish":          unmarked,
	} {
		if got := readMark(comment); got != want {
			t.Errorf("readMark(%q) = %q, want %q", comment, got, want)
		}
	}
}

func TestNextStep(t *testing.T) {
	t.Parallel()
	good := func(comment string) *publication {
		return &publication{Insert: true, Covers: true, Owned: true, Comment: comment}
	}
	foreign := func(comment string) *publication {
		p := *good(comment)
		p.Owned = false
		return &p
	}
	ours := &slot{Type: "logical", Plugin: "pgoutput", Database: "app", WALStatus: "reserved"}
	altered := func(change func(*slot)) *slot {
		s := *ours
		change(&s)
		return &s
	}
	for name, tc := range map[string]struct {
		publication *publication
		slot        *slot
		init        bool
		kindOf      string // of the table; r unless this says otherwise
		want        step
		fails       string     // part of the error and its hint,
		kind        fault.Kind // which is SlotLost unless this says otherwise
	}{
		"first start":                        {want: createAll},
		"first start by init":                {init: true, want: createAll},
		"all there":                          {publication: good("outbox-cdc: ready"), slot: ours},
		"all there, made by a DBA":           {publication: good(""), slot: ours},
		"all there, interrupted before end":  {publication: good("outbox-cdc: creating"), slot: ours},
		"interrupted before the slot":        {publication: good("outbox-cdc: creating"), want: createSlot},
		"begun by another role":              {publication: foreign("outbox-cdc: creating"), fails: "owner run `outbox-cdc init`"},
		"begun by another role, slot there":  {publication: foreign("outbox-cdc: creating"), slot: ours, fails: "owner run `outbox-cdc init`"},
		"finished by another role":           {publication: foreign("outbox-cdc: ready"), slot: ours},
		"DBA's publication, no slot":         {publication: good(""), fails: "outbox-cdc init"},
		"DBA's publication, no slot, init":   {publication: good("shop"), init: true, want: createSlot},
		"slot gone":                          {publication: good("outbox-cdc: ready"), fails: "outbox-cdc recover"},
		"slot gone, init":                    {publication: good("outbox-cdc: ready"), init: true, fails: "outbox-cdc recover"},
		"recovery unfinished, slot there":    {publication: good("outbox-cdc: recovering"), slot: ours, fails: "outbox-cdc recover"},
		"recovery unfinished, slot gone":     {publication: good("outbox-cdc: recovering"), fails: "outbox-cdc recover"},
		"publication gone":                   {slot: ours, fails: "outbox-cdc recover"},
		"table not published":                {publication: &publication{Insert: true}, slot: ours, fails: "ADD TABLE"},
		"inserts not published":              {publication: &publication{Covers: true}, slot: ours, fails: "publish = 'insert'), with what else its other subscribers need, if there are any; rows that were committed meanwhile are not streamed"},
		"partitions published, not the root": {publication: &publication{Insert: true}, kindOf: "p", slot: ours, fails: "if it is not in it; rows that were committed meanwhile are not streamed"},
		"creating, table not published":      {publication: &publication{Insert: true, Owned: true, Comment: "outbox-cdc: creating"}, fails: "ADD TABLE"},
		"another database's":                 {publication: good("outbox-cdc: ready"), slot: altered(func(s *slot) { s.Database = "My-App" }), fails: "outbox_cdc_app", kind: fault.Usage},
		"another plugin's":                   {publication: good("outbox-cdc: ready"), slot: altered(func(s *slot) { s.Plugin = "wal2json" }), fails: "wal2json", kind: fault.Usage},
		"physical":                           {slot: &slot{Type: "physical"}, fails: "physical", kind: fault.Usage},
		"same table":                         {publication: good("outbox-cdc: ready v17 500:600"), slot: ours},
		"same table, after pg_upgrade":       {publication: good("outbox-cdc: ready v16 500:7"), slot: ours},
		"another table":                      {publication: good("outbox-cdc: ready v17 501:600"), slot: ours, fails: "outbox-cdc init"},
		"another table, not ours":            {publication: foreign("outbox-cdc: ready v17 501:600"), slot: ours, init: true, fails: "publication's owner"},
		"another table, after pg_upgrade":    {publication: good("outbox-cdc: ready v16 501:7"), slot: ours, fails: "outbox-cdc recover"},
		"another entry":                      {publication: good("outbox-cdc: ready v17 500:601"), slot: ours, fails: "outbox-cdc recover"},
		"another entry, accepted by init":    {publication: good("outbox-cdc: ready v17 500:601"), slot: ours, init: true},
		"wal removed":                        {publication: good("outbox-cdc: ready"), slot: altered(func(s *slot) { s.WALStatus = "lost" }), fails: "wal_removed"},
		"idle timeout":                       {publication: good("outbox-cdc: ready"), slot: altered(func(s *slot) { s.Invalidation = "idle_timeout" }), fails: "idle_timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := Config{URL: "postgres://x"}.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			cat := catalog{server: server{Version: 170000, Database: "app"}, table: &table{Kind: cmp.Or(tc.kindOf, "r")}, publication: tc.publication, slot: tc.slot,
				cover: &cover{table: 500, entry: 600}}
			got, err := cat.nextStep(c, tc.init)
			if tc.fails == "" {
				if err != nil || got != tc.want {
					t.Fatalf("got step %d, error %v; want step %d", got, err, tc.want)
				}
				return
			}
			checkFault(t, err, cmp.Or(tc.kind, fault.SlotLost), tc.fails)
		})
	}
}

func TestSuggestSlot(t *testing.T) {
	t.Parallel()
	if got, want := suggestSlot("outbox_cdc", "My-App"), "outbox_cdc_my_app"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, slot := range []string{"outbox_cdc", strings.Repeat("s", 63)} {
		if got := suggestSlot(slot, strings.Repeat("x", 80)); !slotName.MatchString(got) || got == slot {
			t.Errorf("%q is no slot name to suggest", got)
		}
	}
}

func TestCheckServerAndTable(t *testing.T) {
	t.Parallel()
	c, err := Config{URL: "postgres://x", Columns: []string{"id", "payload"}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	modern := server{Version: 170000, WALLevel: "logical"}
	for name, tc := range map[string]struct {
		cat  catalog
		kind fault.Kind // 0: fine
		says string
	}{
		"fine":            {cat: catalog{server: modern, table: &table{Kind: "r", Persistence: "p", Columns: []string{"payload", "id"}}}},
		"partitioned":     {cat: catalog{server: modern, table: &table{Kind: "p", Persistence: "p", Columns: []string{"payload", "id"}}}},
		"no table":        {cat: catalog{server: modern}, kind: fault.Usage, says: "outbox-cdc init"},
		"a view":          {cat: catalog{server: modern, table: &table{Kind: "v", Persistence: "p"}}, kind: fault.Usage, says: "not a table"},
		"unlogged":        {cat: catalog{server: modern, table: &table{Kind: "r", Persistence: "u"}}, kind: fault.Usage, says: "SET LOGGED"},
		"missing columns": {cat: catalog{server: modern, table: &table{Kind: "r", Persistence: "p", Columns: []string{"id", "body"}}}, kind: fault.Usage, says: "lacks the columns payload; it has id, body"},
		"generated column": {
			cat:  catalog{server: modern, table: &table{Kind: "r", Persistence: "p", Columns: []string{"id", "payload"}, Generated: []string{"payload"}}},
			kind: fault.Usage, says: `column "payload" of table public.outbox is generated`,
		},
		"generated column that is published": {
			cat: catalog{
				server: server{Version: 180000, WALLevel: "logical"}, publication: &publication{Columns: []string{"id", "payload"}},
				table: &table{Kind: "r", Persistence: "p", Columns: []string{"id", "payload"}, Generated: []string{"payload"}},
			},
		},
		"generated column that is not mapped": {
			cat: catalog{server: modern, table: &table{Kind: "r", Persistence: "p", Columns: []string{"id", "payload", "sum"}, Generated: []string{"sum"}}},
		},
		"domain over bytea": {
			cat:  catalog{server: modern, table: &table{Kind: "r", Persistence: "p", Columns: []string{"id", "payload"}, ByteaDomains: []string{"payload"}}},
			kind: fault.Usage, says: "a domain over bytea",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkFault(t, tc.cat.checkTable(c), tc.kind, tc.says)
		})
	}
	for name, tc := range map[string]struct {
		server server
		kind   fault.Kind
		says   string
	}{
		"fine":            {server: modern},
		"too old":         {server: with(modern, 130012, "logical", false), kind: fault.Unexpected, says: "13.12"},
		"standby":         {server: with(modern, 170000, "logical", true), kind: fault.Unreachable, says: "standby"},
		"replica":         {server: with(modern, 180000, "replica", false), kind: fault.Unexpected, says: "wal_level"},
		"19 with replica": {server: with(modern, 190000, "replica", false)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkFault(t, catalog{server: tc.server}.checkServer(), tc.kind, tc.says)
		})
	}
}

func with(s server, version int, walLevel string, recovery bool) server {
	s.Version, s.WALLevel, s.InRecovery = version, walLevel, recovery
	return s
}

// checkFault compares an error with the kind and a part of what it says; kind 0 is no error.
func checkFault(t *testing.T, err error, kind fault.Kind, says string) {
	t.Helper()
	if kind == 0 {
		if err != nil {
			t.Fatalf("unexpected error: %v", err)
		}
		return
	}
	if err == nil || fault.KindOf(err) != kind {
		t.Fatalf("got %v (kind %d), want kind %d", err, fault.KindOf(err), kind)
	}
	if said := err.Error() + " hint: " + fault.HintOf(err); !containsFold(said, says) {
		t.Errorf("%q does not say %q", said, says)
	}
}

func containsFold(s, part string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(part))
}
