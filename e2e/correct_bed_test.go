package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/jackc/pgx/v5"
	"github.com/rcrowley/go-metrics"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// bed is a database of a test's own on a shared server, and the shared Kafka.
// The database's name is also that of its slot, its publication and its topics.
type bed struct {
	t       *testing.T
	pg      *devenv.Postgres
	brokers []string
	name    string
	admin   *pgx.Conn // superuser, database postgres
	conn    *pgx.Conn // superuser, the test's database
	larges  int       // transactions with many rows so far
}

var beds atomic.Int32

// newBed creates a database. options are those of CREATE DATABASE.
func newBed(t *testing.T, version, options string) *bed {
	t.Helper()
	b := &bed{t: t, pg: sharedPostgres(t, version), brokers: sharedKafka(t).Brokers(), name: fmt.Sprintf("bed%d_%s", beds.Add(1), version)}
	b.admin = b.connect("postgres")
	b.exec(b.admin, "CREATE DATABASE "+b.name+" "+options)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		rig.Eventually(t, 30*time.Second, "slots dropped", func() bool {
			_, err := b.admin.Exec(ctx, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = $1 AND active`, b.name)
			if err == nil {
				_, err = b.admin.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1`, b.name)
			}
			return err == nil
		})
		if _, err := b.admin.Exec(ctx, "DROP DATABASE "+b.name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	b.conn = b.connect(b.name)
	return b
}

// connect opens a superuser's session that no default of the database harms.
func (b *bed) connect(database string) *pgx.Conn {
	b.t.Helper()
	c, err := pgx.ParseConfig(b.pg.URLFor(database, "postgres", ""))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, name := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
		c.RuntimeParams[name] = "0"
	}
	if b.pg.Major() >= 14 {
		c.RuntimeParams["idle_session_timeout"] = "0"
		c.RuntimeParams["default_transaction_read_only"] = "off"
	}
	if b.pg.Major() >= 17 {
		c.RuntimeParams["transaction_timeout"] = "0"
	}
	c.RuntimeParams["search_path"], c.RuntimeParams["client_encoding"] = "public", "UTF8"
	conn, err := pgx.ConnectConfig(b.t.Context(), c)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// exec runs statements, separated as the simple protocol allows.
func (b *bed) exec(conn *pgx.Conn, sql string) {
	b.t.Helper()
	if _, err := conn.PgConn().Exec(b.t.Context(), sql).ReadAll(); err != nil {
		b.t.Fatalf("%s: %v", firstLine(sql), err)
	}
}

func firstLine(s string) string { return strings.TrimSpace(s)[:min(200, len(strings.TrimSpace(s)))] }

// url is the superuser's connection string for the relay.
func (b *bed) url() string { return b.pg.URLFor(b.name, "postgres", "") }

// two are the two variables that are enough to run.
func (b *bed) two(more ...string) []string {
	return append([]string{"OUTBOX_CDC_POSTGRES_URL=" + b.url(), "OUTBOX_CDC_KAFKA_BROKERS=" + strings.Join(b.brokers, ",")}, more...)
}

// env names the slot and the publication as well, so that relays of one
// server do not meet. Later variables win over earlier ones.
func (b *bed) env(more ...string) []string {
	return b.two(append([]string{"OUTBOX_CDC_POSTGRES_SLOT=" + b.name, "OUTBOX_CDC_POSTGRES_PUBLICATION=" + b.name}, more...)...)
}

// ledgerSQL is a second record of what is committed, which shares nothing with
// logical decoding: a trigger writes it in the transaction of the row, so it
// knows what a rollback takes back, and no delete reaches it. It keeps the value
// as the column's own text, in UTF-8.
const ledgerSQL = `
CREATE TABLE IF NOT EXISTS ledger (
	place  bigserial PRIMARY KEY,
	xid    xid8  NOT NULL DEFAULT pg_current_xact_id(),
	outbox text  NOT NULL,
	id     text  NOT NULL,
	key    bytea,
	value  bytea,
	row    jsonb NOT NULL)`

