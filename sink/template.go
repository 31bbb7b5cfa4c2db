package sink

import (
	"errors"
	"fmt"
	"strings"
)

// template is a topic name with columns in braces: outbox.event.{aggregate_type}.
type template struct {
	parts   []part
	columns []string // those that parts name, without repeats
}

// part is a literal, or a column of the template's columns.
type part struct {
	literal string
	column  int // index into template.columns; -1 for a literal
}

// parseTemplate splits a topic template. There is no way to write a brace
// itself: no topic name may hold one.
func parseTemplate(s string) (template, error) {
	var t template
	for rest := s; rest != ""; {
		literal, after, open := strings.Cut(rest, "{")
		if strings.Contains(literal, "}") {
			return template{}, errors.New("a } without its {")
		}
		for _, c := range []byte(literal) {
			if !topicByte(c) {
				return template{}, fmt.Errorf("%q cannot stand in a topic name", c)
			}
		}
		if literal != "" {
			t.parts = append(t.parts, part{literal: literal, column: -1})
		}
		if !open {
			break
		}
		name, next, closed := strings.Cut(after, "}")
		switch {
		case !closed:
			return template{}, errors.New("a { without its }")
		case name == "" || strings.Contains(name, "{"):
			return template{}, fmt.Errorf("{%s} names no column", name)
		}
		t.parts = append(t.parts, part{column: t.column(name)})
		rest = next
	}
	if len(t.parts) == 0 {
		return template{}, errors.New("it is empty")
	}
	if name, ok := t.constant(); ok {
		if err := checkTopic(name); err != nil {
			return template{}, err
		}
	}
	return t, nil
}

// column returns the index of a column, which it adds when it is new.
func (t *template) column(name string) int {
	for i, c := range t.columns {
		if c == name {
			return i
		}
	}
	t.columns = append(t.columns, name)
	return len(t.columns) - 1
}

// constant returns the topic when the template names no column.
func (t *template) constant() (string, bool) {
	if len(t.columns) > 0 {
		return "", false
	}
	var s strings.Builder
	for _, p := range t.parts {
		s.WriteString(p.literal)
	}
	return s.String(), true
}

// maxTopic is the longest topic name that Kafka takes, in bytes: org.apache.kafka.common.internals.Topic.
const maxTopic = 249

// checkTopic says why Kafka would not take a topic of that name.
func checkTopic(name string) error {
	switch {
	case name == "":
		return errors.New("the topic name is empty")
	case name == "." || name == "..":
		return fmt.Errorf("a topic cannot be named %q", name)
	case len(name) > maxTopic:
		return fmt.Errorf("the topic name has %d bytes, %d are allowed", len(name), maxTopic)
	}
	for i := range len(name) {
		if !topicByte(name[i]) {
			return fmt.Errorf("the topic name %q holds something else than a-z, A-Z, 0-9, '.', '_' and '-'", name)
		}
	}
	return nil
}

func topicByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
}
