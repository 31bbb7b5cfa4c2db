package sink

import "errors"

// Ack settles one published event, exactly once, with the event's Size. It is
// an alias, so that cdc.Ack is the same type.
type Ack = interface {
	Done(bytes int)            // the event is durable on all in-sync replicas
	Fail(bytes int, err error) // the event will not be published
}

// What events are failed with that were given up, but could have been published.
var (
	ErrReset  = errors.New("sink: reset")
	ErrClosed = errors.New("sink: closed")
)
