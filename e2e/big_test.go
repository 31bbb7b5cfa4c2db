package e2e_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

const big = 50 * mib

// bigStage has a topic of its own, whose limit is that many bytes (0: the broker's).
func bigStage(t *testing.T, limit int) *stage {
	t.Helper()
	kafka := sharedKafka(t)
	s := bareStage(t, sharedPostgres(t, "17"), kafka.Brokers())
	s.init()
	detail := &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}
	if limit > 0 {
		text := fmt.Sprint(limit)
		detail.ConfigEntries = map[string]*string{"max.message.bytes": &text}
	}
	if err := adminOf(t, kafka).CreateTopic(s.topic(), detail, false); err != nil {
		t.Fatal(err)
	}
	s.consume()
	return s
}

// insertBig writes one event of that many bytes, and returns its id.
func (s *stage) insertBig(n, bytes int) string {
	s.t.Helper()
	return one[string](s, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload)
		SELECT $1, 'key', 'large', jsonb_build_object('n', $2::int, 'pad', repeat('0123456789abcdef', $3 / 16)) RETURNING id::text`, s.name, n, bytes)
}

// An event of 50 MB passes where the topic's limit lets it, between small ones,
// and is in memory four times at most.
func TestBigPayload(t *testing.T) {
	t.Parallel()
	s := bigStage(t, big+mib)
	r := s.run()
	r.AwaitState("streaming")
	m := watchMemory(r)
	poison{}.insert(s, "key")
	began := time.Now()
	id := s.insertBig(1, big)
	s.exec(s.url, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ($1, 'key', 'small', '{"n": 2}')`, s.name)
	s.await(3)
	took := time.Since(began)
	records := s.finish(r)
	most, repeats := m.stop(), rig.Repeats(t, records)
	want := one[string](s, "SELECT payload::text FROM outbox WHERE id = $1", id)
	if got := records[1]; got.Header("ce_id") != id || string(got.Value) != want {
		t.Errorf("the second record is %s with %d bytes, want %s with the column's %d", got.Header("ce_id"), len(got.Value), id, len(want))
	}
	t.Logf("a payload of %.1f MiB took %v from before its insert; %s", float64(len(want))/mib, took.Round(time.Millisecond), tally(records, repeats, most))
	if limit := 4*big + enough; most > limit || repeats > 0 {
		t.Errorf("%d MiB resident, want %d at most; %d repeats, want none", most/mib, limit/mib, repeats)
	}
	s.recoverBig()
}

// recoverBig sends what is in the table and two more such events with a recovery.
func (s *stage) recoverBig() {
	s.t.Helper()
	s.insertBig(3, big)
	s.insertBig(4, big)
	r := rig.Start(s.t, s.env, "recover", "--yes")
	m := watchMemory(r)
	if code := r.Wait(90 * time.Second); code != 0 {
		s.t.Fatalf("exit code %d:\n%s", code, r.Log())
	}
	most := m.stop()
	s.t.Logf("recovery: at most %.1f MiB resident; %s", float64(most)/mib, lastLines(r.Stdout(), 1))
	if limit := 4*big + enough; most > limit {
		s.t.Errorf("%d MiB resident in a recovery, want %d at most", most/mib, limit/mib)
	}
}

