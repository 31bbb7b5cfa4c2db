package walsim

import (
	"cmp"
	"encoding/binary"
	"time"

	"github.com/jackc/pglogrepl"
)

// frame is one pgoutput message with the position that its XLogData carries.
type frame struct {
	lsn  pglogrepl.LSN // 0 for a Relation message, as WalSndPrepareWrite has it
	data []byte
}

// OIDs of the tables, and of pg_type.
const (
	outboxOID = 16385
	otherOID  = 16399

	boolOID, int8OID, int4OID, textOID, nameOID, oidOID        = 16, 20, 23, 25, 19, 26
	textArrayOID, timestamptzOID, uuidOID, jsonbOID            = 1009, 1184, 2950, 3802
	noModifier                                          uint32 = 0xffffffff
)

type column struct {
	name string
	oid  uint32
}

// outboxColumns are those of the default table, in its order.
var outboxColumns = []column{
	{"id", uuidOID}, {"aggregate_type", textOID}, {"aggregate_id", textOID}, {"event_type", textOID},
	{"payload", jsonbOID}, {"occurred_at", timestamptzOID}, {"headers", jsonbOID}, {"source", textOID},
	{"correlation_id", uuidOID}, {"causation_id", uuidOID}, {"data_version", textOID}, {"traceparent", textOID},
}

var otherColumns = []column{{"id", int4OID}, {"note", textOID}}

// AggregateType is what events have in aggregate_type, unless they say otherwise.
const AggregateType = "order"

// The messages are those of
// https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
type message []byte

func (m message) u8(b byte) message           { return append(m, b) }
func (m message) u16(n int) message           { return binary.BigEndian.AppendUint16(m, uint16(n)) }
func (m message) u32(n uint32) message        { return binary.BigEndian.AppendUint32(m, n) }
func (m message) lsn(l pglogrepl.LSN) message { return binary.BigEndian.AppendUint64(m, uint64(l)) }
func (m message) text(s string) message       { return append(append(m, s...), 0) }
func (m message) counted(s string) message    { return append(m.u32(uint32(len(s))), s...) }
func (m message) time(t time.Time) message {
	return binary.BigEndian.AppendUint64(m, uint64(microseconds(t)))
}

// value appends a column in text format; "" is NULL.
func (m message) value(s string) message {
	if s == "" {
		return m.u8('n')
	}
	return m.u8('t').counted(s)
}

var epoch = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)

// microseconds is the protocol's clock.
func microseconds(t time.Time) int64 { return t.Sub(epoch).Microseconds() }

func relation(oid uint32, name string, columns []column) message {
	m := message{'R'}.u32(oid).text("public").text(name).u8('d').u16(len(columns))
	for i, c := range columns {
		key := byte(0)
		if i == 0 {
			key = 1
		}
		m = m.u8(key).text(c.name).u32(c.oid).u32(noModifier)
	}
	return m
}

// encode returns the messages of a transaction. announced remembers which
// tables the session has been told of.
func (r *Record) encode(announced map[uint32]bool) []frame {
	tx := r.Tx
	frames := []frame{{tx.First, message{'B'}.lsn(r.Start).time(tx.Time).u32(tx.XID)}}
	for _, row := range tx.Rows {
		oid, name, columns := uint32(otherOID), "other", otherColumns
		if row.Event != nil {
			oid, name, columns = outboxOID, "outbox", outboxColumns
		}
		if row.Announce || !announced[oid] {
			announced[oid] = true
			frames = append(frames, frame{0, relation(oid, name, columns)})
		}
		m := message{'I'}.u32(oid).u8('N').u16(len(columns))
		if e := row.Event; e != nil {
			m = m.value(e.ID).value(cmp.Or(e.Route, AggregateType)).value(e.Key).value(e.Type).value(e.Payload)
			m = m.value(tx.Time.Format("2006-01-02 15:04:05.999999-07")).value(e.Headers)
			for range len(columns) - 7 {
				m = m.value("")
			}
		} else {
			m = m.value("1").value("not an event")
		}
		frames = append(frames, frame{row.LSN, m})
	}
	return append(frames, frame{r.End, message{'C'}.u8(0).lsn(r.Start).lsn(r.End).time(tx.Time)})
}

// encodeMessage returns the record's logical message.
func (r *Record) encodeMessage() frame {
	return frame{r.End, message{'M'}.u8(0).lsn(r.End).text(r.Message.Prefix).counted(r.Message.Content)}
}
