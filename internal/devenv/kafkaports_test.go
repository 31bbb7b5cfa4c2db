package devenv

import (
	"strings"
	"testing"
)

// Nobody listens at a port that was chosen and not yet bound: it may be offered again.
func TestKafkaPortsDiffer(t *testing.T) {
	calls := 0
	choosePort = func() (int, error) {
		calls++
		return 20000 + calls/2, nil
	}
	t.Cleanup(func() { choosePort = freePort })
	k := &Kafka{opts: KafkaOptions{TLS: true}, brokers: []*kafkaBroker{{id: 1}, {id: 2}}}
	if err := k.choosePorts(); err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, b := range k.brokers {
		for name, port := range b.ports {
			if seen[port] {
				t.Errorf("port %d of %s is that of another listener", port, name)
			}
			seen[port] = true
		}
	}
}

// Clients of the plain listener are sent where the option says, and only they.
func TestKafkaAdvertises(t *testing.T) {
	var own []string
	k := &Kafka{
		opts: KafkaOptions{TLS: true, Advertise: func(address string) string {
			own = append(own, address)
			return "127.0.0.1:1"
		}},
		box: &sandbox{}, brokers: []*kafkaBroker{{id: 1}},
	}
	if err := k.choosePorts(); err != nil {
		t.Fatal(err)
	}
	if len(own) != 1 || own[0] != k.Brokers()[0] {
		t.Errorf("the hook was told %q, want %q", own, k.Brokers())
	}
	if want := "advertised.listeners=PLAINTEXT://127.0.0.1:1,SSL://" + k.TLSBrokers()[0] + "\n"; !strings.Contains(k.properties(k.brokers[0]), want) {
		t.Errorf("the properties lack %q", want)
	}
	if _, err := StartKafka(t.Context(), KafkaOptions{Brokers: 2, Advertise: func(a string) string { return a }}); err == nil {
		t.Error("several brokers behind one address: no error")
	}
}