// Where the topic's limit does not let it pass, the relay says so and ends;
// what was committed before has gone out.
func TestBigPayloadPoison(t *testing.T) {
	t.Parallel()
	s := bigStage(t, 0)
	first := poison{}.insert(s, "key")
	id := s.insertBig(1, big)
	last := one[string](s, `INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ($1, 'key', 'small', '{"n": 2}') RETURNING id::text`, s.name)
	for range 2 { // started again, it carries on to the same end
		r := s.run()
		m := watchMemory(r)
		if code := r.Wait(90 * time.Second); code != 3 {
			t.Fatalf("exit code %d, want 3:\n%s", code, r.Log())
		}
		most, said := m.stop(), lastLines(r.Log(), 2)
		t.Logf("exit code 3, at most %.1f MiB resident; %s", float64(most)/mib, said)
		for _, want := range []string{"publish row " + id, "max.message.bytes", "\nhint: "} {
			if !strings.Contains(said, want) {
				t.Errorf("the error lacks %q", want)
			}
		}
		if limit := 4*big + enough; most > limit {
			t.Errorf("%d MiB resident, want %d at most", most/mib, limit/mib)
		}
	}
	s.await(1)
	for _, r := range s.seen.Records() {
		if r.Header("ce_id") != first {
			t.Errorf("record %s went out: the first event alone may", r.Header("ce_id"))
		}
	}
	s.exec(s.url, "DELETE FROM outbox WHERE id = $1", id) // the table is the oracle of what is to be in the topic
	r := rig.Start(t, s.env, "run", "--dead-letter-id", id)
	s.await(2)
	records := s.finish(r)
	t.Logf("sent to the dead letters by name: %d records behind it, lost 0, order kept, %d repeats", len(records), rig.Repeats(t, records))
	if got := records[len(records)-1].Header("ce_id"); got != last {
		t.Errorf("the last record is %s, want %s", got, last)
	}
}

// A table of 300 columns, nearly all of them headers of each record.
func TestBigTable(t *testing.T) {
	t.Parallel()
	const columns, own, rows = 300, 12, 3000
	var names, define, fill []string
	for i := range columns - own {
		name := fmt.Sprintf("c%d", i)
		names = append(names, name)
		define = append(define, "ADD "+name+" text")
		// A third of the values is NULL: no header.
		fill = append(fill, fmt.Sprintf("CASE WHEN (n + %d) %% 3 > 0 THEN '%s of ' || n END", i, name))
	}
	s := newStage(t, sharedPostgres(t, "17"), sharedKafka(t).Brokers())
	s.exec(s.url, "ALTER TABLE outbox "+strings.Join(define, ", "))
	s.env = append(s.env, "OUTBOX_CDC_HEADERS_EXTRA="+strings.Join(names, ","))
	r := s.run()
	m := watchMemory(r)
	s.exec(s.url, fmt.Sprintf(`INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, %s)
		SELECT '%s', 'key-' || n %% 100, 'wide', jsonb_build_object('n', n), %s FROM generate_series(1, %d) n`,
		strings.Join(names, ", "), s.name, strings.Join(fill, ", "), rows))
	s.await(rows)
	records := s.finish(r)
	most, repeats := m.stop(), rig.Repeats(t, records)
	conn := s.connect(s.url)
	defer func() { _ = conn.Close(t.Context()) }()
	found, err := conn.Query(t.Context(), "SELECT id::text, jsonb_strip_nulls(to_jsonb(outbox) - $1::text[]) FROM outbox",
		strings.Split("id aggregate_type aggregate_id event_type payload occurred_at headers source correlation_id causation_id data_version traceparent", " "))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]map[string]string{}
	var id string
	var values map[string]string
	if _, err := pgx.ForEachRow(found, []any{&id, &values}, func() error {
		want[id], values = values, nil
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for i := range records {
		got := map[string]string{}
		for _, h := range records[i].Headers {
			if strings.HasPrefix(h.Key, "c") && strings.Contains(string(h.Value), " of ") {
				got[h.Key] = string(h.Value)
			}
		}
		if !maps.Equal(got, want[records[i].Header("ce_id")]) {
			t.Fatalf("record %d has the headers %v, want %v", i, got, want[records[i].Header("ce_id")])
		}
	}
	t.Logf("%d columns, about %d headers a record; %s", columns, len(records[0].Headers), tally(records, repeats, most))
	if most > enough || repeats > 0 {
		t.Errorf("%d MiB resident, %d repeats", most/mib, repeats)
	}
}
