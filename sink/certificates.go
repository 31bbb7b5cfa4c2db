package sink

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
)

// load reads the files. Its errors are of kind fault.Usage; each names the file
// and what to do about it.
func (t TLSConfig) load() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify}
	if t.CAFile != "" {
		text, err := readPEM("kafka.tls.ca_file", t.CAFile, "CERTIFICATE")
		if err != nil {
			return nil, err
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(text) {
			return nil, usage(fmt.Errorf("kafka.tls.ca_file: no certificate in %s can be read", t.CAFile),
				"export the authority's certificate again, as PEM")
		}
	}
	switch {
	case t.CertFile == "" && t.KeyFile == "":
		return conf, nil
	case t.CertFile == "":
		return nil, usage(fmt.Errorf("kafka.tls.key_file is %s, and kafka.tls.cert_file is not set: they go together", t.KeyFile),
			"set kafka.tls.cert_file to the certificate of that key, or remove kafka.tls.key_file")
	case t.KeyFile == "":
		return nil, usage(fmt.Errorf("kafka.tls.cert_file is %s, and kafka.tls.key_file is not set: they go together", t.CertFile),
			"set kafka.tls.key_file to the private key of that certificate, or remove kafka.tls.cert_file")
	}
	pair, err := t.pair()
	conf.Certificates = []tls.Certificate{pair}
	return conf, err
}

// pair reads the client's certificate and its key.
func (t TLSConfig) pair() (tls.Certificate, error) {
	cert, err := readPEM("kafka.tls.cert_file", t.CertFile, "CERTIFICATE")
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := readPEM("kafka.tls.key_file", t.KeyFile, "PRIVATE KEY")
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, usage(fmt.Errorf("kafka.tls.cert_file %s and kafka.tls.key_file %s are no pair: %w", t.CertFile, t.KeyFile, err),
			fmt.Sprintf("name a certificate and its own key: openssl x509 -noout -pubkey -in %s prints the same as openssl pkey -pubout -in %s", t.CertFile, t.KeyFile))
	}
	return pair, nil
}

// readPEM reads a file that must have a block whose type ends with kind.
func readPEM(setting, path, kind string) ([]byte, error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, usage(fmt.Errorf("%s: %w", setting, err), "let the user that the relay runs as read "+path)
	case err != nil:
		return nil, usage(fmt.Errorf("%s: %w", setting, err), "name a PEM file that is there; a relative path begins where the relay was started")
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case strings.HasPrefix(block.Type, "ENCRYPTED ") || block.Headers["DEK-Info"] != "": // RFC 7468, RFC 1421
			return nil, usage(fmt.Errorf("%s: the key in %s is encrypted", setting, path),
				fmt.Sprintf("nobody is there to ask for its passphrase: openssl pkey -in %s writes it without, for a file that only the relay may read", path))
		case strings.HasSuffix(block.Type, kind):
			return text, nil
		}
	}
	return nil, usage(fmt.Errorf("%s: %s holds no %s", setting, path, strings.ToLower(kind)),
		fmt.Sprintf("it must be PEM, with a line -----BEGIN %s-----", kind))
}
