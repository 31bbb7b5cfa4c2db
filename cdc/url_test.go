package cdc

import (
	"errors"
	"strings"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// A file that holds nothing of use, or is gone, does not end a relay that has worked.
func TestURLIsReadAgain(t *testing.T) {
	t.Parallel()
	log := newLogBuffer()
	c := Config{URL: "postgres://relay@a/x", Log: log.logger()}
	for _, step := range []struct {
		url  string
		err  error
		want string
	}{
		{"postgres://relay@b/x", nil, "postgres://relay@b/x"},
		{"postgres://relay:p%zz@b/x", nil, "postgres://relay@a/x"},
		{"", errors.New("file is gone"), "postgres://relay@a/x"},
	} {
		c.RereadURL = func() (string, error) { return step.url, step.err }
		if got := c.currentURL(); got != step.want {
			t.Errorf("got %q, want %q", got, step.want)
		}
	}
	if n := log.count("outbox.secret_unreadable"); n != 2 || !log.contains("file is gone") || log.contains("p%zz") {
		t.Errorf("said %d times:\n%s", n, &log.text)
	}
}

// A connection string that looks right works, or is refused at once with a reason and without the password.
func TestConnectionStrings(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	good := shared.URLFor(name, "postgres", "")
	for parameter, refused := range map[string]string{ // part of the error and hint; "": it streams
		"replication=database":                     "",
		"default_query_exec_mode=exec":             "",
		"application_name=shop":                    "",
		"TimeZone=Asia%2FKolkata":                  "",
		"pool_max_conns=5":                         "pools",
		"connect_timeout=10s":                      "connect_timeout",
		"sslrootcert=/nowhere&sslmode=verify-full": "/nowhere",
	} {
		t.Run(parameter, func(t *testing.T) {
			c := configFor(name)
			c.URL = good + "&" + parameter
			sink := newMemory(false)
			r := start(t, c, sink)
			if refused != "" {
				checkFault(t, r.wait(t), fault.Usage, refused)
				return
			}
			r.await(t, Streaming)
			mustExec(t, t.Context(), conn, insertSQL, "a", `{}`)
			sink.await(t, 1)
			if err := r.stop(t); err != nil {
				t.Error(err)
			}
		})
	}
	for _, url := range []string{"postgres://relay:planted pw@db/app", "postgres://relay:planted@db:x/app", "host=db password=planted sslmode=requires", "planted"} {
		_, err := connectSQL(t.Context(), url)
		if fault.KindOf(err) != fault.Usage || strings.Contains(err.Error()+fault.HintOf(err), "planted") {
			t.Errorf("%s: %v", url, err)
		}
	}
}
