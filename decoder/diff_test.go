package decoder_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/outbox-cdc/outbox-cdc/decoder"
)

// TestAgainstPglogrepl decodes the golden WAL with both decoders.
func TestAgainstPglogrepl(t *testing.T) {
	for _, major := range majors {
		t.Run(major, func(t *testing.T) {
			t.Parallel()
			compared := 0
			for name, messages := range goldenWAL(t, major) {
				d, open := decoder.New(1), decoder.Begin{}
				for i, m := range messages {
					got := decodeAt(t, d, m)
					if begin, ok := got.(*decoder.Begin); ok {
						open = *begin
					}
					if err := roundTrip(got, m.data); err != nil {
						t.Errorf("%s, message %d: %v", name, i, err)
					}
					theirs, err := parse(m.data)
					if event, ok := got.(*decoder.Event); ok && len(event.Row.Values) == 0 && err != nil {
						continue // pglogrepl wants 8 bytes of an Insert; without columns it has 7
					}
					if err != nil {
						t.Fatalf("%s, message %d: pglogrepl: %v", name, i, err)
					}
					if err := agree(got, theirs, open); err != nil {
						t.Errorf("%s, message %d: %v", name, i, err)
					}
					compared++
				}
			}
			if compared < 100 {
				t.Errorf("compared %d messages, want at least 100", compared)
			}
		})
	}
}

