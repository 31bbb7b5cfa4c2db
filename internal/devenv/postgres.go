package devenv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// PostgresOptions says which PostgreSQL to start, and how. The zero value will do.
type PostgresOptions struct {
	// Version is a major version from "14" up, or a release of Maven Central such as "17.11.0".
	// Empty: the newest that the machine has, else a download of the newest known.
	Version string
	// Settings go to postgresql.conf, over the defaults: wal_level=logical, fsync=off, 100 connections.
	Settings map[string]string
	// HBA lines come before the default ones. These trust the user postgres and ask all others for a
	// password (scram-sha-256), both for replication as well, from loopback.
	HBA []string
	// Files are put into the data directory before the first start, with the owner and mode (0600)
	// that the server demands of a key: Settings{"ssl": "on"} and server.crt, server.key.
	Files map[string][]byte
	// Fsync keeps the server durable through a crash of the machine, and as slow as it is in production.
	Fsync bool
	// Fresh runs initdb, for a system identifier of its own, instead of copying what it made before.
	Fresh bool
	// Port 0 takes a free one.
	Port int
}

// StopMode is one of PostgreSQL's ways to shut down.
type StopMode syscall.Signal

// The shutdown modes of https://www.postgresql.org/docs/current/server-shutdown.html.
const (
	StopSmart     = StopMode(syscall.SIGTERM) // waits for all sessions to end
	StopFast      = StopMode(syscall.SIGINT)  // ends sessions, waits for walsenders to send everything
	StopImmediate = StopMode(syscall.SIGQUIT) // quits at once; the next start recovers
)

// Postgres is a throw-away PostgreSQL server on loopback. Its methods can be called from any
// goroutine, but one at a time takes effect.
type Postgres struct {
	bin  pgBinaries
	box  *sandbox
	data string
	port int

	mu      sync.Mutex
	proc    *process // of the last start; nil before
	lastLog string   // after Close
}

const postgresLog = "postgres.log"

// errPortTaken: another process bound the port between our choice and the server's start.
var errPortTaken = errors.New("the port is taken")

