package sink

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// Whatever is wrong with a file, the error names it and the hint says what to do.
func TestCertificateFiles(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	_, certPEM, keyPEM := ca.issue(t, time.Now().Add(time.Hour), "client")
	_, _, otherPEM := ca.issue(t, time.Now().Add(time.Hour), "client")
	cert, key, other := writeFile(t, "cert.pem", certPEM), writeFile(t, "key.pem", keyPEM), writeFile(t, "other.pem", otherPEM)
	junk := writeFile(t, "junk.pem", []byte("junk"))
	broken := writeFile(t, "broken.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("junk")}))
	locked := writeFile(t, "locked.pem", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("junk")}))
	old := writeFile(t, "old.pem", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}, Bytes: []byte("junk")}))
	directory := t.TempDir() // os.ReadFile fails on it, whoever runs the test
	missing := filepath.Join(directory, "missing.pem")
	for _, tc := range []struct {
		name string
		tls  TLSConfig
		want []string // of the error
		hint string
	}{
		{"a CA that is not there", TLSConfig{CAFile: missing}, []string{"kafka.tls.ca_file", missing}, "a relative path"},
		{"a CA that cannot be read", TLSConfig{CAFile: directory}, []string{"kafka.tls.ca_file", directory}, "PEM file"},
		{"a CA that is none", TLSConfig{CAFile: junk}, []string{"kafka.tls.ca_file", junk, "holds no certificate"}, "-----BEGIN CERTIFICATE-----"},
		{"a key as CA", TLSConfig{CAFile: key}, []string{"kafka.tls.ca_file", key, "holds no certificate"}, "-----BEGIN CERTIFICATE-----"},
		{"a broken CA", TLSConfig{CAFile: broken}, []string{"kafka.tls.ca_file", broken}, "export"},
		{"a key without its certificate", TLSConfig{KeyFile: key}, []string{"kafka.tls.key_file", key, "go together"}, "set kafka.tls.cert_file"},
		{"a certificate without its key", TLSConfig{CertFile: cert}, []string{"kafka.tls.cert_file", cert, "go together"}, "set kafka.tls.key_file"},
		{"a certificate that is not there", TLSConfig{CertFile: missing, KeyFile: key}, []string{"kafka.tls.cert_file", missing}, "PEM file"},
		{"a key that is not there", TLSConfig{CertFile: cert, KeyFile: missing}, []string{"kafka.tls.key_file", missing}, "PEM file"},
		{"a certificate that is none", TLSConfig{CertFile: junk, KeyFile: key}, []string{"kafka.tls.cert_file", junk}, "-----BEGIN CERTIFICATE-----"},
		{"the two swapped", TLSConfig{CertFile: key, KeyFile: cert}, []string{"kafka.tls.cert_file", key}, "-----BEGIN CERTIFICATE-----"},
		{"a certificate as key", TLSConfig{CertFile: cert, KeyFile: cert}, []string{"kafka.tls.key_file", cert, "no private key"}, "-----BEGIN PRIVATE KEY-----"},
		{"another certificate's key", TLSConfig{CertFile: cert, KeyFile: other}, []string{cert, other, "no pair"}, "openssl"},
		{"an encrypted key", TLSConfig{CertFile: cert, KeyFile: locked}, []string{"kafka.tls.key_file", locked, "encrypted"}, "openssl pkey"},
		{"a key encrypted the old way", TLSConfig{CertFile: cert, KeyFile: old}, []string{"kafka.tls.key_file", old, "encrypted"}, "openssl pkey"},
	} {
		tc.tls.Enabled = true
		_, err := NewKafka(KafkaConfig{Brokers: []string{"localhost"}, TLS: tc.tls}, builder(t))
		if err == nil || fault.KindOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), tc.hint) {
			t.Errorf("%s: got %v (hint %q), want a usage error with hint %q", tc.name, err, fault.HintOf(err), tc.hint)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %q, want it to name %q", tc.name, err, want)
			}
		}
	}
}

func TestCertificateFileOfAnotherUser(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "ca.pem", newAuthority(t).pem)
	if err := os.Chmod(file, 0); err != nil {
		t.Fatal(err)
	}
	_, err := TLSConfig{Enabled: true, CAFile: file}.load()
	switch {
	case err == nil && os.Geteuid() == 0: // root reads everything
	case fault.KindOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), file):
		t.Errorf("got %v (hint %q), want a usage error that says who must read it", err, fault.HintOf(err))
	}
}
