package walsim

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
)

// StepKind tells Steps apart.
type StepKind int

// The steps of a session.
const (
	Opened StepKind = iota // START_REPLICATION was accepted; LSN is where the stream starts
	Sent                   // a message is about to go out; LSN is its position
	Heard                  // a status update was read; the slot has not been moved yet
	Closed                 // nothing more is read or sent
)

// Step is something that happens in a session.
type Step struct {
	Kind     StepKind
	Session  int
	At       time.Time
	LSN      pglogrepl.LSN
	Confirms bool    // Sent: LSN may be confirmed, in its place: a keepalive's, a logical message's, or the end of Tx
	Tx       *Tx     // Sent: the transaction that the message ends, or nil
	Asks     bool    // Sent: a keepalive that asks for a reply
	Update   *Update // Heard
}

// Update is a Standby status update.
type Update struct {
	Session             int
	At                  time.Time // when it was read
	Clock               time.Time // when it was sent, by the client's clock, in microseconds
	Write, Flush, Apply pglogrepl.LSN
	ReplyRequested      bool
}

// parseUpdate reads a message from the client:
// https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-STANDBY-STATUS-UPDATE
func parseUpdate(session int, data []byte) (*Update, error) {
	if len(data) != 34 || data[0] != 'r' || data[33] > 1 {
		return nil, fmt.Errorf("not a status update: %x", data)
	}
	n := func(at int) uint64 { return binary.BigEndian.Uint64(data[at:]) }
	return &Update{
		Session: session, At: time.Now(), Clock: epoch.Add(time.Duration(n(25)) * time.Microsecond),
		Write: pglogrepl.LSN(n(1)), Flush: pglogrepl.LSN(n(9)), Apply: pglogrepl.LSN(n(17)),
		ReplyRequested: data[33] == 1,
	}, nil
}
