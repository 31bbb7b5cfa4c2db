package decoder_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/jackc/pglogrepl"

	"github.com/outbox-cdc/outbox-cdc/decoder"
)

// frame writes messages as FuzzDecode reads them: each behind its length in two bytes.
func frame(messages ...[]byte) (framed []byte) {
	for _, m := range messages {
		framed = binary.BigEndian.AppendUint16(framed, uint16(len(m)))
		framed = append(framed, m...)
	}
	return framed
}

// nextFrame takes the first message off data. A length past the end takes what is there.
func nextFrame(data []byte) (m, rest []byte) {
	if len(data) < 2 {
		return data, nil
	}
	n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
	return data[2 : 2+n], data[2+n:]
}

// FuzzDecode gives a session of messages to the decoder: it must not panic, it
// must refuse with an *Error that names a place within the message, what it
// accepts must be exactly what was sent, and it must agree with pglogrepl
// wherever both accept. After an error a new session goes on with the rest.
func FuzzDecode(f *testing.F) {
	f.Add(frame(beginMsg(), relationMsg(), insertMsg("1", "NULL", ""), commitMsg()))
	f.Add(frame(logicalMsg(0), beginMsg(), logicalMsg(1), msg('O').u64(1).text("node"), commitMsg()))
	for _, name := range publications { // the versions hardly differ
		var transaction [][]byte
		for _, m := range goldenWAL(f, "17")[name] {
			if len(m.data) > 1000 {
				continue
			}
			if transaction = append(transaction, m.data); m.data[0] == 'C' {
				f.Add(frame(transaction...))
				transaction = nil
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, begin := decoder.New(1), decoder.Begin{}
		for len(data) > 0 {
			var m []byte
			m, data = nextFrame(data)
			m = exact(m)
			ours, err := d.Decode(pglogrepl.LSN(0xABC), m)
			if err != nil {
				checkError(t, err, m)
				d = decoder.New(1)
				continue
			}
			if b, ok := ours.(*decoder.Begin); ok {
				begin = *b
			}
			if err := roundTrip(ours, m); err != nil {
				t.Fatal(err)
			}
			if theirs, err := parse(m); err == nil {
				if err := agree(ours, theirs, begin); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func checkError(t *testing.T, err error, m []byte) {
	t.Helper()
	e, ok := errors.AsType[*decoder.Error](err)
	switch {
	case !ok:
		t.Fatalf("%q: %T %v, want a *decoder.Error", m, err, err)
	case e.LSN != 0xABC || e.Offset < 0 || e.Offset > len(m) || e.Field == "" || e.What == "" || e.Error() == "":
		t.Fatalf("%q: %+v", m, e)
	case len(m) > 0 && e.Kind != m[0]:
		t.Fatalf("%q: kind %q", m, e.Kind)
	}
}
