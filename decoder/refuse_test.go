package decoder_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"

	"github.com/outbox-cdc/outbox-cdc/decoder"
)

// TestRefused gives the decoder what a sane server does not send. Each case is
// a guard: without it the message would be accepted, or fail elsewhere.
func TestRefused(t *testing.T) {
	t.Parallel()
	outside, inside := []message(nil), []message{beginMsg(), relationMsg()}
	rel := func() message { return msg('R').u32(9).text("public").text("t") }
	for _, test := range []struct {
		name   string
		before []message
		data   message
		offset int
		want   string // in the error's text
	}{
		{"empty", outside, message{}, 0, "decode message at 0/ABC: is empty"},
		{"unknown kind", inside, msg('Z'), 0, `decode unknown ('Z') message at 0/ABC: kind (byte 0): unknown message`},
		{"keepalive", inside, msg('k').u64(1).u64(1).u8(0), 0, "unknown message"},

		{"begin inside", inside, beginMsg(), 0, "transaction 742, to commit at 0/16B3748, is still open"},
		{"begin at 0/0", outside, msg('B').u64(0).u64(micros).u32(1), 1, "commit LSN (byte 1): is 0/0"},
		{"begin short", outside, beginMsg()[:20], 17, "xid (byte 17): 4 bytes wanted, 3 left"},
		{"begin long", outside, beginMsg().u8(0), 21, "end (byte 21): 1 bytes too many"},

		{"commit outside", outside, commitMsg(), 0, "decode Commit message at 0/ABC: kind (byte 0): no transaction is open"},
		{"commit flags", inside, msg('C').u8(1).u64(commitLSN).u64(endLSN).u64(micros), 1, "flags (byte 1): unknown bits in 0x01"},
		{"commit of another", inside, msg('C').u8(0).u64(commitLSN + 8).u64(endLSN).u64(micros), 2, "is 0/16B3750, but the transaction began with 0/16B3748"},
		{"commit at 0/0", inside, msg('C').u8(0).u64(0).u64(endLSN).u64(micros), 2, "commit LSN (byte 2): is 0/0"},
		{"commit end 0/0", inside, msg('C').u8(0).u64(commitLSN).u64(0).u64(micros), 10, "end LSN (byte 10): is 0/0"},
		{"commit end not behind", inside, msg('C').u8(0).u64(commitLSN).u64(commitLSN).u64(micros), 10, "not behind the commit LSN"},
		{"commit short", inside, commitMsg()[:25], 18, "commit time (byte 18): 8 bytes wanted, 7 left"},
		{"commit long", inside, commitMsg().u8(0), 26, "1 bytes too many"},

		{"origin outside", outside, msg('O').u64(1).text("node"), 0, "no transaction is open"},
		{"origin unterminated", inside, append(msg('O').u64(1), "node"...), 9, "origin name (byte 9): has no terminating zero byte"},
		{"type unterminated", inside, append(msg('Y').u32(1).text("app"), "mood"...), 9, "type name (byte 9): has no"},
		{"type without a name", inside, msg('Y').u32(1).text("app"), 9, "type name (byte 9): has no"},

		{"relation identity", inside, rel().u8('x').u16(0), 14, `replica identity (byte 14): unknown setting 'x'`},
		{"relation columns", inside, rel().u8('d').u16(2).column(0, "a", 25), 15, "2 columns do not fit into the 11 bytes left"},
		{"relation column flags", inside, rel().u8('d').u16(1).column(2, "a", 25), 17, "column flags (byte 17): unknown bits in 0x02"},
		{"relation column twice", inside, rel().u8('d').u16(2).column(0, "a", 25).column(0, "a", 26), 29, `public.t has two columns "a"`},
		{"relation column cut", inside, rel().u8('d').u16(1).column(0, "abc", 25)[:27], 26, "column type modifier (byte 26)"},
		{"relation column unterminated", inside, append(rel().u8('d').u16(1), 0, 'a', 'a', 'a', 'a', 'a', 'a', 'a', 'a', 'a'), 18, "column name (byte 18): has no"},
		{"relation long", inside, rel().u8('d').u16(0).u8(0), 17, "end (byte 17): 1 bytes too many"},

		{"insert outside", []message{relationMsg()}, insertMsg("1", "a", "x"), 0, "no transaction is open"},
		{"insert after the commit", []message{relationMsg(), beginMsg(), commitMsg()}, insertMsg("1", "a", "x"), 0, "no transaction is open"},
		{"insert unknown table", inside, msg('I').u32(16386).values("1"), 1, "relation OID (byte 1): no Relation message came for 16386"},
		{"insert old row", inside, msg('I').u32(16385).tuple('O', "1", "a", "x"), 5, `tuple (byte 5): a new row (N) must follow, not 'O'`},
		{"insert fewer columns", inside, insertMsg("1", "a"), 6, "is 2, but public.outbox was announced with 3"},
		{"insert more columns", inside, insertMsg("1", "a", "b", "c"), 6, "is 4, but public.outbox was announced with 3"},
		{"insert toast", inside, insertMsg("1", "a", "TOAST"), 20, `column 3 "payload" of public.outbox (byte 20): unchanged TOAST value in an insert`},
		{"insert binary", inside, msg('I').u32(16385).u8('N').u16(3).u8('b').counted("1").value("a").value("x"), 8, `column 1 "id" of public.outbox (byte 8): binary value`},
		{"insert format", inside, msg('I').u32(16385).u8('N').u16(3).u8('x'), 8, `unknown format 'x'`},
		{"insert negative length", inside, msg('I').u32(16385).u8('N').u16(3).u8('t').u32(0xffffffff), 9, `column 1 "id" of public.outbox length (byte 9): negative length -1`},
		{"insert length past the end", inside, msg('I').u32(16385).u8('N').u16(3).u8('t').u32(5).u32(0), 13, `column 1 "id" of public.outbox length (byte 13): 5 bytes wanted, 4 left`},
		{"insert huge length", inside, msg('I').u32(16385).u8('N').u16(3).u8('t').u32(0x7fffffff), 13, "2147483647 bytes wanted, 0 left"},
		{"insert length cut", inside, msg('I').u32(16385).u8('N').u16(3).u8('t').u16(0), 9, "4 bytes wanted, 2 left"},
		{"insert columns missing", inside, msg('I').u32(16385).u8('N').u16(3).value("1"), 14, "column format (byte 14): 1 bytes wanted, 0 left"},
		{"insert long", inside, insertMsg("1", "a", "x").u8('n'), 26, "end (byte 26): 1 bytes too many"},

		{"update outside", []message{relationMsg()}, msg('U').u32(16385).values("1", "a", "x"), 0, "no transaction is open"},
		{"update unknown table", inside, msg('U').u32(1).values("1"), 1, "no Relation message came for 1"},
		{"update tag", inside, msg('U').u32(16385).tuple('X', "1", "a", "x"), 5, `must follow, not 'X'`},
		{"update without a new row", inside, msg('U').u32(16385).tuple('K', "1", "a", "x"), 26, "tuple (byte 26): 1 bytes wanted, 0 left"},
		{"update two old rows", inside, msg('U').u32(16385).tuple('K', "1", "a", "x").tuple('O', "1", "a", "x"), 26, `must follow, not 'O'`},
		{"update columns", inside, msg('U').u32(16385).tuple('K', "1").values("1", "a", "x"), 6, "is 1, but public.outbox was announced with 3"},
		{"update binary", inside, msg('U').u32(16385).u8('N').u16(3).u8('b').counted("1"), 8, "binary value"},
		{"update long", inside, msg('U').u32(16385).values("1", "a", "x").u8(0), 26, "1 bytes too many"},
		{"delete outside", []message{relationMsg()}, msg('D').u32(16385).tuple('K', "1", "a", "x"), 0, "no transaction is open"},
		{"delete unknown table", inside, msg('D').u32(1).tuple('K', "1"), 1, "no Relation message came for 1"},
		{"delete new row", inside, msg('D').u32(16385).values("1", "a", "x"), 5, `an old row (O) or its key (K) must follow, not 'N'`},
		{"delete columns", inside, msg('D').u32(16385).tuple('O', "1"), 6, "column count (byte 6): is 1"},
		{"delete long", inside, msg('D').u32(16385).tuple('O', "1", "a", "x").u8(0), 26, "1 bytes too many"},
		{"truncate outside", []message{relationMsg()}, msg('T').u32(1).u8(0).u32(16385), 0, "no transaction is open"},
		{"truncate options", inside, msg('T').u32(1).u8(4).u32(16385), 5, "options (byte 5): unknown bits in 0x04"},
		{"truncate count", inside, msg('T').u32(2).u8(0).u32(16385), 1, "2 relations do not fit into the 4 bytes left"},
		{"truncate huge count", inside, msg('T').u32(0xffffffff).u8(0), 1, "4294967295 relations do not fit"},
		{"truncate unknown table", inside, msg('T').u32(2).u8(0).u32(16385).u32(1), 10, "no Relation message came for 1"},
		{"truncate long", inside, msg('T').u32(1).u8(0).u32(16385).u32(16385), 10, "4 bytes too many"},

		{"message flags", outside, logicalMsg(2), 1, "flags (byte 1): unknown bits in 0x02"},
		{"transactional message outside", outside, logicalMsg(1), 1, "transactional message outside of a transaction"},
		{"non-transactional message inside", inside, logicalMsg(0), 1, "non-transactional message inside of a transaction"},
		{"message at 0/0", outside, msg('M').u8(0).u64(0).text("p").counted("c"), 2, "message LSN (byte 2): is 0/0"},
		{"message prefix", outside, append(msg('M').u8(0).u64(9), "p"...), 10, "prefix (byte 10): has no"},
		{"message content", outside, msg('M').u8(0).u64(9).text("p").u32(3).u8('a'), 16, "content (byte 16): 3 bytes wanted, 1 left"},
		{"message negative content", outside, msg('M').u8(0).u64(9).text("p").u32(0x80000000), 12, "negative length"},
		{"message long", outside, logicalMsg(0).u8(0), 28, "1 bytes too many"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := decoder.New(1)
			for _, m := range test.before {
				decode(t, d, m)
			}
			m, err := d.Decode(0xABC, exact(test.data))
			e, ok := errors.AsType[*decoder.Error](err)
			if !ok || m != nil {
				t.Fatalf("message %+v, err %v, want a *decoder.Error", m, err)
			}
			if !strings.Contains(err.Error(), test.want) || e.Offset != test.offset || e.LSN != 0xABC {
				t.Errorf("err %q, offset %d, LSN %s\nwant %q, offset %d, LSN 0/ABC", err, e.Offset, e.LSN, test.want, test.offset)
			}
			if len(test.data) > 0 && e.Kind != test.data[0] {
				t.Errorf("kind %q, want %q", e.Kind, test.data[0])
			}
			// Invariant 8: nothing after an error is trusted.
			if m, again := d.Decode(1, logicalMsg(0)); m != nil || again != err {
				t.Errorf("after the error: message %+v, err %v, want the same error", m, again)
			}
		})
	}
}

