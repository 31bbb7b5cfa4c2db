package main

import (
	"math"
	"runtime/debug"
	"testing"
)

// Not parallel: the limit is the process's.
func TestMemoryLimit(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)

	if got, want := (&app{}).setMemoryLimit(16<<20), int64(128<<20); got != want || debug.SetMemoryLimit(-1) != want {
		t.Errorf("limit %d, in force %d, want %d", got, debug.SetMemoryLimit(-1), want)
	}
	debug.SetMemoryLimit(before)
	for name, a := range map[string]struct {
		app
		size Size
	}{
		"GOMEMLIMIT outranks it": {app{environ: []string{"GOMEMLIMIT=1GiB"}}, 16 << 20},
		"no overflow":            {app{}, math.MaxInt64 / 2},
	} {
		if got := a.setMemoryLimit(a.size); got != 0 || debug.SetMemoryLimit(-1) != before {
			t.Errorf("%s: limit %d, in force %d, want it untouched", name, got, debug.SetMemoryLimit(-1))
		}
	}
}
