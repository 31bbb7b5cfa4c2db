package sink

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"unicode/utf8"

	"github.com/outbox-cdc/outbox-cdc/decoder"
)

// Stdout writes each event as a line of JSON: a look at what Kafka would get.
//
//	{"topic":"…","key":"…","timestamp":"…","headers":{…},"value":…}
//
// The value is the payload itself when it is JSON, else a string; what is not
// UTF-8 comes in base64 as key_base64 or value_base64. Null is null.
type Stdout struct {
	mu      sync.Mutex
	w       io.Writer
	builder *Builder
	line    []byte
	down    error // until Reset
	closed  bool
}

// NewStdout returns a sink that writes to w. builder belongs to it from now on.
func NewStdout(w io.Writer, builder *Builder) *Stdout {
	return &Stdout{w: w, builder: builder}
}

// Publish writes the event, and acknowledges it once w has taken it. (It waits
// for w: a terminal or a pipe holds the relay up, as the window of a broker
// that is slow would.)
func (s *Stdout) Publish(ev *decoder.Event, ack Ack) {
	if err := s.write(ev); err != nil {
		ack.Fail(ev.Size, err)
		return
	}
	ack.Done(ev.Size)
}

func (s *Stdout) write(ev *decoder.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrClosed
	case s.down != nil:
		return s.down
	}
	rec, err := s.builder.build(ev)
	if err == nil {
		s.line, err = appendLine(s.line[:0], rec)
	}
	if err == nil {
		_, err = s.w.Write(s.line)
	}
	if cap(s.line) > 1<<20 { // Invariant 7: a large payload's memory is given back
		s.line = nil
	}
	s.down = err // Invariant 5: nothing goes out behind it
	return err
}

// Reset takes events again after an error.
func (s *Stdout) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = nil
}

// Close takes no more events. It does not close the writer.
func (s *Stdout) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// appendLine appends a record and a newline.
func appendLine(b []byte, rec *record) ([]byte, error) {
	b = append(b, `{"topic":`...)
	b = appendString(b, rec.topic)
	b = appendBytes(b, "key", rec.key, false)
	if !rec.time.IsZero() {
		b = append(b, `,"timestamp":"`...)
		b = rec.time.UTC().AppendFormat(b, "2006-01-02T15:04:05.999999Z07:00")
		b = append(b, '"')
	}
	b = append(b, `,"headers":{`...)
	for i, h := range rec.headers {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, h.name)
		b = append(b, ':')
		b = appendString(b, string(h.value))
	}
	b = append(b, '}')
	b = appendBytes(b, "value", rec.value, true)
	b = append(b, "}\n"...)
	if !json.Valid(b) {
		return b, errors.New("stdout: the line is not valid JSON")
	}
	return b, nil
}

// appendBytes appends a member: as it is when it is JSON and may be, as a
// string when it is UTF-8, else in base64.
func appendBytes(b []byte, name string, v []byte, raw bool) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	switch {
	case v == nil:
		return append(b, `":null`...)
	case raw && json.Valid(v):
		b = append(b, `":`...)
		return appendCompact(b, v)
	case utf8.Valid(v):
		b = append(b, `":`...)
		return appendString(b, string(v))
	}
	b = append(b, `_base64":"`...)
	b = base64.StdEncoding.AppendEncode(b, v)
	return append(b, '"')
}

// appendCompact appends JSON on one line: a json column may span several. What
// is inside of strings stays as it is.
func appendCompact(b, v []byte) []byte {
	inString := false
	for i := 0; i < len(v); i++ {
		c := v[i]
		switch {
		case inString && c == '\\':
			b = append(b, c)
			i++
			c = v[i]
		case c == '"':
			inString = !inString
		case !inString && (c == '\n' || c == '\r'):
			continue
		}
		b = append(b, c)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	text, _ := json.Marshal(s) // a string always has a JSON form
	return append(b, text...)
}
