package main

import "time"

// Config is everything that can be set. One tree serves the YAML file, the
// environment, the command line and their help: a field's YAML key is its name
// tag with underscores, its variable OUTBOX_CDC_ and the path in capitals, its
// flag the path with dashes.
//
// Besides kong's tags (name, prefix, group, help, default, placeholder; hidden
// where there is nothing to choose yet) a field may have
//
//	allowed  the values there are, comma separated, the empty one too; default any
//	built    those of them that work so far; default all of them
//	fileof   the sibling secret whose value this field's file holds
//	secret   the value is never printed
type Config struct {
	Postgres    PostgresConfig    `embed:"" prefix:"postgres-" group:"Postgres:"`
	Table       TableConfig       `embed:"" prefix:"table-" group:"Outbox table:"`
	Message     string            `name:"message-prefix" hidden:"" group:"Outbox table:" built:"" help:"Prefix of pg_logical_emit_message messages to read as a second source; empty: off. Not built yet."`
	Route       RouteConfig       `embed:"" prefix:"route-" group:"Record:"`
	Format      string            `name:"format" group:"Record:" default:"cloudevents-binary" allowed:"cloudevents-binary,cloudevents-structured,plain,debezium" built:"cloudevents-binary,plain" help:"How an event becomes a record: cloudevents-binary or plain."`
	CloudEvents CloudEventsConfig `embed:"" prefix:"cloudevents-" group:"Record:"`
	Headers     HeadersConfig     `embed:"" prefix:"headers-" group:"Record:"`
	Kafka       KafkaConfig       `embed:"" prefix:"kafka-" group:"Kafka:"`

	Delivery        string `name:"delivery" group:"Delivery:" default:"at_least_once" allowed:"at_least_once,exactly_once" built:"at_least_once" help:"Promise to consumers: at_least_once."`
	OnPoison        string `name:"on-poison" group:"Delivery:" default:"stop" allowed:"stop,dead_letter" help:"What to do about an event that cannot be published: stop (exit code 3), or dead_letter."`
	OnSlotLost      string `name:"on-slot-lost" group:"Delivery:" default:"stop" allowed:"stop,recover" built:"stop" help:"What to do when the slot is lost: stop (exit code 4)."`
	DeadLetterTopic string `name:"dead-letter-topic" group:"Delivery:" default:"outbox.dead-letter" help:"Topic of events that cannot be published, with on_poison: dead_letter or --dead-letter-id."`

	Limits         LimitsConfig  `embed:"" prefix:"limits-" group:"Limits and times:"`
	StartupTimeout time.Duration `name:"startup-timeout" group:"Limits and times:" default:"0" help:"Give up when either side was not reached this long after the start (exit code 5); 0: never."`
	DrainTimeout   time.Duration `name:"drain-timeout" group:"Limits and times:" default:"10s" help:"How long SIGTERM waits for acknowledgements of what is in flight; 0: not at all."`
	Retention      time.Duration `name:"retention" hidden:"" group:"Limits and times:" default:"0" built:"0s" help:"Delete rows older than this; 0: never. Not built yet."`

	HTTP HTTPConfig `embed:"" prefix:"http-" group:"Operations:"`
	Log  LogConfig  `embed:"" prefix:"log-" group:"Operations:"`
}

// PostgresConfig is where the events come from.
type PostgresConfig struct {
	URL         string `name:"url" secret:"" help:"pgx connection string, such as postgres://relay@db:5432/app. Required." placeholder:"URL"`
	URLFile     string `name:"url-file" fileof:"url" help:"File that holds the connection string." placeholder:"PATH"`
	Slot        string `name:"slot" default:"outbox_cdc" help:"Logical replication slot."`
	Publication string `name:"publication" default:"outbox_cdc" help:"Publication of the outbox table."`
}

// TableConfig is the outbox table and which column means what.
type TableConfig struct {
	Name    string        `name:"name" default:"public.outbox" help:"Outbox table, schema.name, unquoted."`
	Preset  string        `name:"preset" hidden:"" default:"default" allowed:"default,debezium,python-outbox-core" built:"default" help:"Known table shape: default."`
	Columns ColumnsConfig `embed:"" prefix:"columns-"`
	Payload string        `name:"payload" hidden:"" default:"column" allowed:"column,row" built:"column" help:"What the value is made of: column."`
}