// shape is how a table's columns are named; text columns are published as they print.
type shape struct {
	table         string // as SQL writes it
	id, key       string
	payload       string
	bytes         bool // the payload is bytea
	keyBytes      bool
	partitionWise bool   // rows may be inserted into a partition by its own name
	row           string // what the ledger keeps of row a besides, if not all columns
}

var defaultShape = shape{table: "public.outbox", id: "id", key: "aggregate_id", payload: "payload"}

// keepLedger makes triggers that enter the table's rows into the ledger.
func (b *bed) keepLedger(s shape) {
	b.t.Helper()
	raw := func(column string, bytes bool) string {
		if bytes {
			return column
		}
		return "convert_to(" + column + "::text, 'UTF8')"
	}
	trigger := "AFTER INSERT ON %s REFERENCING NEW TABLE AS added FOR EACH STATEMENT"
	row, from := "a", "FROM added a"
	if s.partitionWise { // a statement's trigger fires for the named table only
		trigger, row, from = "AFTER INSERT ON %s FOR EACH ROW", "NEW", ""
	}
	rest := s.row
	if rest == "" {
		rest = fmt.Sprintf("to_jsonb(%s) - '%s'", row, s.payload)
	}
	function := "keep_" + strings.NewReplacer(".", "_", `"`, "").Replace(s.table)
	b.exec(b.conn, ledgerSQL)
	b.exec(b.conn, fmt.Sprintf(`CREATE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO public.ledger (outbox, id, key, value, row)
			SELECT '%s', %s.%s::text, %s, %s, %s %s;
			RETURN NULL;
		END $$`, function, s.table, row, s.id, raw(row+"."+s.key, s.keyBytes), raw(row+"."+s.payload, s.bytes), rest, from))
	b.exec(b.conn, fmt.Sprintf("CREATE TRIGGER keep "+trigger+" EXECUTE FUNCTION %s()", s.table, function))
}

// entries reads the ledger of a table, in the order in which rows were inserted.
func (b *bed) entries(table string) []entry { return b.entriesFrom(table, 0) }

