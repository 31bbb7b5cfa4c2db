package sink

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"

	"github.com/outbox-cdc/outbox-cdc/decoder"
)

// The headers that a dead letter has besides those of its event.
const (
	headerDeadError     = "outbox-error"      // what was wrong, in words
	headerDeadReason    = "outbox-reason"     // the same as a metric's label
	headerDeadTopic     = "outbox-topic"      // where the event should have gone, if that is known
	headerDeadID        = "outbox-id"         // the event's id, unless it is NULL
	headerDeadSize      = "outbox-size"       // bytes of the whole value, if it was cut
	headerDeadSHA256    = "outbox-sha256"     // of the whole value, if it was cut
	headerDeadKeySHA256 = "outbox-key-sha256" // of the whole key, if it was cut
)

const (
	// deadKept is what remains, in bytes, of a value and of a key that are cut.
	deadKept = 64 << 10
	// deadErrorMax bounds outbox-error, for the window does not count it (invariant 7).
	deadErrorMax = 256
)

// deadRecord makes the record of a dead letter: the event's own key, value and
// headers, and then why it is dead. Empty topics and ids are not known.
func deadRecord(original record, topic string, id []byte, cause error) *record {
	add := func(name string, value []byte) {
		if len(value) > 0 {
			original.headers = append(original.headers, header{name, value})
		}
	}
	text := cause.Error()
	if len(text) > deadErrorMax {
		text = text[:deadErrorMax] + "…"
	}
	add(headerDeadError, []byte(strings.ToValidUTF8(text, "")))
	add(headerDeadReason, []byte(errorName(cause)))
	add(headerDeadTopic, []byte(topic))
	add(headerDeadID, id)
	return &original
}

// shorten cuts a dead letter that is too large for its topic as well: of the
// headers only those remain that say what it is, and the sums of what was cut.
func shorten(rec *record) {
	kept := rec.headers[:0:0]
	for _, h := range rec.headers {
		if strings.HasPrefix(h.name, reservedHeaderPrefix) {
			kept = append(kept, h)
		}
	}
	if len(rec.value) > deadKept {
		kept = append(kept, header{headerDeadSize, strconv.AppendInt(nil, int64(len(rec.value)), 10)}, header{headerDeadSHA256, sum(rec.value)})
		rec.value = rec.value[:deadKept]
	}
	if len(rec.key) > deadKept {
		kept = append(kept, header{headerDeadKeySHA256, sum(rec.key)})
		rec.key = rec.key[:deadKept]
	}
	rec.headers = kept
}

// sum returns the SHA-256 of b in hexadecimal digits.
func sum(b []byte) []byte {
	h := sha256.Sum256(b)
	return hex.AppendEncode(nil, h[:])
}

// invalid is what is wrong with an event alone: its table is as the
// configuration says.
type invalid struct{ error }

func (e invalid) Unwrap() error { return e.error }

// dead returns the dead letter of the event that build has just returned err
// for: key and value as far as the row shows them. It is nil when the error is
// not of this event alone: a column is gone, and all other events would follow.
func (b *Builder) dead(ev *decoder.Event, err error) *record {
	cause, ok := errors.AsType[invalid](err)
	if !ok {
		return nil
	}
	original := record{time: ev.CommitTime, key: b.value(ev, roleKey), value: b.value(ev, rolePayload)}
	b.scratch = b.scratch[:0]
	if b.plan.keyBytea {
		original.key = b.byteaOrText(original.key)
	}
	if b.plan.valueBytea {
		original.value = b.byteaOrText(original.value)
	}
	b.rec.headers = b.rec.headers[:0]
	b.whence(ev)
	original.headers = b.rec.headers
	return deadRecord(original, b.rec.topic, b.value(ev, roleID), cause)
}

// byteaOrText decodes a bytea; what is none stays as it is.
func (b *Builder) byteaOrText(text []byte) []byte {
	if decoded, err := b.bytea(text); err == nil {
		return decoded
	}
	return text
}
