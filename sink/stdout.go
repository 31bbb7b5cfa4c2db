package sink

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
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
//
// Lines wait in memory until w takes them, so that a reader that stalls holds
// nothing up but its own events: the relay's window bounds them (invariant 7).
type Stdout struct {
	w io.Writer

	mu      sync.Mutex
	builder *Builder
	scratch []byte
	queue   []stdoutLine
	writing *stdoutLine   // what w has now; nil: nothing, or it was given up
	ended   chan struct{} // closed when the goroutine that writes has ended; nil: there is none
	down    error         // until Reset
	closed  bool
}

// stdoutLine is an event that waits to be written.
type stdoutLine struct {
	text []byte
	ack  Ack
	size int
}

// NewStdout returns a sink that writes to w. builder belongs to it from now on.
func NewStdout(w io.Writer, builder *Builder) *Stdout {
	return &Stdout{w: w, builder: builder}
}

// Publish queues the event; it is acknowledged once w has taken its line.
func (s *Stdout) Publish(ev *decoder.Event, ack Ack) {
	if err := s.enqueue(ev, ack); err != nil {
		ack.Fail(ev.Size, err)
	}
}

func (s *Stdout) enqueue(ev *decoder.Event, ack Ack) error {
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
		s.scratch, err = appendLine(s.scratch[:0], rec)
	}
	if err != nil {
		s.down = err // Invariant 5: nothing goes out behind it
		return err
	}
	s.queue = append(s.queue, stdoutLine{slices.Clone(s.scratch), ack, ev.Size})
	if cap(s.scratch) > 1<<20 { // Invariant 7: a large payload's memory is given back
		s.scratch = nil
	}
	if s.ended == nil { // it lives while there is something to write: an idle sink has no goroutine
		s.ended = make(chan struct{})
		go s.write()
	}
	return nil
}

// write writes the queue in its order, until it is empty.
func (s *Stdout) write() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > 0 {
		l := s.queue[0]
		s.queue[0], s.queue = stdoutLine{}, s.queue[1:]
		s.writing = &l
		s.mu.Unlock()
		_, err := s.w.Write(l.text)
		s.mu.Lock()
		ours := s.writing != nil
		s.writing = nil
		var given []stdoutLine
		if err != nil { // Invariant 5: nothing goes out behind it
			s.down = err
			given, s.queue = s.queue, nil
		}
		s.mu.Unlock()
		switch {
		case !ours: // Close has failed it
		case err != nil:
			l.ack.Fail(l.size, err)
		default:
			l.ack.Done(l.size)
		}
		failLines(given, err)
		s.mu.Lock()
	}
	s.queue = nil
	close(s.ended)
	s.ended = nil
}

func failLines(lines []stdoutLine, err error) {
	for _, l := range lines {
		l.ack.Fail(l.size, err)
	}
}

// Reset gives up what waits to be written, and takes events again after an
// error. What is being written stays, before anything newer.
func (s *Stdout) Reset() {
	s.mu.Lock()
	given := s.queue
	s.queue, s.down = nil, nil
	s.mu.Unlock()
	failLines(given, ErrReset)
}

// Close fails what waits to be written, and gives w until ctx ends to take the
// line that it has. It returns an error when w did not: that event is failed,
// and the line may appear all the same. It does not close the writer.
func (s *Stdout) Close(ctx context.Context) error {
	s.mu.Lock()
	given, ended := s.queue, s.ended
	s.queue, s.closed = nil, true
	s.mu.Unlock()
	failLines(given, ErrClosed)
	if ended == nil {
		return nil
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	cut := s.writing
	s.writing = nil
	s.mu.Unlock()
	if cut == nil {
		return nil
	}
	cut.ack.Fail(cut.size, ErrClosed)
	return fmt.Errorf("close stdout: the reader did not take the last line: %w", context.Cause(ctx))
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
