package main

import (
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

func TestEventSource(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"postgres://relay:hunter2@db:5432/app":         "postgres://db/app/outbox",
		"postgres://relay@db-1:5432,db-2:5432/app":     "postgres://db-1/app/outbox",
		"host=db.example dbname=app user=relay":        "postgres://db.example/app/outbox",
		"postgres://relay:hunter2@db/my%20app?x=y%3":   "",
		"postgres://relay:hunter2@db/app?sslmode=nono": "",
	} {
		l := mustLoad(t, given{args: []string{"--postgres-url", url}})
		got, err := l.relayConfig(nil, nil).Source()
		if want == "" {
			if fault.KindOf(err) != fault.Usage || strings.Contains(err.Error()+fault.HintOf(err), "hunter2") {
				t.Errorf("%s: %v, want a usage error that does not show it", url, err)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", url, got, err, want)
		}
	}
}

func TestNoDrain(t *testing.T) {
	t.Parallel()
	l := mustLoad(t, given{args: []string{"--drain-timeout=0"}})
	if got := l.relayConfig(nil, nil).DrainTimeout; got == 0 || got > time.Millisecond {
		t.Errorf("drain_timeout 0 becomes %v; 0 would be the default", got)
	}
}

func TestTableName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]cdc.Table{
		"outbox":        {Schema: "public", Name: "outbox"},
		"sales.outbox":  {Schema: "sales", Name: "outbox"},
		"Sales.Out Box": {Schema: "Sales", Name: "Out Box"},
	} {
		l := mustLoad(t, given{args: []string{"--table-name", name}})
		if got := l.relayConfig(nil, nil).Table; got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	for _, name := range []string{"", ".outbox", "sales.", "a.b.c"} {
		if _, err := loadGiven(t, given{args: []string{"--table-name", name}}); fault.KindOf(err) != fault.Usage {
			t.Errorf("%q: %v, want a usage error", name, err)
		}
	}
}

// TestRecordMapping sees to it that no column gets lost between the two structs.
func TestRecordMapping(t *testing.T) {
	t.Parallel()
	l := mustLoad(t, given{yaml: `
postgres: {url: postgres://db/app}
table: {columns: {id: c1, key: c2, type: c3, payload: c4, timestamp: c5, headers: c6, source: c7, subject: c8,
  correlation_id: c9, causation_id: c10, data_version: c11, traceparent: c12}}
route: {topic: t}
headers: {extra: [c13]}
`})
	b, err := l.builder()
	if err != nil {
		t.Fatal(err)
	}
	columns := strings.Join(b.RequiredColumns(), " ")
	for want := range strings.FieldsSeq("c1 c2 c3 c4 c5 c6 c7 c8 c9 c10 c11 c12 c13") {
		if !strings.Contains(" "+columns+" ", " "+want+" ") {
			t.Errorf("%s is configured and not required: %s", want, columns)
		}
	}
}

// TestEverySettingReachesTheRecord: the two packages agree on what can be set.
func TestEverySettingReachesTheRecord(t *testing.T) {
	t.Parallel()
	for _, s := range settings() {
		texts, _ := sample(t, s)
		for _, text := range texts {
			l := mustLoad(t, given{
				env:  []string{"OUTBOX_CDC_CLOUDEVENTS_SOURCE=//orders"}, // or the URL is looked at
				args: []string{"--" + s.Flag() + "=" + text},
			})
			if _, err := l.builder(); err != nil {
				t.Errorf("%s = %q: %v", s.Key, text, err)
			}
		}
	}
}

// TestWholeFile loads every setting at its default, written out.
func TestWholeFile(t *testing.T) {
	t.Parallel()
	l := mustLoad(t, given{yaml: `
postgres:
  url: postgres://relay@db:5432/app
  slot: outbox_cdc
  publication: outbox_cdc
table:
  name: public.outbox
  preset: default
  columns: {id: id, key: aggregate_id, type: event_type, payload: payload, timestamp: occurred_at, headers: headers,
            source: source, subject: "", correlation_id: correlation_id, causation_id: causation_id,
            data_version: data_version, traceparent: traceparent, partition: "", order: ""}
  payload: column
message_prefix: ""
route:
  topic: "outbox.event.{aggregate_type}"
format: cloudevents-binary
cloudevents: {source: "", attributes: {}}
headers: {extra: []}
kafka:
  brokers: [localhost:9092]
  compression: none
  tls: {enabled: false}
  sasl: {mechanism: ""}
  create_topics: {partitions: 0, replication_factor: 0}
delivery: at_least_once
on_poison: stop
on_slot_lost: stop
dead_letter_topic: outbox.dead-letter
limits: {in_flight_bytes: 16MiB, in_flight_events: 50000}
startup_timeout: 0
drain_timeout: 10s
retention: 0
http: {listen: "127.0.0.1:8099"}
log: {level: info, format: json}
`})
	if _, err := l.builder(); err != nil {
		t.Error(err)
	}
}

func TestKafkaWiring(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ yaml, want string }{
		"partitions out of range": {"kafka: {create_topics: {partitions: 3000000000}}", "out of range"},
		"replicas out of range":   {"kafka: {create_topics: {partitions: 1, replication_factor: 40000}}", "out of range"},
		"TLS files without TLS":   {"kafka: {tls: {ca_file: /x}}", "not enabled"},
	} {
		l := mustLoad(t, given{yaml: "postgres: {url: postgres://db/app}\n" + tc.yaml})
		b, err := l.builder()
		if err != nil {
			t.Fatal(err)
		}
		k, err := l.kafka(b, nil)
		if k != nil {
			_ = k.Close(t.Context())
		}
		if fault.KindOf(err) != fault.Usage || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
