package e2e_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
)

// The suite is worth what compare notices: each harm done to a good delivery
// has to be told, under its name.
func TestCompareNotices(t *testing.T) {
	t.Parallel()
	for _, harm := range []struct {
		name string
		want string // "" for none
		do   func(r []devenv.Record) []devenv.Record
	}{
		{"no harm", "", func(r []devenv.Record) []devenv.Record { return r }},
		{"drop an event", "missing", func(r []devenv.Record) []devenv.Record { return slices.Delete(r, 3, 4) }},
		{"drop the last event", "missing", func(r []devenv.Record) []devenv.Record { return r[:len(r)-1] }},
		{"repeat an event", "repeated", func(r []devenv.Record) []devenv.Record { return append(r, r[0]) }},
		{"publish what was rolled back", "not committed", func(r []devenv.Record) []devenv.Record {
			other := r[0]
			other.Headers = replaced(other, "ce_id", "rolled-back")
			return append(r, other)
		}},
		{"swap two events of a key", "order", func(r []devenv.Record) []devenv.Record {
			r[0], r[2] = r[2], r[0]
			return r
		}},
		{"swap two events of the solo key", "order", func(r []devenv.Record) []devenv.Record {
			r[4], r[5] = r[5], r[4]
			return r
		}},
		{"number two events of a transaction the wrong way", "position", func(r []devenv.Record) []devenv.Record {
			r[4].Headers, r[5].Headers = replaced(r[4], "outbox-lsn", r[5].Header("outbox-lsn")), replaced(r[5], "outbox-lsn", r[4].Header("outbox-lsn"))
			return r
		}},
		{"another transaction's LSN", "position", func(r []devenv.Record) []devenv.Record {
			r[0].Headers = replaced(r[0], "outbox-lsn", r[1].Header("outbox-lsn"))
			return r
		}},
		{"no LSN", "headers", func(r []devenv.Record) []devenv.Record {
			r[0].Headers = replaced(r[0], "outbox-lsn", "")
			return r
		}},
		{"one byte of a value", "value", func(r []devenv.Record) []devenv.Record {
			r[0].Value = []byte(strings.Replace(string(r[0].Value), ":", ": ", 1))
			return r
		}},
		{"empty for NULL", "value", func(r []devenv.Record) []devenv.Record { r[6].Value = []byte{}; return r }},
		{"NULL for an empty key", "key", func(r []devenv.Record) []devenv.Record { r[7].Key = nil; return r }},
		{"another key", "key", func(r []devenv.Record) []devenv.Record { r[0].Key = []byte("b"); return r }},
		{"another partition", "partition", func(r []devenv.Record) []devenv.Record { r[0].Partition++; return r }},
		{"another topic", "topic", func(r []devenv.Record) []devenv.Record { r[0].Topic = "else"; return r }},
		{"a millisecond", "timestamp", func(r []devenv.Record) []devenv.Record {
			r[0].Timestamp = r[0].Timestamp.Add(time.Millisecond)
			return r
		}},
		{"a header's value", "headers", func(r []devenv.Record) []devenv.Record {
			r[0].Headers = replaced(r[0], "ce_time", "2001-02-03T04:05:06Z")
			return r
		}},
		{"a header too many", "headers", func(r []devenv.Record) []devenv.Record {
			r[0].Headers = append(r[0].Headers, devenv.Header{Key: "more", Value: []byte("x")})
			return r
		}},
		{"a header twice", "headers", func(r []devenv.Record) []devenv.Record {
			r[0].Headers = append(r[0].Headers, r[0].Headers[0])
			return r
		}},
		{"a header too few", "headers", func(r []devenv.Record) []devenv.Record {
			r[0].Headers = slices.DeleteFunc(r[0].Headers, func(h devenv.Header) bool { return h.Key == "ce_source" })
			return r
		}},
		{"a null header", "headers", func(r []devenv.Record) []devenv.Record {
			r[0].Headers = append(r[0].Headers, devenv.Header{Key: "tracestate"})
			return r
		}},
	} {
		t.Run(harm.name, func(t *testing.T) {
			t.Parallel()
			entries, records, s := goodDelivery()
			found := s.compare(entries, harm.do(records))
			switch {
			case harm.want == "" && len(found) > 0:
				t.Errorf("got %q, want none", found)
			case harm.want != "" && !slices.ContainsFunc(found, func(p string) bool { return strings.HasPrefix(p, harm.want+":") }):
				t.Errorf("got %q, want one of kind %q", found, harm.want)
			}
		})
	}
}

func replaced(r devenv.Record, name, value string) []devenv.Header {
	headers := slices.Clone(r.Headers)
	for i := range headers {
		if headers[i].Key == name {
			headers[i].Value = []byte(value)
		}
	}
	return headers
}

// goodDelivery is eight rows: four of key a in two transactions with counters,
// two of the solo key in one, a tombstone without a key, an empty key.
func goodDelivery() ([]entry, []devenv.Record, *spec) {
	s := &spec{
		topic:   func(*entry) string { return "t" },
		headers: cloudEvent("postgres://h/d/outbox", "application/json"),
		solo:    "solo",
	}
	var entries []entry
	var records []devenv.Record
	add := func(xid uint64, seq int, key, value []byte) {
		id := fmt.Sprintf("id-%d", len(entries))
		e := entry{xid: xid, id: id, key: key, value: value, commit: time.UnixMicro(1_700_000_000_123_456 + int64(xid)), row: map[string]json.RawMessage{
			"id": json.RawMessage(`"` + id + `"`), "event_type": json.RawMessage(`"made"`),
			"occurred_at": json.RawMessage(`"2024-02-29T12:00:00.5+05:30"`), "traceparent": json.RawMessage("null"),
		}}
		if key != nil {
			e.row["aggregate_id"] = json.RawMessage(`"` + string(key) + `"`)
		}
		r := devenv.Record{Topic: "t", Key: key, Value: value, Timestamp: e.commit.Truncate(time.Millisecond), Partition: murmurPartition(key)}
		for name, value := range s.headers(&e) {
			r.Headers = append(r.Headers, devenv.Header{Key: name, Value: []byte(value)})
		}
		r.Headers = append(r.Headers, devenv.Header{Key: "outbox-lsn", Value: fmt.Appendf(nil, "1/0/%X/%d", 0x1000*xid, seq)})
		entries, records = append(entries, e), append(records, r)
	}
	add(1, 0, []byte("a"), []byte(`{"n": 1}`))
	add(2, 0, []byte("a"), []byte(`{"n": 2}`))
	add(2, 1, []byte("a"), []byte(`{"n": 3}`))
	add(2, 2, []byte("a"), []byte(`{"n": 4}`))
	add(3, 0, []byte("solo"), []byte(`{}`))
	add(3, 1, []byte("solo"), []byte(`{}`))
	add(4, 0, nil, nil)
	add(5, 0, []byte{}, []byte(`{}`))
	return entries, records, s
}
