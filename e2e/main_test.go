package e2e_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// serverStart bounds a server's start, with the download before the first one.
const serverStart = 5 * time.Minute

// shared are the servers that tests without server faults use together. Each
// is started by the first test that asks for it.
var shared struct {
	mu       sync.Mutex
	kafka    *devenv.Kafka
	postgres map[string]*devenv.Postgres // by major version
}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := closeShared(); err != nil {
		slog.Error("close the servers", "error", err)
		code = 1
	}
	rig.Remove()
	http.DefaultClient.CloseIdleConnections()
	if code == 0 {
		if err := goleak.Find(leakedByOthers...); err != nil {
			slog.Error("goroutines left behind", "error", err)
			code = 1
		}
	}
	os.Exit(code)
}

// leakedByOthers are goroutines of libraries that only tests use. A connection
// through toxiproxy that ends at the far side leaves what reads its near side.
var leakedByOthers = []goleak.Option{
	goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"),
	goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
	goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
}

func closeShared() error {
	var errs []error
	for _, p := range shared.postgres {
		errs = append(errs, p.Close())
	}
	if shared.kafka != nil {
		errs = append(errs, shared.kafka.Close())
	}
	return errors.Join(errs...)
}

// sharedPartitions is not a power of two: a partitioner that masks bits instead
// of dividing shows.
const sharedPartitions = 5

// sharedKafka returns the Apache Kafka of this package, as devtest.Kafka does for a test.
func sharedKafka(t *testing.T) *devenv.Kafka {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.kafka != nil {
		return shared.kafka
	}
	ctx, cancel := context.WithTimeout(t.Context(), serverStart)
	defer cancel()
	k, err := devenv.StartKafka(ctx, devenv.KafkaOptions{Partitions: sharedPartitions})
	if errors.Is(err, devenv.ErrNoJava) && os.Getenv(devtest.RequireKafka) == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	shared.kafka = k
	return k
}

// sharedPostgres returns the package's PostgreSQL of a major version. Tests
// take a database each.
func sharedPostgres(t *testing.T, version string) *devenv.Postgres {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if p := shared.postgres[version]; p != nil {
		return p
	}
	ctx, cancel := context.WithTimeout(t.Context(), serverStart)
	defer cancel()
	p, err := devenv.StartPostgres(ctx, devenv.PostgresOptions{Version: version, Settings: map[string]string{
		"max_replication_slots": "40", "max_wal_senders": "40",
		"max_prepared_transactions": "5",
		"track_commit_timestamp":    "on",   // the oracle of record timestamps
		"logical_decoding_work_mem": "64kB", // large transactions are spilled to disk while decoding
	}})
	if err != nil {
		t.Fatal(err)
	}
	if shared.postgres == nil {
		shared.postgres = map[string]*devenv.Postgres{}
	}
	shared.postgres[version] = p
	return p
}
