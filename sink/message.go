package sink

import (
	"encoding/binary"
	"slices"
	"sync"

	"github.com/IBM/sarama"

	"github.com/outbox-cdc/outbox-cdc/decoder"
)

// message is what is kept of an event until it is settled: one allocation for
// its bytes, none in the steady state.
type message struct {
	next      *message
	topic     *topic
	ack       Ack
	buf       []byte // key, value, then each header: length of the name, name, length of the value, value
	key       int    // bytes of buf; -1 is null
	value     int    // bytes of buf; -1 is null
	headers   int
	size      int   // Event.Size: what the window counts
	time      int64 // the record's timestamp, ms since 1970
	committed int64 // ns since 1970; 0 for a row that comes from the table
	published int64 // ns since 1970
	lsn       uint64
	seq       int
}

// recordOverhead is the most that the encoding adds to a message's bytes.
// https://kafka.apache.org/documentation/#record
const recordOverhead = 5*binary.MaxVarintLen32 + binary.MaxVarintLen64 + 1

// wire is the most bytes that the message takes in a batch, before compression.
func (m *message) wire() int { return len(m.buf) + recordOverhead }

// alone is the most bytes of a batch that has only this message. In a batch a length is a
// signed varint, which may take a byte more; and what cannot be compressed grows, with
// snappy by up to a sixth (https://github.com/google/snappy/blob/main/snappy.cc, MaxCompressedLength).
func (m *message) alone(codec sarama.CompressionCodec) int {
	n := batchOverhead + m.wire() + 2*m.headers
	if codec != sarama.CompressionNone {
		n += n/6 + 1<<10
	}
	return n
}

var messages = sync.Pool{New: func() any { return new(message) }}

// newMessage copies what is kept of an event; its topic is left to be set. now is in ns since 1970.
func newMessage(rec *record, ev *decoder.Event, ack Ack, now int64) *message {
	m := messages.Get().(*message)
	*m = message{
		ack: ack, buf: m.buf, size: ev.Size,
		time: now / 1e6, published: now, lsn: uint64(ev.LSN), seq: ev.Seq,
	}
	if !rec.time.IsZero() && ev.LSN != 0 {
		m.committed = rec.time.UnixNano()
		m.time = max(0, rec.time.UnixMilli())
	}
	m.fill(rec)
	return m
}

// fill copies key, value and headers.
func (m *message) fill(rec *record) {
	need := len(rec.key) + len(rec.value)
	for i := range rec.headers {
		need += len(rec.headers[i].name) + len(rec.headers[i].value) + 2*binary.MaxVarintLen32
	}
	buf := m.buf[:0]
	if cap(buf) < need || cap(buf) > 2*need+256 { // Invariant 7: what is kept is near what the window counts
		buf = make([]byte, 0, need)
	}
	m.key, m.value, m.headers = len(rec.key), len(rec.value), len(rec.headers)
	if rec.key == nil {
		m.key = -1
	}
	if rec.value == nil {
		m.value = -1
	}
	buf = append(append(buf, rec.key...), rec.value...)
	for i := range rec.headers {
		h := &rec.headers[i]
		buf = append(binary.AppendUvarint(buf, uint64(len(h.name))), h.name...)
		buf = append(binary.AppendUvarint(buf, uint64(len(h.value))), h.value...)
	}
	m.buf = buf
}

// record returns the record that the message was made of; it aliases the message.
func (m *message) record() record {
	rec := record{key: m.keyBytes(), value: m.valueBytes()}
	for _, h := range m.readHeaders(nil) {
		rec.headers = append(rec.headers, header{string(h.Key), h.Value})
	}
	return rec
}

// free gives a settled message back. Nothing may refer to it any more.
func (m *message) free() {
	m.next, m.topic, m.ack = nil, nil, nil
	messages.Put(m)
}

// keyBytes returns the key; nil is null.
func (m *message) keyBytes() []byte {
	if m.key < 0 {
		return nil
	}
	return m.buf[:m.key:m.key]
}

// valueBytes returns the value; nil is null.
func (m *message) valueBytes() []byte {
	if m.value < 0 {
		return nil
	}
	from := max(0, m.key)
	return m.buf[from : from+m.value : from+m.value]
}

// readHeaders appends the headers, which alias the message.
func (m *message) readHeaders(to []sarama.RecordHeader) []sarama.RecordHeader {
	rest := m.buf[max(0, m.key)+max(0, m.value):]
	for range m.headers {
		var h sarama.RecordHeader
		h.Key, rest = cutField(rest)
		h.Value, rest = cutField(rest)
		to = append(to, h)
	}
	return to
}

func cutField(b []byte) (field, rest []byte) {
	n, width := binary.Uvarint(b)
	b = b[width:]
	return b[:n:n], b[n:]
}

// id returns the event's id, from the header that holds it.
func (m *message) id() []byte { return m.header(headerID, headerPlainID, headerDeadID) }

// header returns the value of the first header that has one of the names.
func (m *message) header(names ...string) []byte {
	for _, h := range m.readHeaders(nil) {
		if slices.Contains(names, string(h.Key)) {
			return h.Value
		}
	}
	return nil
}

// list is a queue of messages, linked through them.
type list struct {
	head, tail *message
	n          int
	bytes      int // the sum of wire
}

func (l *list) push(m *message) {
	m.next = nil
	if l.tail == nil {
		l.head = m
	} else {
		l.tail.next = m
	}
	l.tail = m
	l.n++
	l.bytes += m.wire()
}

// append moves all of other behind l.
func (l *list) append(other *list) {
	switch {
	case other.n == 0:
		return
	case l.n == 0:
		*l = *other
	default:
		l.tail.next = other.head
		l.tail = other.tail
		l.n += other.n
		l.bytes += other.bytes
	}
	*other = list{}
}

// cut takes messages off the front: at least one, and then as many as fit into
// bytes and, when it is positive, count.
func (l *list) cut(count, bytes int) list {
	var front list
	for m := l.head; m != nil; m = m.next {
		if front.n > 0 && (front.bytes+m.wire() > bytes || front.n == count) {
			break
		}
		if front.n == 0 {
			front.head = m
		}
		front.tail = m
		front.n++
		front.bytes += m.wire()
	}
	if front.n == 0 {
		return front
	}
	l.head = front.tail.next
	front.tail.next = nil
	if l.head == nil {
		l.tail = nil
	}
	l.n -= front.n
	l.bytes -= front.bytes
	return front
}

// each calls f with every message; f may free it.
func (l *list) each(f func(*message)) {
	for m := l.head; m != nil; {
		next := m.next
		f(m)
		m = next
	}
}

// lists are messages that are to be settled together. They are not linked with
// each other: one may be a batch that a sender is reading.
type lists []list

// add takes l, which must be no longer in use as a queue.
func (ls *lists) add(l list) {
	if l.n > 0 {
		*ls = append(*ls, l)
	}
}

// count returns how many messages there are.
func (ls *lists) count() int {
	n := 0
	for i := range *ls {
		n += (*ls)[i].n
	}
	return n
}

// fail settles them with an error. They are not used again, for a sender may
// still be reading them.
func (ls *lists) fail(err error) {
	for i := range *ls {
		(*ls)[i].each(func(m *message) { m.ack.Fail(m.size, err) })
	}
}
