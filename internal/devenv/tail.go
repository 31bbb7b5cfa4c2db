package devenv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/rcrowley/go-metrics"
)

// Record is what a consumer of a topic sees.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Key       []byte // nil: null
	Value     []byte // nil: null
	Headers   []Header
	Timestamp time.Time // milliseconds
}

// Header is one header of a Record, in its place.
type Header struct {
	Key   string
	Value []byte
}

// Header returns the value of the first header with that key, or "".
func (r *Record) Header(key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// Tail reads every partition of the topics from its beginning and passes each
// record to got, one at a time, until ctx ends. It creates no topics: it waits
// for those that are not there yet. configure, if not nil, may add TLS and SASL.
func Tail(ctx context.Context, brokers, topics []string, configure func(*sarama.Config), got func(*Record)) error {
	config := sarama.NewConfig()
	config.ClientID = "outbox-cdc-tail"
	config.MetricRegistry = metrics.NewRegistry()
	config.Metadata.AllowAutoTopicCreation = false
	config.Consumer.MaxWaitTime = 20 * time.Millisecond
	config.Consumer.Fetch.Default = 4 << 20
	if configure != nil {
		configure(config)
	}
	client, err := sarama.NewClient(brokers, config)
	if err != nil {
		return fmt.Errorf("tail: %w", err)
	}
	defer func() { _ = client.Close() }()
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return fmt.Errorf("tail: %w", err)
	}
	t := tailer{client: client, consumer: consumer, got: got}
	defer t.wait.Wait()
	for _, topic := range topics {
		t.wait.Go(func() { t.topic(ctx, topic) })
	}
	<-ctx.Done()
	return nil
}

type tailer struct {
	client   sarama.Client
	consumer sarama.Consumer
	wait     sync.WaitGroup

	mu  sync.Mutex // one record at a time
	got func(*Record)
}

// topic waits until the topic is there, then reads its partitions.
func (t *tailer) topic(ctx context.Context, topic string) {
	started := map[int32]bool{}
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		if err := t.client.RefreshMetadata(topic); err == nil {
			partitions, err := t.client.Partitions(topic)
			for _, p := range partitions {
				if err != nil || started[p] {
					continue
				}
				if consumer, err := t.consumer.ConsumePartition(topic, p, sarama.OffsetOldest); err == nil {
					started[p] = true
					t.wait.Go(func() { t.partition(ctx, consumer) })
				}
			}
			if len(partitions) > 0 && len(started) == len(partitions) {
				tick.Stop()
				return
			}
		} else if errors.Is(err, sarama.ErrClosedClient) {
			tick.Stop()
			return
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
	}
}

func (t *tailer) partition(ctx context.Context, consumer sarama.PartitionConsumer) {
	defer func() { _ = consumer.Close() }()
	for {
		select {
		case <-ctx.Done():
			return
		case m, ok := <-consumer.Messages():
			if !ok {
				return
			}
			r := Record{Topic: m.Topic, Partition: m.Partition, Offset: m.Offset, Key: m.Key, Value: m.Value, Timestamp: m.Timestamp}
			for _, h := range m.Headers {
				r.Headers = append(r.Headers, Header{Key: string(h.Key), Value: h.Value})
			}
			t.mu.Lock()
			t.got(&r)
			t.mu.Unlock()
		}
	}
}
