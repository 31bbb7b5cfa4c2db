package sink

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

func TestAppendTime(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"2026-11-23 17:47:26.298695+00":    "2026-11-23T17:47:26.298695Z",
		"2026-11-23 17:47:26+00":           "2026-11-23T17:47:26Z",
		"2026-11-23 17:47:26":              "2026-11-23T17:47:26Z",
		"2026-11-23 17:47:26.2":            "2026-11-23T17:47:26.2Z",
		"2026-11-23T17:47:26Z":             "2026-11-23T17:47:26Z",
		"2026-11-23T17:47:26.298695+00:00": "2026-11-23T17:47:26.298695Z",
		"2026-11-23 17:47:26.298695+05:30": "2026-11-23T12:17:26.298695Z",
		"2026-11-23 17:47:26.298695-08":    "2026-11-24T01:47:26.298695Z",
		"1883-11-18 12:03:57.5-00:03:58":   "1883-11-18T12:07:55.5Z",
		"0001-01-01 00:00:00+00":           "0001-01-01T00:00:00Z",
		"9999-12-31 23:59:59.999999+00":    "9999-12-31T23:59:59.999999Z",
		"2024-02-29 00:00:00+00":           "2024-02-29T00:00:00Z",
		"infinity":                         "",
		"-infinity":                        "",
		"0044-03-15 12:00:00+00 BC":        "",
		"10000-01-01 00:00:00+00":          "",
		"9999-12-31 23:59:59-01":           "",
		"2026-02-29 00:00:00+00":           "",
		"2026-13-01 00:00:00+00":           "",
		"2026-11-23 24:00:00+00":           "",
		"2026-11-23 17:47:60+00":           "",
		"2026-11-23 17:47:26.+00":          "",
		"2026-11-23 17:47:26+":             "",
		"2026-11-23 17:47:26+0":            "",
		"2026-11-23 17:47:26 CET":          "",
		"23.11.2026 17:47:26":              "",
		"1795456046":                       "",
		"2026-11-23":                       "",
		"":                                 "",
	} {
		got, ok := appendTime(nil, []byte(text))
		if ok != (want != "") || ok && string(got) != want {
			t.Errorf("%q: got %q, %v, want %q", text, got, ok, want)
		}
	}
}

