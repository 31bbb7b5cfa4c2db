package sink

import (
	"testing"
	"time"

	"github.com/IBM/sarama"
)

// Commit times may step back: a batch names its latest, and each record its own.
func TestBatchTimes(t *testing.T) {
	t.Parallel()
	b := builder(t)
	p := &partition{topic: newTopic("orders", 1<<20, nil), id: 1}
	for i, d := range []time.Duration{0, 3 * time.Second, -2 * time.Second} {
		ev := event(i, "orders", []byte("key"), []byte("1"))
		ev.CommitTime = commitTime.Add(d)
		rec, err := b.build(ev)
		if err != nil {
			t.Fatal(err)
		}
		p.queue.push(newMessage(rec, ev, nil, 1))
	}
	var e encoder
	got := e.batch(p.next(producer{7, 1}, 1<<20), sarama.CompressionNone)
	first := commitTime.Truncate(time.Millisecond)
	if !got.FirstTimestamp.Equal(first) || !got.MaxTimestamp.Equal(first.Add(3*time.Second)) {
		t.Errorf("got times %v to %v", got.FirstTimestamp, got.MaxTimestamp)
	}
	for i, want := range []time.Duration{0, 3 * time.Second, -2 * time.Second} {
		if r := got.Records[i]; r.TimestampDelta != want || r.OffsetDelta != int64(i) {
			t.Errorf("record %d: got time %v, offset %d", i, r.TimestampDelta, r.OffsetDelta)
		}
	}
	if got.LastOffsetDelta != 2 || got.ProducerID != 7 || got.ProducerEpoch != 1 {
		t.Errorf("got %+v", got)
	}
}
