package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// A relay whose HTTP server fails ends, for it looks dead to its supervisor.
func TestRunEndsWithItsHTTPServer(t *testing.T) {
	t.Parallel()
	l, err := loadGiven(t, given{env: []string{"OUTBOX_CDC_POSTGRES_URL=" + unreachable(t), "OUTBOX_CDC_HTTP_LISTEN=127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := (&runCmd{Stdout: true}).assemble(&app{stdout: &bytes.Buffer{}}, l, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := p.http.listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.run(t.Context(), 0); fault.KindOf(err) != fault.Unexpected || !strings.Contains(err.Error(), "serve http") {
		t.Errorf("got %v", err)
	}
}

// What is quoted of a command line has no password in it.
func TestWithoutURLs(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"run", "postgres://u:secret@h/d"}, {"run", "--postgres-ulr=postgres://u:secret@h/d"}} {
		for _, text := range []string{"unexpected argument " + args[1], "unknown flag: postgres://u:secret@h/d"} {
			if got := withoutURLs(errors.New(text), args).Error(); strings.Contains(got, "secret") {
				t.Errorf("%v: %s", args, got)
			}
		}
	}
}
