package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// stage is what a fault is played on: a database with an outbox of its own, so
// that several may share the servers, and a consumer that sees it all.
type stage struct {
	t       *testing.T
	pg      *devenv.Postgres
	brokers []string
	name    string // of the database, the slot, and the rows' aggregate type
	url     string // of the database
	env     []string
	seen    *rig.Consumer
	reach   func(*sarama.Config) // how the test itself gets to the brokers; nil: as they say
	loads   int
}

var stages atomic.Int32

// newStage sets up an outbox with `outbox-cdc init`. env is added to what the relay is started with.
func newStage(t *testing.T, pg *devenv.Postgres, brokers []string, env ...string) *stage {
	t.Helper()
	s := bareStage(t, pg, brokers, env...)
	s.init()
	s.consume()
	return s
}

// consume starts the consumer.
func (s *stage) consume() {
	s.t.Helper()
	s.seen = rig.Consume(s.t, s.brokers, s.reach, s.topic())
}

// bareStage is a database with nothing in it, and no consumer.
func bareStage(t *testing.T, pg *devenv.Postgres, brokers []string, env ...string) *stage {
	t.Helper()
	s := &stage{t: t, pg: pg, brokers: brokers, name: fmt.Sprintf("fault%d", stages.Add(1))}
	s.exec(pg.URL(), "CREATE DATABASE "+s.name)
	s.url = pg.URLFor(s.name, "postgres", "")
	s.env = append([]string{
		"OUTBOX_CDC_POSTGRES_URL=" + s.url,
		"OUTBOX_CDC_POSTGRES_SLOT=" + s.name,
		"OUTBOX_CDC_KAFKA_BROKERS=" + strings.Join(brokers, ","),
	}, env...)
	t.Cleanup(s.dropSlot)
	return s
}

// init creates table, publication and slot, as the superuser.
func (s *stage) init() {
	s.t.Helper()
	s.asSuperuser("init")
}

// asSuperuser runs a command to its end.
func (s *stage) asSuperuser(args ...string) {
	s.t.Helper()
	if r := rig.Start(s.t, append(s.env, "OUTBOX_CDC_POSTGRES_URL="+s.url), args...); r.Wait(30*time.Second) != 0 {
		s.t.Fatalf("%v: %s", args, r.Log())
	}
}

// dropSlot frees the slot of a shared server, where it would hold WAL. The
// relays have ended.
func (s *stage) dropSlot() {
	if !s.pg.Running() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.pg.URL())
	if err != nil {
		s.t.Error(err)
		return
	}
	defer func() { _ = conn.Close(ctx) }()
	rig.Eventually(s.t, 30*time.Second, "the slot is dropped", func() bool {
		_, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", s.name)
		return err == nil
	})
}

func (s *stage) topic() string { return "outbox.event." + s.name }

// run starts the relay.
func (s *stage) run() *rig.Relay {
	s.t.Helper()
	return rig.Run(s.t, s.env...)
}

