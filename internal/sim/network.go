package sim

import (
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// network is where the brokers listen: requests and answers are late, each
// connection by itself, so that they overtake each other; some are lost with
// their connection, before the broker has done its work or after.
type network struct {
	mu     sync.Mutex
	rng    *rand.Rand
	late   time.Duration
	cuts   int
	frozen time.Time // until then nothing passes
	clean  bool      // nothing goes wrong yet
	closed chan struct{}

	brokers []*listener
}

func newNetwork(seed uint64, p *plan) *network {
	return &network{rng: rand.New(rand.NewPCG(seed, 12)), late: p.late, cuts: p.cuts, clean: true, closed: make(chan struct{})}
}

// begin lets things go wrong.
func (n *network) begin() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clean = false
}

// freeze lets nothing pass for a while.
func (n *network) freeze(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.frozen = time.Now().Add(d)
}

// holdBack keeps the answers of one broker for a while.
func (n *network) holdBack(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.brokers[n.rng.IntN(len(n.brokers))].held = time.Now().Add(d)
}

func (n *network) listen(kind, _ string) (net.Listener, error) {
	nl, err := net.Listen(kind, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &listener{Listener: nl, network: n}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.brokers = append(n.brokers, l)
	return l, nil
}

// slow draws how many times later than others a connection is.
func (n *network) slow() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return pick[int64](n.rng, 1, 1, 1, 8)
}

// draw returns how late something is, and whether it is lost.
func (n *network) draw(slow int64, held time.Time) (delay time.Duration, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.clean {
		return 0, false
	}
	if n.cuts > 0 && n.rng.IntN(30) == 0 {
		n.cuts--
		return 0, true
	}
	return max(time.Duration(n.rng.Int64N(slow*int64(n.late))), time.Until(n.frozen), time.Until(held)), false
}

// pass waits, and tells whether what comes over the connection gets through.
func (c *conn) pass(held time.Time) bool {
	delay, cut := c.network.draw(c.slow, held)
	if cut {
		_ = c.Close()
		return false
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.network.closed:
		return false
	}
}

// listener is one broker's.
type listener struct {
	net.Listener
	network *network
	held    time.Time // no answers until then; network.mu guards it
}

func (l *listener) heldUntil() time.Time {
	l.network.mu.Lock()
	defer l.network.mu.Unlock()
	return l.held
}

func (l *listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: nc, broker: l, network: l.network, slow: l.network.slow()}, nil
}

// conn is a broker's end of a connection.
type conn struct {
	net.Conn
	broker  *listener
	network *network
	slow    int64 // times
	mid     bool  // a request has begun; of the broker's reader
}

// Read delays each request once: the broker reads its length first, and then the rest.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		return n, err
	}
	if c.mid = !c.mid; c.mid && !c.pass(time.Time{}) {
		return 0, net.ErrClosed
	}
	return n, nil
}

func (c *conn) Write(b []byte) (int, error) {
	if !c.pass(c.broker.heldUntil()) {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}
