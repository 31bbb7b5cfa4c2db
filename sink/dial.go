package sink

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// dialer opens sarama's connections, and can end them all: sarama itself waits
// for answers that a dead broker never sends.
type dialer struct {
	net.Dialer
	plain bool // what is read is Kafka's protocol itself, not TLS
	ctx   context.Context
	end   context.CancelFunc

	mu    sync.Mutex
	conns map[*conn]struct{}
}

func newDialer(timeout time.Duration, plain bool) *dialer {
	d := &dialer{Dialer: net.Dialer{Timeout: timeout}, plain: plain, conns: make(map[*conn]struct{})}
	d.ctx, d.end = context.WithCancel(context.Background())
	return d
}

// Dial is what sarama calls.
func (d *dialer) Dial(network, addr string) (net.Conn, error) {
	nc, err := d.DialContext(d.ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, dialer: d, check: d.plain}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() != nil {
		_ = nc.Close()
		return nil, net.ErrClosed
	}
	d.conns[c] = struct{}{}
	return c, nil
}

// close ends all connections, and lets no new one come.
func (d *dialer) close() {
	d.end()
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		_ = c.Conn.Close()
	}
	clear(d.conns)
}

// conn notices a TLS answer on a connection that has no TLS: sarama would take
// it for the length of a response.
type conn struct {
	net.Conn
	dialer *dialer
	check  bool // nothing was read yet
	tls    bool
}

var (
	errSpeaksTLS   = errors.New("the port speaks TLS, and kafka.tls.enabled is not set")
	errSpeaksPlain = errors.New("the port does not speak TLS, and kafka.tls.enabled is set")
)

// The first byte of a TLS record that a server may begin with: https://www.rfc-editor.org/rfc/rfc8446#section-5.1.
// A response of Kafka that begins so would have 350 MB.
const (
	tlsAlert     = 0x15
	tlsHandshake = 0x16
)

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.check && n > 0 {
		c.check = false
		c.tls = b[0] == tlsAlert || b[0] == tlsHandshake
	}
	if c.tls {
		return 0, errSpeaksTLS
	}
	return n, err
}

func (c *conn) Close() error {
	c.dialer.mu.Lock()
	delete(c.dialer.conns, c)
	c.dialer.mu.Unlock()
	return c.Conn.Close()
}

// speaks is what a port answers to.
type speaks int

const (
	speaksNothing speaks = iota
	speaksKafka
	speaksTLS
)

// probeTimeout bounds each of the two questions of a probe.
const probeTimeout = 3 * time.Second

// probe asks a port in Kafka's protocol and then in TLS.
func (d *dialer) probe(addr string) speaks {
	if d.greets(addr) {
		return speaksKafka
	}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		return speaksNothing
	}
	defer func() { _ = nc.Close() }()
	nc.(*conn).check = false
	_ = nc.SetDeadline(time.Now().Add(probeTimeout))
	// Only whether it answers in TLS matters: nothing is sent to it.
	err = tls.Client(nc, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(d.ctx)
	if err == nil || strings.Contains(err.Error(), "remote error: tls:") {
		return speaksTLS
	}
	return speaksNothing
}

// greets asks for the API versions, which a broker tells everybody:
// https://kafka.apache.org/protocol#api_versions
func (d *dialer) greets(addr string) bool {
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		return false
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(probeTimeout))
	const correlation = 7
	// size, API key 18, version 0, correlation id, no client id
	if _, err := nc.Write([]byte{0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, correlation, 0xff, 0xff}); err != nil {
		return false
	}
	var answer [8]byte // size, correlation id
	if _, err := io.ReadFull(nc, answer[:]); err != nil {
		return false
	}
	return answer[0] == 0 && bytes.Equal(answer[4:], []byte{0, 0, 0, correlation})
}
