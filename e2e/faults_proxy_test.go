package e2e_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// tcpProxy stands between the relay and Postgres, and can fall silent as a
// network does that loses everything: connections stay open and nothing comes
// through, not even their end.
type tcpProxy struct {
	listener net.Listener
	target   string
	wait     sync.WaitGroup
	dead     atomic.Bool // connections made from now on are silent from their first byte
	rate     int         // bytes a second to the client, of each connection; 0: as they come

	mu    sync.Mutex
	links []*proxyLink
	ended bool
}

type proxyLink struct {
	client, server net.Conn
	replication    bool
	silent         atomic.Bool
}

func newProxy(t *testing.T, target string) *tcpProxy {
	t.Helper()
	return newSlowProxy(t, target, 0)
}

// newSlowProxy lets so many bytes a second through to the client; 0: as they come.
func newSlowProxy(t *testing.T, target string, rate int) *tcpProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tcpProxy{listener: l, target: target, rate: rate}
	p.wait.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		p.ended = true
		for _, k := range p.links {
			k.close()
		}
		p.mu.Unlock()
		p.wait.Wait()
	})
	return p
}

func (p *tcpProxy) address() string { return p.listener.Addr().String() }

// silence silences the connections that are open now, or of these only the
// replication connection. It returns how many they were.
func (p *tcpProxy) silence(replicationOnly bool) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, k := range p.links {
		if (k.replication || !replicationOnly) && !k.silent.Swap(true) {
			n++
		}
	}
	return n
}

func (p *tcpProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wait.Go(func() { p.serve(client) })
	}
}

// startup reads the first message of a client without TLS: its length, the
// protocol's version and the parameters.
func startup(client net.Conn) ([]byte, error) {
	message := make([]byte, 4, 512)
	if _, err := io.ReadFull(client, message); err != nil {
		return nil, err
	}
	message = append(message, make([]byte, binary.BigEndian.Uint32(message)-4)...)
	_, err := io.ReadFull(client, message[4:])
	return message, err
}

func (p *tcpProxy) serve(client net.Conn) {
	hello, err := startup(client)
	if err != nil {
		_ = client.Close()
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	k := &proxyLink{client: client, server: server, replication: bytes.Contains(hello, []byte("\x00replication\x00"))}
	k.silent.Store(p.dead.Load())
	p.mu.Lock()
	p.links = append(p.links, k)
	if p.ended {
		k.close()
	}
	p.mu.Unlock()
	if !k.silent.Load() {
		_, _ = server.Write(hello)
	}
	p.wait.Go(func() { k.copy(client, server, p.rate) })
	k.copy(server, client, 0)
}

// copy forwards until either side ends; what a silent link carries is lost, its end too.
func (k *proxyLink) copy(to, from net.Conn, rate int) {
	buf := make([]byte, 32<<10)
	if rate > 0 {
		buf = buf[:min(len(buf), max(1, rate/20))]
	}
	for {
		n, err := from.Read(buf)
		if k.silent.Load() {
			if err != nil {
				return
			}
			continue
		}
		if n > 0 && rate > 0 {
			<-time.After(time.Duration(n) * time.Second / time.Duration(rate)) // the link's own pace
		}
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil && !k.silent.Load() {
				err = werr
			}
		}
		if err != nil && !k.silent.Load() {
			k.close()
			return
		}
	}
}

func (k *proxyLink) close() {
	_ = k.client.Close()
	_ = k.server.Close()
}
