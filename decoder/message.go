package decoder

import (
	"time"

	"github.com/jackc/pglogrepl"
)

// Message is one decoded pgoutput message: a *Begin, *Commit, *Origin, *Type,
// *Relation, *Event, *Skipped or *LogicalMessage. All but *Relation live in
// the Decoder and are overwritten by its next Decode; their bytes alias the
// buffer that was decoded.
type Message interface{ message() }

// Begin opens a transaction.
type Begin struct {
	CommitLSN  pglogrepl.LSN // start of the commit record; not confirmable
	CommitTime time.Time     // UTC, microseconds; of a transaction with an Origin, when it was committed there
	XID        uint32
}

// Commit closes a transaction.
type Commit struct {
	CommitLSN  pglogrepl.LSN // the same as in Begin
	EndLSN     pglogrepl.LSN // end of the commit record: what may be confirmed
	CommitTime time.Time
}

// Origin says that a transaction was replicated here from another node. It
// follows the Begin.
type Origin struct {
	CommitLSN pglogrepl.LSN // on the origin
	Name      []byte
}

// Type names a data type that is not built in. A domain comes with its own OID
// and the name of its base type.
type Type struct {
	OID       uint32
	Namespace []byte // "pg_catalog" is sent as "" and given as "pg_catalog"
	Name      []byte
}

// Relation describes a table as it is at this point of the WAL. It is
// allocated anew each time the server sends one and never changes after that,
// so its address identifies a version of the table's schema.
type Relation struct {
	OID             uint32
	Namespace       string // "pg_catalog" is sent as "" and stored as "pg_catalog"
	Name            string
	ReplicaIdentity byte // 'd', 'n', 'f' or 'i'
	Columns         []Column
}

// Index returns the position of the column with that name, or -1.
func (r *Relation) Index(name string) int {
	for i := range r.Columns {
		if r.Columns[i].Name == name {
			return i
		}
	}
	return -1
}

// Column is a column of a Relation.
type Column struct {
	Name         string
	TypeOID      uint32
	TypeModifier int32
	Key          bool // part of the replica identity
}

// Row holds the values of one inserted row.
type Row struct {
	Relation *Relation
	Values   [][]byte // one for each of Relation.Columns, in text format; nil is NULL
}

// Event is one inserted row with its place in the stream.
type Event struct {
	Row        Row
	Timeline   int32         // of the server, as given to New
	LSN        pglogrepl.LSN // the transaction's CommitLSN: with Seq it orders events, and is the same on every resend
	Seq        int           // counts the transaction's inserts from 0
	XID        uint32
	CommitTime time.Time
	Size       int // bytes that the event is counted with while it is in flight: its values and EventOverhead
}

// FromTable returns the event of a row that was read from the table instead of
// the WAL: it has no LSN, and seq orders it. values alias what is given.
func FromTable(rel *Relation, values [][]byte, seq int, now time.Time) Event {
	size := EventOverhead
	for _, v := range values {
		size += len(v)
	}
	return Event{Row: Row{Relation: rel, Values: values}, Seq: seq, CommitTime: now, Size: size}
}

// EventOverhead is what an event in flight costs in memory besides its values, in bytes.
const EventOverhead = 512

// Skipped is a change that is recognised and never published: an UPDATE, a DELETE or a TRUNCATE.
type Skipped struct {
	Kind      byte      // 'U', 'D' or 'T'
	Relation  *Relation // of an UPDATE or DELETE; nil for a TRUNCATE
	Relations int       // tables that a TRUNCATE named; else 1
}

// LogicalMessage was written with pg_logical_emit_message.
type LogicalMessage struct {
	Transactional bool
	LSN           pglogrepl.LSN // the end of its record: confirmable when it is not transactional
	Prefix        []byte
	Content       []byte
}

func (*Begin) message()          {}
func (*Commit) message()         {}
func (*Origin) message()         {}
func (*Type) message()           {}
func (*Relation) message()       {}
func (*Event) message()          {}
func (*Skipped) message()        {}
func (*LogicalMessage) message() {}
