package e2e_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/IBM/sarama"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// entry is one committed row, as the ledger has it.
type entry struct {
	xid        uint64
	id         string
	key, value []byte // nil: NULL
	row        map[string]json.RawMessage
	commit     time.Time // of its transaction, from pg_commit_ts
}

// text returns a column's text; false for NULL and for a column that is not there.
func (e *entry) text(column string) (string, bool) {
	raw := e.row[column]
	var s string
	if len(raw) == 0 || string(raw) == "null" {
		return "", false
	}
	if json.Unmarshal(raw, &s) != nil {
		return string(raw), true
	}
	return s, true
}

// spec is what a row has to become.
type spec struct {
	topic   func(e *entry) string
	headers func(e *entry) map[string]string // all but outbox-lsn
	id      string                           // the header with the event's id; "" is ce_id
	// solo names a key that only one session wrote, one transaction after the
	// other: there the order of the ledger is the order of commits.
	solo string

	placed map[string]int32 // partitions of keys
}

// problems collects what is wrong, a few of each kind.
type problems struct {
	list  []string
	count map[string]int
}

const problemsShown = 3

func (p *problems) add(kind, format string, args ...any) {
	if p.count == nil {
		p.count = map[string]int{}
	}
	if p.count[kind]++; p.count[kind] <= problemsShown {
		p.list = append(p.list, kind+": "+fmt.Sprintf(format, args...))
	}
}

// done returns the problems, and how many more of each kind there are.
func (p *problems) done() []string {
	for _, kind := range slices.Sorted(maps.Keys(p.count)) {
		if more := p.count[kind] - problemsShown; more > 0 {
			p.list = append(p.list, fmt.Sprintf("%s: and %d more", kind, more))
		}
	}
	return p.list
}

// compare says in what the records differ from the ledger: each entry must be
// there once, and nothing else, with key, value, headers, time, partition and
// order as they have to be. Records of one partition are in its order.
func (s *spec) compare(entries []entry, records []devenv.Record) []string {
	var p problems
	byID := make(map[string]*entry, len(entries))
	for i := range entries {
		byID[entries[i].id] = &entries[i]
	}
	matched := make(map[*entry]*devenv.Record, len(entries))
	s.placed = map[string]int32{}
	for i := range records {
		r := &records[i]
		id := s.idOf(r)
		e := byID[id]
		switch {
		case e == nil:
			p.add("not committed", "event %q with value %.80q in %s", id, r.Value, r.Topic)
		case matched[e] != nil:
			p.add("repeated", "event %q at %d/%d and %d/%d of %s", id, matched[e].Partition, matched[e].Offset, r.Partition, r.Offset, r.Topic)
		default:
			matched[e] = r
			s.compareOne(&p, e, r)
		}
	}
	for i := range entries {
		if e := &entries[i]; matched[e] == nil {
			p.add("missing", "event %q of key %q", e.id, e.key)
		}
	}
	positions(&p, entries, matched)
	s.order(&p, entries, byID, records)
	return p.done()
}

func (s *spec) idOf(r *devenv.Record) string { return r.Header(cmp.Or(s.id, "ce_id")) }

// compareOne looks at one record by itself.
func (s *spec) compareOne(p *problems, e *entry, r *devenv.Record) {
	if want := s.topic(e); r.Topic != want {
		p.add("topic", "event %q is in %s, want %s", e.id, r.Topic, want)
	}
	if !same(r.Key, e.key) {
		p.add("key", "event %q has key %s, want %s", e.id, show(r.Key), show(e.key))
	}
	if !same(r.Value, e.value) {
		p.add("value", "event %q has value %s, want %s", e.id, show(r.Value), show(e.value))
	}
	if got, want := r.Timestamp.UnixMilli(), e.commit.UnixMilli(); got != want {
		p.add("timestamp", "event %q has timestamp %d ms, committed at %d ms", e.id, got, want)
	}
	want, known := s.placed[string(e.key)]
	if !known && e.key != nil {
		want = murmurPartition(e.key)
		s.placed[string(e.key)] = want
	}
	if e.key != nil && r.Partition != want {
		p.add("partition", "event %q with key %q is in partition %d, want %d", e.id, e.key, r.Partition, want)
	}
	got := map[string]string{}
	for _, h := range r.Headers {
		if _, twice := got[h.Key]; twice {
			p.add("headers", "event %q has header %q twice", e.id, h.Key)
		}
		if h.Value == nil || !utf8.Valid(h.Value) || !utf8.ValidString(h.Key) {
			p.add("headers", "event %q has header %q with value %s, which typed consumers skip", e.id, h.Key, show(h.Value))
		}
		got[h.Key] = string(h.Value)
	}
	if _, err := rig.PositionOf(r); err != nil {
		p.add("headers", "event %q: %v", e.id, err)
	}
	delete(got, "outbox-lsn")
	wanted := s.headers(e)
	if maps.Equal(got, wanted) {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if w, ok := wanted[name]; !ok {
			p.add("headers", "event %q has %s: %q, want none", e.id, name, got[name])
		} else if w != got[name] {
			p.add("headers", "event %q has %s: %q, want %q", e.id, name, got[name], w)
		}
		delete(wanted, name)
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		p.add("headers", "event %q lacks %s: %q", e.id, name, wanted[name])
	}
}

