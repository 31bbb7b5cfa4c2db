package main

// kafkaNotReady tells why the relay cannot be ready yet: one that stands by is
// of no use with a cluster that has never answered. Once it has, progress is
// what counts.
func (p *process) kafkaNotReady() string {
	select {
	case <-p.connected:
		return ""
	default:
	}
	if last := p.kafka.Stats().LastError; last != "" {
		return "kafka has not taken us in yet: " + last
	}
	return "kafka has not taken us in yet"
}
