package sink

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/IBM/sarama"
)

// The error may quote anything, at any length: the header stays short, and UTF-8.
func TestDeadErrorIsSound(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\xff\xfe", strings.Repeat("ü", 1000), strings.Repeat("\xff", 1000)} {
		rec := deadRecord(record{}, "orders", []byte("id"), errors.New(text))
		for _, h := range rec.headers {
			if !utf8.Valid(h.value) || len(h.value) == 0 || len(h.value) > deadErrorMax+len("…") {
				t.Errorf("error of %d bytes: header %s has %d bytes: %q", len(text), h.name, len(h.value), h.value)
			}
		}
	}
}

func TestShorten(t *testing.T) {
	t.Parallel()
	large := []byte(strings.Repeat("k", deadKept+1))
	rec := deadRecord(record{key: large, value: large, headers: []header{{"ce_id", large}, {headerLSN, []byte("1/0/1/0")}}},
		"orders", []byte("id"), sarama.ErrMessageSizeTooLarge)
	shorten(rec)
	if len(rec.key) != deadKept || len(rec.value) != deadKept {
		t.Errorf("key of %d bytes and value of %d, want %d", len(rec.key), len(rec.value), deadKept)
	}
	var names []string
	for _, h := range rec.headers {
		names = append(names, h.name)
	}
	want := "outbox-lsn outbox-error outbox-reason outbox-topic outbox-id outbox-size outbox-sha256 outbox-key-sha256"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got headers %s, want %s", got, want)
	}
	small := record{key: []byte("k"), value: nil, headers: []header{{"ce_id", []byte("1")}}}
	shorten(&small)
	if len(small.headers) != 0 || small.value != nil || string(small.key) != "k" {
		t.Errorf("got %+v", small)
	}
}
