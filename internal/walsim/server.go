package walsim

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
)

// Config says what the server is like.
type Config struct {
	WAL         *WAL
	Script      Script     // nil: nothing ever goes wrong
	Observe     func(Step) // is told of each Step before it has an effect, from the goroutines of the sessions; may be nil
	Database    string     // default "app"
	Slot        string     // default "outbox_cdc"
	Publication string     // default "outbox_cdc"
	Version     int        // server_version_num; default 170006. Below 150000 empty transactions are sent.
	// Messages sends the WAL's logical messages though the client has not
	// asked for them with the option messages.
	Messages bool
	// Buffer is how many bytes are written at once; 0: each message by itself.
	Buffer int
	// Socket bounds what the kernel buffers on our side of a connection, in bytes; 0: its default.
	Socket int
}

// idleInterval is how often a session that has sent everything looks up.
const idleInterval = 10 * time.Millisecond

// Server is the scripted server. Use Start.
type Server struct {
	config   Config
	listener net.Listener
	done     chan struct{} // closed by Close
	running  sync.WaitGroup

	mu         sync.Mutex
	slot       slot
	backends   map[*backend]struct{}
	pid        uint32 // last one given
	accepted   int
	refused    time.Time // until then
	stopping   bool
	lost       bool // Lose was called
	updates    []Update
	unexpected []error
	closed     bool
	identity   Identity
}

// Identity is whose WAL the server has.
type Identity struct {
	System   string // the cluster's identifier
	Timeline int32
	History  string // the timeline's history file
}

// DefaultSystem is the System of a Server until it is told otherwise.
const DefaultSystem = "7341234567890123456"

// Start listens on loopback. The Server must be closed.
func Start(c Config) (*Server, error) {
	if c.WAL == nil {
		return nil, errors.New("walsim: no WAL")
	}
	c.Database = cmp.Or(c.Database, "app")
	c.Slot = cmp.Or(c.Slot, "outbox_cdc")
	c.Publication = cmp.Or(c.Publication, "outbox_cdc")
	c.Version = cmp.Or(c.Version, 170006)
	if c.Script == nil {
		c.Script = func(Point) Action { return Action{} }
	}
	if c.Observe == nil {
		c.Observe = func(Step) {}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("walsim: %w", err)
	}
	s := &Server{
		config: c, listener: listener, done: make(chan struct{}),
		backends: make(map[*backend]struct{}), pid: 4000,
		slot:     slot{confirmed: c.WAL.Start, saved: c.WAL.Start},
		identity: Identity{System: DefaultSystem, Timeline: 1},
	}
	s.running.Go(s.accept)
	return s, nil
}

// URL returns a connection string.
func (s *Server) URL() string {
	return fmt.Sprintf("postgres://relay:secret@%s/%s?sslmode=disable", s.listener.Addr(), s.config.Database)
}

// Close ends everything and waits for it.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.done)
		_ = s.listener.Close()
	}
	for b := range s.backends {
		b.reset()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// Lose resets all connections, as when the client was killed, and takes none
// until Admit. What was under way from the client is lost.
func (s *Server) Lose() {
	s.mu.Lock()
	s.lost = true
	s.mu.Unlock()
	s.others(nil, (*backend).reset)
}

// Admit takes connections again after Lose.
func (s *Server) Admit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = false
}

// Become makes the server another one, as after a failover or a restore, for
// connections that ask from now on.
func (s *Server) Become(i Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity = i
}

// Confirmed returns the slot's confirmed_flush_lsn.
func (s *Server) Confirmed() pglogrepl.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slot.confirmed
}

// Sessions returns how many streams were started.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slot.sessions
}

// Updates returns the status updates read so far, in order.
func (s *Server) Updates() []Update {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Update(nil), s.updates...)
}

// Unexpected returns what clients sent that no relay should, or that the
// server does not know. A test that passes has nothing here.
func (s *Server) Unexpected() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.unexpected...)
}

// strange keeps what was not expected.
func (s *Server) strange(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unexpected) < 20 {
		s.unexpected = append(s.unexpected, fmt.Errorf("walsim: "+format, args...))
	}
}

// accept takes connections until the listener is closed.
func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			_ = conn.Close()
			continue
		}
		if n := s.config.Socket; n > 0 {
			_ = tcp.SetWriteBuffer(n)
			_ = tcp.SetReadBuffer(n)
		}
		s.mu.Lock()
		s.accepted++
		s.pid++
		b := newBackend(s, tcp, s.pid)
		refused := s.stopping || time.Now().Before(s.refused)
		switch {
		case s.closed, s.lost, refused && !s.stopping && s.accepted%2 == 0: // as from a host without a server
			b.reset()
		default:
			b.refused = refused
			s.backends[b] = struct{}{}
			s.running.Go(b.run)
		}
		s.mu.Unlock()
	}
}

// leave forgets a connection that has ended.
func (s *Server) leave(b *backend) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.backends, b)
}

// others does something to each connection that is open, but for one.
func (s *Server) others(but *backend, do func(*backend)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b := range s.backends {
		if b != but {
			do(b)
		}
	}
}

// refuse takes no new connections for a while.
func (s *Server) refuse(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = time.Now().Add(d)
}

// wait returns false when the server was closed before the time was over.
func (s *Server) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.done:
		return false
	case <-timer.C:
		return true
	}
}
