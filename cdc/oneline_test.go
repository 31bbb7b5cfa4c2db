package cdc

import (
	"errors"
	"testing"
)

func TestOneLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"connection refused":                    "connection refused",
		"failed:\n\ta: refused\n\tb: refused\n": "failed: a: refused b: refused",
		"failed:\n\ta: refused\n\ta: refused\n": "failed: a: refused",
		"failed:\n\ta: tls error: server refused TLS connection\n\ta: FATAL: no such role (SQLSTATE 28000)": "failed: a: FATAL: no such role (SQLSTATE 28000)",
	} {
		if got := (oneLine{errors.New(text)}).Error(); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
