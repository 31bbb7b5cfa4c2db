package sink

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// record is what an event becomes. It is valid until the Builder's next build:
// its bytes alias the event, the Builder's scratch, or constants.
type record struct {
	topic   string
	key     []byte // nil is null
	value   []byte // nil is null: a tombstone
	headers []header
	time    time.Time // when the transaction committed; zero for a row that comes from the table
	id      []byte    // the event's own id, for messages
}

// The names of the headers, in the order in which a record has them.
const (
	headerContentType    = "content-type"
	headerSpecVersion    = "ce_specversion"
	headerID             = "ce_id"
	headerType           = "ce_type"
	headerSource         = "ce_source"
	headerTime           = "ce_time"
	headerSubject        = "ce_subject"
	headerCECorrelation  = "ce_correlationid"
	headerCorrelation    = "correlation_id" // what FastStream reads
	headerCausation      = "ce_causationid"
	headerDataVersion    = "ce_dataversion"
	headerTraceparent    = "traceparent"
	headerTracestate     = "tracestate"
	headerPlainID        = "id"
	headerPlainType      = "type"
	headerLSN            = "outbox-lsn"
	headerRecovered      = "outbox-recovered"
	reservedHeaderPrefix = "outbox-"
)

var (
	specVersion = []byte("1.0")
	valueTrue   = []byte("true")
)

// build makes the record of an event. An error says why that event can never
// be published: it is of kind fault.Poison and names the row.
//
// Of two headers with one name the first wins: ours, then those of
// headers.extra, then those of the headers column. What is NULL is left out: a
// header never has a null value. Names that begin with outbox- are ours alone.
func (b *Builder) build(ev *decoder.Event) (*record, error) {
	b.rec = record{headers: b.rec.headers[:0], time: ev.CommitTime}
	b.scratch = b.scratch[:0]
	if ev.Row.Relation != b.plan.relation {
		if err := b.setPlan(ev.Row.Relation); err != nil {
			return nil, b.poison(ev, err)
		}
	}
	if len(ev.Row.Values) != len(b.plan.relation.Columns) {
		return nil, b.poison(ev, fmt.Errorf("the row has %d values for %d columns", len(ev.Row.Values), len(b.plan.relation.Columns)))
	}
	b.rec.id = b.value(ev, roleID)
	err := b.setTopic(ev)
	if err == nil {
		err = b.setKeyAndValue(ev)
	}
	if err == nil {
		err = b.setHeaders(ev)
	}
	if err != nil {
		return nil, b.poison(ev, invalid{err})
	}
	return &b.rec, nil
}

// value returns a column of the row; nil for NULL and for a column that the table lacks.
func (b *Builder) value(ev *decoder.Event, r role) []byte {
	if i := b.plan.role[r]; i >= 0 {
		return ev.Row.Values[i]
	}
	return nil
}

func (b *Builder) setTopic(ev *decoder.Event) error {
	from := len(b.scratch)
	for _, p := range b.topic.parts {
		if p.column < 0 {
			b.scratch = append(b.scratch, p.literal...)
			continue
		}
		v := ev.Row.Values[b.plan.topic[p.column]]
		if len(v) == 0 {
			return fmt.Errorf("column %q, which the topic is made of, is NULL or empty", b.topic.columns[p.column])
		}
		b.scratch = append(b.scratch, v...)
	}
	name := b.scratch[from:]
	if topic, ok := b.topics[string(name)]; ok {
		b.rec.topic = topic
		return nil
	}
	if err := checkTopic(string(name)); err != nil {
		return err
	}
	if string(name) == b.reserved {
		return fmt.Errorf("the topic %s is for dead letters", name)
	}
	b.rec.topic = intern(b.topics, name)
	return nil
}

// maxInterned bounds an intern table: past it, the table starts anew.
const maxInterned = 4096

// intern returns the string of bytes that come again and again, without a new string each time.
func intern(table map[string]string, text []byte) string {
	if s, ok := table[string(text)]; ok {
		return s
	}
	if len(table) >= maxInterned { // Invariant 7
		clear(table)
	}
	s := string(text)
	table[s] = s
	return s
}