// same tells NULL from empty.
func same(got, want []byte) bool { return (got == nil) == (want == nil) && bytes.Equal(got, want) }

func show(b []byte) string {
	if b == nil {
		return "NULL"
	}
	return fmt.Sprintf("%.80q (%d bytes)", b, len(b))
}

// murmurPartition places a key as Java producers do, by another
// implementation than the relay's.
func murmurPartition(key []byte) int32 {
	p, err := sarama.NewMurmur2Partitioner("").Partition(&sarama.ProducerMessage{Key: sarama.ByteEncoder(key)}, sharedPartitions)
	if err != nil {
		return -1
	}
	return p
}

// positions checks outbox-lsn: one LSN for each transaction, and within it the
// numbers 0, 1, 2, … in the order in which the rows were inserted.
func positions(p *problems, entries []entry, matched map[*entry]*devenv.Record) {
	lsnOf, xidOf, next := map[uint64]uint64{}, map[uint64]uint64{}, map[uint64]int{}
	for i := range entries {
		e := &entries[i]
		r := matched[e]
		if r == nil {
			continue
		}
		at, err := rig.PositionOf(r)
		if err != nil {
			continue // was said
		}
		if lsn, known := lsnOf[e.xid]; known && lsn != at.LSN {
			p.add("position", "event %q says %q, another of its transaction %X", e.id, r.Header("outbox-lsn"), lsn)
		}
		if xid, known := xidOf[at.LSN]; known && xid != e.xid {
			p.add("position", "event %q of transaction %d has the LSN of transaction %d", e.id, e.xid, xid)
		}
		if at.Seq != next[e.xid] || at.Timeline != 1 {
			p.add("position", "event %q says %q, want timeline 1 and number %d", e.id, r.Header("outbox-lsn"), next[e.xid])
		}
		lsnOf[e.xid], xidOf[at.LSN] = at.LSN, e.xid
		next[e.xid]++
	}
}

// order checks that each key's events arrived in commit order. It trusts
// nothing that the relay says: a payload's n counts the events of its key
// under a row lock, which is held until the commit.
func (s *spec) order(p *problems, entries []entry, byID map[string]*entry, records []devenv.Record) {
	place := make(map[string]int, len(entries))
	for i := range entries {
		place[entries[i].id] = i
	}
	counted := map[string]int{}
	last := -1
	for i := range records {
		r := &records[i]
		e := byID[s.idOf(r)]
		if e == nil || e.key == nil {
			continue
		}
		if string(e.key) == s.solo {
			if at := place[e.id]; at < last {
				p.add("order", "key %q: event %q arrived behind %q", e.key, e.id, entries[last].id)
			} else {
				last = at
			}
		}
		var payload struct{ N int }
		if !bytes.HasPrefix(e.value, []byte(`{"n":`)) || json.Unmarshal(e.value, &payload) != nil {
			continue
		}
		key := r.Topic + " " + string(e.key)
		if counted[key]++; payload.N != counted[key] {
			p.add("order", "key %q: event %d of the key arrived as number %d", e.key, payload.N, counted[key])
		}
	}
}

// cloudEvent returns the headers of the default mapping, as the documentation
// has them. source is that of rows without one.
func cloudEvent(source, contentType string) func(e *entry) map[string]string {
	return func(e *entry) map[string]string {
		want := map[string]string{"content-type": contentType, "ce_specversion": "1.0", "ce_source": source}
		for header, column := range map[string]string{
			"ce_id": "id", "ce_type": "event_type", "ce_source": "source", "ce_subject": "aggregate_id",
			"ce_correlationid": "correlation_id", "correlation_id": "correlation_id", "ce_causationid": "causation_id",
			"ce_dataversion": "data_version", "traceparent": "traceparent", "tracestate": "tracestate",
		} {
			if v, ok := e.text(column); ok {
				want[header] = v
			}
		}
		if want["ce_subject"] == "" { // CloudEvents: must not be empty if present
			delete(want, "ce_subject")
		}
		if text, ok := e.text("occurred_at"); ok {
			if at, err := time.Parse(time.RFC3339Nano, text); err == nil { // neither infinity nor B.C.
				want["ce_time"] = at.UTC().Format("2006-01-02T15:04:05.999999Z07:00")
			}
		}
		addMembers(want, e.row["headers"])
		return want
	}
}

// addMembers adds the members of the headers column that do not collide.
func addMembers(want map[string]string, column json.RawMessage) {
	var members map[string]json.RawMessage
	if json.Unmarshal(column, &members) != nil {
		return
	}
	for name, raw := range members {
		if _, ours := want[name]; ours || string(raw) == "null" || name == "outbox-lsn" || name == "outbox-recovered" {
			continue
		}
		var text string
		if json.Unmarshal(raw, &text) != nil {
			var compact bytes.Buffer
			_ = json.Compact(&compact, raw) // it was parsed just now
			text = compact.String()
		}
		want[name] = text
	}
}
