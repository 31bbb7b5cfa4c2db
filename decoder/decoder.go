package decoder

import (
	"fmt"

	"github.com/jackc/pglogrepl"
)

// Decoder decodes the messages of one replication session, in the order in
// which they arrive. It is for one goroutine.
type Decoder struct {
	timeline  int32
	relations map[uint32]*Relation // by OID; a table that was dropped stays until the session ends
	open      bool                 // between Begin and Commit
	err       *Error               // the first one; see the package comment

	// What Decode returns lives here, so that a message costs no allocation.
	begin   Begin // also: of the open transaction
	commit  Commit
	origin  Origin
	typ     Type
	event   Event
	skipped Skipped
	message LogicalMessage
	seq     int      // of the open transaction's next event
	values  [][]byte // of event; grows to the widest row
}

// New returns a Decoder for a session with a server that is on that timeline.
func New(timeline int32) *Decoder {
	return &Decoder{timeline: timeline, relations: make(map[uint32]*Relation)}
}

// Decode decodes one message. data is the WALData of one XLogData message and
// lsn its WALStart, which is used in errors only: it is not monotonic, and 0/0
// for some messages.
//
// The message aliases data and, but for a *Relation, is valid until the next
// call. An error is an *Error, and every further call returns it again: the
// session has to end (Invariant 8).
func (d *Decoder) Decode(lsn pglogrepl.LSN, data []byte) (Message, error) {
	if d.err != nil {
		return nil, d.err
	}
	r := reader{data: data, lsn: lsn}
	m := d.decode(&r)
	r.end()
	if r.err != nil {
		d.err = r.err
		return nil, r.err
	}
	return m, nil
}

// decode reads the message that starts at r's first byte. The message is valid
// if r has no error afterwards.
func (d *Decoder) decode(r *reader) Message {
	if len(r.data) == 0 {
		r.fail(0, "kind", "is empty")
		return nil
	}
	switch kind := r.uint8("kind"); kind {
	case 'B':
		return d.decodeBegin(r)
	case 'C':
		return d.decodeCommit(r)
	case 'O':
		return d.decodeOrigin(r)
	case 'R':
		return d.decodeRelation(r)
	case 'Y':
		d.typ = Type{OID: r.uint32("type OID"), Namespace: r.namespace("type namespace"), Name: r.text("type name")}
		return &d.typ
	case 'I':
		return d.decodeInsert(r)
	case 'U', 'D':
		return d.decodeOldRow(r, kind)
	case 'T':
		return d.decodeTruncate(r)
	case 'M':
		return d.decodeMessage(r)
	default:
		what := "unknown message"
		if name := laterKind(kind); name != "" {
			what = "protocol version 1 must not send it"
		}
		r.fail(0, "kind", what)
		r.err.Hint = "the server does not answer as pgoutput with proto_version 1; look for a proxy between, or an output plugin other than pgoutput"
		return nil
	}
}

func (d *Decoder) decodeBegin(r *reader) Message {
	if d.open {
		r.fail(0, "kind", fmt.Sprintf("transaction %d, to commit at %s, is still open", d.begin.XID, d.begin.CommitLSN))
		return nil
	}
	d.begin = Begin{
		CommitLSN:  r.position("commit LSN"),
		CommitTime: r.time("commit time"),
		XID:        r.uint32("xid"),
	}
	d.open, d.seq = true, 0
	return &d.begin
}

func (d *Decoder) decodeCommit(r *reader) Message {
	d.needTransaction(r)
	r.flags("flags", 0)
	at := r.off
	d.commit.CommitLSN = pglogrepl.LSN(r.uint64("commit LSN"))
	if d.commit.CommitLSN != d.begin.CommitLSN {
		r.fail(at, "commit LSN", fmt.Sprintf("is %s, but the transaction began with %s", d.commit.CommitLSN, d.begin.CommitLSN))
	}
	at = r.off
	// Invariant 2: this is what will be confirmed, so it is what the server says or an error.
	d.commit.EndLSN = pglogrepl.LSN(r.uint64("end LSN"))
	if d.commit.EndLSN <= d.commit.CommitLSN {
		r.fail(at, "end LSN", fmt.Sprintf("is %s, not behind the commit LSN %s", d.commit.EndLSN, d.commit.CommitLSN))
	}
	d.commit.CommitTime = r.time("commit time")
	d.open = false
	return &d.commit
}

func (d *Decoder) decodeOrigin(r *reader) Message {
	d.needTransaction(r)
	d.origin = Origin{CommitLSN: pglogrepl.LSN(r.uint64("origin LSN")), Name: r.text("origin name")}
	return &d.origin
}

// messageTransactional is MESSAGE_TRANSACTIONAL of proto.c.
const messageTransactional = 1

func (d *Decoder) decodeMessage(r *reader) Message {
	at := r.off
	transactional := r.flags("flags", messageTransactional) != 0
	switch {
	case transactional && !d.open:
		r.fail(at, "flags", "transactional message outside of a transaction")
	case !transactional && d.open:
		r.fail(at, "flags", "non-transactional message inside of a transaction")
	}
	d.message = LogicalMessage{
		Transactional: transactional,
		LSN:           r.position("message LSN"),
		Prefix:        r.text("prefix"),
		Content:       r.bytes("content"),
	}
	return &d.message
}

// needTransaction refuses a message that belongs into a transaction while none is open.
func (d *Decoder) needTransaction(r *reader) {
	if !d.open {
		r.fail(0, "kind", "no transaction is open")
	}
}