func (b *Builder) setKeyAndValue(ev *decoder.Event) error {
	var err error
	b.rec.key, b.rec.value = b.value(ev, roleKey), b.value(ev, rolePayload)
	if b.plan.keyBytea {
		if b.rec.key, err = b.bytea(b.rec.key); err != nil {
			return fmt.Errorf("column %q: %w", b.columns[roleKey], err)
		}
	}
	if b.plan.valueBytea {
		if b.rec.value, err = b.bytea(b.rec.value); err != nil {
			return fmt.Errorf("column %q: %w", b.columns[rolePayload], err)
		}
	}
	return nil
}

// bytea decodes the hex format that the session asks for.
// https://www.postgresql.org/docs/current/datatype-binary.html#DATATYPE-BINARY-BYTEA-HEX-FORMAT
func (b *Builder) bytea(text []byte) ([]byte, error) {
	if text == nil {
		return nil, nil
	}
	digits, ok := bytes.CutPrefix(text, []byte(`\x`))
	if !ok {
		return nil, errors.New(`bytea that is not in hex format: the server ignored bytea_output = hex`)
	}
	from := len(b.scratch)
	var err error
	if b.scratch, err = hex.AppendDecode(b.scratch, digits); err != nil {
		return nil, fmt.Errorf("bytea: %w", err)
	}
	return b.scratch[from:len(b.scratch):len(b.scratch)], nil
}

func (b *Builder) setHeaders(ev *decoder.Event) error {
	id, typ := b.value(ev, roleID), b.value(ev, roleType)
	switch {
	case len(id) == 0: // all of them would be repeats of one event to their consumers
		return fmt.Errorf("column %q, the event's id, is NULL or empty", b.columns[roleID])
	case len(typ) == 0:
		return fmt.Errorf("column %q, the event's type, is NULL or empty", b.columns[roleType])
	}
	if b.binary {
		b.cloudEvent(ev, id, typ)
	} else {
		b.header(headerPlainID, id)
		b.header(headerPlainType, typ)
	}
	b.whence(ev)
	for i, e := range b.extra {
		b.extraHeader(e.header, ev.Row.Values[b.plan.extra[i]])
	}
	text := b.value(ev, roleHeaders)
	if text == nil {
		return nil
	}
	var err error
	b.scratch, err = eachHeader(text, b.scratch, func(name, value []byte) { b.extraHeader(intern(b.names, name), value) })
	if err != nil {
		return fmt.Errorf("column %q, the record's headers: %w", b.columns[roleHeaders], err)
	}
	return nil
}

// whence says where in the WAL the row stands, or that it comes from the table.
func (b *Builder) whence(ev *decoder.Event) {
	if ev.LSN == 0 {
		b.header(headerRecovered, valueTrue)
	} else {
		b.header(headerLSN, b.position(ev))
	}
}

// cloudEvent adds the attributes as the Kafka binding's binary mode wants them.
// Bytea columns other than the payload stand in headers as \x… text: a header
// must be UTF-8.
func (b *Builder) cloudEvent(ev *decoder.Event, id, typ []byte) {
	b.header(headerContentType, b.plan.contentType)
	b.header(headerSpecVersion, specVersion)
	b.header(headerID, id)
	b.header(headerType, typ)
	source := b.value(ev, roleSource)
	if len(source) == 0 {
		source = b.source
	}
	b.header(headerSource, source)
	b.header(headerTime, b.eventTime(ev))
	subject := b.value(ev, roleSubject)
	if len(subject) == 0 {
		subject = b.value(ev, roleKey)
	}
	if len(subject) > 0 { // CloudEvents 1.0, "subject": not empty if present
		b.header(headerSubject, subject)
	}
	b.header(headerCECorrelation, b.value(ev, roleCorrelationID))
	b.header(headerCorrelation, b.value(ev, roleCorrelationID))
	b.header(headerCausation, b.value(ev, roleCausationID))
	b.header(headerDataVersion, b.value(ev, roleDataVersion))
	b.header(headerTraceparent, b.value(ev, roleTraceparent))
	b.header(headerTracestate, b.value(ev, roleTracestate))
	b.rec.headers = append(b.rec.headers, b.static...)
}

