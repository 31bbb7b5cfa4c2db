package cdc

import (
	"slices"
	"strings"
)

// oneLine flattens the message of an error that lists several attempts to
// connect, each on a line that is indented by a tab: with and without TLS, to
// each address. Where a server has answered, its answer is what counts.
type oneLine struct{ error }

func (e oneLine) Error() string {
	var head, attempts []string
	answered := false
	for line := range strings.Lines(e.error.Error()) {
		text := strings.Join(strings.Fields(line), " ")
		switch {
		case !strings.HasPrefix(line, "\t"):
			head = append(head, text)
		case !slices.Contains(attempts, text):
			attempts = append(attempts, text)
			answered = answered || answers(text)
		}
	}
	if answered {
		attempts = slices.DeleteFunc(attempts, func(a string) bool { return !answers(a) })
	}
	return strings.TrimSpace(strings.Join(append(head, attempts...), " "))
}

func (e oneLine) Unwrap() error { return e.error }

// answers tells whether the text is a server's own.
func answers(text string) bool { return strings.Contains(text, "(SQLSTATE ") }
