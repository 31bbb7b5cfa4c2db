package sink

import (
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// sentBatch is a batch as it came to the broker.
type sentBatch struct {
	request    int // counted from 1
	partition  int32
	producerID int64
	epoch      int16
	seq        int32
	n          int32
	raw        []byte
}

// tap keeps every batch that comes to the cluster, in its order of arrival.
type tap struct {
	mu      sync.Mutex
	batches []sentBatch
	n       int // requests
}

// newTap must be installed before other controls of produce requests.
func newTap(tb testing.TB, c *kfake.Cluster) *tap {
	t := &tap{}
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.n++
		for _, rt := range req.(*kmsg.ProduceRequest).Topics {
			for _, rp := range rt.Partitions {
				var b kmsg.RecordBatch
				if err := b.ReadFrom(rp.Records); err != nil {
					tb.Errorf("batch: %v", err)
				}
				t.batches = append(t.batches, sentBatch{t.n, rp.Partition, b.ProducerID, b.ProducerEpoch, b.FirstSequence, b.NumRecords, slices.Clone(rp.Records)})
			}
		}
		return nil, nil, false
	})
	return t
}

func (t *tap) all() []sentBatch {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.batches)
}

// checkSequences fails the test unless each batch continues its partition's
// numbers, is a front part of one that was refused as a whole, or repeats an
// earlier one to the byte: a request whose connection was cut may come late.
func checkSequences(tb testing.TB, batches []sentBatch) {
	tb.Helper()
	type sent struct {
		partition int32
		raw       string // producer, epoch and sequence number are in it
	}
	seen := make(map[sent]bool)
	last := make(map[int32]sentBatch)
	for i, b := range batches {
		key := sent{b.partition, string(b.raw)}
		if seen[key] {
			continue
		}
		seen[key] = true
		prev, ok := last[b.partition]
		switch {
		case ok && prev.producerID == b.producerID && prev.epoch > b.epoch:
			tb.Errorf("batch %d: partition %d goes from epoch %d back to %d", i, b.partition, prev.epoch, b.epoch)
		case !ok || prev.producerID != b.producerID || prev.epoch != b.epoch:
			if b.seq != 0 {
				tb.Errorf("batch %d: partition %d begins at sequence %d", i, b.partition, b.seq)
			}
		case b.seq == prev.seq+prev.n: // the next
		case b.seq == prev.seq && b.n < prev.n: // halved
		default:
			tb.Errorf("batch %d: partition %d goes from sequence %d, %d records, to other %d of %d", i, b.partition, prev.seq, prev.n, b.n, b.seq)
		}
		last[b.partition] = b
	}
}

// answer makes the answer of all partitions of a produce request.
func answer(req kmsg.Request, code int16) *kmsg.ProduceResponse {
	pr := req.(*kmsg.ProduceRequest)
	resp := pr.ResponseKind().(*kmsg.ProduceResponse)
	for _, rt := range pr.Topics {
		st := kmsg.NewProduceResponseTopic()
		st.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			sp := kmsg.NewProduceResponseTopicPartition()
			sp.Partition, sp.ErrorCode = rp.Partition, code
			st.Partitions = append(st.Partitions, sp)
		}
		resp.Topics = append(resp.Topics, st)
	}
	return resp
}

// cutter is a listener whose connections can be cut: before an answer is
// written, so that its request was done and nobody knows, or all at once.
type cutter struct {
	mu    sync.Mutex
	cuts  int // answers that are still to be cut off
	onCut func()
	conns map[*cutConn]struct{}
}

func newCutter() *cutter { return &cutter{conns: make(map[*cutConn]struct{})} }

// listen is for kfake.ListenFn.
func (c *cutter) listen(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	return cutListener{l, c}, err
}

func (c *cutter) cutAnswers(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cuts = n
}

func (c *cutter) cutAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		_ = conn.Conn.Close()
	}
	clear(c.conns)
}

type cutListener struct {
	net.Listener
	c *cutter
}

func (l cutListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	cc := &cutConn{Conn: conn, c: l.c}
	l.c.mu.Lock()
	l.c.conns[cc] = struct{}{}
	l.c.mu.Unlock()
	return cc, nil
}

type cutConn struct {
	net.Conn
	c *cutter
}

func (c *cutConn) Write(b []byte) (int, error) {
	c.c.mu.Lock()
	cut := c.c.cuts > 0
	if cut {
		c.c.cuts--
	}
	c.c.mu.Unlock()
	if cut {
		if c.c.onCut != nil {
			c.c.onCut()
		}
		_ = c.Conn.Close()
		return 0, errors.New("cut")
	}
	return c.Conn.Write(b)
}

// hold makes the cluster hold the answer to produce requests until the
// function that it returns is called; entered gets one token per request.
func hold(c *kfake.Cluster) (entered chan struct{}, release func()) {
	entered = make(chan struct{}, 100)
	gate := make(chan struct{})
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		entered <- struct{}{}
		c.SleepControl(func() { <-gate })
		return nil, nil, false
	})
	return entered, sync.OnceFunc(func() { close(gate) })
}

func wait(tb testing.TB, what string, ch <-chan struct{}) {
	tb.Helper()
	select {
	case <-ch:
	case <-time.After(20 * time.Second):
		tb.Fatalf("%s: not within 20 s", what)
	}
}

// errorCount stands in for a test that is told of errors.
type errorCount struct {
	testing.TB
	n int
}

func (*errorCount) Helper()                 {}
func (e *errorCount) Errorf(string, ...any) { e.n++ }

func TestCheckSequences(t *testing.T) {
	t.Parallel()
	batch := func(epoch int16, seq, n int32, raw string) sentBatch {
		return sentBatch{producerID: 1, epoch: epoch, seq: seq, n: n, raw: []byte(raw)}
	}
	a, b, c := batch(0, 0, 4, "a"), batch(0, 4, 4, "b"), batch(0, 8, 1, "c")
	for name, tc := range map[string]struct {
		sent []sentBatch
		want int
	}{
		"one after the other":         {[]sentBatch{a, b, c}, 0},
		"again":                       {[]sentBatch{a, b, b, c}, 0},
		"again, but late":             {[]sentBatch{a, b, a, c}, 0},
		"again under a new epoch":     {[]sentBatch{a, b, batch(1, 0, 1, "d"), b, batch(1, 1, 1, "e")}, 0},
		"halved":                      {[]sentBatch{a, batch(0, 0, 2, "d"), batch(0, 2, 2, "e"), b}, 0},
		"a gap":                       {[]sentBatch{a, c}, 1},
		"other contents":              {[]sentBatch{a, batch(0, 0, 4, "d")}, 1},
		"other contents, but late":    {[]sentBatch{a, b, batch(0, 0, 4, "d")}, 1},
		"the old epoch again":         {[]sentBatch{a, batch(1, 0, 1, "d"), batch(0, 0, 1, "e")}, 1},
		"a new epoch in the middle":   {[]sentBatch{a, batch(1, 4, 1, "d")}, 1},
		"a first that is not the one": {[]sentBatch{b}, 1},
	} {
		e := &errorCount{}
		if checkSequences(e, tc.sent); e.n != tc.want {
			t.Errorf("%s: got %d errors, want %d", name, e.n, tc.want)
		}
	}
}