// header adds a header unless its value is nil.
func (b *Builder) header(name string, value []byte) {
	if value != nil {
		b.rec.headers = append(b.rec.headers, header{name, value})
	}
}

// extraHeader adds a header that is not ours.
func (b *Builder) extraHeader(name string, value []byte) {
	if strings.HasPrefix(name, reservedHeaderPrefix) {
		return
	}
	for i := range b.rec.headers {
		if b.rec.headers[i].name == name {
			return
		}
	}
	b.header(name, value)
}

// eventTime returns ce_time: the timestamp column, or the commit time when
// there is none. A value that RFC 3339 cannot express gives nil, for ce_time is
// optional and must not tell another time.
func (b *Builder) eventTime(ev *decoder.Event) []byte {
	text := b.value(ev, roleTimestamp)
	switch {
	case text != nil:
		var ok bool
		from := len(b.scratch)
		if b.scratch, ok = appendTime(b.scratch, text); !ok {
			return nil
		}
		return b.scratch[from:len(b.scratch):len(b.scratch)]
	case ev.CommitTime.IsZero():
		return nil
	case !ev.CommitTime.Equal(b.commit): // the events of a transaction share it
		b.commit = ev.CommitTime
		b.commitText = b.commit.UTC().AppendFormat(b.commitText[:0], "2006-01-02T15:04:05.999999Z07:00")
	}
	return b.commitText
}

// position returns outbox-lsn: <timeline>/<commit LSN>/<seq>, the same on each
// resend, so that consumers can drop repeats.
func (b *Builder) position(ev *decoder.Event) []byte {
	from := len(b.scratch)
	b.scratch = strconv.AppendInt(b.scratch, int64(ev.Timeline), 10)
	b.scratch = append(b.scratch, '/')
	b.scratch = appendHex(b.scratch, uint32(ev.LSN>>32))
	b.scratch = append(b.scratch, '/')
	b.scratch = appendHex(b.scratch, uint32(ev.LSN))
	b.scratch = append(b.scratch, '/')
	b.scratch = strconv.AppendInt(b.scratch, int64(ev.Seq), 10)
	return b.scratch[from:len(b.scratch):len(b.scratch)]
}

// appendHex appends %X, as an LSN is written.
func appendHex(dst []byte, n uint32) []byte {
	const digits = "0123456789ABCDEF"
	for shift := 28; shift >= 0; shift -= 4 {
		if d := n >> shift; d != 0 || shift == 0 {
			dst = append(dst, digits[d&0xf])
		}
	}
	return dst
}

// poison returns the error of an event that no record can be made of.
func (b *Builder) poison(ev *decoder.Event, cause error) error {
	hint := "mend what writes the row; the relay goes no further until this event is out of its way"
	if missing, ok := errors.AsType[*columnError](cause); ok {
		hint = fmt.Sprintf("add the column to the table and the publication, or change %s, which names it. "+
			"Rows that were written while it was missing stay so in the WAL: if the table still has all that was not sent, put it right there and run `outbox-cdc recover --replace-slot`. "+
			"If not, start with %[1]s naming a column that they and the table have, until they are past: whatever else is sent meanwhile is made from that column too", b.AskedBy(missing.column))
	}
	if i := ev.Row.Relation.Index(b.columns[roleID]); b.rec.id == nil && i >= 0 && i < len(ev.Row.Values) {
		b.rec.id = ev.Row.Values[i]
	}
	return poisoned(b.rec.id, uint64(ev.LSN), ev.Seq, b.rec.topic, cause, hint)
}

// poisoned is the error that stops the relay: it says which row, and why.
func poisoned(id []byte, lsn uint64, seq int, where string, cause error, hint string) error {
	row := "a row without an id"
	if id != nil {
		row = "row " + string(bytes.ToValidUTF8(id, []byte("?")))
	}
	at := "from the table"
	if lsn != 0 {
		at = fmt.Sprintf("at LSN %X/%X (event %d of its transaction)", uint32(lsn>>32), uint32(lsn), seq)
	}
	if where != "" {
		at += ", topic " + where
	}
	return fault.New(fault.Poison, "publish "+row+" "+at, cause, hint)
}
