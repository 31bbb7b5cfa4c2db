package cdc

import (
	"encoding/binary"
	"time"

	"github.com/jackc/pglogrepl"
)

// statusUpdateSize is the length of a Standby status update, in bytes.
const statusUpdateSize = 34

// postgresEpoch is where the protocol's clock starts: 2000-01-01 UTC.
var postgresEpoch = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)

// appendStatusUpdate appends a Standby status update with all three positions
// as given. It is our own because pglogrepl.SendStandbyStatusUpdate replaces a
// flush position of zero by the write position, which confirms all that was
// received (Invariant 2). Write is the highest position received; flush and
// apply are the confirmed one: only flush moves a logical slot.
func appendStatusUpdate(buf []byte, write, flush pglogrepl.LSN, now time.Time, askReply bool) []byte {
	buf = append(buf, 'r')
	buf = binary.BigEndian.AppendUint64(buf, uint64(write))
	buf = binary.BigEndian.AppendUint64(buf, uint64(flush))
	buf = binary.BigEndian.AppendUint64(buf, uint64(flush))
	buf = binary.BigEndian.AppendUint64(buf, uint64(now.Sub(postgresEpoch).Microseconds()))
	if askReply {
		return append(buf, 1)
	}
	return append(buf, 0)
}
