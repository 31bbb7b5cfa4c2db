package cdc

import (
	"regexp"
	"time"
)

// nagInterval is how often trouble that goes on is said again.
const nagInterval = 10 * time.Second

// nag keeps trouble that goes on from being logged more than once a moment.
type nag struct {
	about string
	at    time.Time
}

var digits = regexp.MustCompile(`[0-9]+`)

// due tells whether to log: something else is wrong than was said last, or that was a while ago.
func (n *nag) due(trouble string) bool {
	trouble = digits.ReplaceAllString(trouble, "") // the same has another port or pid each time
	if trouble == n.about && time.Since(n.at) < nagInterval {
		return false
	}
	*n = nag{trouble, time.Now()}
	return true
}
