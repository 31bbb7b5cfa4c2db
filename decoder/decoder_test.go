package decoder_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/outbox-cdc/outbox-cdc/decoder"
)

// TestTransaction decodes one transaction of each kind of message.
func TestTransaction(t *testing.T) {
	t.Parallel()
	relation := &decoder.Relation{
		OID: 16385, Namespace: "public", Name: "outbox", ReplicaIdentity: 'd',
		Columns: []decoder.Column{
			{Name: "id", TypeOID: 2950, TypeModifier: -1, Key: true},
			{Name: "aggregate_id", TypeOID: 25, TypeModifier: -1},
			{Name: "payload", TypeOID: 3802, TypeModifier: -1},
		},
	}
	event := func(seq, size int, values ...[]byte) *decoder.Event {
		return &decoder.Event{
			Row:      decoder.Row{Relation: relation, Values: values},
			Timeline: 3, LSN: commitLSN, Seq: seq, XID: 742, CommitTime: committed,
			Size: size + decoder.EventOverhead,
		}
	}
	d := decoder.New(3)
	for _, step := range []struct {
		data message
		want decoder.Message
	}{
		{logicalMsg(0), &decoder.LogicalMessage{LSN: 0x2000, Prefix: []byte("prefix"), Content: []byte("content")}},
		{beginMsg(), &decoder.Begin{CommitLSN: commitLSN, CommitTime: committed, XID: 742}},
		{msg('O').u64(0x99).text("node_a"), &decoder.Origin{CommitLSN: 0x99, Name: []byte("node_a")}},
		{msg('Y').u32(16400).text("app").text("mood"), &decoder.Type{OID: 16400, Namespace: []byte("app"), Name: []byte("mood")}},
		{msg('Y').u32(16401).text("").text("text"), &decoder.Type{OID: 16401, Namespace: []byte("pg_catalog"), Name: []byte("text")}},
		{relationMsg(), relation},
		{insertMsg("1", "order-1", `{"a": 1}`), event(0, 16, []byte("1"), []byte("order-1"), []byte(`{"a": 1}`))},
		{insertMsg("2", "", "NULL"), event(1, 1, []byte("2"), []byte{}, nil)},
		{msg('U').u32(16385).values("2", "TOAST", "x"), &decoder.Skipped{Kind: 'U', Relation: relation, Relations: 1}},
		{msg('U').u32(16385).tuple('K', "1", "NULL", "NULL").values("2", "a", "x"), &decoder.Skipped{Kind: 'U', Relation: relation, Relations: 1}},
		{msg('U').u32(16385).tuple('O', "1", "a", "x").values("1", "b", "TOAST"), &decoder.Skipped{Kind: 'U', Relation: relation, Relations: 1}},
		{msg('D').u32(16385).tuple('K', "1", "NULL", "NULL"), &decoder.Skipped{Kind: 'D', Relation: relation, Relations: 1}},
		{msg('D').u32(16385).tuple('O', "1", "a", "NULL"), &decoder.Skipped{Kind: 'D', Relation: relation, Relations: 1}},
		{msg('T').u32(2).u8(3).u32(16385).u32(16385), &decoder.Skipped{Kind: 'T', Relations: 2}},
		{logicalMsg(1), &decoder.LogicalMessage{Transactional: true, LSN: 0x2000, Prefix: []byte("prefix"), Content: []byte("content")}},
		{insertMsg("3", "é", "NULL"), event(2, 3, []byte("3"), []byte("é"), nil)},
		{commitMsg(), &decoder.Commit{CommitLSN: commitLSN, EndLSN: endLSN, CommitTime: committed}},
		{beginMsg(), &decoder.Begin{CommitLSN: commitLSN, CommitTime: committed, XID: 742}},
		{insertMsg("4", "NULL", "NULL"), event(0, 1, []byte("4"), nil, nil)},
		{commitMsg(), &decoder.Commit{CommitLSN: commitLSN, EndLSN: endLSN, CommitTime: committed}},
		{msg('R').u32(7).text("").text("t").u8('n').u16(0), &decoder.Relation{OID: 7, Namespace: "pg_catalog", Name: "t", ReplicaIdentity: 'n', Columns: []decoder.Column{}}},
	} {
		if got := decode(t, d, exact(step.data)); !reflect.DeepEqual(got, step.want) {
			t.Errorf("%q:\n got %+v\nwant %+v", []byte(step.data), got, step.want)
		}
	}
	if i, j := relation.Index("payload"), relation.Index("Payload"); i != 2 || j != -1 {
		t.Errorf("index of payload %d, of Payload %d, want 2, -1", i, j)
	}
}

