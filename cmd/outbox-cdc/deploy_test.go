package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func readTree(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestVariablesInDeployments: a variable that a deployment file sets is one that the relay reads.
func TestVariablesInDeployments(t *testing.T) {
	t.Parallel()
	var known []string
	for _, s := range settings() {
		known = append(known, s.Env())
	}
	for _, file := range []string{"docker-compose.yml", "deploy/Dockerfile"} {
		found := regexp.MustCompile(`OUTBOX_CDC_[A-Z_]+`).FindAllString(readTree(t, file), -1)
		if len(found) == 0 {
			t.Errorf("%s sets nothing", file)
		}
		for _, name := range found {
			if !slices.Contains(known, name) {
				t.Errorf("%s sets %s, which is not a setting; the nearest is %s", file, name, nearest(name, known))
			}
		}
	}
}

func TestCompose(t *testing.T) {
	t.Parallel()
	var compose struct {
		Services map[string]struct {
			Image       string
			Build       struct{ Context, Dockerfile string }
			Command     []string
			Environment map[string]string
			Volumes     []string
			Ports       []string
			Healthcheck struct {
				Test     []string
				Interval string
				Retries  int
			}
			DependsOn       map[string]struct{ Condition string } `yaml:"depends_on"`
			Restart         string
			StopGracePeriod string `yaml:"stop_grace_period"`
		}
	}
	if err := yaml.UnmarshalWithOptions([]byte(readTree(t, "docker-compose.yml")), &compose, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	postgres, kafka, relay := compose.Services["postgres"], compose.Services["kafka"], compose.Services["relay"]
	if !strings.HasPrefix(postgres.Image, "postgres:") || !strings.HasPrefix(kafka.Image, "apache/kafka:") {
		t.Errorf("images %q and %q", postgres.Image, kafka.Image)
	}
	if !slices.Contains(postgres.Command, "wal_level=logical") {
		t.Errorf("postgres is started with %v: nothing could be decoded", postgres.Command)
	}
	for name, service := range compose.Services {
		for _, port := range service.Ports {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s: port %s is open to the network", name, port)
			}
		}
		for _, volume := range service.Volumes {
			path, _, _ := strings.Cut(volume, ":")
			readTree(t, path)
		}
		for other := range service.DependsOn {
			if _, ok := compose.Services[other]; !ok {
				t.Errorf("%s depends on %s, which is not there", name, other)
			}
		}
	}
	readTree(t, relay.Build.Dockerfile)
	l := mustLoad(t, given{env: environ(relay.Environment)})
	if err := l.requireURL(); err != nil || !strings.Contains(l.Postgres.URL, "@postgres:5432/") || !slices.Equal(l.Kafka.Brokers, []string{"kafka:9092"}) {
		t.Errorf("the relay would use %q and %v", l.Postgres.URL, l.Kafka.Brokers)
	}
	if !strings.Contains(kafka.Environment["KAFKA_ADVERTISED_LISTENERS"], "//kafka:9092") {
		t.Errorf("kafka advertises %q, which the relay does not reach", kafka.Environment["KAFKA_ADVERTISED_LISTENERS"])
	}
}

func environ(vars map[string]string) []string {
	var list []string
	for name, value := range vars {
		list = append(list, name+"="+value)
	}
	return list
}

// TestSchemaIsTheOneThatInitCreates keeps the copy for people and containers true.
func TestSchemaIsTheOneThatInitCreates(t *testing.T) {
	t.Parallel()
	if readTree(t, "testdata/schema.sql") != readTree(t, "cdc/schema.sql") {
		t.Error("testdata/schema.sql and cdc/schema.sql differ")
	}
}
