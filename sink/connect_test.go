package sink

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a certificate for localhost, 127.0.0.1 or other names, in PEM too.
func (a *authority) issue(tb testing.TB, expires time.Time, names ...string) (cert tls.Certificate, certPEM, keyPEM []byte) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: expires,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		tb.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	cert, err = tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		tb.Fatal(err)
	}
	return cert, certPEM, keyPEM
}

func writeFile(tb testing.TB, name string, data []byte) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// A refusal is told at once, with what to do about it; everything else is waited out.
func TestConnect(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	caFile, otherFile := writeFile(t, "ca.pem", ca.pem), writeFile(t, "other.pem", other.pem)
	good, _, _ := ca.issue(t, time.Now().Add(time.Hour), "127.0.0.1", "localhost")
	named, _, _ := ca.issue(t, time.Now().Add(time.Hour), "kafka.example.com")
	expired, _, _ := ca.issue(t, time.Now().Add(-time.Hour), "127.0.0.1")
	_, clientCert, clientKey := ca.issue(t, time.Now().Add(time.Hour), "client")
	certFile, keyFile := writeFile(t, "cert.pem", clientCert), writeFile(t, "key.pem", clientKey)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)

	server := func(cert tls.Certificate) []kfake.Opt {
		return []kfake.Opt{kfake.TLS(&tls.Config{Certificates: []tls.Certificate{cert}})}
	}
	mutual := []kfake.Opt{kfake.TLS(&tls.Config{Certificates: []tls.Certificate{good}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})}
	scram := func(opts ...kfake.Opt) []kfake.Opt {
		return append(opts, kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "relay", "right"), kfake.Superuser("PLAIN", "relay", "right"))
	}
	trust := TLSConfig{Enabled: true, CAFile: caFile}
	login := func(mechanism, password string) SASLConfig { return SASLConfig{mechanism, "relay", password} }

	for _, tc := range []struct {
		name   string
		server []kfake.Opt
		tls    TLSConfig
		sasl   SASLConfig
		want   string // of the error and its hint; "" connects
	}{
		{"plaintext", nil, TLSConfig{}, SASLConfig{}, ""},
		{"TLS", server(good), trust, SASLConfig{}, ""},
		{"TLS with another name", server(named), TLSConfig{Enabled: true, CAFile: caFile, ServerName: "kafka.example.com"}, SASLConfig{}, ""},
		{"TLS that trusts anybody", server(named), TLSConfig{Enabled: true, InsecureSkipVerify: true}, SASLConfig{}, ""},
		{"TLS of both sides", mutual, TLSConfig{Enabled: true, CAFile: caFile, CertFile: certFile, KeyFile: keyFile}, SASLConfig{}, ""},
		{"SCRAM over TLS", scram(server(good)...), trust, login("SCRAM-SHA-256", "right"), ""},
		{"PLAIN", scram(), TLSConfig{}, login("PLAIN", "right"), ""},

		{"an unknown authority", server(good), TLSConfig{Enabled: true, CAFile: otherFile}, SASLConfig{}, "kafka.tls.ca_file"},
		{"the system's authorities", server(good), TLSConfig{Enabled: true}, SASLConfig{}, "CN=test authority"},
		{"a certificate of another name", server(named), trust, SASLConfig{}, "kafka.tls.server_name"},
		{"an expired certificate", server(expired), trust, SASLConfig{}, "renew the broker's certificate"},
		{"no client certificate", mutual, trust, SASLConfig{}, "client certificate"},
		{"plaintext to a TLS port", server(good), TLSConfig{}, SASLConfig{}, "set kafka.tls.enabled"},
		{"TLS to a plaintext port", nil, trust, SASLConfig{}, "remove kafka.tls.enabled"},
		{"a wrong SCRAM password", scram(), TLSConfig{}, login("SCRAM-SHA-256", "wrong"), `user "relay"`},
		{"a wrong PLAIN password", scram(), TLSConfig{}, login("PLAIN", "wrong"), `user "relay"`},
		{"a mechanism that is not offered", scram(), TLSConfig{}, login("SCRAM-SHA-512", "right"), "offer SCRAM-SHA-512"},
		{"no SASL where it is demanded", scram(), TLSConfig{}, SASLConfig{}, "set kafka.sasl.mechanism"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, tc.server...)
			var log bytes.Buffer
			tune := quick()
			tune.readTimeout = 500 * time.Millisecond
			k := newSink(t, tune, KafkaConfig{
				Brokers: cluster.ListenAddrs(), TLS: tc.tls, SASL: tc.sasl, Log: slog.New(slog.NewTextHandler(&log, nil)),
			})
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			err := k.Connect(ctx)
			closeSink(t, k)
			if strings.Contains(log.String(), "right") || strings.Contains(log.String(), "wrong") || strings.Contains(fmt.Sprint(err), "wrong") {
				t.Errorf("the password is in the log or the error: %s %v", log.String(), err)
			}
			if tc.want == "" {
				if err != nil {
					t.Errorf("got %v (hint %s)", err, fault.HintOf(err))
				}
				return
			}
			if fault.KindOf(err) != fault.Usage || !strings.Contains(err.Error()+fault.HintOf(err), tc.want) {
				t.Errorf("got %v (kind %d, hint %q), want a usage error with %q", err, fault.KindOf(err), fault.HintOf(err), tc.want)
			}
		})
	}
}

func TestConnectWaitsForTheCluster(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	_ = l.Close()
	k := newSink(t, quick(), KafkaConfig{Brokers: []string{addr.String()}})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err = k.Connect(ctx)
	if fault.KindOf(err) != fault.Unreachable || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v, want an unreachable broker and why", err)
	}
	if s := k.Stats(); s.Connected || s.LastError == "" {
		t.Errorf("got stats %+v", s)
	}
	led := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), led.ack(0)) // does not wait for it
	fake(t, kfake.Ports(addr.Port), kfake.SeedTopics(1, "orders"))
	if err := k.Connect(t.Context()); err != nil {
		t.Error(err)
	}
	led.awaitDone(t, 1)
	if s := k.Stats(); !s.Connected {
		t.Errorf("got stats %+v", s)
	}
}

