package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
	"github.com/outbox-cdc/outbox-cdc/sink"
)

// relayConfig is the Postgres side. b, if there is one, says which columns are needed.
func (l *loaded) relayConfig(b *sink.Builder, log *slog.Logger) cdc.Config {
	table, _ := l.tableName() // validated
	c := cdc.Config{
		URL:            l.Postgres.URL,
		RereadURL:      rereader(l.Postgres.URLFile),
		Slot:           l.Postgres.Slot,
		Publication:    l.Postgres.Publication,
		Table:          table,
		StartupTimeout: l.StartupTimeout,
		DrainTimeout:   max(l.DrainTimeout, 1), // 0 is "not at all" to the user, and the default to cdc
		InFlightBytes:  int(l.Limits.InFlightBytes),
		InFlightEvents: l.Limits.InFlightEvents,
		Log:            log,
	}
	if b != nil {
		c.Columns, c.AskedBy = b.RequiredColumns(), b.AskedBy
	}
	return c
}

// tableName splits schema.name; the schema may be left out.
func (l *loaded) tableName() (cdc.Table, error) {
	schema, name, qualified := strings.Cut(l.Table.Name, ".")
	if !qualified {
		schema, name = "public", l.Table.Name
	}
	if schema == "" || name == "" || strings.Contains(name, ".") {
		return cdc.Table{}, errors.New("must be a name or schema.name")
	}
	return cdc.Table{Schema: schema, Name: name}, nil
}

// builder makes the mapping from rows to records.
func (l *loaded) builder() (*sink.Builder, error) {
	source := l.CloudEvents.Source
	if source == "" {
		var err error
		if source, err = l.relayConfig(nil, nil).Source(); err != nil {
			return nil, err
		}
	}
	c := l.Table.Columns
	return sink.NewBuilder(sink.RecordConfig{
		Columns: sink.Columns{
			ID: c.ID, Key: c.Key, Type: c.Type, Payload: c.Payload, Timestamp: c.Timestamp, Headers: c.Headers,
			Source: c.Source, Subject: c.Subject, CorrelationID: c.CorrelationID, CausationID: c.CausationID,
			DataVersion: c.DataVersion, Traceparent: c.Traceparent, Tracestate: sink.DefaultColumns().Tracestate,
		},
		Explicit:     l.explicitRoles(),
		Topic:        l.Route.Topic,
		Format:       l.Format,
		Source:       source,
		Attributes:   l.CloudEvents.Attributes,
		ExtraHeaders: l.Headers.Extra,
	})
}

// explicitRoles returns the keys of table.columns that were set and say what a
// record is made of. order belongs to recovery, and partition to nobody yet.
func (l *loaded) explicitRoles() []string {
	return slices.DeleteFunc(l.explicit("table.columns"), func(key string) bool { return key == "order" || key == "partition" })
}

// kafka makes the Kafka side. It has to be closed.
func (l *loaded) kafka(b *sink.Builder, log *slog.Logger) (*sink.Kafka, error) {
	t, s, n := l.Kafka.TLS, l.Kafka.SASL, l.Kafka.CreateTopics
	if n.Partitions < 0 || n.Partitions > math.MaxInt32 || n.ReplicationFactor < 0 || n.ReplicationFactor > math.MaxInt16 {
		return nil, fault.New(fault.Usage, "read configuration",
			fmt.Errorf("kafka.create_topics: %d partitions with %d replicas are out of range", n.Partitions, n.ReplicationFactor), "")
	}
	return sink.NewKafka(sink.KafkaConfig{
		Brokers:     l.Kafka.Brokers,
		Compression: l.Kafka.Compression,
		TLS: sink.TLSConfig{Enabled: t.Enabled, CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile,
			ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify},
		SASL:         sink.SASLConfig{Mechanism: s.Mechanism, User: s.Username, Password: s.Password},
		RereadSASL:   rereader(s.PasswordFile),
		CreateTopics: sink.CreateTopics{Partitions: int32(n.Partitions), ReplicationFactor: int16(n.ReplicationFactor)},
		DeadLetters:  sink.DeadLetters{Topic: l.DeadLetterTopic, All: l.OnPoison == "dead_letter", Only: l.deadLetterIDs},
		Log:          log,
	}, b)
}
