package devtest

import (
	"os"
	"strings"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
)

func TestMain(m *testing.M) {
	// Before anything looks for it.
	_ = os.Setenv("JAVA_HOME", "/nonexistent")
	os.Exit(m.Run())
}

// outcome is a test that is told to stop.
type outcome struct {
	testing.TB
	how string
	why []any
}

func (o *outcome) Helper()          {}
func (o *outcome) Skip(why ...any)  { o.stop("skip", why) }
func (o *outcome) Fatal(why ...any) { o.stop("fatal", why) }
func (o *outcome) stop(how string, why []any) {
	o.how, o.why = how, why
	panic(o)
}

func TestKafkaWithoutJava(t *testing.T) {
	for require, want := range map[string]string{"": "skip", "1": "fatal"} {
		t.Setenv(RequireKafka, require)
		o := &outcome{TB: t}
		func() {
			defer func() { _ = recover() }()
			Kafka(o, devenv.KafkaOptions{})
		}()
		if o.how != want {
			t.Errorf("with %s=%q the test ends by %q, want %q", RequireKafka, require, o.how, want)
		}
		if len(o.why) != 1 || !strings.Contains(o.why[0].(error).Error(), "/nonexistent/bin/java") {
			t.Errorf("it says %v", o.why)
		}
	}
}

func TestServersEndWithTheTest(t *testing.T) {
	var dir string
	t.Run("inner", func(t *testing.T) {
		dir = Postgres(t, devenv.PostgresOptions{}).DataDir()
		if len(Kfake(t, devenv.KfakeOptions{}).Addrs()) != 1 {
			t.Error("no kfake")
		}
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	})
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is still there", dir)
	}
}
