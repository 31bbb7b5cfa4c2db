package decoder

import (
	"fmt"

	"github.com/jackc/pglogrepl"
)

// Error says what the decoder could not accept, and where. It means that the
// server does not speak what was asked for, or that bytes were lost on the way;
// it is never the fault of an event.
type Error struct {
	Kind   byte          // the message's first byte, such as 'I'; 0 when the message is empty
	LSN    pglogrepl.LSN // where the message starts in the WAL; 0/0 for messages that are sent without a position
	Offset int           // of the field in the message, in bytes, the kind byte included
	Field  string        // what was being read, such as "column count"
	What   string        // what is wrong with it
	Hint   string        // what the operator can do about it; may be empty
}

// Error returns one line for an operator, without the hint.
func (e *Error) Error() string {
	if e.Kind == 0 {
		return fmt.Sprintf("decode message at %s: %s", e.LSN, e.What)
	}
	return fmt.Sprintf("decode %s message at %s: %s (byte %d): %s", kindName(e.Kind), e.LSN, e.Field, e.Offset, e.What)
}

// kindName returns the name that the manual gives to messages that start with kind.
func kindName(kind byte) string {
	switch kind {
	case 'B':
		return "Begin"
	case 'C':
		return "Commit"
	case 'O':
		return "Origin"
	case 'R':
		return "Relation"
	case 'Y':
		return "Type"
	case 'I':
		return "Insert"
	case 'U':
		return "Update"
	case 'D':
		return "Delete"
	case 'T':
		return "Truncate"
	case 'M':
		return "Message"
	}
	if name := laterKind(kind); name != "" {
		return name
	}
	return fmt.Sprintf("unknown (%q)", kind)
}

// laterKind names the messages that only protocol versions above 1 have, and
// returns "" for every other.
func laterKind(kind byte) string {
	switch kind {
	case 'S':
		return "Stream Start"
	case 'E':
		return "Stream Stop"
	case 'c':
		return "Stream Commit"
	case 'A':
		return "Stream Abort"
	case 'b':
		return "Begin Prepare"
	case 'P':
		return "Prepare"
	case 'K':
		return "Commit Prepared"
	case 'r':
		return "Rollback Prepared"
	case 'p':
		return "Stream Prepare"
	}
	return ""
}
