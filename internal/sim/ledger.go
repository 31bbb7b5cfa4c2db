package sim

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outbox-cdc/outbox-cdc/internal/walsim"
)

// ledger knows what is in Kafka's log, in the order in which the brokers took
// it, and tells the oracle. Brokers work on one request at a time: what became of
// one is seen by the high watermarks before the next.
type ledger struct {
	log     *slog.Logger
	cluster *kfake.Cluster
	oracle  *walsim.Oracle
	events  map[string]*walsim.Event
	at      map[string]string // the position that the header outbox-lsn of an event begins with
	changed chan struct{}     // of capacity 1: something arrived

	mu         sync.Mutex
	next       map[place]int64    // high watermarks
	last       map[place][]record // of the last request
	arrived    map[string]bool
	dead       int // dead letters
	convicting []finalFault
}

// place is a partition.
type place struct {
	topic     string
	partition int32
}

func newLedger(cluster *kfake.Cluster, oracle *walsim.Oracle, wal *walsim.WAL, log *slog.Logger) *ledger {
	l := &ledger{
		log: log, cluster: cluster, oracle: oracle, events: make(map[string]*walsim.Event), at: make(map[string]string),
		changed: make(chan struct{}, 1), next: make(map[place]int64), arrived: make(map[string]bool),
	}
	for _, r := range wal.Records {
		if r.Tx == nil {
			continue
		}
		for seq, row := range r.Tx.Rows {
			if row.Event != nil {
				l.events[row.Event.ID] = row.Event
				l.at[row.Event.ID] = "1/" + r.Start.String() + "/" + strconv.Itoa(seq)
			}
		}
	}
	return l
}

// watch looks at each produce request before the brokers work on it.
func (l *ledger) watch(convicting []finalFault) {
	l.convicting = convicting
	l.cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.look()
		l.last = make(map[place][]record)
		l.log.Debug("sim.produce", "to", l.cluster.CurrentNode())
		produce := req.(*kmsg.ProduceRequest)
		if produce.Acks != -1 {
			l.oracle.Breach("produce with acks %d: kfake loses nothing, other brokers do (Invariant 6)", produce.Acks)
		}
		for _, rt := range produce.Topics {
			for _, rp := range rt.Partitions {
				batch, err := parseBatch(rp.Records)
				if err == nil {
					l.last[place{rt.Topic, rp.Partition}], err = records(batch)
				}
				l.log.Debug("sim.batch", "topic", rt.Topic, "partition", rp.Partition, "records", batch.NumRecords,
					"producer", batch.ProducerID, "epoch", batch.ProducerEpoch, "seq", batch.FirstSequence)
				if batch.ProducerID < 0 {
					l.oracle.Breach("produce to %s, partition %d, without a producer id (Invariant 5)", rt.Topic, rp.Partition)
				}
				if err != nil {
					l.oracle.Breach("produce to %s, partition %d: %v", rt.Topic, rp.Partition, err)
				}
			}
		}
		return nil, nil, false
	})
}

// catchUp tells the oracle of all that is in the log at this moment.
func (l *ledger) catchUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look()
}

// look tells what the last request has added to the log. The dead letters come
// last: nothing may be in one request with the dead letter of what was before it.
func (l *ledger) look() {
	for _, topic := range append(slices.Clone(topics), deadTopic) {
		for _, info := range l.cluster.PartitionInfos(topic) {
			p := place{topic, info.Partition}
			n := info.HighWatermark - l.next[p]
			if n == 0 {
				continue
			}
			l.next[p] = info.HighWatermark
			added := l.last[p]
			if int64(len(added)) != n {
				l.oracle.Breach("%d records more in %s, partition %d; %d were sent", n, topic, p.partition, len(added))
				continue
			}
			for _, r := range added {
				l.take(topic, r)
			}
		}
	}
}

// take tells of one record.
func (l *ledger) take(topic string, r record) {
	e := r.event(topic)
	if topic == deadTopic {
		e = l.deadLetter(r)
		l.dead++
	}
	if at := r.headers["outbox-lsn"]; at != l.at[e.ID] {
		l.oracle.Breach("event %s came as of %s, is of %s", e.ID, at, l.at[e.ID])
	}
	l.log.Debug("sim.arrived", "topic", topic, "id", e.ID)
	l.arrived[e.ID] = true
	l.oracle.Arrived(e)
	l.oracle.Acked(e.ID)
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// deadLetter returns the event that a dead letter shows: as it was, when all of the letter is in order.
func (l *ledger) deadLetter(r record) walsim.Event {
	h := r.headers
	got := walsim.Event{ID: h["outbox-id"], Key: r.key, Payload: r.value}
	e := l.events[got.ID]
	if e == nil {
		return got // the oracle will say so
	}
	if !l.mayFail(e, h["outbox-reason"]) {
		l.oracle.Breach("event %s is a dead letter because of %s (Invariant 6)", e.ID, h["outbox-reason"])
	}
	if h["outbox-size"] != "" {
		whole := sha256.Sum256([]byte(e.Payload))
		if h["outbox-size"] != strconv.Itoa(len(e.Payload)) || h["outbox-sha256"] != hex.EncodeToString(whole[:]) ||
			len(r.value) != 64<<10 || !strings.HasPrefix(e.Payload, r.value) {
			l.oracle.Breach("dead letter %s is cut wrongly: %d bytes, %v", e.ID, len(r.value), h)
		}
		got.Payload = e.Payload
	}
	got.Type, got.Route, got.Headers = e.Type, e.Route, e.Headers
	return got
}

// mayFail tells whether something is wrong with the event, or befell it.
func (l *ledger) mayFail(e *walsim.Event, reason string) bool {
	return faultOf(e) == reason || slices.ContainsFunc(l.convicting, func(f finalFault) bool {
		return f.reason == reason && f.handle.Hits() > 0
	})
}

// progress returns how many different events have arrived.
func (l *ledger) progress() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.arrived)
}

// letters returns how many dead letters have arrived.
func (l *ledger) letters() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// anyFinal tells whether a fault has come to pass that convicts whatever event it meets.
func (l *ledger) anyFinal() bool {
	return slices.ContainsFunc(l.convicting, func(f finalFault) bool { return f.handle.Hits() > 0 })
}