// parse is pglogrepl.Parse, which panics on some short input.
func parse(data []byte) (m pglogrepl.Message, err error) {
	defer func() {
		if p := recover(); p != nil {
			m, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	return pglogrepl.Parse(data)
}

// agree compares a message field by field with what pglogrepl makes of it.
// begin is of the transaction that is open.
func agree(ours decoder.Message, theirs pglogrepl.Message, begin decoder.Begin) error {
	var same bool
	switch o := ours.(type) {
	case *decoder.Begin:
		p, ok := theirs.(*pglogrepl.BeginMessage)
		same = ok && o.CommitLSN == p.FinalLSN && sameTime(o.CommitTime, p.CommitTime) && o.XID == p.Xid
	case *decoder.Commit:
		p, ok := theirs.(*pglogrepl.CommitMessage)
		same = ok && o.CommitLSN == p.CommitLSN && o.EndLSN == p.TransactionEndLSN && sameTime(o.CommitTime, p.CommitTime)
	case *decoder.Origin:
		p, ok := theirs.(*pglogrepl.OriginMessage)
		same = ok && o.CommitLSN == p.CommitLSN && string(o.Name) == p.Name
	case *decoder.Type:
		p, ok := theirs.(*pglogrepl.TypeMessage)
		same = ok && o.OID == p.DataType && string(o.Namespace) == schema(p.Namespace) && string(o.Name) == p.Name
	case *decoder.Relation:
		p, ok := theirs.(*pglogrepl.RelationMessage)
		same = ok && sameRelation(o, p)
	case *decoder.Event:
		p, ok := theirs.(*pglogrepl.InsertMessage)
		same = ok && o.Row.Relation.OID == p.RelationID && sameRow(o, p.Tuple) &&
			o.LSN == begin.CommitLSN && o.XID == begin.XID && o.CommitTime.Equal(begin.CommitTime)
	case *decoder.Skipped:
		switch p := theirs.(type) {
		case *pglogrepl.UpdateMessage:
			same = o.Kind == 'U' && o.Relation.OID == p.RelationID && len(p.NewTuple.Columns) == len(o.Relation.Columns)
		case *pglogrepl.DeleteMessage:
			same = o.Kind == 'D' && o.Relation.OID == p.RelationID && len(p.OldTuple.Columns) == len(o.Relation.Columns)
		case *pglogrepl.TruncateMessage:
			same = o.Kind == 'T' && o.Relation == nil && o.Relations == int(p.RelationNum)
		}
	case *decoder.LogicalMessage:
		p, ok := theirs.(*pglogrepl.LogicalDecodingMessage)
		same = ok && o.Transactional == p.Transactional && o.LSN == p.LSN && string(o.Prefix) == p.Prefix && bytes.Equal(o.Content, p.Content)
	}
	if !same {
		return fmt.Errorf("we read %T %+v,\npglogrepl %T %+v", ours, ours, theirs, theirs)
	}
	return nil
}

// sameTime passes over times that pglogrepl's nanoseconds cannot hold.
func sameTime(ours, theirs time.Time) bool {
	return ours.Equal(theirs) || ours.Year() < 1680 || ours.Year() > 2260
}

func schema(name string) string {
	if name == "" {
		return "pg_catalog"
	}
	return name
}

func sameRelation(o *decoder.Relation, p *pglogrepl.RelationMessage) bool {
	if o.OID != p.RelationID || o.Namespace != schema(p.Namespace) || o.Name != p.RelationName ||
		o.ReplicaIdentity != p.ReplicaIdentity || len(o.Columns) != len(p.Columns) {
		return false
	}
	for i, c := range o.Columns {
		d := p.Columns[i]
		if c.Name != d.Name || c.TypeOID != d.DataType || c.TypeModifier != d.TypeModifier || c.Key != (d.Flags == 1) {
			return false
		}
	}
	return true
}

func sameRow(o *decoder.Event, p *pglogrepl.TupleData) bool {
	if len(o.Row.Values) != len(p.Columns) || len(o.Row.Values) != len(o.Row.Relation.Columns) {
		return false
	}
	size := decoder.EventOverhead
	for i, v := range o.Row.Values {
		size += len(v)
		c := p.Columns[i]
		if (v == nil) != (c.DataType == pglogrepl.TupleDataTypeNull) || !bytes.Equal(v, c.Data) {
			return false
		}
	}
	return o.Size == size
}

// roundTrip writes a message again, as proto.c would, and compares the bytes:
// nothing of it was lost, and nothing more was read than is there.
func roundTrip(m decoder.Message, data []byte) error {
	var again message
	switch m := m.(type) {
	case *decoder.Begin:
		again = msg('B').u64(uint64(m.CommitLSN)).u64(uint64(pgMicros(m.CommitTime))).u32(m.XID)
	case *decoder.Commit:
		again = msg('C').u8(0).u64(uint64(m.CommitLSN)).u64(uint64(m.EndLSN)).u64(uint64(pgMicros(m.CommitTime)))
	case *decoder.Origin:
		again = msg('O').u64(uint64(m.CommitLSN)).text(string(m.Name))
	case *decoder.Type:
		again = msg('Y').u32(m.OID).text(sent(string(m.Namespace), data[5:])).text(string(m.Name))
	case *decoder.Relation:
		again = msg('R').u32(m.OID).text(sent(m.Namespace, data[5:])).text(m.Name).u8(m.ReplicaIdentity).u16(uint16(len(m.Columns)))
		for _, c := range m.Columns {
			flags := byte(0)
			if c.Key {
				flags = 1
			}
			again = again.u8(flags).text(c.Name).u32(c.TypeOID).u32(uint32(c.TypeModifier))
		}
	case *decoder.Event:
		again = msg('I').u32(m.Row.Relation.OID).u8('N').u16(uint16(len(m.Row.Values)))
		for _, v := range m.Row.Values {
			if v == nil {
				again = again.u8('n')
			} else {
				again = again.value(string(v))
			}
		}
	case *decoder.LogicalMessage:
		flags := byte(0)
		if m.Transactional {
			flags = 1
		}
		again = msg('M').u8(flags).u64(uint64(m.LSN)).text(string(m.Prefix)).counted(string(m.Content))
	case *decoder.Skipped:
		if m.Kind != data[0] || m.Kind == 'T' && (m.Relation != nil || uint32(m.Relations) != binary.BigEndian.Uint32(data[1:])) ||
			m.Kind != 'T' && (m.Relations != 1 || m.Relation.OID != binary.BigEndian.Uint32(data[1:])) {
			return fmt.Errorf("%+v of %q", m, data)
		}
		return nil
	}
	if !bytes.Equal(again, data) {
		return fmt.Errorf("%T %+v\nis %q,\n not %q", m, m, again, data)
	}
	return nil
}

// sent is a schema's name as it was sent in a message whose name stands at the
// start of data: both "" and pg_catalog are read as pg_catalog.
func sent(name string, data []byte) string {
	if name == "pg_catalog" && data[0] == 0 {
		return ""
	}
	return name
}

// pgMicros is the inverse of what the decoder does to a time.
func pgMicros(t time.Time) int64 {
	return (t.Unix()-946_684_800)*1_000_000 + int64(t.Nanosecond())/1000
}