func TestEachHeader(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ text, want string }{
		{`{}`, ""},
		{` { } `, ""},
		{`null`, ""},
		{`{"a": "b"}`, "a=b"},
		{`{"a": "b", "c": 1.50, "d": true, "e": null, "f": false}`, "a=b|c=1.50|d=true|f=false"},
		{`{"a": {"b": [1, 2, {"c": "d e"}], "f": null}}`, `a={"b":[1,2,{"c":"d e"}],"f":null}`},
		{`{"a": []}`, "a=[]"},
		{`{"a": "", "": "b"}`, "a=|=b"},
		{`{"\u00e9\n": "\ud83d\ude00\"\\\/\b\f\r\t"}`, "é\n=😀\"\\/\b\f\r\t"},
		{`{"a": "\ud83d"}`, "a=\ufffd"},
		{`{"a": "\ud83dx", "b": "\ud83d\u0041"}`, "a=\ufffdx|b=\ufffdA"},
		{`{"a": "ü", "b": {"ü": "\u00fc"}}`, `a=ü|b={"ü":"\u00fc"}`},
		{`[]`, "error: it holds a JSON array, not an object"},
		{`"{\"a\": 1}"`, "error: it holds a JSON string, not an object"},
		{`12`, "error: it holds a JSON number, not an object"},
		{`true`, "error: it holds a JSON boolean, not an object"},
		{``, "error: it is not valid JSON"},
		{`{`, "error: it is not valid JSON"},
		{`{"a"`, "error: it is not valid JSON"},
		{`{"a": `, "error: it is not valid JSON"},
		{`{"a": "b`, "error: it is not valid JSON"},
		{`{"a": "\`, "error: it is not valid JSON"},
		{`{"a": "\u12`, "error: it is not valid JSON"},
		{`{"a": "\x"}`, "error: it is not valid JSON"},
		{`{"a": tru}`, "error: it is not valid JSON"},
		{`{"a": {"b": "c}`, "error: it is not valid JSON"},
		{`{"a": [}`, "error: it is not valid JSON"},
		{`{"a": 1} x`, "error: it is not valid JSON"},
		{`{"a": 1,}`, "error: it is not valid JSON"},
	} {
		var got []string
		_, err := eachHeader([]byte(tc.text), nil, func(name, value []byte) {
			if value == nil {
				t.Errorf("%s: header %s is null", tc.text, name)
			}
			got = append(got, string(name)+"="+string(value))
		})
		text := strings.Join(got, "|")
		if err != nil {
			text = "error: " + err.Error()
		}
		if text != tc.want {
			t.Errorf("%s: got %q, want %q", tc.text, text, tc.want)
		}
	}
}

// FuzzHeaders compares with the standard library on every valid object of strings.
func FuzzHeaders(f *testing.F) {
	for _, s := range []string{`{"a": "b"}`, `{"a": {"b": [1, "c"]}, "d": null}`, `{"\u00e9": "\ud83d\ude00"}`, `[1]`, `{"a": "\`, `{"a":1e5,"b":-0.0}`, `{"a": 1, "a": null}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got := make(map[string]string)
		_, err := eachHeader(text, nil, func(name, value []byte) { got[string(name)] = string(value) })
		var want map[string]json.RawMessage
		if !utf8.Valid(text) || json.Unmarshal(text, &want) != nil {
			return // only that it does no harm
		}
		if err != nil {
			t.Fatalf("valid JSON: %v", err)
		}
		times := timesNamed(t, text)
		for name, raw := range want {
			if times[name] > 1 { // we give each of them
				continue
			}
			var s string
			text := cmp.Or(string(bytes.TrimSpace(raw)), "null")
			switch {
			case text == "null":
				if _, ok := got[name]; ok {
					t.Errorf("%q: null gave a header", name)
				}
				continue
			case text[0] == '"':
				if err := json.Unmarshal(raw, &s); err != nil {
					t.Fatal(err)
				}
			default:
				var b bytes.Buffer
				if err := json.Compact(&b, raw); err != nil {
					t.Fatal(err)
				}
				s = b.String()
			}
			if got[name] != s {
				t.Errorf("%q: got %q, want %q", name, got[name], s)
			}
		}
	})
}

// timesNamed counts the members of a JSON object by name.
func timesNamed(t *testing.T, text []byte) map[string]int {
	times := make(map[string]int)
	d := json.NewDecoder(bytes.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('{') { // null has no members
		return times
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		times[name.(string)]++
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			t.Fatal(err)
		}
	}
	return times
}

// FuzzTime checks that what is given out is RFC 3339 of the same instant.
func FuzzTime(f *testing.F) {
	for _, s := range []string{"2026-11-23 17:47:26.298695+00", "infinity", "0044-03-15 12:00:00+00 BC", "2026-11-23 17:47:26-08:30:15"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, ok := appendTime(nil, text)
		if !ok {
			return
		}
		if _, err := time.Parse(time.RFC3339Nano, string(got)); err != nil || !bytes.HasSuffix(got, []byte("Z")) {
			t.Errorf("%q became %q: %v", text, got, err)
		}
		in := strings.Replace(string(text), " ", "T", 1)
		if want, err := time.Parse("2006-01-02T15:04:05.999999999Z07:00", in); err == nil {
			if parsed, _ := time.Parse(time.RFC3339Nano, string(got)); !parsed.Equal(want) {
				t.Errorf("%q became %q", text, got)
			}
		}
	})
}

// FuzzTemplate checks that whatever comes out is a topic that Kafka takes.
func FuzzTemplate(f *testing.F) {
	f.Add("outbox.event.{aggregate_type}", "Order")
	f.Add("{aggregate_type}{id}", "..")
	f.Add("a{", "}")
	f.Fuzz(func(t *testing.T, topic, value string) {
		b, err := NewBuilder(RecordConfig{Columns: DefaultColumns(), Topic: topic, Source: "//test"})
		if err != nil {
			return
		}
		ev := event(1, value, []byte("key"), []byte("1"))
		rec, err := b.build(ev)
		if err != nil {
			if fault.KindOf(err) != fault.Poison {
				t.Errorf("got %v, want poison", err)
			}
			return
		}
		if err := checkTopic(rec.topic); err != nil {
			t.Error(err)
		}
	})
}
