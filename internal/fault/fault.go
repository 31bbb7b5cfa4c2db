// Package fault is how the project says what went wrong: the operation, its
// cause, and what the operator can do about it. An Error's Kind is the exit
// code of the command that ends with it.
package fault

import (
	"errors"
	"fmt"
)

// Kind sorts an error by what it means for the process; its value is the exit code.
type Kind int

// The kinds.
const (
	Unexpected  Kind = 1 // a check failed, or nothing better is known
	Usage       Kind = 2 // the command line, the configuration, or something that it names is wrong
	Poison      Kind = 3 // an event cannot be published
	SlotLost    Kind = 4 // the slot is lost or missing, or its publication no longer covers the table
	Unreachable Kind = 5 // a side was not reached within startup_timeout
)

// Error is an error that tells the operator what to do.
type Error struct {
	Kind Kind
	Op   string // the verb that failed, in lower case: "create slot"
	Err  error  // the cause
	Hint string // one or two sentences, or the command to run; may be empty
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Op, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New returns an Error whose cause is cause.
func New(kind Kind, op string, cause error, hint string) *Error {
	return &Error{Kind: kind, Op: op, Err: cause, Hint: hint}
}

// KindOf returns the Kind of the first Error in err's chain, or Unexpected when there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Unexpected
}

// HintOf returns the hint of the first Error in err's chain that has one.
func HintOf(err error) string {
	for err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