// One of the brokers of the configuration is enough, and refuses nothing for the others.
func TestConnectToAny(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"))
	k := newSink(t, quick(), KafkaConfig{Brokers: append([]string{"127.0.0.1:1", "no-such-host.invalid"}, cluster.ListenAddrs()...)})
	if err := k.Connect(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestKafkaConfigRefuses(t *testing.T) {
	t.Parallel()
	ok := []string{"localhost"}
	for _, tc := range []struct {
		name string
		cfg  KafkaConfig
		want string
	}{
		{"no brokers", KafkaConfig{}, "kafka.brokers is not set"},
		{"a URL", KafkaConfig{Brokers: []string{"kafka://a:1"}}, "is not host:port"},
		{"an empty broker", KafkaConfig{Brokers: []string{""}}, "is not host:port"},
		{"no port behind the colon", KafkaConfig{Brokers: []string{"localhost:"}}, "is not host:port"},
		{"a port that is none", KafkaConfig{Brokers: []string{"localhost:abc"}}, "is not host:port"},
		{"a port that is too large", KafkaConfig{Brokers: []string{"a:9092", "localhost:99999"}}, "is not host:port"},
		{"port 0", KafkaConfig{Brokers: []string{"localhost:0"}}, "is not host:port"},
		{"two ports", KafkaConfig{Brokers: []string{"a:9092:9093"}}, "is not host:port"},
		{"a codec", KafkaConfig{Brokers: ok, Compression: "brotli"}, `kafka.compression "brotli"`},
		{"TLS that is off", KafkaConfig{Brokers: ok, TLS: TLSConfig{CAFile: "x"}}, "not enabled"},
		{"OAUTHBEARER", KafkaConfig{Brokers: ok, SASL: SASLConfig{Mechanism: "OAUTHBEARER"}}, "not built yet"},
		{"a mechanism", KafkaConfig{Brokers: ok, SASL: SASLConfig{Mechanism: "plain"}}, "does not exist"},
		{"no password", KafkaConfig{Brokers: ok, SASL: SASLConfig{Mechanism: "PLAIN", User: "x"}}, "a user and a password"},
		{"no mechanism", KafkaConfig{Brokers: ok, SASL: SASLConfig{User: "x"}}, "no mechanism"},
		{"negative partitions", KafkaConfig{Brokers: ok, CreateTopics: CreateTopics{Partitions: -1}}, "negative"},
		{"replicas without partitions", KafkaConfig{Brokers: ok, CreateTopics: CreateTopics{ReplicationFactor: 3}}, "without partitions"},
		{"dead letters to nowhere", KafkaConfig{Brokers: ok, DeadLetters: DeadLetters{All: true}}, "dead_letter_topic is empty"},
		{"a dead letter to nowhere", KafkaConfig{Brokers: ok, DeadLetters: DeadLetters{Only: []string{"x"}}}, "dead_letter_topic is empty"},
	} {
		_, err := NewKafka(tc.cfg, builder(t))
		if err == nil || fault.KindOf(err) != fault.Usage || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want a usage error with %q", tc.name, err, tc.want)
		}
	}
	cfg, err := KafkaConfig{Brokers: []string{"a", "b:1", "::1", "[::1]:2", "127.0.0.1", "c:65535"}}.withDefaults()
	if want := "[a:9092 b:1 [::1]:9092 [::1]:2 127.0.0.1:9092 c:65535]"; err != nil || fmt.Sprint(cfg.Brokers) != want {
		t.Errorf("got brokers %v, %v, want %s", cfg.Brokers, err, want)
	}
}

func TestPasswordIsNotPrinted(t *testing.T) {
	t.Parallel()
	cfg := KafkaConfig{SASL: SASLConfig{"PLAIN", "relay", "secret"}}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "sasl", cfg.SASL, "config", cfg)
	text, err := json.Marshal(cfg.SASL)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprint(cfg), fmt.Sprintf("%+v", cfg), fmt.Sprintf("%#v", cfg), fmt.Sprintf("%v", &cfg), string(text), log.String()} {
		if strings.Contains(s, "secret") {
			t.Errorf("the password is in %s", s)
		}
	}
}

// A TLS alert on a plain connection is not read as a response of 350 MB.
func TestPlainConnectionNoticesTLS(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = c.Write([]byte{tlsAlert, 3, 3, 0, 2, 2, 80, 0})
			_ = c.Close()
		}
	}()
	d := newDialer(time.Second, true)
	defer d.close()
	c, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := c.Read(make([]byte, 8)); !errors.Is(err, errSpeaksTLS) {
			t.Errorf("got %v, want errSpeaksTLS", err)
		}
	}
}

// A password that was rotated in its file is the one of the next connection.
func TestPasswordIsReadAgain(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.SeedTopics(1, "orders"), kfake.EnableSASL(), kfake.Superuser("PLAIN", "relay", "right"))
	var reads atomic.Int32
	k := newSink(t, quick(), KafkaConfig{
		Brokers: cluster.ListenAddrs(), SASL: SASLConfig{"PLAIN", "relay", "wrong"},
		RereadSASL: func() (string, error) {
			if reads.Add(1) == 1 {
				return "", errors.New("just being replaced")
			}
			return "right", nil
		},
	})
	l := newLedger()
	k.Publish(event(0, "orders", []byte("key"), []byte("1")), l.ack(0))
	l.awaitDone(t, 1)
}
