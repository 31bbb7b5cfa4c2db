package sim

import (
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outbox-cdc/outbox-cdc/internal/walsim"
)

// parseBatch reads a record batch, with its records uncompressed.
func parseBatch(raw []byte) (kmsg.RecordBatch, error) {
	var b kmsg.RecordBatch
	if err := b.ReadFrom(raw); err != nil {
		return b, fmt.Errorf("read batch: %w", err)
	}
	codec := kgo.CompressionCodecType(b.Attributes & 7)
	if codec == kgo.CodecNone {
		return b, nil
	}
	records, err := kgo.DefaultDecompressor().Decompress(b.Records, codec)
	b.Records = records
	return b, err
}

// record is one of Kafka's, as far as it matters here.
type record struct {
	key, value string
	headers    map[string]string
}

// records reads those of a batch.
func records(b kmsg.RecordBatch) ([]record, error) {
	var all []record
	for rest := b.Records; len(rest) > 0; {
		length, width := kbin.Varint(rest)
		end := width + int(length)
		if width <= 0 || length <= 0 || end > len(rest) {
			return nil, fmt.Errorf("record %d has length %d, %d bytes are left", len(all), length, len(rest))
		}
		var r kmsg.Record
		if err := r.ReadFrom(rest[:end]); err != nil {
			return nil, fmt.Errorf("read record %d: %w", len(all), err)
		}
		rest = rest[end:]
		one := record{string(r.Key), string(r.Value), make(map[string]string)}
		for _, h := range r.Headers {
			one.headers[h.Key] = string(h.Value)
		}
		all = append(all, one)
	}
	if len(all) != int(b.NumRecords) {
		return nil, fmt.Errorf("%d records in a batch of %d", len(all), b.NumRecords)
	}
	return all, nil
}

// event returns the event that the record of a topic shows.
func (r record) event(topic string) walsim.Event {
	e := walsim.Event{ID: r.headers["ce_id"], Key: r.key, Type: r.headers["ce_type"], Payload: r.value}
	if route := strings.TrimPrefix(topic, topicPrefix); route != walsim.AggregateType {
		e.Route = route
	}
	return e
}
