package main

import (
	"bufio"
	"os"
	"strings"
	"testing"
	"time"
)

// It takes long in earnest, and says how far it is.
func testRecoverProgress(t *testing.T, s *site) {
	execSQL(t, s.conn, readTree(t, "testdata/schema.sql"))
	execSQL(t, s.conn, insertSQL)
	if got := s.want(t, 0, "recover", "--yes"); !strings.Contains(got.stderr, "event=outbox.recovering acknowledged=0 rows=1") ||
		!strings.Contains(got.stdout, "1 rows are acknowledged") {
		t.Errorf("stdout\n%s\nstderr\n%s", got.stdout, got.stderr)
	}
	if got := s.want(t, 0, "recover", "--yes", "--log-level=warn"); strings.Contains(got.stderr, "outbox.recovering") {
		t.Errorf("with log.level warn:\n%s", got.stderr)
	}
}

// A recovery does not wait for Kafka for ever, and nothing was changed then.
func testRecoverWithoutKafka(t *testing.T, s *site) {
	execSQL(t, s.conn, readTree(t, "testdata/schema.sql"))
	begun := time.Now()
	got := s.want(t, 5, "recover", "--yes", "--startup-timeout=1s", "--kafka-brokers=127.0.0.1:1")
	if took := time.Since(begun); took > connectLimit/2 || !strings.Contains(got.stderr, "connect to kafka") {
		t.Errorf("after %v: stderr\n%s", took, got.stderr)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	c := command(t.Context(), s.env, "recover", "--yes", "--kafka-brokers=127.0.0.1:1")
	c.Stderr = w
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	log := bufio.NewScanner(r)
	for log.Scan() && !strings.Contains(log.Text(), "outbox.kafka_unreachable") {
	}
	ended(t, c, 1)
	if rest := readAll(log); !strings.Contains(rest, "outbox-cdc: stop: interrupted\n") {
		t.Errorf("stderr ends with\n%s", rest)
	}
	var publications int
	if err := s.conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_publication").Scan(&publications); err != nil || publications > 0 {
		t.Errorf("%d publications, %v", publications, err)
	}
}
