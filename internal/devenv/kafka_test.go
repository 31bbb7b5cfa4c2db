//go:build unix

package devenv

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

func kafka(t *testing.T, opts KafkaOptions) *Kafka {
	t.Helper()
	k, err := StartKafka(t.Context(), opts)
	if errors.Is(err, ErrNoJava) && os.Getenv("OUTBOX_CDC_REQUIRE_KAFKA") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(k.Log())
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// clientConfig has patience for half a minute. A broker that is killed was
// perhaps the active controller: then a new one is elected first, gives the
// lost broker a session of its own to come back, and only then names leaders.
func clientConfig() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.V3_6_0_0
	c.Producer.Return.Successes = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Retry.Max = 300
	c.Producer.Retry.Backoff = 100 * time.Millisecond
	c.Metadata.Retry.Max = 300
	c.Metadata.Retry.Backoff = 100 * time.Millisecond
	return c
}

// produce sends one record and returns when the brokers have it.
func produce(brokers []string, config *sarama.Config, topic, value string) error {
	producer, err := sarama.NewSyncProducer(brokers, config)
	if err != nil {
		return err
	}
	_, _, err = producer.SendMessage(&sarama.ProducerMessage{
		Topic: topic, Value: sarama.StringEncoder(value),
	})
	return errors.Join(err, producer.Close())
}

// consume reads n records of the topic, from all of its partitions.
func consume(t *testing.T, brokers []string, config *sarama.Config, topic string, n int) []string {
	t.Helper()
	consumer, err := sarama.NewConsumer(brokers, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = consumer.Close() }()
	partitions, err := consumer.Partitions(topic)
	if err != nil {
		t.Fatal(err)
	}
	records := make(chan string, n)
	for _, partition := range partitions {
		pc, err := consumer.ConsumePartition(topic, partition, sarama.OffsetOldest)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = pc.Close() }()
		go func() {
			for record := range pc.Messages() {
				records <- string(record.Value)
			}
		}()
	}
	var got []string
	for range n {
		select {
		case value := <-records:
			got = append(got, value)
		case <-time.After(30 * time.Second):
			t.Fatalf("got %v, want %d records", got, n)
		}
	}
	slices.Sort(got)
	return got
}