// TestRelationsAreVersions: a changed table is a new Relation, and the old one
// stays as it was.
func TestRelationsAreVersions(t *testing.T) {
	t.Parallel()
	d := open(t)
	before := decode(t, d, insertMsg("1", "a", "x")).(*decoder.Event).Row.Relation
	after := decode(t, d, msg('R').u32(16385).text("public").text("outbox").u8('d').u16(1).column(1, "key", 25)).(*decoder.Relation)
	if before == after || len(before.Columns) != 3 || before.Columns[0].Name != "id" {
		t.Errorf("the first version changed: %+v", before)
	}
	if row := decode(t, d, insertMsg("1")).(*decoder.Event).Row; row.Relation != after || len(row.Values) != 1 {
		t.Errorf("row %+v, want the second version", row)
	}
}

// TestValuesAlias: values are the input's own bytes, and appending to one does
// not write into the next.
func TestValuesAlias(t *testing.T) {
	t.Parallel()
	data := exact(insertMsg("ab", "cd", "ef"))
	row := decode(t, open(t), data).(*decoder.Event).Row
	_ = append(row.Values[0], "XXXXXXXX"...)
	if got := string(row.Values[1]); got != "cd" {
		t.Errorf("after an append the next value is %q, want cd", got)
	}
	data[len(data)-1] = '!'
	if got := string(row.Values[2]); got != "e!" {
		t.Errorf("value %q does not alias the input", got)
	}
}

// TestTimes: any 64 bits are a time, near Postgres's epoch and far.
func TestTimes(t *testing.T) {
	t.Parallel()
	for micros, want := range map[int64]string{
		0:                         "2000-01-01T00:00:00Z",
		-1:                        "1999-12-31T23:59:59.999999Z",
		1_500_000:                 "2000-01-01T00:00:01.5Z",
		9_223_371_331_200_000_000: "294277-01-01T00:00:00Z", // END_TIMESTAMP: no Postgres timestamp is later
	} {
		m := decode(t, decoder.New(1), msg('B').u64(commitLSN).u64(uint64(micros)).u32(1)).(*decoder.Begin)
		if got := m.CommitTime.Format(time.RFC3339Nano); got != want || m.CommitTime.Location() != time.UTC {
			t.Errorf("%d: %s, want %s", micros, got, want)
		}
	}
}

// TestNoAllocations: a message costs none once the widest row has been seen.
func TestNoAllocations(t *testing.T) {
	d := open(t)
	decode(t, d, commitMsg())
	messages := []message{
		beginMsg(), msg('O').u64(1).text("node"), msg('Y').u32(16400).text("app").text("mood"),
		insertMsg("1", "order-1", `{"a": 1}`), insertMsg("2", "NULL", "NULL"),
		msg('U').u32(16385).tuple('K', "1", "NULL", "NULL").values("2", "TOAST", "x"),
		msg('D').u32(16385).tuple('K', "1", "NULL", "NULL"), msg('T').u32(1).u8(0).u32(16385),
		logicalMsg(1), commitMsg(), logicalMsg(0),
	}
	all := func() {
		for _, m := range messages {
			if _, err := d.Decode(1, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	all()
	if n := testing.AllocsPerRun(1000, all); n != 0 {
		t.Errorf("%v allocations for %d messages, want 0", n, len(messages))
	}
}

func BenchmarkDecode(b *testing.B) {
	d := open(b)
	decode(b, d, commitMsg())
	key, payload := "order-1234567890", string(make([]byte, 1024))
	for _, bench := range []struct {
		name     string
		messages []message
	}{
		{"insert", []message{insertMsg("0190c5a2-7f4e-7b3a-9c1d-2f6e8a4b5c6d", key, payload)}},
		{"transaction of one", []message{beginMsg(), insertMsg("0190c5a2-7f4e-7b3a-9c1d-2f6e8a4b5c6d", key, payload), commitMsg()}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			d := d
			if len(bench.messages) == 1 {
				d = open(b)
			}
			bytes := 0
			for _, m := range bench.messages {
				bytes += len(m)
			}
			b.SetBytes(int64(bytes))
			b.ReportAllocs()
			for b.Loop() {
				for _, m := range bench.messages {
					if _, err := d.Decode(pglogrepl.LSN(1), m); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
	b.Run("wide insert", func(b *testing.B) { // 13 columns, as the default table has
		d := decoder.New(1)
		relation := msg('R').u32(1).text("public").text("outbox").u8('d').u16(13)
		values := make([]string, 13)
		for i := range values {
			relation = relation.column(0, string(rune('a'+i)), 25)
			values[i] = "a value of some length"
		}
		values[5], values[7] = "NULL", "NULL"
		decode(b, d, beginMsg())
		decode(b, d, relation)
		data := msg('I').u32(1).values(values...)
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.Decode(1, data); err != nil {
				b.Fatal(err)
			}
		}
	})
}
