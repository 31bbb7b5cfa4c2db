package cdc

import (
	"strings"
	"testing"
	"time"
)

func TestNotReady(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, tc := range map[string]struct {
		stats Stats
		want  string // part of it; "": ready
	}{
		"standby":        {Stats{State: Standby, Reason: "pid 1 holds the slot"}, ""},
		"starting":       {Stats{State: Starting}, "starting"},
		"reconnecting":   {Stats{State: Reconnecting, Reason: "no route"}, "reconnecting: no route"},
		"draining":       {Stats{State: Draining}, "draining"},
		"idle":           {Stats{State: Streaming, LastProgress: now.Add(-time.Hour)}, ""},
		"in flight":      {Stats{State: Streaming, InFlightEvents: 1, LastProgress: now.Add(-stalledAfter)}, ""},
		"acknowledged":   {Stats{State: Streaming, InFlightEvents: 1, LastProgress: now}, ""},
		"stalled":        {Stats{State: Streaming, InFlightEvents: 1, LastProgress: now.Add(-stalledAfter - time.Second)}, "no acknowledgement for 31s"},
		"stalled before": {Stats{State: Standby, InFlightEvents: 1, LastProgress: now.Add(-time.Hour)}, ""},
	} {
		if got := tc.stats.notReady(now); (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}
