// Package devtest starts the servers of package devenv for a test: it closes them at the
// test's end, and shows the end of a server's log when the test has failed.
package devtest

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
)

// startTimeout bounds a start, with the download before the first one.
const startTimeout = 5 * time.Minute

// RequireKafka is the environment variable that turns a Kafka test's skip into a failure on
// a machine without Java or Maven.
const RequireKafka = "OUTBOX_CDC_REQUIRE_KAFKA"

// Postgres starts a PostgreSQL for the test.
func Postgres(t testing.TB, opts devenv.PostgresOptions) *devenv.Postgres {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	p, err := devenv.StartPostgres(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, "PostgreSQL", p.Log, p.Close)
	return p
}

// Kfake starts an in-process Kafka for the test.
func Kfake(t testing.TB, opts devenv.KfakeOptions) *devenv.Kfake {
	t.Helper()
	k, err := devenv.StartKfake(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func closeAfter(t testing.TB, server string, log func() string, stop func() error) {
	t.Cleanup(func() {
		t.Helper()
		if t.Failed() {
			t.Logf("%s's log:\n%s", server, log())
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// Kafka starts an Apache Kafka for the test. On a machine without Java or Maven it skips the test,
// or fails it when RequireKafka is set.
func Kafka(t testing.TB, opts devenv.KafkaOptions) *devenv.Kafka {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	k, err := devenv.StartKafka(ctx, opts)
	if errors.Is(err, devenv.ErrNoJava) && os.Getenv(RequireKafka) == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, "Kafka", k.Log, k.Close)
	return k
}