// entriesFrom passes over the first ones.
func (b *bed) entriesFrom(table string, first int) []entry {
	b.t.Helper()
	rows, err := b.conn.Query(b.t.Context(), `
		SELECT xid::text::bigint, id, key, value, row,
		       pg_xact_commit_timestamp((xid::text::bigint % 4294967296)::text::xid)
		  FROM ledger WHERE outbox = $1 ORDER BY place OFFSET $2`, table, first)
	if err != nil {
		b.t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (entry, error) {
		var e entry
		var text []byte
		err := row.Scan(&e.xid, &e.id, &e.key, &e.value, &text, &e.commit)
		if err == nil {
			err = json.Unmarshal(text, &e.row)
		}
		return e, err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return list
}

// recorded counts the ledger's rows.
func (b *bed) recorded() int {
	b.t.Helper()
	var n int
	if err := b.conn.QueryRow(b.t.Context(), "SELECT count(*) FROM ledger").Scan(&n); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// defaultOutbox makes the table of testdata/schema.sql by `outbox-cdc init`,
// with the ledger. A row's topic is the bed's unless the statement names one.
func (b *bed) defaultOutbox(env []string) {
	b.t.Helper()
	b.initialize(env)
	b.exec(b.conn, "ALTER TABLE outbox ALTER aggregate_type SET DEFAULT '"+b.name+"'")
	b.keepLedger(defaultShape)
}

func (b *bed) initialize(env []string) {
	b.t.Helper()
	r := rig.Start(b.t, env, "init")
	if code := r.Wait(60 * time.Second); code != 0 {
		b.t.Fatalf("init: exit code %d\n%s", code, r.Log())
	}
}

// topic is where the rows of the default outbox go by default.
func (b *bed) topic() string { return "outbox.event." + b.name }

// source is the default ce_source.
func (b *bed) source(table string) string { return "postgres://127.0.0.1/" + b.name + "/" + table }

// awaitConfirmed waits until the slot's position is behind everything
// committed so far and nothing is in flight.
func (b *bed) awaitConfirmed(r *rig.Relay, slot string) time.Duration {
	b.t.Helper()
	var end string
	if err := b.conn.QueryRow(b.t.Context(), "SELECT pg_current_wal_flush_lsn()").Scan(&end); err != nil {
		b.t.Fatal(err)
	}
	begun := time.Now()
	rig.Eventually(b.t, 2*time.Minute, "confirmed_flush_lsn at "+end, func() bool {
		select {
		case <-r.Done():
			b.t.Fatalf("the relay ended:\n%s", r.Log())
		default:
		}
		return b.confirmed(slot, end)
	})
	if s := b.status(r); s.Relay.InFlightEvents != 0 || s.Relay.InFlightBytes != 0 {
		b.t.Errorf("%d events (%d bytes) are in flight behind the confirmed position", s.Relay.InFlightEvents, s.Relay.InFlightBytes)
	}
	return time.Since(begun)
}

// confirmed tells whether the slot's position has reached lsn.
func (b *bed) confirmed(slot, lsn string) bool {
	b.t.Helper()
	var there bool
	if err := b.conn.QueryRow(b.t.Context(), `SELECT coalesce((SELECT confirmed_flush_lsn >= $2::pg_lsn FROM pg_replication_slots
		WHERE slot_name = $1), false)`, slot, lsn).Scan(&there); err != nil {
		b.t.Fatal(err)
	}
	return there
}

type apiStatus struct {
	Relay struct {
		Events, Reconnects uint64
		InFlightEvents     int `json:"in_flight_events"`
		InFlightBytes      int `json:"in_flight_bytes"`
	}
}

func (b *bed) status(r *rig.Relay) apiStatus {
	b.t.Helper()
	var s apiStatus
	if _, body := r.Get("/api/status"); json.Unmarshal([]byte(body), &s) != nil {
		b.t.Fatalf("/api/status says %q", body)
	}
	return s
}

// delivered waits until everything committed so far is confirmed, and returns
// what is in Kafka then. It does not count events: those that are missing are
// told by compare.
func (b *bed) delivered(r *rig.Relay, slot string, c *rig.Consumer, topics ...string) []devenv.Record {
	b.t.Helper()
	b.awaitConfirmed(r, slot)
	return b.all(c, topics...)
}

// all waits until the consumer has everything that Kafka holds of this bed's
// topics, and returns it. Kafka is asked, so that a repeat behind the last
// expected event cannot be missed.
func (b *bed) all(c *rig.Consumer, topics ...string) []devenv.Record {
	b.t.Helper()
	config := sarama.NewConfig()
	config.MetricRegistry = metrics.NewRegistry()
	client, err := sarama.NewClient(b.brokers, config)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	there, err := client.Topics()
	if err != nil {
		b.t.Fatal(err)
	}
	produced := 0
	for _, topic := range there {
		if !strings.Contains(topic, b.name) {
			continue
		}
		if !slices.Contains(topics, topic) {
			b.t.Fatalf("topic %s exists, want only %v", topic, topics)
		}
		for p := range int32(sharedPartitions) {
			produced += b.end(client, topic, p)
		}
	}
	rig.Eventually(b.t, 60*time.Second, fmt.Sprintf("%d records at the consumer", produced), func() bool {
		_, n := c.Distinct()
		return n >= produced
	})
	return c.Records()
}

// end returns the offset behind a partition's last record. A broker says for a
// moment that it does not lead the partition of a topic that is new.
func (b *bed) end(client sarama.Client, topic string, partition int32) int {
	b.t.Helper()
	var offset int64
	var last error
	rig.Eventually(b.t, 30*time.Second, "the end of a partition of "+topic, func() bool {
		if offset, last = client.GetOffset(topic, partition, sarama.OffsetNewest); last != nil && !errors.Is(last, sarama.ErrNotLeaderForPartition) {
			b.t.Fatalf("end of partition %d of %s: %v", partition, topic, last)
		}
		return last == nil
	})
	return int(offset)
}
