package main

import (
	"strings"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

func TestEventSource(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"postgres://relay:hunter2@db:5432/app":               "postgres://db/app/public.outbox",
		"postgres://relay@db-1:5432,db-2:5432/app":           "postgres://db-1/app/public.outbox",
		"host=db.example dbname=app user=relay":              "postgres://db.example/app/public.outbox",
		"postgres://relay@db":                                "postgres://db/relay/public.outbox",
		"postgres:///app?host=/var/run/postgresql&user=x":    "postgres://localhost/app/public.outbox",
		"postgres://relay@[::1]:5432/app":                    "postgres://[::1]/app/public.outbox",
		"postgres://relay@db/my%20app?sslmode=disable&x=y%3": "",
	} {
		l := mustLoad(t, given{args: []string{"--postgres-url", url}})
		got, err := l.eventSource()
		if want == "" {
			if fault.KindOf(err) != fault.Usage || strings.Contains(err.Error(), url) {
				t.Errorf("%s: %v, want a usage error that does not show it", url, err)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", url, got, err, want)
		}
	}
}
