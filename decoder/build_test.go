package decoder_test

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/outbox-cdc/outbox-cdc/decoder"
)

// The functions here write messages as proto.c does, for what a real server
// cannot be brought to send.

type message []byte

func msg(kind byte) message                  { return message{kind} }
func (m message) u8(b byte) message          { return append(m, b) }
func (m message) u16(n uint16) message       { return binary.BigEndian.AppendUint16(m, n) }
func (m message) u32(n uint32) message       { return binary.BigEndian.AppendUint32(m, n) }
func (m message) u64(n uint64) message       { return binary.BigEndian.AppendUint64(m, n) }
func (m message) text(s string) message      { return append(append(m, s...), 0) }
func (m message) counted(s string) message   { return append(m.u32(uint32(len(s))), s...) }
func (m message) value(s string) message     { return m.u8('t').counted(s) }
func (m message) values(s ...string) message { return m.tuple('N', s...) }

// tuple writes a tuple of texts; the text NULL is a null, TOAST an unchanged value.
func (m message) tuple(tag byte, values ...string) message {
	m = m.u8(tag).u16(uint16(len(values)))
	for _, v := range values {
		switch v {
		case "NULL":
			m = m.u8('n')
		case "TOAST":
			m = m.u8('u')
		default:
			m = m.value(v)
		}
	}
	return m
}

// column is one of a Relation message.
func (m message) column(flags byte, name string, oid uint32) message {
	return m.u8(flags).text(name).u32(oid).u32(0xffffffff)
}

const (
	commitLSN = 0x16B3748
	endLSN    = 0x16B3778
	micros    = 812_345_678_901_234 // 2025-09-28T03:34:38.901234Z
)

var committed = time.Date(2025, 9, 28, 3, 34, 38, 901_234_000, time.UTC)

func beginMsg() message  { return msg('B').u64(commitLSN).u64(micros).u32(742) }
func commitMsg() message { return msg('C').u8(0).u64(commitLSN).u64(endLSN).u64(micros) }
func relationMsg() message {
	return msg('R').u32(16385).text("public").text("outbox").u8('d').u16(3).
		column(1, "id", 2950).column(0, "aggregate_id", 25).column(0, "payload", 3802)
}
func insertMsg(values ...string) message { return msg('I').u32(16385).values(values...) }
func logicalMsg(flags byte) message {
	return msg('M').u8(flags).u64(0x2000).text("prefix").counted("content")
}

// open returns a decoder with an open transaction and a known relation.
func open(t testing.TB) *decoder.Decoder {
	t.Helper()
	d := decoder.New(3)
	for _, m := range []message{beginMsg(), relationMsg()} {
		decode(t, d, m)
	}
	return d
}

// decode decodes what must be right.
func decode(t testing.TB, d *decoder.Decoder, data []byte) decoder.Message {
	t.Helper()
	m, err := d.Decode(pglogrepl.LSN(0x16B3700), data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// exact returns a copy with no room behind it, so that reading past the end panics.
func exact(data []byte) []byte { return slices.Clip(slices.Clone(data)) }
