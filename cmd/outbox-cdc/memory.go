package main

import (
	"math"
	"runtime/debug"
)

const (
	// memoryBase is what the process needs with nothing in flight: the runtime,
	// receive buffers, metadata, metrics.
	memoryBase = 64 << 20
	// memoryFactor is how often an event in flight may be in memory at a time:
	// as the sink keeps it, in a record batch, in that batch compressed, and
	// once more as garbage that is not collected yet.
	memoryFactor = 4
)

// setMemoryLimit gives the garbage collector the soft limit that follows from
// the window, memoryBase + memoryFactor × limits.in_flight_bytes (128 MiB by
// default), and returns it in bytes. GOMEMLIMIT, which the runtime has read
// itself by then, outranks it; then it returns 0.
func (a *app) setMemoryLimit(inFlight Size) int64 {
	if a.getenv("GOMEMLIMIT") != "" {
		return 0
	}
	if int64(inFlight) > (math.MaxInt64-memoryBase)/memoryFactor { // a window that no memory holds
		return 0
	}
	limit := memoryBase + memoryFactor*int64(inFlight)
	debug.SetMemoryLimit(limit)
	return limit
}