// ColumnsConfig names the columns. The first four must exist; the others are
// used when they do, and must exist when configured.
type ColumnsConfig struct {
	ID            string `name:"id" default:"id" help:"Column of the event's id."`
	Key           string `name:"key" default:"aggregate_id" help:"Column of the record key; events of one key keep their order."`
	Type          string `name:"type" default:"event_type" help:"Column of the event's type."`
	Payload       string `name:"payload" default:"payload" help:"Column of the record's value."`
	Timestamp     string `name:"timestamp" default:"occurred_at" help:"Column of the event's time."`
	Headers       string `name:"headers" default:"headers" help:"Column with a JSON object of more headers."`
	Source        string `name:"source" default:"source" help:"Column of the event's source."`
	Subject       string `name:"subject" help:"Column of the event's subject; empty: the key." placeholder:"COLUMN"`
	CorrelationID string `name:"correlation-id" default:"correlation_id" help:"Column of the correlation id."`
	CausationID   string `name:"causation-id" default:"causation_id" help:"Column of the causation id."`
	DataVersion   string `name:"data-version" default:"data_version" help:"Column of the payload's schema version."`
	Traceparent   string `name:"traceparent" default:"traceparent" help:"Column of the W3C trace context."`
	Partition     string `name:"partition" hidden:"" built:"" help:"Column of the partition number. Not built yet." placeholder:"COLUMN"`
	Order         string `name:"order" help:"Column that orders recovered rows; empty: the timestamp." placeholder:"COLUMN"`
}

// RouteConfig chooses the topic.
type RouteConfig struct {
	Topic string `name:"topic" default:"outbox.event.{aggregate_type}" help:"Topic; {column} stands for a column's value."`
}

// CloudEventsConfig is what CloudEvents ask for besides the row.
type CloudEventsConfig struct {
	Source     string            `name:"source" help:"ce_source of events whose row has none; default postgres://host/database/table." placeholder:"URI"`
	Attributes map[string]string `name:"attributes" help:"Static extension attributes, name=value, comma separated." placeholder:"NAME=VALUE,..."`
}

// HeadersConfig adds record headers.
type HeadersConfig struct {
	Extra []string `name:"extra" help:"More headers from columns: column or column:header, comma separated." placeholder:"COLUMN[:NAME]"`
}

// KafkaConfig is where the events go.
type KafkaConfig struct {
	Brokers      []string           `name:"brokers" default:"localhost:9092" help:"Bootstrap brokers, host:port, comma separated."`
	Compression  string             `name:"compression" default:"none" allowed:"none,gzip,lz4,zstd,snappy" help:"Compression of record batches: none, gzip, lz4, zstd or snappy. Check first what your consumers can read."`
	TLS          TLSConfig          `embed:"" prefix:"tls-"`
	SASL         SASLConfig         `embed:"" prefix:"sasl-"`
	CreateTopics CreateTopicsConfig `embed:"" prefix:"create-topics-"`
}

// TLSConfig is the connection's encryption. The files are PEM.
type TLSConfig struct {
	Enabled            bool   `name:"enabled" help:"Connect to the brokers by TLS."`
	CAFile             string `name:"ca-file" help:"File with the authorities to trust; empty: the system's." placeholder:"PATH"`
	CertFile           string `name:"cert-file" help:"File with the client certificate." placeholder:"PATH"`
	KeyFile            string `name:"key-file" help:"File with the client certificate's private key." placeholder:"PATH"`
	ServerName         string `name:"server-name" help:"Name to expect in the brokers' certificates; empty: the host connected to." placeholder:"HOST"`
	InsecureSkipVerify bool   `name:"insecure-skip-verify" help:"Do not verify the brokers' certificates. For trials only."`
}

// SASLConfig is how to authenticate to the brokers.
type SASLConfig struct {
	Mechanism    string `name:"mechanism" allowed:",PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER" built:",PLAIN,SCRAM-SHA-256,SCRAM-SHA-512" help:"PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty: no SASL." placeholder:"NAME"`
	Username     string `name:"username" help:"User name." placeholder:"NAME"`
	Password     string `name:"password" secret:"" help:"Password. A flag is visible to other users of the machine: prefer the file." placeholder:"SECRET"`
	PasswordFile string `name:"password-file" fileof:"password" help:"File that holds the password." placeholder:"PATH"`
}

// CreateTopicsConfig is how topics are made that do not exist; zeros leave it to the broker.
type CreateTopicsConfig struct {
	Partitions        int `name:"partitions" default:"0" help:"Partitions of topics that the relay creates; 0: leave creation to the broker."`
	ReplicationFactor int `name:"replication-factor" default:"0" help:"Replicas of topics that the relay creates; 0: the broker's default."`
}

// LimitsConfig bounds what was read and is not yet acknowledged.
type LimitsConfig struct {
	InFlightBytes  Size `name:"in-flight-bytes" default:"16MiB" help:"Bytes in flight, each event's overhead included, such as 16MiB."`
	InFlightEvents int  `name:"in-flight-events" default:"50000" help:"Events in flight."`
}

// HTTPConfig is the operator's HTTP server.
type HTTPConfig struct {
	Listen string `name:"listen" default:"127.0.0.1:8099" help:"Address of /healthz, /readyz, /metrics and /api/status; empty: none."`
}

// LogConfig is what is written to standard error.
type LogConfig struct {
	Level  string `name:"level" default:"info" allowed:"debug,info,warn,error" help:"debug, info, warn or error."`
	Format string `name:"format" default:"json" allowed:"json,text" help:"json or text."`
}
