package devenv

import "testing"

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
