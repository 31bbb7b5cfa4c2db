package sink

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// latencyBounds are the buckets' upper ends in seconds, from a request on the
// same machine to an outage that is being ridden out.
var latencyBounds = []float64{
	0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900,
}

// histogram counts into latencyBounds. (The library's own takes a lock-free
// detour for each observation; these come a batch at a time.)
type histogram struct {
	counts []uint64 // of each bucket alone; the last is beyond all bounds
	sum    float64
	n      uint64
}

func (h *histogram) observe(ns int64) {
	s := max(0, float64(ns)/1e9)
	i := 0
	for i < len(latencyBounds) && s > latencyBounds[i] {
		i++
	}
	h.counts[i]++
	h.sum += s
	h.n++
}

// metric returns it in the library's form.
func (h *histogram) metric(desc *prometheus.Desc) prometheus.Metric {
	buckets := make(map[float64]uint64, len(latencyBounds))
	sum := uint64(0)
	for i, bound := range latencyBounds {
		sum += h.counts[i]
		buckets[bound] = sum
	}
	return prometheus.MustNewConstHistogram(desc, h.n, h.sum, buckets)
}

// latencies are how long acknowledgements took.
type latencies struct {
	mu      sync.Mutex
	commit  histogram // since the transaction committed, by the database's clock
	publish histogram // since the event came to the sink
}

func newLatencies() latencies {
	n := len(latencyBounds) + 1
	return latencies{commit: histogram{counts: make([]uint64, n)}, publish: histogram{counts: make([]uint64, n)}}
}

func (l *latencies) observe(done *list, now int64) {
	if done.n == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for m := done.head; m != nil; m = m.next {
		l.publish.observe(now - m.published)
		if m.committed != 0 {
			l.commit.observe(now - m.committed)
		}
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("outbox_cdc_"+name, help, labels, nil)
}

var (
	descCommitToAck    = desc("commit_to_ack_seconds", "Time from the transaction's commit to the broker's acknowledgement of its event.")
	descPublishToAck   = desc("publish_to_ack_seconds", "Time from an event's arrival at the sink to the broker's acknowledgement.")
	descEvents         = desc("published_events_total", "Events that the brokers acknowledged.", "topic")
	descBytes          = desc("published_bytes_total", "Keys, values and headers of acknowledged events.", "topic")
	descRetries        = desc("produce_retries_total", "Batches that had to be sent again.", "error")
	descFailures       = desc("produce_failures_total", "Errors that no retry mends.", "error")
	descDeadLetters    = desc("dead_letters_total", "Events that went to the dead-letter topic instead, by why.", "reason")
	descRequests       = desc("produce_requests_total", "Produce requests.")
	descQueued         = desc("sink_queued_events", "Events that wait to be sent.")
	descInFlight       = desc("sink_in_flight_events", "Events that were sent and are not acknowledged.")
	descOldest         = desc("oldest_unacked_seconds", "Age of the oldest event that is not acknowledged, since it came to the sink.")
	descKafkaConnected = desc("kafka_connected", "1 when the cluster answered when it was last asked.")
)

// maxTopicLabels bounds the topics that have series of their own; all later
// ones share a label, which no topic can have as its name.
const (
	maxTopicLabels = 100
	otherTopics    = "(other)"
)

// Describe is part of prometheus.Collector.
func (k *Kafka) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descCommitToAck, descPublishToAck, descEvents, descBytes, descRetries, descFailures, descDeadLetters,
		descRequests, descQueued, descInFlight, descOldest, descKafkaConnected,
	} {
		ch <- d
	}
}

// Collect is part of prometheus.Collector.
func (k *Kafka) Collect(ch chan<- prometheus.Metric) {
	for _, m := range append(k.latency.metrics(), k.metrics()...) {
		ch <- m
	}
}

func (l *latencies) metrics() []prometheus.Metric {
	l.mu.Lock()
	defer l.mu.Unlock()
	return []prometheus.Metric{l.commit.metric(descCommitToAck), l.publish.metric(descPublishToAck)}
}

// metrics returns a consistent snapshot; the channel is fed without the lock.
func (k *Kafka) metrics() []prometheus.Metric {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []prometheus.Metric
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		all = append(all, prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...))
	}
	gauge := func(d *prometheus.Desc, v float64) {
		all = append(all, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v))
	}
	var otherEvents, otherBytes uint64
	for i, t := range k.order {
		if i < maxTopicLabels {
			counter(descEvents, t.published, t.name)
			counter(descBytes, t.bytes, t.name)
			continue
		}
		otherEvents += t.published
		otherBytes += t.bytes
	}
	if len(k.order) > maxTopicLabels {
		counter(descEvents, otherEvents, otherTopics)
		counter(descBytes, otherBytes, otherTopics)
	}
	for name, n := range k.counters.retries {
		counter(descRetries, n, name)
	}
	for name, n := range k.counters.failures {
		counter(descFailures, n, name)
	}
	for name, n := range k.counters.dead {
		counter(descDeadLetters, n, name)
	}
	counter(descRequests, k.counters.requests)
	gauge(descQueued, float64(k.counters.queued))
	gauge(descInFlight, float64(k.counters.inFlight))
	age, up := 0.0, 0.0
	if oldest := k.oldest(); !oldest.IsZero() {
		age = max(0, time.Since(oldest).Seconds())
	}
	if k.connected() {
		up = 1
	}
	gauge(descOldest, age)
	gauge(descKafkaConnected, up)
	return all
}
