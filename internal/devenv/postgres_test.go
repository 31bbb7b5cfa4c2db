//go:build unix

package devenv

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func postgres(t *testing.T, opts PostgresOptions) *Postgres {
	t.Helper()
	p, err := StartPostgres(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.Log())
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func query(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	var got string
	if err := conn.QueryRow(t.Context(), sql).Scan(&got); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return got
}

func execute(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"", "17"} {
		t.Run("version "+version, func(t *testing.T) {
			t.Parallel()
			p := postgres(t, PostgresOptions{Version: version, Settings: map[string]string{"application_name": `it's \n`}})
			if version != "" && !strings.HasPrefix(p.Version(), version+".") {
				t.Errorf("Version() = %s, want %s", p.Version(), version)
			}
			conn := connect(t, p.URL())
			for sql, want := range map[string]string{
				"show wal_level":                  "logical",
				"show fsync":                      "off",
				"show server_version":             p.Version(),
				"select current_user::text":       "postgres",
				"select inet_server_addr()::text": "127.0.0.1/32",
				"show server_encoding":            "UTF8",
				"select reset_val from pg_settings where name = 'application_name'": `it's \n`,
			} {
				if got := query(t, conn, sql); !strings.HasPrefix(got, want) {
					t.Errorf("%s = %q, want %q", sql, got, want)
				}
			}
			replication := connect(t, p.URL()+"&replication=database&default_query_exec_mode=simple_protocol")
			execute(t, replication, "CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput")

			pid, dir := p.proc.pid, p.box.dir
			if group, err := syscall.Getpgid(pid); err != nil || group != pid {
				t.Errorf("the server's process group is %d (%v), want its own, %d", group, err, pid)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if alive(pid) || exists(dir) {
				t.Errorf("after Close: process there %t, directory there %t", alive(pid), exists(dir))
			}
			if !strings.Contains(p.Log(), "ready to accept connections") {
				t.Errorf("Log() after Close = %q", p.Log())
			}
			if err := p.Close(); err != nil {
				t.Errorf("second Close: %v", err)
			}
		})
	}
}

func TestPostgresPasswords(t *testing.T) {
	t.Parallel()
	p := postgres(t, PostgresOptions{HBA: []string{"host all guest 127.0.0.1/32 reject"}})
	conn := connect(t, p.URL())
	execute(t, conn, "create role relay login replication password 'right'")
	execute(t, conn, "create role guest login")
	execute(t, conn, "create database app")
	for _, tt := range []struct {
		name, url, want string // SQLSTATE
	}{
		{"right password", p.URLFor("app", "relay", "right"), ""},
		{"right password, replication", p.URLFor("app", "relay", "right") + "&replication=database", ""},
		{"wrong password", p.URLFor("app", "relay", "wrong"), "28P01"},
		{"wrong password, replication", p.URLFor("app", "relay", "wrong") + "&replication=database", "28P01"},
		{"extra line comes first", p.URLFor("app", "guest", "right"), "28000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := pgconn.Connect(t.Context(), tt.url)
			if err == nil {
				_ = conn.Close(t.Context())
			}
			got := ""
			if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
				got = pgErr.Code
			} else if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("SQLSTATE %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPostgresTLS(t *testing.T) {
	t.Parallel()
	ca, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("localhost", loopback)
	if err != nil {
		t.Fatal(err)
	}
	p := postgres(t, PostgresOptions{
		Settings: map[string]string{"ssl": "on"},
		Files:    map[string][]byte{"server.crt": cert, "server.key": key, "ca.pem": ca.PEM()},
	})
	url := strings.Replace(p.URL(), "sslmode=disable", "sslmode=verify-full&sslrootcert="+p.DataDir()+"/ca.pem", 1)
	if got := query(t, connect(t, url), "select ssl::text from pg_stat_ssl where pid = pg_backend_pid()"); got != "true" {
		t.Errorf("ssl = %s, want true", got)
	}
}

func TestPostgresKeepsData(t *testing.T) {
	t.Parallel()
	p := postgres(t, PostgresOptions{})
	execute(t, connect(t, p.URL()), "create table kept as select generate_series(1, 1000) as id")
	for name, down := range map[string]func() error{
		"Kill":           p.Kill,
		"Stop fast":      func() error { return p.Stop(t.Context(), StopFast) },
		"Stop immediate": func() error { return p.Stop(t.Context(), StopImmediate) },
	} {
		url, pid := p.URL(), p.proc.pid
		if err := p.Start(t.Context()); err == nil {
			t.Error("Start of a running server: no error")
		}
		if err := down(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if alive(pid) || p.Running() {
			t.Errorf("%s: still there", name)
		}
		if err := p.Start(t.Context()); err != nil {
			t.Fatalf("Start after %s: %v", name, err)
		}
		if got := query(t, connect(t, url), "select count(*)::text from kept"); got != "1000" {
			t.Errorf("after %s: %s rows, want 1000", name, got)
		}
	}
}

func TestPostgresPause(t *testing.T) {
	t.Parallel()
	p := postgres(t, PostgresOptions{})
	conn, err := pgconn.Connect(t.Context(), p.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { answered <- conn.Exec(context.Background(), "select 1").Close() }()
	select {
	case err := <-answered:
		t.Errorf("a paused server answered: %v", err)
	case <-time.After(200 * time.Millisecond): // long enough for any answer
	}
	if err := p.Continue(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	// Close has to wake a paused server, or waits until its patience ends.
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > closeTimeout/2 {
		t.Errorf("Close of a paused server took %v", took)
	}
}

func TestPostgresStopGivesUp(t *testing.T) {
	t.Parallel()
	p := postgres(t, PostgresOptions{})
	conn := connect(t, p.URL())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	// A smart shutdown waits for the session.
	if err := p.Stop(ctx, StopSmart); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Stop = %v, want a deadline exceeded", err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context(), StopSmart); err != nil {
		t.Error(err)
	}
}

func TestPostgresReload(t *testing.T) {
	t.Parallel()
	p := postgres(t, PostgresOptions{})
	conn := connect(t, p.URL())
	if err := p.WriteFile("extra.conf", []byte("work_mem = '5MB'\n")); err != nil {
		t.Fatal(err)
	}
	conf, err := os.ReadFile(p.DataDir() + "/postgresql.conf")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.WriteFile("postgresql.conf", append(conf, "include 'extra.conf'\n"...)); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new setting", func() bool { return query(t, conn, "show work_mem") == "5MB" })
}

func TestPostgresFresh(t *testing.T) {
	t.Parallel()
	ids := make(map[string]bool)
	for _, fresh := range []bool{false, false, true} {
		p := postgres(t, PostgresOptions{Fresh: fresh, Fsync: true})
		ids[query(t, connect(t, p.URL()), "select system_identifier::text from pg_control_system()")] = true
	}
	if len(ids) != 2 {
		t.Errorf("%d system identifiers, want 2: the template's and the fresh one's", len(ids))
	}
}

// Not parallel: it replaces choosePort.
func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", address(0))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	taken := l.Addr().(*net.TCPAddr).Port

	t.Run("fixed", func(t *testing.T) {
		_, err := StartPostgres(t.Context(), PostgresOptions{Port: taken})
		if !errors.Is(err, errPortTaken) {
			t.Errorf("StartPostgres = %v, want %v", err, errPortTaken)
		}
	})
	first := func(t *testing.T) {
		calls := 0
		choosePort = func() (int, error) {
			if calls++; calls == 1 {
				return taken, nil
			}
			return freePort()
		}
		t.Cleanup(func() { choosePort = freePort })
	}
	t.Run("PostgreSQL tries another", func(t *testing.T) {
		first(t)
		if p := postgres(t, PostgresOptions{}); p.Port() == taken {
			t.Errorf("Port() = %d, which is taken", p.Port())
		}
	})
	t.Run("kfake tries another", func(t *testing.T) {
		first(t)
		k, err := StartKfake(KfakeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		k.Close()
	})
	t.Run("Kafka tries another", func(t *testing.T) {
		first(t)
		kafka(t, KafkaOptions{})
	})
}

func TestUnknownVersion(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"13", "next", "17.999.0"} {
		if p, err := StartPostgres(t.Context(), PostgresOptions{Version: version}); err == nil {
			t.Errorf("version %s: started %s", version, p.Version())
			_ = p.Close()
		}
	}
}