// via returns the URL of the database through another address.
func (s *stage) via(address string) string {
	s.t.Helper()
	u, err := url.Parse(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	u.Host = address
	return u.String()
}

func (s *stage) exec(url, sql string, args ...any) {
	s.t.Helper()
	conn := s.connect(url)
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(s.t.Context(), sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

func (s *stage) connect(url string) *pgx.Conn {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), url)
	if err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// one returns the only value that a query gives.
func one[T any](s *stage, sql string, args ...any) T {
	s.t.Helper()
	conn := s.connect(s.url)
	defer func() { _ = conn.Close(context.Background()) }()
	var v T
	if err := conn.QueryRow(s.t.Context(), sql, args...).Scan(&v); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// walsender returns the pid of the process that serves the slot.
func (s *stage) walsender() int {
	s.t.Helper()
	return one[int](s, "SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = $1", s.name)
}

// confirmed returns the slot's position.
func (s *stage) confirmed() pglogrepl.LSN {
	s.t.Helper()
	lsn, err := pglogrepl.ParseLSN(one[string](s, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", s.name))
	if err != nil {
		s.t.Fatal(err)
	}
	return lsn
}

// await waits until the consumer has seen n different events.
func (s *stage) await(n int) {
	s.t.Helper()
	s.seen.Await(n, 90*time.Second)
}

// more waits until the consumer has seen n different events that it has not yet seen now.
func (s *stage) more(n int) {
	s.t.Helper()
	seen, _ := s.seen.Distinct()
	s.await(seen + n)
}

// ends returns the topic's length by partition. A broker that has just started may need a moment.
func (s *stage) ends() map[int32]int64 {
	s.t.Helper()
	var ends map[int32]int64
	var err error
	rig.Eventually(s.t, 30*time.Second, "the topic's end", func() bool {
		ends, err = topicEnds(s.brokers, s.reach, s.topic())
		return err == nil
	})
	return ends
}

func topicEnds(brokers []string, reach func(*sarama.Config), topic string) (map[int32]int64, error) {
	config := sarama.NewConfig()
	config.Metadata.AllowAutoTopicCreation = false
	if reach != nil {
		reach(config)
	}
	client, err := sarama.NewClient(brokers, config)
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close() }()
	partitions, err := client.Partitions(topic)
	if err != nil {
		return nil, err
	}
	ends := map[int32]int64{}
	for _, p := range partitions {
		if ends[p], err = client.GetOffset(topic, p, sarama.OffsetNewest); err != nil {
			return nil, err
		}
	}
	return ends, nil
}

// row is what the table, the only truth about what was committed, says of an event.
type row struct {
	key string
	n   int64 // grows with each commit of the key
}

func (s *stage) rows() map[string]row {
	s.t.Helper()
	conn := s.connect(s.url)
	defer func() { _ = conn.Close(context.Background()) }()
	found, err := conn.Query(s.t.Context(), "SELECT id::text, coalesce(aggregate_id, ''), (payload->>'n')::bigint FROM outbox")
	if err != nil {
		s.t.Fatal(err)
	}
	rows := map[string]row{}
	var id string
	var r row
	if _, err := pgx.ForEachRow(found, []any{&id, &r.key, &r.n}, func() error {
		rows[id] = r
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return rows
}

// finish lets the relay come to the end of what was committed, stops it and
// compares the topic with the table: nothing is lost, nothing was invented,
// and the first arrivals of each key are in the order of its commits. It
// returns the records. The load has to be over.
func (s *stage) finish(r *rig.Relay) []devenv.Record {
	s.t.Helper()
	s.drain(r, 90*time.Second)
	return s.compare()
}

// drain is finish without the comparison.
func (s *stage) drain(r *rig.Relay, limit time.Duration) {
	s.t.Helper()
	s.catchUp(r, limit)
	if code := r.Stop(); code != 0 {
		s.t.Fatalf("exit code %d after SIGTERM:\n%s", code, r.Log())
	}
}

// catchUp waits until everything is confirmed that has been committed by now.
func (s *stage) catchUp(r *rig.Relay, limit time.Duration) {
	s.t.Helper()
	end := one[string](s, "SELECT pg_current_wal_insert_lsn()::text")
	rig.Eventually(s.t, limit, "the slot reaches "+end, func() bool {
		select {
		case <-r.Done():
			s.t.Fatal("the relay has ended")
		default:
		}
		return one[bool](s, "SELECT confirmed_flush_lsn >= $1::pg_lsn FROM pg_replication_slots WHERE slot_name = $2", end, s.name)
	})
}

// compare is finish for a relay that has ended.
func (s *stage) compare() []devenv.Record {
	s.t.Helper()
	want := s.rows()
	var total int
	for _, end := range s.ends() {
		total += int(end)
	}
	rig.Eventually(s.t, 60*time.Second, fmt.Sprintf("%d records at the consumer", total), func() bool {
		_, records := s.seen.Distinct()
		return records >= total
	})
	records := s.seen.Records()
	arrived := make(map[string]bool, len(want))
	last := map[string]int64{}
	for i := range records {
		id := records[i].Header("ce_id")
		if arrived[id] {
			continue
		}
		arrived[id] = true
		r, committed := want[id]
		if !committed {
			s.t.Fatalf("event %s is in the topic and not in the table", id)
		}
		if r.n < last[r.key] {
			s.t.Fatalf("key %s: number %d arrived first behind number %d", r.key, r.n, last[r.key])
		}
		last[r.key] = r.n
	}
	if lost := len(want) - len(arrived); lost > 0 {
		s.t.Fatalf("%d of %d committed events were lost", lost, len(want))
	}
	return records
}

// repeatsBetween sorts the repeats by the ends of the topic that they stand
// between: the first are those that stand before the first of them.
func repeatsBetween(records []devenv.Record, ends []map[int32]int64) [][]*devenv.Record {
	repeats := make([][]*devenv.Record, len(ends)+1)
	seen := make(map[string]bool, len(records))
	for i := range records {
		r := &records[i]
		id := r.Header("ce_id")
		if !seen[id] {
			seen[id] = true
			continue
		}
		at := 0
		for at < len(ends) && r.Offset >= ends[at][r.Partition] {
			at++
		}
		repeats[at] = append(repeats[at], r)
	}
	return repeats
}

// liveStatus is what is used of /api/status.
type liveStatus struct {
	Relay struct {
		State          string        `json:"state"`
		Events         uint64        `json:"events"`
		InFlightEvents int           `json:"in_flight_events"`
		InFlightBytes  int           `json:"in_flight_bytes"`
		ReportedLSN    string        `json:"reported_lsn"`
		Reconnects     uint64        `json:"reconnects"`
		Backpressure   time.Duration `json:"backpressure_ns"`
	} `json:"relay"`
	Kafka struct {
		Published uint64 `json:"published"`
		Retries   uint64 `json:"retries"`
	} `json:"kafka"`
}

// readStatus asks the relay at a base URL; any goroutine.
func readStatus(base string) (liveStatus, error) {
	var s liveStatus
	client := http.Client{Timeout: 5 * time.Second}
	res, err := client.Get(base + "/api/status")
	if err != nil {
		return s, err
	}
	defer func() { _ = res.Body.Close() }()
	return s, json.NewDecoder(res.Body).Decode(&s)
}

func statusOf(t *testing.T, r *rig.Relay) liveStatus {
	t.Helper()
	s, err := readStatus(r.HTTP())
	if err != nil {
		t.Fatal(err)
	}
	return s
}
