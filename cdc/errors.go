package cdc

import "github.com/outbox-cdc/outbox-cdc/internal/fault"

// Error is what this package's functions return for everything that an
// operator can do something about: the operation, its cause, and a hint.
type Error = fault.Error

// Finding is one finding of Check.
type Finding = fault.Finding

// The kinds of an Error. Their values are the exit codes of `outbox-cdc run`.
const (
	Unexpected  = fault.Unexpected
	Usage       = fault.Usage
	Poison      = fault.Poison
	SlotLost    = fault.SlotLost
	Unreachable = fault.Unreachable
)
