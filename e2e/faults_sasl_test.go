package e2e_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// A broker that speaks SASL_SSL: the line runs with each mechanism, and what
// is wrong with a login is said at once.
func TestFaultSASL(t *testing.T) {
	t.Parallel()
	const password = `s3cret "\ =,;%`
	kafka := devtest.Kafka(t, devenv.KafkaOptions{Users: []devenv.KafkaUser{{Name: "relay", Password: password}}})
	stranger, err := devenv.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	otherCA := filepath.Join(t.TempDir(), "other.pem")
	if err := os.WriteFile(otherCA, stranger.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newStage(t, sharedPostgres(t, "17"), kafka.Brokers())
	common := append(s.env,
		"OUTBOX_CDC_KAFKA_BROKERS="+strings.Join(kafka.SASLBrokers(), ","),
		"OUTBOX_CDC_KAFKA_TLS_ENABLED=true", "OUTBOX_CDC_KAFKA_TLS_CA_FILE="+kafka.CAFile(),
		"OUTBOX_CDC_KAFKA_SASL_USERNAME=relay")
	with := func(env ...string) []string { return append(slices.Clip(common), env...) }

	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		s.env = with("OUTBOX_CDC_KAFKA_SASL_MECHANISM="+mechanism, "OUTBOX_CDC_KAFKA_SASL_PASSWORD="+password)
		r := s.run()
		l := s.write(2000, 1000)
		l.wait.Wait()
		records := s.finish(r)
		if repeats := rig.Repeats(t, records); repeats != 0 {
			t.Errorf("%s: %d repeats", mechanism, repeats)
		}
		if strings.Contains(r.Log()+r.Stdout(), "s3cret") {
			t.Errorf("%s: the password is in the output", mechanism)
		}
		t.Logf("%s: %d records in all", mechanism, len(records))
	}

	for _, test := range []struct {
		name string
		env  []string
		says []string
	}{
		{"wrong password, SCRAM", []string{"OUTBOX_CDC_KAFKA_SASL_MECHANISM=SCRAM-SHA-512", "OUTBOX_CDC_KAFKA_SASL_PASSWORD=s3cret-wrong"},
			[]string{"outbox-cdc: connect to kafka: ", "hint: check kafka.sasl", `user "relay"`, "SCRAM-SHA-512"}},
		{"wrong password, PLAIN", []string{"OUTBOX_CDC_KAFKA_SASL_MECHANISM=PLAIN", "OUTBOX_CDC_KAFKA_SASL_PASSWORD=s3cret-wrong"},
			[]string{"outbox-cdc: connect to kafka: ", "hint: check kafka.sasl", `user "relay"`, "PLAIN"}},
		{"unknown user", []string{"OUTBOX_CDC_KAFKA_SASL_MECHANISM=SCRAM-SHA-256", "OUTBOX_CDC_KAFKA_SASL_PASSWORD=" + password, "OUTBOX_CDC_KAFKA_SASL_USERNAME=nobody"},
			[]string{"outbox-cdc: connect to kafka: ", "hint: check kafka.sasl", `user "nobody"`}},
		{"no SASL", []string{"OUTBOX_CDC_KAFKA_SASL_USERNAME="},
			[]string{"outbox-cdc: connect to kafka: ", "hint: ", "kafka.sasl"}},
		{"unknown CA", []string{"OUTBOX_CDC_KAFKA_SASL_MECHANISM=SCRAM-SHA-256", "OUTBOX_CDC_KAFKA_SASL_PASSWORD=" + password, "OUTBOX_CDC_KAFKA_TLS_CA_FILE="},
			[]string{"outbox-cdc: connect to kafka: ", "unknown authority", "hint: ", "kafka.tls.ca_file"}},
		{"another CA", []string{"OUTBOX_CDC_KAFKA_SASL_MECHANISM=SCRAM-SHA-256", "OUTBOX_CDC_KAFKA_SASL_PASSWORD=" + password, "OUTBOX_CDC_KAFKA_TLS_CA_FILE=" + otherCA},
			[]string{"outbox-cdc: connect to kafka: ", "unknown authority", "hint: ", "kafka.tls.ca_file"}},
		{"another name", []string{"OUTBOX_CDC_KAFKA_SASL_MECHANISM=SCRAM-SHA-256", "OUTBOX_CDC_KAFKA_SASL_PASSWORD=" + password, "OUTBOX_CDC_KAFKA_TLS_SERVER_NAME=kafka.example.org"},
			[]string{"outbox-cdc: connect to kafka: ", "kafka.example.org", "hint: ", "kafka.tls.server_name"}},
		{"no TLS", []string{"OUTBOX_CDC_KAFKA_SASL_MECHANISM=SCRAM-SHA-256", "OUTBOX_CDC_KAFKA_SASL_PASSWORD=" + password, "OUTBOX_CDC_KAFKA_TLS_ENABLED=false", "OUTBOX_CDC_KAFKA_TLS_CA_FILE="},
			[]string{"outbox-cdc: connect to kafka: ", "speaks TLS", "hint: set kafka.tls"}},
		{"TLS to a plain port", []string{"OUTBOX_CDC_KAFKA_SASL_MECHANISM=SCRAM-SHA-256", "OUTBOX_CDC_KAFKA_SASL_PASSWORD=" + password, "OUTBOX_CDC_KAFKA_BROKERS=" + kafka.Brokers()[0]},
			[]string{"outbox-cdc: connect to kafka: ", "hint: remove kafka.tls"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := rig.Run(t, with(test.env...)...)
			began := time.Now()
			if code := r.Wait(20 * time.Second); code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			said := lastLines(r.Log(), 2)
			t.Logf("after %v\n%s", time.Since(began).Round(10*time.Millisecond), said)
			for _, want := range test.says {
				if !strings.Contains(said, want) {
					t.Errorf("lacks %q", want)
				}
			}
			if strings.Contains(r.Log()+r.Stdout(), "s3cret") {
				t.Error("the password is in the output")
			}
		})
	}
}
