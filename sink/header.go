package sink

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

var errJSON = errors.New("it is not valid JSON")

// eachHeader walks through a JSON object and calls yield with each member's
// name and its value as a header: a string's characters, the JSON text of a
// number or a boolean, the compact JSON text of an object or an array. Null
// members are left out, for a header must have a value. What is yielded lives
// in scratch, which is returned because it may have grown, or in text.
//
// The text is one that Postgres has validated (json, jsonb); of anything else
// a syntax error may go unnoticed, but never does harm.
func eachHeader(text, scratch []byte, yield func(name, value []byte)) ([]byte, error) {
	s := scanner{text: text}
	s.space()
	if s.word("null") {
		return scratch, s.end()
	}
	if !s.take('{') {
		if len(s.text) == s.pos {
			return scratch, errJSON
		}
		return scratch, fmt.Errorf("it holds %s, not an object", kindOf(s.text[s.pos]))
	}
	s.space()
	if s.take('}') {
		return scratch, s.end()
	}
	for {
		var name, value []byte
		var err error
		s.space()
		if name, scratch, err = s.str(scratch); err != nil {
			return scratch, err
		}
		s.space()
		if !s.take(':') {
			return scratch, errJSON
		}
		s.space()
		null := s.peek() == 'n'
		if s.peek() == '"' {
			value, scratch, err = s.str(scratch)
		} else {
			value, scratch, err = s.compact(scratch)
		}
		if err != nil {
			return scratch, err
		}
		if !null {
			yield(name, value)
		}
		s.space()
		if s.take('}') {
			return scratch, s.end()
		}
		if !s.take(',') {
			return scratch, errJSON
		}
	}
}

// kindOf names the JSON value that begins with c.
func kindOf(c byte) string {
	switch c {
	case '[':
		return "a JSON array"
	case '"':
		return "a JSON string"
	case 't', 'f':
		return "a JSON boolean"
	default:
		return "a JSON number"
	}
}

// scanner reads JSON from text.
type scanner struct {
	text []byte
	pos  int
}

// peek returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.pos < len(s.text) && s.text[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func (s *scanner) word(w string) bool {
	if len(s.text)-s.pos >= len(w) && string(s.text[s.pos:s.pos+len(w)]) == w {
		s.pos += len(w)
		return true
	}
	return false
}

func (s *scanner) space() {
	for s.pos < len(s.text) && isSpace(s.text[s.pos]) {
		s.pos++
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// end checks that nothing but white space follows.
func (s *scanner) end() error {
	s.space()
	if s.pos != len(s.text) {
		return errJSON
	}
	return nil
}

// str reads a string; without escapes it aliases the text.
func (s *scanner) str(scratch []byte) (value, grown []byte, err error) {
	if !s.take('"') {
		return nil, scratch, errJSON
	}
	for i := s.pos; i < len(s.text); i++ {
		switch s.text[i] {
		case '"':
			value = s.text[s.pos:i]
			s.pos = i + 1
			return value, scratch, nil
		case '\\':
			return s.escaped(scratch)
		}
	}
	return nil, scratch, errJSON
}

// escaped reads the rest of a string that has escapes.
func (s *scanner) escaped(scratch []byte) (value, grown []byte, err error) {
	from := len(scratch)
	for s.pos < len(s.text) {
		c := s.text[s.pos]
		s.pos++
		switch c {
		case '"':
			return scratch[from:len(scratch):len(scratch)], scratch, nil
		case '\\':
			if scratch, err = s.escape(scratch); err != nil {
				return nil, scratch, err
			}
		default:
			scratch = append(scratch, c)
		}
	}
	return nil, scratch, errJSON
}

// escape appends the character that the escape after a backslash stands for.
func (s *scanner) escape(scratch []byte) ([]byte, error) {
	c := s.peek()
	s.pos++
	switch c {
	case '"', '\\', '/':
		return append(scratch, c), nil
	case 'b':
		return append(scratch, '\b'), nil
	case 'f':
		return append(scratch, '\f'), nil
	case 'n':
		return append(scratch, '\n'), nil
	case 'r':
		return append(scratch, '\r'), nil
	case 't':
		return append(scratch, '\t'), nil
	case 'u':
		r, ok := s.hex()
		if !ok {
			return scratch, errJSON
		}
		if utf16.IsSurrogate(r) {
			after := s.pos
			if s.word(`\u`) {
				if low, ok := s.hex(); ok {
					if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
						return utf8.AppendRune(scratch, pair), nil
					}
				}
			}
			s.pos = after // half a pair, which json lets pass: U+FFFD, as AppendRune has it
		}
		return utf8.AppendRune(scratch, r), nil
	}
	return scratch, errJSON
}

// hex reads four hexadecimal digits.
func (s *scanner) hex() (rune, bool) {
	if len(s.text)-s.pos < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(s.text[s.pos:s.pos+4]), 16, 16)
	if err != nil {
		return 0, false
	}
	s.pos += 4
	return rune(n), true
}

// compact reads any other value, and drops the white space in it.
func (s *scanner) compact(scratch []byte) (value, grown []byte, err error) {
	from, depth := len(scratch), 0
	for s.pos < len(s.text) {
		c := s.text[s.pos]
		switch {
		case c == '"':
			end := s.skip()
			if end < 0 {
				return nil, scratch, errJSON
			}
			scratch = append(scratch, s.text[s.pos:end]...)
			s.pos = end
			continue
		case c == '{' || c == '[':
			depth++
		case depth == 0 && (c == ',' || c == '}' || c == ']' || isSpace(c)):
			return s.scalar(scratch, from)
		case c == '}' || c == ']':
			depth--
		}
		if !isSpace(c) {
			scratch = append(scratch, c)
		}
		s.pos++
	}
	return s.scalar(scratch, from)
}

// scalar ends compact.
func (s *scanner) scalar(scratch []byte, from int) (value, grown []byte, err error) {
	value = scratch[from:len(scratch):len(scratch)]
	if !json.Valid(value) { // it is short, and cheap to be sure of
		return nil, scratch, errJSON
	}
	return value, scratch, nil
}

// skip returns where the string at pos ends, -1 if it does not.
func (s *scanner) skip() int {
	for i := s.pos + 1; i < len(s.text); i++ {
		switch s.text[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return -1
}