func roundTrip(t *testing.T, brokers []string, config *sarama.Config, topic string) {
	t.Helper()
	for i := range 2 {
		if err := produce(brokers, config, topic, fmt.Sprint("value ", i)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := consume(t, brokers, config, topic, 2), []string{"value 0", "value 1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKfake(t *testing.T) {
	t.Parallel()
	k, err := StartKfake(KfakeOptions{Brokers: 2, Partitions: 5})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if got := len(k.Addrs()); got != 2 {
		t.Errorf("%d addresses, want 2", got)
	}
	roundTrip(t, k.Addrs(), clientConfig(), "events")
	if got := partitions(t, k.Addrs(), "events"); got != 5 {
		t.Errorf("%d partitions, want 5", got)
	}
}

func partitions(t *testing.T, brokers []string, topic string) int {
	t.Helper()
	client, err := sarama.NewClient(brokers, clientConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	list, err := client.Partitions(topic)
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestKafka(t *testing.T) {
	t.Parallel()
	k := kafka(t, KafkaOptions{Partitions: 4, Properties: map[string]string{"message.max.bytes": "1000"}})
	roundTrip(t, k.Brokers(), clientConfig(), "events")
	if got := partitions(t, k.Brokers(), "events"); got != 4 {
		t.Errorf("%d partitions, want 4", got)
	}
	err := produce(k.Brokers(), clientConfig(), "events", string(make([]byte, 2000)))
	if !errors.Is(err, sarama.ErrMessageSizeTooLarge) {
		t.Errorf("a record over message.max.bytes: %v, want %v", err, sarama.ErrMessageSizeTooLarge)
	}

	t.Run("pause", func(t *testing.T) {
		if err := k.Pause(1); err != nil {
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() { sent <- produce(k.Brokers(), clientConfig(), "events", "paused") }()
		select {
		case err := <-sent:
			t.Errorf("a paused broker took a record: %v", err)
		case <-time.After(500 * time.Millisecond): // long enough for any answer
		}
		if err := k.Continue(1); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
	t.Run("kill and start", func(t *testing.T) {
		if err := k.Kill(1); err != nil {
			t.Fatal(err)
		}
		if err := k.Start(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		want := []string{"paused", "value 0", "value 1"}
		if got := consume(t, k.Brokers(), clientConfig(), "events", 3); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	pid, dir := k.brokers[0].proc.pid, k.box.dir
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if alive(pid) || exists(dir) {
		t.Errorf("after Close: process there %t, directory there %t", alive(pid), exists(dir))
	}
	if k.Log() == "" {
		t.Error("no log after Close")
	}
	if err := k.Kill(2); err == nil {
		t.Error("Kill of a broker that does not exist: no error")
	}
}

func TestKafkaCluster(t *testing.T) {
	t.Parallel()
	k := kafka(t, KafkaOptions{Brokers: 3, Partitions: 1})
	roundTrip(t, k.Brokers(), clientConfig(), "events")
	if err := k.Kill(1); err != nil {
		t.Fatal(err)
	}
	// Two of three are in sync, and a quorum.
	if err := produce(k.Brokers(), clientConfig(), "events", "after the kill"); err != nil {
		t.Fatal(err)
	}
	if err := k.Start(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	want := []string{"after the kill", "value 0", "value 1"}
	if got := consume(t, k.Brokers(), clientConfig(), "events", 3); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKafkaSecurity(t *testing.T) {
	t.Parallel()
	const password = `s"ec\ret, =1]`
	k := kafka(t, KafkaOptions{TLS: true, Users: []KafkaUser{{"relay", password}, {"other", "x"}}})
	// The cache had it, as a rule: what a machine without one does is seen here.
	if err := k.format(t.Context(), t.TempDir()); err != nil {
		t.Error(err)
	}
	pem, err := os.ReadFile(k.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	trusting := func() *sarama.Config {
		c := clientConfig()
		c.Metadata.Retry.Max = 0
		c.Net.TLS.Enable = true
		c.Net.TLS.Config = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		return c
	}
	t.Run("TLS", func(t *testing.T) {
		roundTrip(t, k.TLSBrokers(), clientConfigWithRetry(trusting()), "tls")
		c := trusting()
		c.Net.TLS.Config = &tls.Config{MinVersion: tls.VersionTLS12}
		if err := produce(k.TLSBrokers(), c, "tls", "x"); err == nil {
			t.Error("a client that does not know the CA: no error")
		}
	})
	for _, mechanism := range []sarama.SASLMechanism{
		sarama.SASLTypePlaintext, sarama.SASLTypeSCRAMSHA256, sarama.SASLTypeSCRAMSHA512, sarama.SASLTypeOAuth,
	} {
		t.Run(string(mechanism), func(t *testing.T) {
			c := clientConfigWithRetry(withSASL(trusting(), mechanism, password))
			roundTrip(t, k.SASLBrokers(), c, "sasl-"+string(mechanism))
			if mechanism == sarama.SASLTypeOAuth {
				return // takes any token
			}
			err := produce(k.SASLBrokers(), withSASL(trusting(), mechanism, "wrong"), "sasl", "x")
			if !errors.Is(err, sarama.ErrSASLAuthenticationFailed) {
				t.Errorf("a wrong password: %v, want %v", err, sarama.ErrSASLAuthenticationFailed)
			}
		})
	}
}

// clientConfigWithRetry waits for topics that the broker is about to create.
func clientConfigWithRetry(c *sarama.Config) *sarama.Config {
	c.Metadata.Retry.Max = 50
	return c
}

func withSASL(c *sarama.Config, mechanism sarama.SASLMechanism, password string) *sarama.Config {
	c.Net.SASL.Enable = true
	c.Net.SASL.Mechanism = mechanism
	c.Net.SASL.User, c.Net.SASL.Password = "relay", password
	c.Net.SASL.TokenProvider = token{}
	c.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient {
		if mechanism == sarama.SASLTypeSCRAMSHA256 {
			return &scramClient{hash: scram.SHA256}
		}
		return &scramClient{hash: scram.SHA512}
	}
	return c
}

// token is an unsecured JSON Web Token for the relay.
type token struct{}

func (token) Token() (*sarama.AccessToken, error) {
	encode := base64.RawURLEncoding.EncodeToString
	claims := fmt.Sprintf(`{"sub":"relay","iat":%d,"exp":%d}`, time.Now().Unix(), time.Now().Add(time.Hour).Unix())
	return &sarama.AccessToken{Token: encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(claims)) + "."}, nil
}

type scramClient struct {
	hash scram.HashGeneratorFcn
	*scram.ClientConversation
}

func (s *scramClient) Begin(user, password, authzID string) error {
	client, err := s.hash.NewClient(user, password, authzID)
	if err == nil {
		s.ClientConversation = client.NewConversation()
	}
	return err
}
