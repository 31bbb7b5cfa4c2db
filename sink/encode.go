package sink

import (
	"time"

	"github.com/IBM/sarama"
)

// encoder turns batches into a request. Its memory is used again for the next one.
type encoder struct {
	records  []sarama.Record
	headers  []sarama.RecordHeader
	pointers []*sarama.Record
	headerPs []*sarama.RecordHeader
}

// request encodes batches. The request is valid until the next one; it aliases
// the messages, and sarama has copied everything when it is on the wire.
func (e *encoder) request(batches []*batch, codec sarama.CompressionCodec, timeout time.Duration) *sarama.ProduceRequest {
	req := &sarama.ProduceRequest{
		RequiredAcks: sarama.WaitForAll, // Invariant 6: acknowledged means on all in-sync replicas
		Timeout:      int32(timeout.Milliseconds()),
		Version:      10, // the newest that sarama knows; it takes an older one when the broker does
	}
	records, headers := 0, 0
	for _, b := range batches {
		records += b.messages.n
		b.messages.each(func(m *message) { headers += m.headers })
	}
	e.grow(records, headers)
	for _, b := range batches {
		req.AddBatch(b.p.topic.name, b.p.id, e.batch(b, codec))
	}
	return req
}

// grow makes room, so that no pointer into the slices moves later.
func (e *encoder) grow(records, headers int) {
	const keep = 1 << 14 // what a rare large request needed is given back
	if cap(e.records) < records || cap(e.records) > keep && records < keep {
		e.records, e.pointers = make([]sarama.Record, 0, records), make([]*sarama.Record, 0, records)
	}
	if cap(e.headers) < headers || cap(e.headers) > 16*keep && headers < 16*keep {
		e.headers, e.headerPs = make([]sarama.RecordHeader, 0, headers), make([]*sarama.RecordHeader, 0, headers)
	}
	e.records, e.pointers = e.records[:0], e.pointers[:0]
	e.headers, e.headerPs = e.headers[:0], e.headerPs[:0]
}

func (e *encoder) batch(b *batch, codec sarama.CompressionCodec) *sarama.RecordBatch {
	first := b.messages.head.time
	latest, from := first, len(e.pointers)
	for m, i := b.messages.head, int64(0); m != nil; m, i = m.next, i+1 {
		latest = max(latest, m.time) // commit times may step back
		h := len(e.headers)
		e.headers = m.readHeaders(e.headers)
		for j := h; j < len(e.headers); j++ {
			e.headerPs = append(e.headerPs, &e.headers[j])
		}
		e.records = append(e.records, sarama.Record{
			OffsetDelta:    i,
			TimestampDelta: time.Duration(m.time-first) * time.Millisecond,
			Key:            m.keyBytes(),
			Value:          m.valueBytes(),
			Headers:        e.headerPs[h:len(e.headers):len(e.headers)],
		})
		e.pointers = append(e.pointers, &e.records[len(e.records)-1])
	}
	return &sarama.RecordBatch{
		Version: 2, Codec: codec, CompressionLevel: sarama.CompressionLevelDefault,
		ProducerID: b.producer.id, ProducerEpoch: b.producer.epoch, FirstSequence: b.seq,
		FirstTimestamp: time.UnixMilli(first), MaxTimestamp: time.UnixMilli(latest),
		LastOffsetDelta: int32(b.messages.n - 1),
		Records:         e.pointers[from:len(e.pointers):len(e.pointers)],
	}
}

// release drops what the request referred to.
func (e *encoder) release() {
	clear(e.records)
	clear(e.headers)
}
