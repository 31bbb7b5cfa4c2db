package sink

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/IBM/sarama"
	"github.com/rcrowley/go-metrics"
)

// KafkaConfig is what the sink needs to know of the cluster.
type KafkaConfig struct {
	// Brokers are host:port of one or more brokers to begin with; the port is
	// 9092 unless said.
	Brokers []string
	// ClientID is what the brokers' logs and quotas call the relay. Default "outbox-cdc".
	ClientID string
	// Compression is "none", the default, "gzip", "lz4", "zstd" or "snappy".
	Compression string
	TLS         TLSConfig
	SASL        SASLConfig
	// RereadSASL returns the password as it is now, where it comes from a file;
	// optional. It is asked before each connection. After an error the last one stays.
	RereadSASL   func() (string, error)
	CreateTopics CreateTopics
	DeadLetters  DeadLetters
	// Log receives one line per change of state, and one per 5 s of trouble.
	// Default discards.
	Log *slog.Logger
}

// TLSConfig says how to encrypt; the files hold PEM.
type TLSConfig struct {
	Enabled            bool
	CAFile             string // who is trusted; "" is the system's authorities
	CertFile, KeyFile  string // the client's own, for listeners that want one
	ServerName         string // the name that the certificate must have; "" is the broker's host
	InsecureSkipVerify bool   // trust any certificate: for tests only
}

// SASLConfig says how to log in. It prints without the password.
type SASLConfig struct {
	Mechanism string // "": none; "PLAIN", "SCRAM-SHA-256" or "SCRAM-SHA-512"
	User      string
	Password  string `json:"-" yaml:"-"`
}

// String omits the password.
func (s SASLConfig) String() string {
	if s.Mechanism == "" {
		return "none"
	}
	return s.Mechanism + " as " + s.User
}

// GoString omits the password.
func (s SASLConfig) GoString() string { return "sink.SASLConfig(" + s.String() + ")" }

// LogValue omits the password.
func (s SASLConfig) LogValue() slog.Value { return slog.StringValue(s.String()) }

// CreateTopics says how to create topics that do not exist.
type CreateTopics struct {
	Partitions        int32 // 0: leave it to the brokers' auto.create.topics.enable
	ReplicationFactor int16 // 0: the brokers' default
}

// withDefaults returns the configuration with every zero replaced, or what is wrong with it.
func (c KafkaConfig) withDefaults() (KafkaConfig, error) {
	c.ClientID = cmp.Or(c.ClientID, "outbox-cdc")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if len(c.Brokers) == 0 {
		return c, usage(errors.New("kafka.brokers is not set"), "set OUTBOX_CDC_KAFKA_BROKERS, --kafka-brokers or kafka.brokers, such as localhost:9092")
	}
	brokers := make([]string, len(c.Brokers))
	for i, b := range c.Brokers {
		address, ok := brokerAddress(b)
		if !ok {
			return c, usage(fmt.Errorf("kafka.brokers: %q is not host:port", b), "such as localhost:9092, or several of them separated by commas")
		}
		brokers[i] = address
	}
	c.Brokers = brokers
	if _, ok := codecOf(c.Compression); !ok {
		return c, usage(fmt.Errorf("kafka.compression %q does not exist", c.Compression), "use none, gzip, lz4, zstd or snappy")
	}
	if c.CreateTopics.Partitions < 0 || c.CreateTopics.ReplicationFactor < 0 {
		return c, usage(errors.New("kafka.create_topics.partitions or kafka.create_topics.replication_factor is negative"), "0 leaves it to the brokers")
	}
	if c.CreateTopics.Partitions == 0 && c.CreateTopics.ReplicationFactor > 0 {
		return c, usage(errors.New("kafka.create_topics.replication_factor is set without partitions"), "set kafka.create_topics.partitions as well")
	}
	if d := c.DeadLetters; d.Topic == "" && (d.All || len(d.Only) > 0) {
		return c, usage(errors.New("dead_letter_topic is empty"), "name the topic for events that cannot be published, such as outbox.dead-letter")
	}
	if !c.TLS.Enabled && c.TLS != (TLSConfig{}) {
		return c, usage(errors.New("TLS has settings, but is not enabled"), "set kafka.tls.enabled")
	}
	return c, c.SASL.check()
}

