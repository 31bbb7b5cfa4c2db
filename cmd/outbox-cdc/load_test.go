package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// given is a configuration's input as a user has it.
type given struct {
	yaml string
	env  []string
	args []string
}

// loadGiven loads as a command does, with a grammar that has nothing but the settings.
func loadGiven(t *testing.T, g given) (*loaded, error) {
	t.Helper()
	if g.yaml != "" {
		g.args = append(g.args, "--config", writeFile(t, "relay.yaml", g.yaml))
	}
	var grammar struct{ configFlags }
	a := &app{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}, environ: g.env}
	parser, err := a.parser(t.Context(), &grammar, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	line, err := parser.Parse(g.args)
	if err != nil {
		return nil, err
	}
	return grammar.load(t.Context(), a, line, bothSides)
}

func mustLoad(t *testing.T, g given) *loaded {
	t.Helper()
	l, err := loadGiven(t, g)
	if err != nil {
		t.Fatalf("load %+v: %v", g, err)
	}
	return l
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// inYAML writes one setting as a file has it.
func inYAML(key, value string) string {
	var b strings.Builder
	parts := strings.Split(key, ".")
	for depth, part := range parts {
		b.WriteString(strings.Repeat("  ", depth) + part + ":")
		if depth < len(parts)-1 {
			b.WriteString("\n")
		}
	}
	return b.String() + " " + value + "\n"
}

// sample returns two valid values of a setting, as text and as YAML, that are
// not its default where there is a choice.
func sample(t *testing.T, s setting) (texts, yamls [2]string) {
	t.Helper()
	if built := choices(s, "built"); built != nil {
		last := built[len(built)-1]
		return [2]string{last, built[0]}, [2]string{quoted(last), quoted(built[0])}
	}
	if allowed := choices(s, "allowed"); allowed != nil {
		last := allowed[len(allowed)-1]
		return [2]string{last, allowed[0]}, [2]string{last, allowed[0]}
	}
	switch reflect.Zero(s.Type).Interface().(type) {
	case bool:
		return [2]string{"true", "false"}, [2]string{"true", "false"}
	case int:
		return [2]string{"7", "8"}, [2]string{"7", "8"}
	case Size:
		return [2]string{"3MiB", "4096"}, [2]string{"3MiB", "4096"}
	case time.Duration:
		return [2]string{"3s", "1m30s"}, [2]string{"3s", "1m30s"}
	case []string:
		return [2]string{"a:1,b:2", "c:3"}, [2]string{"[a:1, 'b:2']", "\n    - c:3"}
	case map[string]string:
		return [2]string{"a=1,b=x", "c=2"}, [2]string{"{a: 1, b: x}", "{c: 2}"}
	}
	if s.FileOf() != "" {
		one, two := writeFile(t, "one", "first\n"), writeFile(t, "two", "second\n")
		return [2]string{one, two}, [2]string{one, two}
	}
	return [2]string{"one_value", "another"}, [2]string{"one_value", "another"}
}

func quoted(s string) string { return fmt.Sprintf("%q", s) }

// TestEverySettingFromEverySource sets each setting by each source alone and by
// each pair of sources, of which the higher has to win.
func TestEverySettingFromEverySource(t *testing.T) {
	t.Parallel()
	base := mustLoad(t, given{})
	for _, s := range settings() {
		t.Run(s.Key, func(t *testing.T) {
			t.Parallel()
			texts, yamls := sample(t, s)
			want := [2]reflect.Value{reflect.New(s.Type).Elem(), reflect.New(s.Type).Elem()}
			for i := range want {
				if err := setText(want[i], texts[i]); err != nil {
					t.Fatal(err)
				}
			}
			if len(choices(s, "built")) != 1 && reflect.DeepEqual(want[0].Interface(), s.In(&base.Config).Interface()) {
				t.Fatalf("the sample %q is the default and proves nothing", texts[0])
			}
			env := func(i int) []string { return []string{s.Env() + "=" + texts[i]} }
			flag := func(i int) []string { return []string{"--" + s.Flag() + "=" + texts[i]} }
			for name, tc := range map[string]struct {
				given
				origin string
			}{
				"file":                  {given{yaml: inYAML(s.Key, yamls[0])}, "relay.yaml line "},
				"environment":           {given{env: env(0)}, s.Env()},
				"flag":                  {given{args: flag(0)}, "--" + s.Flag()},
				"environment over file": {given{yaml: inYAML(s.Key, yamls[1]), env: env(0)}, s.Env()},
				"flag over environment": {given{env: env(1), args: flag(0)}, "--" + s.Flag()},
				"flag over file":        {given{yaml: inYAML(s.Key, yamls[1]), args: flag(0)}, "--" + s.Flag()},
			} {
				l := mustLoad(t, tc.given)
				if got := s.In(&l.Config).Interface(); !reflect.DeepEqual(got, want[0].Interface()) {
					t.Errorf("%s: got %v, want %v", name, got, want[0])
				}
				if got := l.Origin[s.Key]; !strings.Contains(got, tc.origin) {
					t.Errorf("%s: origin %q, want %q", name, got, tc.origin)
				}
			}
		})
	}
}

// TestDefaults holds the defaults to those that are documented.
func TestDefaults(t *testing.T) {
	t.Parallel()
	l := mustLoad(t, given{})
	want := map[string]any{
		"postgres.url": "", "postgres.slot": "outbox_cdc", "postgres.publication": "outbox_cdc",
		"table.name": "public.outbox", "table.preset": "default", "table.payload": "column",
		"table.columns.id": "id", "table.columns.key": "aggregate_id", "table.columns.type": "event_type",
		"table.columns.payload": "payload", "table.columns.timestamp": "occurred_at", "table.columns.headers": "headers",
		"table.columns.source": "source", "table.columns.subject": "", "table.columns.correlation_id": "correlation_id",
		"table.columns.causation_id": "causation_id", "table.columns.data_version": "data_version",
		"table.columns.traceparent": "traceparent", "table.columns.partition": "", "table.columns.order": "",
		"message_prefix": "", "route.topic": "outbox.event.{aggregate_type}", "format": "cloudevents-binary",
		"cloudevents.source": "", "kafka.brokers": []string{"localhost:9092"}, "kafka.compression": "none",
		"kafka.tls.enabled": false, "kafka.sasl.mechanism": "",
		"kafka.create_topics.partitions": 0, "kafka.create_topics.replication_factor": 0,
		"delivery": "at_least_once", "on_poison": "stop", "on_slot_lost": "stop", "dead_letter_topic": "outbox.dead-letter",
		"limits.in_flight_bytes": Size(16 << 20), "limits.in_flight_events": 50000,
		"startup_timeout": time.Duration(0), "drain_timeout": 10 * time.Second, "retention": time.Duration(0),
		"http.listen": "127.0.0.1:8099", "log.level": "info", "log.format": "json",
	}
	for key, value := range want {
		s, ok := lookup(key)
		if !ok {
			t.Errorf("there is no setting %s", key)
			continue
		}
		if got := s.In(&l.Config).Interface(); !reflect.DeepEqual(got, value) {
			t.Errorf("%s is %v by default, want %v", key, got, value)
		}
	}
	if len(l.Warnings) != 0 || len(l.Origin) != 0 {
		t.Errorf("warnings %v, origins %v", l.Warnings, l.Origin)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	empty, lines := writeFile(t, "empty", "\n"), writeFile(t, "lines", "secret\nmore\n")
	for name, tc := range map[string]struct {
		given
		cause, hint string
	}{
		"exactly_once":     {given{yaml: "delivery: exactly_once"}, "delivery: exactly_once (", "use at_least_once"},
		"recover":          {given{yaml: "on_slot_lost: recover"}, "on_slot_lost: recover", "use stop"},
		"retention":        {given{yaml: "retention: 24h"}, "retention: 24h0m0s", "use 0s"},
		"message_prefix":   {given{yaml: "message_prefix: outbox"}, "message_prefix: outbox", "empty"},
		"preset":           {given{yaml: "table: {preset: debezium}"}, "table.preset: debezium", "use default"},
		"payload":          {given{yaml: "table: {payload: row}"}, "table.payload: row", "use column"},
		"structured":       {given{yaml: "format: cloudevents-structured"}, "format: cloudevents-structured", "use cloudevents-binary or plain"},
		"debezium format":  {given{yaml: "format: debezium"}, "format: debezium", "use cloudevents-binary or plain"},
		"oauth":            {given{yaml: "kafka: {sasl: {mechanism: OAUTHBEARER}}"}, "kafka.sasl.mechanism: OAUTHBEARER", "SCRAM-SHA-512"},
		"partition column": {given{yaml: "table: {columns: {partition: p}}"}, "table.columns.partition: p", "empty"},

		"on_poison":      {given{args: []string{"--on-poison=foo"}}, `on_poison is "foo" (--on-poison)`, "use stop or dead_letter"},
		"format":         {given{yaml: "format: avro"}, `format is "avro"`, "use cloudevents-binary or plain; not built yet: cloudevents-structured, debezium"},
		"compression":    {given{yaml: "kafka: {compression: brotli}"}, `kafka.compression is "brotli"`, "use none, gzip, lz4, zstd or snappy"},
		"log level":      {given{yaml: "log: {level: loud}"}, `log.level is "loud"`, "debug, info, warn or error"},
		"no bytes":       {given{yaml: "limits: {in_flight_bytes: 0}"}, "limits.in_flight_bytes", "16MiB"},
		"no events":      {given{yaml: "limits: {in_flight_events: 0}"}, "limits.in_flight_events", "50000"},
		"no brokers":     {given{env: []string{"OUTBOX_CDC_KAFKA_BROKERS="}}, "kafka.brokers (OUTBOX_CDC_KAFKA_BROKERS) must name", "localhost:9092"},
		"table name":     {given{yaml: "table: {name: a.b.c}"}, "table.name", "public.outbox"},
		"empty variable": {given{env: []string{"OUTBOX_CDC_DRAIN_TIMEOUT="}}, `drain_timeout (OUTBOX_CDC_DRAIN_TIMEOUT) is ""`, "expected a duration"},
		"size variable":  {given{env: []string{"OUTBOX_CDC_LIMITS_IN_FLIGHT_BYTES=16 apples"}}, `limits.in_flight_bytes (OUTBOX_CDC_LIMITS_IN_FLIGHT_BYTES) is "16 apples"`, "expected a size"},

		"unknown key":           {given{yaml: "postgres:\n  url: x\n  slto: y"}, `line 3: unknown key "postgres.slto"`, `"postgres.slot"`},
		"unknown section":       {given{yaml: "\npostgress: {url: x}"}, `line 2: unknown key "postgress"`, `"postgres"`},
		"key at another level":  {given{yaml: "brokers: [a]"}, `line 1: unknown key "brokers"`, `"kafka.brokers"`},
		"unknown nested":        {given{yaml: "kafka:\n  tls:\n    cafile: x"}, `line 3: unknown key "kafka.tls.cafile"`, `"kafka.tls.ca_file"`},
		"same key twice":        {given{yaml: "format: plain\nformat: plain"}, `line 2: `, "YAML"},
		"not YAML":              {given{yaml: "postgres: {url: x"}, "line 1: ", "YAML"},
		"two documents":         {given{yaml: "format: plain\n---\nformat: plain"}, "line 3: a second document", "one document"},
		"a list at the top":     {given{yaml: "- a"}, "the file is a list", "a mapping"},
		"scalar for a section":  {given{yaml: "kafka: localhost:9092"}, `line 1: kafka is "localhost:9092"`, "brokers, compression, tls, sasl, create_topics"},
		"scalar for a list":     {given{yaml: "kafka:\n  brokers: localhost:9092"}, `line 2: kafka.brokers is "localhost:9092"`, "a list such as"},
		"list for text":         {given{yaml: "format: [plain]"}, "format is a list", "expected text"},
		"bool for text":         {given{yaml: "postgres: {slot: true}"}, "postgres.slot is true", "expected text"},
		"text for bool":         {given{yaml: "kafka: {tls: {enabled: 'true'}}"}, `kafka.tls.enabled is "true"`, "true or false"},
		"text for int":          {given{yaml: "limits: {in_flight_events: lots}"}, `limits.in_flight_events is "lots"`, "a whole number"},
		"negative":              {given{yaml: "limits: {in_flight_events: -1}"}, "limits.in_flight_events is -1", "0 or more"},
		"number for a duration": {given{yaml: "drain_timeout: 10"}, "drain_timeout is 10", "such as 10s"},
		"text for a size":       {given{yaml: "limits: {in_flight_bytes: big}"}, `limits.in_flight_bytes is "big"`, "16MiB"},
		"list in a mapping":     {given{yaml: "cloudevents: {attributes: {a: [1]}}"}, "cloudevents.attributes is a list", "a mapping such as"},
		"alias to nothing":      {given{yaml: "format: *nothing"}, "line 1: ", ""},

		"secret and file in the environment": {given{env: []string{"OUTBOX_CDC_POSTGRES_URL=x", "OUTBOX_CDC_POSTGRES_URL_FILE=/x"}},
			"postgres.url and postgres.url_file are both set (OUTBOX_CDC_POSTGRES_URL, OUTBOX_CDC_POSTGRES_URL_FILE)", "one of them"},
		"secret and file in flags":  {given{args: []string{"--postgres-url=x", "--postgres-url-file=/x"}}, "are both set", "one of them"},
		"password and file in YAML": {given{yaml: "kafka: {sasl: {password: x, password_file: /x}}"}, "kafka.sasl.password and kafka.sasl.password_file are both set", "one of them"},
		"secret file is missing":    {given{yaml: "postgres: {url_file: /nowhere/url}"}, "read postgres.url_file: open /nowhere/url", "line 1"},
		"secret file is empty":      {given{env: []string{"OUTBOX_CDC_KAFKA_SASL_PASSWORD_FILE=" + empty}}, "is empty", "OUTBOX_CDC_KAFKA_SASL_PASSWORD_FILE"},
		"secret file has two lines": {given{env: []string{"OUTBOX_CDC_KAFKA_SASL_PASSWORD_FILE=" + lines}}, "more than one line", "the secret alone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := loadGiven(t, tc.given)
			if err == nil {
				t.Fatal("accepted")
			}
			if fault.KindOf(err) != fault.Usage {
				t.Errorf("exit code %d, want 2", fault.KindOf(err))
			}
			if !strings.Contains(err.Error(), tc.cause) {
				t.Errorf("cause %q, want %q in it", err, tc.cause)
			}
			if !strings.Contains(fault.HintOf(err), tc.hint) {
				t.Errorf("hint %q, want %q in it", fault.HintOf(err), tc.hint)
			}
		})
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	t.Parallel()
	for name, yaml := range map[string]string{
		"wrong type": "kafka: {sasl: {password: true}}",
		"syntax":     "kafka:\n  sasl:\n    password: hunter2\n   oops: [",
		"unknown":    "kafka: {sasl: {pasword: hunter2}}",
	} {
		_, err := loadGiven(t, given{yaml: yaml})
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if text := err.Error() + fault.HintOf(err); strings.Contains(text, "hunter2") || strings.Contains(text, "true") {
			t.Errorf("%s: the message shows the secret: %s", name, text)
		}
	}
}

func TestSecretFiles(t *testing.T) {
	t.Parallel()
	url := writeFile(t, "url", "postgres://relay:p ss@db/app\r\n")
	file := "postgres: {url_file: " + url + "}"
	for name, tc := range map[string]struct {
		given
		want string
	}{
		"file":                    {given{yaml: file}, "postgres://relay:p ss@db/app"},
		"variable":                {given{env: []string{"OUTBOX_CDC_POSTGRES_URL_FILE=" + url}}, "postgres://relay:p ss@db/app"},
		"flag":                    {given{args: []string{"--postgres-url-file", url}}, "postgres://relay:p ss@db/app"},
		"value over file below":   {given{yaml: file, env: []string{"OUTBOX_CDC_POSTGRES_URL=postgres://other"}}, "postgres://other"},
		"file over value below":   {given{yaml: "postgres: {url: postgres://other}", env: []string{"OUTBOX_CDC_POSTGRES_URL_FILE=" + url}}, "postgres://relay:p ss@db/app"},
		"flag over both below":    {given{yaml: file, env: []string{"OUTBOX_CDC_POSTGRES_URL_FILE=" + url}, args: []string{"--postgres-url=postgres://flag"}}, "postgres://flag"},
		"value over a broken one": {given{yaml: "postgres: {url_file: /nowhere}", args: []string{"--postgres-url=postgres://flag"}}, "postgres://flag"},
	} {
		if got := mustLoad(t, tc.given).Postgres.URL; got != tc.want {
			t.Errorf("%s: url %q, want %q", name, got, tc.want)
		}
	}
}

func TestYAMLForms(t *testing.T) {
	t.Parallel()
	l := mustLoad(t, given{yaml: `
# comments, a null section and a null value leave the defaults
kafka:
  brokers: &b
    - one:9092
    - two:9092
  sasl:
    password: 0123456   # digits stay as they are
route:
cloudevents:
  attributes: {kongnamespace: "a", retries: 3, known: true}
headers:
  extra: ["tenant:x-tenant", region]
format:
table:
  columns:
    source: ""
    subject: |-
      subj
limits: {in_flight_bytes: 65536}
http: {listen: ""}
`})
	if got := l.Kafka.Brokers; !reflect.DeepEqual(got, []string{"one:9092", "two:9092"}) {
		t.Errorf("brokers %v", got)
	}
	if got := l.Kafka.SASL.Password; got != "0123456" {
		t.Errorf("password %q", got)
	}
	if got := l.CloudEvents.Attributes; !reflect.DeepEqual(got, map[string]string{"kongnamespace": "a", "retries": "3", "known": "true"}) {
		t.Errorf("attributes %v", got)
	}
	if got := l.Headers.Extra; !reflect.DeepEqual(got, []string{"tenant:x-tenant", "region"}) {
		t.Errorf("extra headers %v", got)
	}
	if l.Format != "cloudevents-binary" || l.Origin["format"] != "" {
		t.Errorf("format %q from %q", l.Format, l.Origin["format"])
	}
	if l.Limits.InFlightBytes != 64<<10 || l.HTTP.Listen != "" {
		t.Errorf("in_flight_bytes %v, listen %q", l.Limits.InFlightBytes, l.HTTP.Listen)
	}
	if got, want := l.explicit("table.columns"), []string{"source", "subject"}; !reflect.DeepEqual(got, want) {
		t.Errorf("explicit columns %v, want %v", got, want)
	}
}

func TestAlias(t *testing.T) {
	t.Parallel()
	l := mustLoad(t, given{yaml: "postgres: {slot: &name relay, publication: *name}"})
	if l.Postgres.Publication != "relay" {
		t.Errorf("publication %q", l.Postgres.Publication)
	}
}

func TestEnvironmentWarnings(t *testing.T) {
	t.Parallel()
	l := mustLoad(t, given{env: []string{
		"OUTBOX_CDC_POSTGRESURL=x", "OUTBOX_CDC_KAFKA_BROKER=x", "OUTBOX_CDC_PORT=8099",
		"OTHER=x", "OUTBOX_CDC_CONFIG=",
		// as Kubernetes injects them for Services named outbox-cdc and outbox-cdc-metrics
		"OUTBOX_CDC_SERVICE_HOST=10.0.0.1", "OUTBOX_CDC_SERVICE_PORT=8099", "OUTBOX_CDC_SERVICE_PORT_HTTP=8099",
		"OUTBOX_CDC_PORT=tcp://10.0.0.1:8099", "OUTBOX_CDC_PORT_8099_TCP=tcp://10.0.0.1:8099",
		"OUTBOX_CDC_PORT_8099_TCP_PROTO=tcp", "OUTBOX_CDC_PORT_8099_TCP_PORT=8099", "OUTBOX_CDC_PORT_8099_TCP_ADDR=10.0.0.1",
		"OUTBOX_CDC_METRICS_SERVICE_HOST=10.0.0.2", "OUTBOX_CDC_METRICS_PORT=tcp://10.0.0.2:80",
	}})
	var got []string
	for _, w := range l.Warnings {
		got = append(got, w.Text+"; "+w.Hint)
	}
	want := []string{
		"unknown environment variable OUTBOX_CDC_KAFKA_BROKER; the nearest known one is OUTBOX_CDC_KAFKA_BROKERS",
		"unknown environment variable OUTBOX_CDC_PORT; the nearest known one is OUTBOX_CDC_FORMAT",
		"unknown environment variable OUTBOX_CDC_POSTGRESURL; the nearest known one is OUTBOX_CDC_POSTGRES_URL",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
