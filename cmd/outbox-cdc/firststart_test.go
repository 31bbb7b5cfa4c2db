package main

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
)

// nothingCreated fails the test when a slot or a publication was left behind.
func (s *site) nothingCreated(t *testing.T) {
	t.Helper()
	var slots, publications int
	err := s.conn.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1),
		(SELECT count(*) FROM pg_publication)`, s.database).Scan(&slots, &publications)
	if err != nil || slots > 0 || publications > 0 {
		t.Errorf("%d slots and %d publications were created, %v", slots, publications, err)
	}
}

// testFirstStartRefused: a first start that Kafka does not answer, or does not
// take in, leaves nothing behind that retains WAL.
func testFirstStartRefused(t *testing.T, s *site) {
	execSQL(t, s.conn, readTree(t, "testdata/schema.sql"))
	nobody := refusing(t)
	s.want(t, 5, "run", "--startup-timeout=1s", "--kafka-brokers", nobody)
	s.nothingCreated(t)

	guarded := devtest.Kfake(t, devenv.KfakeOptions{Options: []kfake.Opt{kfake.EnableSASL(), kfake.Superuser("PLAIN", "relay", "right")}})
	got := s.want(t, 2, "run", "--kafka-brokers", guarded.Addrs()[0],
		"--kafka-sasl-mechanism=PLAIN", "--kafka-sasl-username=relay", "--kafka-sasl-password=hunter2")
	if !strings.Contains(got.stderr, "password") || strings.Contains(got.stderr, "hunter2") {
		t.Errorf("stderr\n%s", got.stderr)
	}
	s.nothingCreated(t)

	// What is wrong with Postgres is said all the same.
	s.want(t, 2, "run", "--startup-timeout=20s", "--kafka-brokers", nobody, "--table-columns-subject=nowhere")
	s.want(t, 4, "run", "--startup-timeout=20s", "--kafka-brokers", nobody, "--no-init")
	s.nothingCreated(t)
}

// testFirstStartWaits: the relay goes on by itself once Kafka is there.
func testFirstStartWaits(t *testing.T, s *site) {
	execSQL(t, s.conn, readTree(t, "testdata/schema.sql"))
	broker := refusing(t)
	p := startRelay(t, s.env, "--kafka-brokers", broker)
	address := "http://" + p.event(t, "outbox.started")["http"].(string)
	p.event(t, "outbox.starting")
	code, body := get(t, address+"/readyz")
	if code != 503 || !strings.Contains(body, "kafka has not taken us in yet") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if _, body := get(t, address+"/api/status"); !strings.Contains(body, "kafka has not taken us in yet") {
		t.Errorf("/api/status: %s", body)
	}
	s.nothingCreated(t)

	_, port, _ := net.SplitHostPort(broker)
	number, _ := strconv.Atoi(port)
	devtest.Kfake(t, devenv.KfakeOptions{Options: []kfake.Opt{kfake.Ports(number)}})
	p.event(t, "outbox.first_start")
	p.event(t, "outbox.streaming")
	if code, body := get(t, address+"/readyz"); code != 200 || strings.Contains(body, "reason") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	p.stop(t)
}

// testFirstStartWithNeitherSide: a Postgres that comes back before Kafka does
// is no reason to begin.
func testFirstStartWithNeitherSide(t *testing.T, s *site) {
	execSQL(t, s.conn, readTree(t, "testdata/schema.sql"))
	address := refusing(t)
	url := strings.Replace(s.postgres.URLFor(s.database, "postgres", ""), s.postgres.Addr(), address, 1)
	p := startRelay(t, s.env, "--kafka-brokers", refusing(t), "--postgres-url", url)
	if line := p.event(t, "outbox.starting"); !strings.Contains(fmt.Sprint(line["error"]), "refused") {
		t.Errorf("log line %v", line)
	}
	forward(t, address, s.postgres.Addr())
	if line := p.event(t, "outbox.starting"); !strings.Contains(fmt.Sprint(line["error"]), "kafka has not taken us in yet") {
		t.Errorf("log line %v", line)
	}
	s.nothingCreated(t)
	p.stop(t)
}

// forward listens at one address and passes connections on to another.
func forward(t *testing.T, from, to string) {
	t.Helper()
	l, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	pass := func(dst, src net.Conn) {
		_, _ = io.Copy(dst, src)
		_ = dst.Close()
	}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			go pass(server, client)
			go pass(client, server)
		}
	}()
}

// testSlotWithoutKafka: a relay that Kafka has not answered leaves the slot to
// one that can publish, at a start and when it stands by; a slot that is lost is
// named all the same.
func testSlotWithoutKafka(t *testing.T, s *site) {
	execSQL(t, s.conn, readTree(t, "testdata/schema.sql"))
	nobody := "--kafka-brokers=" + refusing(t)
	p := startRelay(t, s.env, nobody)
	p.event(t, "outbox.starting")
	s.want(t, 0, "init")
	active := startRelay(t, s.env)
	active.event(t, "outbox.streaming")
	p.event(t, "outbox.standby")
	next := startRelay(t, s.env)
	next.event(t, "outbox.standby")
	if err := active.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	next.event(t, "outbox.streaming")
	p.stop(t)
	next.stop(t)

	execSQL(t, s.conn, fmt.Sprintf("SELECT pg_drop_replication_slot('%s')", s.database))
	s.want(t, 4, "run", nobody, "--startup-timeout=20s") // long before that
}

// stop ends a relay that has nothing in flight.
func (p *relayProcess) stop(t *testing.T) {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest := readAll(p.log)
	if err := p.Wait(); err != nil {
		t.Errorf("SIGTERM: %v, after\n%s", err, rest)
	}
}
