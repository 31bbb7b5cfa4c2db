package decoder

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
)

// reader walks through one message. The first thing that is wrong is kept and
// everything read after it is zero, so that a caller may read several fields
// and look at err once.
type reader struct {
	data []byte
	off  int // next byte
	lsn  pglogrepl.LSN
	err  *Error
}

// fail keeps the first error. at is the offset of the field that is wrong.
func (r *reader) fail(at int, field, what string) {
	if r.err != nil {
		return
	}
	r.err = &Error{LSN: r.lsn, Offset: at, Field: field, What: what}
	if len(r.data) > 0 {
		r.err.Kind = r.data[0]
	}
	r.off = len(r.data)
}

// take returns the next n bytes, with no room behind them, or nil when there
// are fewer. n may be anything that is not negative.
func (r *reader) take(n int, field string) []byte {
	if r.err != nil {
		return nil
	}
	if left := len(r.data) - r.off; n > left {
		r.fail(r.off, field, fmt.Sprintf("%d bytes wanted, %d left", n, left))
		return nil
	}
	b := r.data[r.off : r.off+n : r.off+n]
	r.off += n
	return b
}

func (r *reader) uint8(field string) byte {
	if b := r.take(1, field); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16(field string) uint16 {
	if b := r.take(2, field); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32(field string) uint32 {
	if b := r.take(4, field); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64(field string) uint64 {
	if b := r.take(8, field); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// position reads an LSN that must be there: Postgres uses 0/0 for "none".
func (r *reader) position(field string) pglogrepl.LSN {
	at := r.off
	lsn := pglogrepl.LSN(r.uint64(field))
	if lsn == 0 {
		r.fail(at, field, "is 0/0")
	}
	return lsn
}

// y2k is Postgres's epoch, 2000-01-01 UTC, in seconds of Unix time.
const y2k = 946_684_800

// time reads microseconds since 2000-01-01 UTC. Splitting them keeps any
// 64-bit number within what time.Time can hold.
func (r *reader) time(field string) time.Time {
	us := int64(r.uint64(field))
	return time.Unix(y2k+us/1_000_000, us%1_000_000*1000).UTC()
}

// text reads up to a zero byte, and past it.
func (r *reader) text(field string) []byte {
	if r.err != nil {
		return nil
	}
	n := bytes.IndexByte(r.data[r.off:], 0)
	if n < 0 {
		r.fail(r.off, field, "has no terminating zero byte")
		return nil
	}
	b := r.take(n, field)
	r.off++
	return b
}

// namespace reads a schema's name; pg_catalog is sent as "".
func (r *reader) namespace(field string) []byte {
	if b := r.text(field); len(b) > 0 || r.err != nil {
		return b
	}
	return pgCatalog
}

var pgCatalog = []byte("pg_catalog")

// bytes reads a 4-byte length and that many bytes.
func (r *reader) bytes(field string) []byte {
	at := r.off
	n := int32(r.uint32(field))
	if n < 0 {
		r.fail(at, field, fmt.Sprintf("negative length %d", n))
		return nil
	}
	return r.take(int(n), field)
}

// flags reads a byte in which only the bits of known may be set.
func (r *reader) flags(field string, known byte) byte {
	at := r.off
	b := r.uint8(field)
	if b&^known != 0 {
		r.fail(at, field, fmt.Sprintf("unknown bits in %#02x", b))
	}
	return b
}

// end makes sure that the message has been read to its last byte.
func (r *reader) end() {
	if left := len(r.data) - r.off; left > 0 {
		r.fail(r.off, "end", fmt.Sprintf("%d bytes too many", left))
	}
}