// TestLaterProtocols: streamed and two-phase transactions were not asked for.
func TestLaterProtocols(t *testing.T) {
	t.Parallel()
	for kind, name := range map[byte]string{
		'S': "Stream Start", 'E': "Stream Stop", 'c': "Stream Commit", 'A': "Stream Abort", 'b': "Begin Prepare",
		'P': "Prepare", 'K': "Commit Prepared", 'r': "Rollback Prepared", 'p': "Stream Prepare",
	} {
		_, err := decoder.New(1).Decode(0xABC, msg(kind).u64(1).u64(2))
		want := "decode " + name + " message at 0/ABC: kind (byte 0): protocol version 1 must not send it"
		if e, ok := errors.AsType[*decoder.Error](err); !ok || e.Error() != want || e.Hint == "" {
			t.Errorf("%q: %v, want %s, with a hint", kind, err, want)
		}
	}
}

// TestEveryCut cuts and lengthens every kind of message at every byte.
func TestEveryCut(t *testing.T) {
	t.Parallel()
	inside := []message{
		commitMsg(), msg('O').u64(1).text("node"), msg('Y').u32(16400).text("app").text("mood"), relationMsg(),
		insertMsg("1", "NULL", "x"), msg('U').u32(16385).tuple('K', "1", "NULL", "NULL").values("2", "TOAST", "x"),
		msg('D').u32(16385).tuple('O', "1", "a", "x"), msg('T').u32(1).u8(0).u32(16385), logicalMsg(1),
	}
	for _, m := range inside {
		decode(t, open(t), m)
		for n := range m {
			if got, err := open(t).Decode(1, exact(m[:n])); err == nil {
				t.Errorf("%c cut to %d of %d bytes: accepted as %+v", m[0], n, len(m), got)
			}
		}
		if got, err := open(t).Decode(1, exact(m.u8(0))); err == nil {
			t.Errorf("%c with one byte more: accepted as %+v", m[0], got)
		}
	}
	for _, m := range []message{beginMsg(), logicalMsg(0)} {
		for n := range m {
			if got, err := decoder.New(1).Decode(pglogrepl.LSN(1), exact(m[:n])); err == nil {
				t.Errorf("%c cut to %d of %d bytes: accepted as %+v", m[0], n, len(m), got)
			}
		}
	}
}
