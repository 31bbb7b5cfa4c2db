package main

import (
	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/sink"
)

// statusBody is the body of /api/status.
type statusBody struct {
	Version string           `json:"version"`
	Relay   relayStatus      `json:"relay"`
	Kafka   *sink.KafkaStats `json:"kafka,omitempty"` // absent with --stdout
}

// relayStatus is cdc.Stats with LSNs as Postgres writes them: as numbers they
// would be beyond what JavaScript can tell apart.
type relayStatus struct {
	cdc.Stats
	ReceivedLSN  string `json:"received_lsn"`
	ConfirmedLSN string `json:"confirmed_lsn"`
	ReportedLSN  string `json:"reported_lsn"`
	ServerWALEnd string `json:"server_wal_end"`
}

func (p *process) status() any {
	s := p.relay.Stats()
	body := statusBody{Version: readVersion().Version, Relay: relayStatus{
		Stats:       s,
		ReceivedLSN: s.ReceivedLSN.String(), ConfirmedLSN: s.ConfirmedLSN.String(),
		ReportedLSN: s.ReportedLSN.String(), ServerWALEnd: s.ServerWALEnd.String(),
	}}
	if p.kafka != nil {
		k := p.kafka.Stats()
		body.Kafka = &k
	}
	return body
}
