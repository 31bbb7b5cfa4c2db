package sink

import (
	"fmt"
	"strconv"

	"github.com/IBM/sarama"
)

// maxMessageBytes bounds a batch as it is on the wire, hence also a record alone.
// https://kafka.apache.org/documentation/#topicconfigs_max.message.bytes
const maxMessageBytes = "max.message.bytes"

const (
	// batchOverhead is what a batch has besides its records.
	// https://kafka.apache.org/documentation/#recordbatch
	batchOverhead = 61
	// leastOverhead is the least that a record adds to its message's bytes.
	leastOverhead = 6
)

// learn asks for the limits of topics that are asked for and whose limit is not
// known. What the broker does not tell, for it may not, it will judge.
func (c *controller) learn(asked []*topic) error {
	req := &sarama.DescribeConfigsRequest{Version: 4}
	c.k.mu.Lock()
	for _, t := range asked {
		if !t.limited {
			req.Resources = append(req.Resources, &sarama.ConfigResource{
				Type: sarama.TopicResource, Name: t.name, ConfigNames: []string{maxMessageBytes},
			})
		}
	}
	c.k.mu.Unlock()
	if len(req.Resources) == 0 {
		return nil
	}
	var resp *sarama.DescribeConfigsResponse
	if err := c.ask(func(b *sarama.Broker) (err error) {
		resp, err = b.DescribeConfigs(req)
		return err
	}); err != nil {
		return err
	}
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	for _, r := range resp.Resources {
		t := c.k.topics[r.Name]
		if t == nil || sarama.KError(r.ErrorCode) == sarama.ErrUnknownTopicOrPartition {
			continue
		}
		t.limit, t.limited = 0, true
		for _, e := range r.Configs {
			if e.Name == maxMessageBytes {
				t.limit, _ = strconv.Atoi(e.Value) // 0 is not known
			}
		}
	}
	return nil
}

// oversized tells whether the event at the front of the queue cannot pass,
// whatever else is sent. A codec may make it small enough: then the broker judges.
func (k *Kafka) oversized(p *partition) bool {
	t := p.topic
	return k.codec == sarama.CompressionNone && t.limit > 0 && p.batch == nil && p.queue.n > 0 &&
		batchOverhead+leastOverhead+len(p.queue.head.buf) > t.limit
}

// doubt has the limit of a partition's topic read again before an oversized
// event is convicted: it may have been raised.
func (k *Kafka) doubt(p *partition) {
	p.topic.limited, p.doubted = false, true
	k.want(p.topic)
	p.needs = p.topic.wanted
}

// decide convicts an event that is oversized by the limit as it was read again.
func (k *Kafka) decide(p *partition, out *settled) {
	if !p.doubted || !p.topic.limited {
		return
	}
	p.doubted = false
	if k.oversized(p) {
		n := len(p.queue.head.buf)
		k.convict(p, 1, fmt.Errorf("%w: it has %d bytes and more, and %s is %d", sarama.ErrMessageSizeTooLarge, n, maxMessageBytes, p.topic.limit), out)
	}
}