// StartPostgres starts a PostgreSQL and returns when it takes connections. ctx bounds the start
// (and the download before the very first one), not the server's life: Close it.
func StartPostgres(ctx context.Context, opts PostgresOptions) (*Postgres, error) {
	p, err := startPostgres(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	return p, nil
}

func startPostgres(ctx context.Context, opts PostgresOptions) (*Postgres, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	as := serverAccount()
	bin, err := findPostgres(ctx, opts.Version, as)
	if err != nil {
		return nil, err
	}
	box, err := newSandbox("postgres", as)
	if err != nil {
		return nil, err
	}
	p := &Postgres{bin: bin, box: box}
	p.data, err = makeDataDir(ctx, box, bin, opts.Fresh)
	if err == nil {
		err = p.configureAndStart(ctx, opts)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// configureAndStart writes the configuration and starts the server, with other ports when
// somebody takes the chosen one first.
func (p *Postgres) configureAndStart(ctx context.Context, opts PostgresOptions) error {
	for name, data := range opts.Files {
		if err := p.WriteFile(name, data); err != nil {
			return err
		}
	}
	conf := filepath.Join(p.data, "postgresql.conf")
	initial, err := os.ReadFile(conf)
	if err != nil {
		return err
	}
	for range 5 {
		p.port = opts.Port
		if p.port == 0 {
			if p.port, err = choosePort(); err != nil {
				return err
			}
		}
		if err = p.box.write(conf, append(slices.Clip(initial), p.settings(opts)...)); err != nil {
			return err
		}
		if err = p.box.write(filepath.Join(p.data, "pg_hba.conf"), hba(opts.HBA)); err != nil {
			return err
		}
		if err = p.Start(ctx); opts.Port != 0 || !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

// settings returns the lines for postgresql.conf. There is no Unix socket: its path would
// be too long for some temporary directories.
func (p *Postgres) settings(opts PostgresOptions) []byte {
	settings := map[string]string{
		"listen_addresses":        loopback,
		"port":                    strconv.Itoa(p.port),
		"unix_socket_directories": "",
		"wal_level":               "logical",
		"logging_collector":       "off",
		"log_line_prefix":         "%m [%p] %q%u@%d %a ",
		// A killed server leaves nothing in /dev/shm.
		"dynamic_shared_memory_type": "mmap",
	}
	if !opts.Fsync {
		maps.Copy(settings, map[string]string{"fsync": "off", "full_page_writes": "off"})
	}
	maps.Copy(settings, opts.Settings)
	var conf strings.Builder
	quote := strings.NewReplacer(`\`, `\\`, `'`, `''`)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&conf, "\n%s = '%s'", name, quote.Replace(settings[name]))
	}
	return append([]byte(conf.String()), '\n')
}

func hba(first []string) []byte {
	lines := append(slices.Clone(first),
		"host all,replication postgres 127.0.0.1/32 trust",
		"host all,replication all 127.0.0.1/32 scram-sha-256",
	)
	return []byte(strings.Join(lines, "\n") + "\n")
}

// Start starts a stopped or killed server again, with the same port and data, and returns
// when it takes connections.
func (p *Postgres) Start(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc.running() {
		return errors.New("start PostgreSQL: it runs already")
	}
	from := logSize(p.box.path(postgresLog))
	proc, err := p.box.start(syscall.SIGQUIT, postgresLog, p.bin.path("postgres"), "-D", p.data)
	if err != nil {
		return err
	}
	p.proc = proc
	err = poll(ctx, 10*time.Millisecond, func() (bool, error) {
		if !proc.running() {
			return false, fmt.Errorf("it ended: %w", proc.err)
		}
		return p.ready(), nil
	})
	if err == nil {
		return nil
	}
	end(proc, syscall.SIGQUIT)
	log := logFrom(p.box.path(postgresLog), from)
	if strings.Contains(log, "Address already in use") {
		err = errPortTaken
	}
	return fmt.Errorf("%w; its log:\n%s", err, log)
}

// ready reads the last line of postmaster.pid, as pg_ctl does: the server writes "ready"
// there, or "standby" for one in recovery that takes connections.
func (p *Postgres) ready() bool {
	file, err := os.ReadFile(filepath.Join(p.data, "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(file), "\n")
	if len(lines) < 8 || lines[0] != strconv.Itoa(p.proc.pid) {
		return false
	}
	status := strings.TrimSpace(lines[7])
	return status == "ready" || status == "standby"
}

// Stop shuts the server down and returns when it has ended. The data stays, for Start. When
// ctx ends first, the server goes on stopping: a fast shutdown waits for walsenders, and so
// for their clients. Stopping a stopped server does nothing.
func (p *Postgres) Stop(ctx context.Context, mode StopMode) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.proc.running() {
		return nil
	}
	if err := p.proc.signal(syscall.Signal(mode)); err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	select {
	case <-p.proc.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop PostgreSQL: still there: %w", context.Cause(ctx))
	}
}

// Kill ends all processes of the server with SIGKILL, as the kernel does when it is out of memory.
func (p *Postgres) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.proc.running() {
		return nil
	}
	// A stopped postmaster starts no children behind our back.
	_ = p.proc.signal(sigStop)
	backends := children(p.proc.pid)
	if err := p.proc.signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill PostgreSQL: %w", err)
	}
	for _, pid := range backends {
		_ = kill(pid, syscall.SIGKILL)
	}
	<-p.proc.done
	// While one is attached to the shared memory, the server would refuse to start.
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return poll(ctx, 5*time.Millisecond, func() (bool, error) {
		return !slices.ContainsFunc(backends, alive), nil
	})
}

// Pause stops all processes of the server (SIGSTOP): connections stay open and answer nothing.
func (p *Postgres) Pause() error { return p.signalAll(sigStop) }

// Continue undoes Pause.
func (p *Postgres) Continue() error { return p.signalAll(sigCont) }

func (p *Postgres) signalAll(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.proc.running() {
		return errors.New("signal PostgreSQL: it does not run")
	}
	if err := p.proc.signal(sig); err != nil {
		return fmt.Errorf("signal PostgreSQL: %w", err)
	}
	for _, pid := range children(p.proc.pid) {
		_ = kill(pid, sig) // one that has just ended is no matter
	}
	return nil
}

// Signal sends sig to the postmaster: SIGHUP reloads the configuration.
func (p *Postgres) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.proc.running() {
		return errors.New("signal PostgreSQL: it does not run")
	}
	return p.proc.signal(sig)
}

// Running says whether the server's process is there.
func (p *Postgres) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proc.running()
}

// Close ends the server at once and removes everything of it. Closing twice does nothing.
func (p *Postgres) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc.running() {
		// Paused backends would hold it up, until it loses patience after five seconds.
		backends := children(p.proc.pid)
		_ = p.proc.signal(syscall.SIGQUIT)
		for _, pid := range backends {
			_ = kill(pid, sigCont)
		}
		end(p.proc, syscall.SIGQUIT)
	}
	if log := tail(p.box.path(postgresLog)); log != "" {
		p.lastLog = log
	}
	return p.box.close()
}

// URL connects the superuser postgres to the database postgres, without TLS.
func (p *Postgres) URL() string { return p.URLFor("postgres", "postgres", "") }

// URLFor connects a user to a database, without TLS. An empty password is left out.
func (p *Postgres) URLFor(database, user, password string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User(user), Host: address(p.port),
		Path: "/" + database, RawQuery: "sslmode=disable",
	}
	if password != "" {
		u.User = url.UserPassword(user, password)
	}
	return u.String()
}

// WriteFile puts a file into the data directory with the owner and mode (0600) that the
// server demands of a key. Signal(SIGHUP) makes it read certificates and pg_hba.conf again.
func (p *Postgres) WriteFile(name string, data []byte) error {
	return p.box.write(filepath.Join(p.data, name), data)
}

// Log returns the end of the server's log, at most 64 KiB; also after Close.
func (p *Postgres) Log() string {
	if log := tail(p.box.path(postgresLog)); log != "" {
		return log
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lastLog
}

// Port is the server's port on 127.0.0.1.
func (p *Postgres) Port() int { return p.port }

// Addr is the server's host:port.
func (p *Postgres) Addr() string { return address(p.port) }

// DataDir is the server's data directory.
func (p *Postgres) DataDir() string { return p.data }

// Version is the server's version, such as "17.11".
func (p *Postgres) Version() string { return p.bin.version }

// Major is the first number of Version.
func (p *Postgres) Major() int { return p.bin.major() }
