package sink

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
)

// line is the relay in small: it publishes events in order, confirms the longest
// acknowledged prefix, and starts again behind it after a failure.
type line struct {
	mu        sync.Mutex
	acked     map[int]bool
	confirmed int // events before it are acknowledged
	open      int // published and not settled, of all sessions
	failed    error
}

// lineAck is of one event in one session.
type lineAck struct {
	l       *line
	session *bool // still the current one
	n       int
}

func (a lineAck) Done(int) {
	a.l.mu.Lock()
	defer a.l.mu.Unlock()
	a.l.open--
	if !*a.session {
		return
	}
	a.l.acked[a.n] = true
	for a.l.acked[a.l.confirmed] {
		delete(a.l.acked, a.l.confirmed)
		a.l.confirmed++
	}
}

func (a lineAck) Fail(_ int, err error) {
	a.l.mu.Lock()
	defer a.l.mu.Unlock()
	a.l.open--
	if *a.session {
		a.l.failed = err
	}
}

func (l *line) state() (confirmed, open int, failed error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.confirmed, l.open, l.failed
}

// Whatever the cluster does, and whenever the line starts again: each event
// arrives, and the first arrivals of each key are in order.
func TestChaos(t *testing.T) {
	t.Parallel()
	const n, partitions, keys, brokers = 3000, 5, 17, 3
	cut := newCutter()
	cluster := fake(t, kfake.NumBrokers(brokers), kfake.SeedTopics(partitions, "orders"), kfake.ListenFn(cut.listen))
	tap := newTap(t, cluster)
	tune := quick()
	tune.batchBytes, tune.requestBytes = 4_000, 20_000
	k := newSink(t, tune, KafkaConfig{Brokers: cluster.ListenAddrs()})
	l := &line{acked: make(map[int]bool)}
	session := new(bool)
	*session = true
	restarts := 0
	restart := func() int {
		l.mu.Lock()
		*session = false
		session = new(bool)
		*session = true
		clear(l.acked)
		l.failed = nil
		from := l.confirmed
		l.mu.Unlock()
		restarts++
		k.Reset()
		return from
	}
	errs := []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend, kerr.RequestTimedOut,
		kerr.UnknownTopicOrPartition, kerr.OutOfOrderSequenceNumber, kerr.InvalidProducerEpoch, kerr.UnknownProducerID,
	}
	deadline := time.Now().Add(60 * time.Second)
	for i := 0; ; {
		confirmed, open, failed := l.state()
		switch {
		case time.Now().After(deadline):
			t.Fatalf("%d of %d confirmed after a minute; %+v", confirmed, n, k.Stats())
		case confirmed == n:
		case failed != nil:
			i = restart()
			continue
		case i == n || open > 300:
			time.Sleep(time.Millisecond)
			continue
		}
		if confirmed == n {
			break
		}
		switch rand.IntN(400) {
		case 0:
			cut.cutAnswers(1 + rand.IntN(3))
		case 1:
			cut.cutAll()
		case 2:
			if err := cluster.MoveTopicPartition("orders", rand.Int32N(partitions), rand.Int32N(brokers)); err != nil {
				t.Fatal(err)
			}
		case 3, 4:
			cluster.Fault(kfake.Fault{Keys: onlyProduce, Err: errs[rand.IntN(len(errs))], Partitions: []int32{rand.Int32N(partitions)}, Count: 1 + rand.IntN(3)})
		case 5:
			i = restart()
			continue
		}
		l.mu.Lock()
		l.open++
		l.mu.Unlock()
		k.Publish(event(i, "orders", fmt.Appendf(nil, "key-%d", i%keys), []byte("1")), lineAck{l, session, i})
		i++
	}
	total := 0
	seen := make(map[int]bool)
	for p, records := range consume(t, cluster.ListenAddrs(), "orders") {
		total += len(records)
		var first []int
		for _, n := range ids(t, records) {
			if !seen[n] {
				seen[n] = true
				first = append(first, n)
			}
		}
		if !slices.IsSorted(first) {
			t.Errorf("partition %d: first arrivals are out of order: %v", p, first)
		}
	}
	if len(seen) != n {
		t.Errorf("got %d events, want %d", len(seen), n)
	}
	if _, open, _ := l.state(); open != 0 {
		eventually(t, "all settled", func() bool { _, open, _ := l.state(); return open == 0 })
	}
	checkSequences(t, tap.all())
	s := k.Stats()
	t.Logf("%d records of %d events, %d restarts, %d retries, %d requests", total, n, restarts, s.Retries, s.Requests)
	if restarts < 2 || s.Retries == 0 {
		t.Error("nothing happened: the test proves nothing")
	}
}
