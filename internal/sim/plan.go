package sim

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/walsim"
)

// Where events go.
const (
	topicPrefix = "outbox.event."
	deadTopic   = "outbox.dead-letter"
	otherRoute  = "invoice"

	topicLimit = 4 << 10  // bytes, max.message.bytes of the topics
	deadLimit  = 72 << 10 // and of the dead letters: a longer one has to be cut
)

// topics are those that events of the WAL go to.
var topics = []string{topicPrefix + walsim.AggregateType, topicPrefix + otherRoute}

// What is wrong with an event is told from what is in it.
const (
	nowhere     = "no/topic"            // as route: it makes no valid name
	badHeaders  = `["not", "a", "map"]` // as headers
	refusedType = "order.refused"       // the brokers refuse a batch that has one
)

// fault returns the reason for which the event alone cannot be published, or "".
func faultOf(e *walsim.Event) string {
	switch {
	case e.Route == nowhere, e.Headers != "":
		return "INVALID_EVENT"
	case e.Type == refusedType:
		return "INVALID_RECORD"
	case len(e.Payload) > topicLimit-400: // with its headers
		return "MESSAGE_TOO_LARGE"
	}
	return ""
}

// lanes are the sequences in which an event has its place: its key's in its
// topic. Where one without a topic would have gone is not known: it has a place in all.
func lanes(e *walsim.Event) []string {
	switch {
	case e.Key == "":
		return nil
	case e.Route == nowhere:
		return []string{walsim.AggregateType + e.Key, otherRoute + e.Key}
	}
	return []string{cmp.Or(e.Route, walsim.AggregateType) + e.Key}
}

// plan is what one run is like.
type plan struct {
	wal         *walsim.WAL
	partitions  int32
	brokers     int
	version     int // of Postgres
	buffer      int
	socket      int
	messages    bool
	events      int           // limit of the window,
	bytes       int           // and in bytes
	drain       time.Duration // timeout
	compression string
	allDead     bool // on_poison is dead_letter
	late        time.Duration
	cuts        int           // connections of the brokers that are lost
	held        int           // of a hundred acknowledgements come late, by the probe
	acts        []act         // in the order of at
	sessionEnds int           // by Postgres
	often       int           // a session ends about once in so many points
	refusals    int           // of each kind of error in answers to produce requests, at most
	questions   bool          // errors in answers to other requests, too
	freeze      time.Duration // of Kafka, the longest
}

// deed is what happens to a run from outside of its servers' scripts.
type deed int

const (
	stop   deed = iota // the relay, in order
	kill               // the relay, with its connections
	move               // leaders of a topic
	freeze             // Kafka, for a while
)

// act is a deed that is due once so many different events have arrived.
type act struct {
	at int
	do deed
}

func pick[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

// newPlan draws a run.
func newPlan(seed uint64) *plan {
	rng := rand.New(rand.NewPCG(seed, 10))
	poison := pick(rng, 0, 0, 4, 30) // of a thousand events, for each kind
	p := &plan{
		partitions: pick[int32](rng, 1, 2, 5), brokers: pick(rng, 1, 3),
		version: pick(rng, 140010, 170006), buffer: pick(rng, 0, 4096, 1<<16), socket: pick(rng, 0, 4096),
		messages: rng.IntN(2) == 0, events: pick(rng, 1, 5, 30, 30, 50_000), bytes: pick(rng, 2000, 20_000, 16<<20),
		drain:       pick(rng, 20*time.Millisecond, 500*time.Millisecond),
		compression: pick(rng, "none", "none", "none", "lz4"), allDead: rng.IntN(2) == 0,
		late: pick(rng, time.Millisecond, 4*time.Millisecond, 12*time.Millisecond), cuts: pick(rng, 0, 0, 2, 6), held: pick(rng, 0, 0, 10, 60),
		sessionEnds: rng.IntN(5), often: pick(rng, 20, 80, 300), refusals: pick(rng, 0, 1, 3), questions: rng.IntN(3) == 0,
		freeze: pick(rng, 50*time.Millisecond, 300*time.Millisecond, 700*time.Millisecond),
	}
	p.wal = walsim.Generate(walsim.Plan{
		Seed: seed, Transactions: 6 + rng.IntN(30), MaxRows: pick(rng, 1, 4, 10), Keys: pick(rng, 1, 3, 8), MaxPayload: pick(rng, 20, 300, 1500),
		Alter: func(rng *rand.Rand, e *walsim.Event) { spoil(rng, e, poison) },
	})
	n := len(p.wal.Events())
	add := func(most int, do deed) {
		for range rng.IntN(most + 1) {
			p.acts = append(p.acts, act{rng.IntN(n + 1), do})
		}
	}
	add(1, stop)
	add(2, kill)
	add(3, move)
	add(2, freeze)
	if rng.IntN(15) == 0 { // longer than a status update may be put off
		p.events, p.freeze = pick(rng, 1, 5), 2*silence
		p.acts = append(p.acts, act{rng.IntN(n/2 + 1), freeze})
	}
	slices.SortStableFunc(p.acts, func(a, b act) int { return cmp.Compare(a.at, b.at) })
	return p
}

// tell logs what was drawn.
func (p *plan) tell(log *slog.Logger) {
	ctx := context.Background()
	if !log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	drawn := *p
	drawn.wal = nil
	log.Debug("sim.plan", "plan", fmt.Sprintf("%+v", drawn), "start", p.wal.Start, "end", p.wal.End())
	place := 0
	for _, r := range p.wal.Records {
		if r.Tx == nil {
			continue
		}
		for _, row := range r.Tx.Rows {
			if e := row.Event; e != nil {
				log.Debug("sim.event", "place", place, "id", e.ID, "key", e.Key, "route", e.Route, "bytes", len(e.Payload), "fault", faultOf(e), "commit", r.End)
				place++
			}
		}
	}
}

// spoil routes some events elsewhere, and makes some such that they cannot be published.
func spoil(rng *rand.Rand, e *walsim.Event, poison int) {
	if rng.IntN(4) == 0 {
		e.Route = otherRoute
	}
	switch n := rng.IntN(1000); {
	case n < poison:
		e.Payload = `{"large": "` + strings.Repeat("y", topicLimit+rng.IntN(2000)) + `"}`
	case n < 2*poison:
		e.Type = refusedType
	case n < 3*poison:
		e.Route = nowhere
	case n < 3*poison+poison/2:
		e.Headers = badHeaders
	case n < 3*poison+poison/2+poison/4:
		e.Payload = `{"huge": "` + strings.Repeat("z", deadLimit+rng.IntN(2000)) + `"}`
	}
}
