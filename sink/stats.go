package sink

import (
	"slices"
	"time"
)

// KafkaStats is how the sink is doing, in one snapshot.
type KafkaStats struct {
	Connected      bool      `json:"connected"` // the last word from the cluster was an answer
	LastError      string    `json:"last_error,omitempty"`
	LastErrorAt    time.Time `json:"last_error_at,omitzero"`
	Queued         int       `json:"queued"`          // events that wait to be sent, those behind a refused one included
	InFlight       int       `json:"in_flight"`       // events of batches that were sent, or are being sent again
	Oldest         time.Time `json:"oldest,omitzero"` // when the oldest of them was published to the sink; zero: there is none
	Published      uint64    `json:"published"`       // acknowledged events
	PublishedBytes uint64    `json:"published_bytes"` // their keys, values and headers
	Failed         uint64    `json:"failed"`          // events given back with an error
	DeadLetters    uint64    `json:"dead_letters"`    // events that went to the dead-letter topic instead
	Requests       uint64    `json:"requests"`        // produce requests
	Retries        uint64    `json:"retries"`         // batches that had to be sent again
	Topics         int       `json:"topics"`
	Brokers        int       `json:"brokers"` // as the last metadata named them
	LastAck        time.Time `json:"last_ack,omitzero"`
}

// counters are what Stats and the metrics count. Kafka.mu guards them.
type counters struct {
	queued, inFlight         int
	published, bytes, failed uint64
	requests, retried        uint64
	buried                   uint64            // dead letters acknowledged
	retries, failures, dead  map[string]uint64 // by errorName
	lastAck                  time.Time
}

// Stats returns a snapshot; it is cheap, and safe from any goroutine.
func (k *Kafka) Stats() KafkaStats {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := &k.counters
	s := KafkaStats{
		Connected: k.connected(), LastErrorAt: k.link.errAt,
		Queued: c.queued, InFlight: c.inFlight, Oldest: k.oldest(),
		Published: c.published, PublishedBytes: c.bytes, Failed: c.failed,
		DeadLetters: c.buried, Requests: c.requests, Retries: c.retried,
		Topics: len(k.order), Brokers: len(k.brokers), LastAck: c.lastAck,
	}
	if k.link.err != nil {
		s.LastError = k.link.err.Error()
	}
	return s
}

// connected tells whether the cluster answered when it was last asked: all of
// it, on the control connection, and every broker that something waits for.
func (k *Kafka) connected() bool {
	if !k.link.once || k.link.lost {
		return false
	}
	for _, t := range k.order {
		for _, p := range t.partitions {
			if s := k.senders[p.leader]; s != nil && s.tries > 0 && (p.batch != nil || p.queue.n > 0) {
				return false
			}
		}
	}
	return true
}

// oldest returns when the oldest unsettled event was published to the sink.
func (k *Kafka) oldest() time.Time {
	var ns []int64
	first := func(l *list) {
		if l.head != nil {
			ns = append(ns, l.head.published)
		}
	}
	first(&k.gate.behind)
	for _, t := range k.order {
		first(&t.waiting)
		for _, p := range t.partitions {
			if p.batch != nil {
				first(&p.batch.messages)
			} else {
				first(&p.queue)
			}
		}
	}
	if len(ns) == 0 {
		return time.Time{}
	}
	return time.Unix(0, slices.Min(ns))
}
