package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

func TestParseSince(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 2, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"":                          {},
		"2026-05-01":                time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC),
		"2026-05-01T08:30:00+02:00": time.Date(2026, 5, 1, 6, 30, 0, 0, time.UTC),
		"2026-05-01T06:30:00.5Z":    time.Date(2026, 5, 1, 6, 30, 0, 500_000_000, time.UTC),
		"36h":                       time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC),
	} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: got %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "-1h", "0s", "2026-13-01", "12:00"} {
		if _, err := parseSince(text, now); fault.KindOf(err) != fault.Usage || !strings.Contains(err.Error(), text) || fault.HintOf(err) == "" {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

// Nothing is done without a yes.
func TestRecoverConfirm(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]bool{"yes\n": true, "Y\n": true, "yes": true, "no\n": false, "\n": false, "": false} {
		var out bytes.Buffer
		err := (&recoverCmd{}).confirm(t.Context(), &app{stdin: strings.NewReader(answer), stdout: &out})
		if (err == nil) != want || !strings.Contains(out.String(), "Go on?") {
			t.Errorf("%q: got %v after %q", answer, err, out.String())
		}
		if err != nil && fault.KindOf(err) != fault.Usage {
			t.Errorf("%q: kind %v", answer, fault.KindOf(err))
		}
	}
	if err := (&recoverCmd{Yes: true}).confirm(t.Context(), &app{}); err != nil {
		t.Error(err)
	}
}

// The plan shows a slot that may be the one that is meant.
func TestRecoverShowsUnusedSlots(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	(&recoverCmd{}).show(&app{stdout: &out}, &loaded{}, cdc.Recovery{UnusedSlots: []string{"orders"}})
	if want := "slot orders exists in this database and is not used: is postgres.slot right?\n"; !strings.Contains(out.String(), want) {
		t.Errorf("the plan does not say %q:\n%s", want, out.String())
	}
}