// brokerAddress returns a broker as host:port; the port may be left out.
func brokerAddress(s string) (address string, ok bool) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), "9092"
	}
	if strings.Contains(host, ":") { // only an IPv6 address does
		if _, err := netip.ParseAddr(host); err != nil {
			return "", false
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return net.JoinHostPort(host, port), err == nil && n > 0 && strings.TrimSpace(host) != "" && !strings.ContainsAny(s, "/@ ")
}

func (s SASLConfig) check() error {
	switch s.Mechanism {
	case "":
		if s != (SASLConfig{}) {
			return usage(errors.New("SASL has settings, but no mechanism"), "set kafka.sasl.mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
		}
		return nil
	case sarama.SASLTypePlaintext, sarama.SASLTypeSCRAMSHA256, sarama.SASLTypeSCRAMSHA512:
	case sarama.SASLTypeOAuth:
		return usage(errors.New("kafka.sasl.mechanism OAUTHBEARER is not built yet"), "use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
	default:
		return usage(fmt.Errorf("kafka.sasl.mechanism %q does not exist", s.Mechanism), "use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
	}
	if s.User == "" || s.Password == "" {
		return usage(errors.New("SASL wants a user and a password"), "set kafka.sasl.username and kafka.sasl.password_file")
	}
	return nil
}

func codecOf(name string) (sarama.CompressionCodec, bool) {
	switch name {
	case "", "none":
		return sarama.CompressionNone, true
	case "gzip":
		return sarama.CompressionGZIP, true
	case "lz4":
		return sarama.CompressionLZ4, true
	case "zstd":
		return sarama.CompressionZSTD, true
	case "snappy":
		return sarama.CompressionSnappy, true
	}
	return 0, false
}

// sarama returns the configuration of sarama's connections.
func (c KafkaConfig) sarama(tune tuning, d *dialer) (*sarama.Config, error) {
	conf := sarama.NewConfig()
	conf.ClientID = c.ClientID
	conf.Version = sarama.MaxVersion // an upper bound: each request's version is what the broker knows too
	conf.MetricRegistry = noMetrics{}
	conf.Net.DialTimeout, conf.Net.ReadTimeout, conf.Net.WriteTimeout = tune.dialTimeout, tune.readTimeout, tune.readTimeout
	conf.Net.Proxy.Enable, conf.Net.Proxy.Dialer = true, d
	if c.TLS.Enabled {
		tc, err := c.TLS.load()
		if err != nil {
			return nil, err
		}
		conf.Net.TLS.Enable, conf.Net.TLS.Config = true, tc
	}
	if c.SASL.Mechanism != "" {
		s := &conf.Net.SASL
		s.Enable, s.Handshake, s.Version = true, true, sarama.SASLHandshakeV1
		s.Mechanism, s.User, s.Password = sarama.SASLMechanism(c.SASL.Mechanism), c.SASL.User, c.SASL.Password
		s.SCRAMClientGeneratorFunc = newSCRAM(c.SASL.Mechanism)
	}
	if err := conf.Validate(); err != nil {
		return nil, usage(err, "")
	}
	return conf, nil
}

// noMetrics stands in for sarama's registry, which would grow with each topic
// and broker, and spend time on each request.
type noMetrics struct{ metrics.Registry }

// GetOrRegister returns a metric that does nothing.
func (noMetrics) GetOrRegister(_ string, kind any) any {
	switch kind.(type) {
	case func() metrics.Meter:
		return metrics.NilMeter{}
	case func() metrics.Counter:
		return metrics.NilCounter{}
	default:
		return metrics.NilHistogram{}
	}
}

// Unregister does nothing.
func (noMetrics) Unregister(string) {}
