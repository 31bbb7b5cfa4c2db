package sink

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// latencyBounds are the buckets' upper ends in seconds, from a request on the
// same machine to an outage that is being ridden out.
var latencyBounds = []float64{
	0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900,
}

// latencies are how long acknowledgements took, in seconds.
type latencies struct {
	commit  prometheus.Histogram // since the transaction committed, by the database's clock
	publish prometheus.Histogram // since the event came to the sink
}

func newLatencies() latencies {
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + name, Help: help, Buckets: latencyBounds})
	}
	return latencies{
		commit:  histogram("commit_to_ack_seconds", "Time from the transaction's commit to the broker's acknowledgement of its event."),
		publish: histogram("publish_to_ack_seconds", "Time from an event's arrival at the sink to the broker's acknowledgement."),
	}
}

// observe takes what was acknowledged at now, in ns since 1970.
func (l latencies) observe(done *list, now int64) {
	for m := done.head; m != nil; m = m.next {
		l.publish.Observe(seconds(now - m.published))
		if m.committed != 0 {
			l.commit.Observe(seconds(now - m.committed))
		}
	}
}

// seconds are not negative, though the clocks of two machines differ.
func seconds(ns int64) float64 { return time.Duration(max(0, ns)).Seconds() }

const prefix = "outbox_cdc_"

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prefix+name, help, labels, nil)
}

var (
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
		k.latency.commit.Desc(), k.latency.publish.Desc(), descEvents, descBytes, descRetries, descFailures, descDeadLetters,
		descRequests, descQueued, descInFlight, descOldest, descKafkaConnected,
	} {
		ch <- d
	}
}

// Collect is part of prometheus.Collector.
func (k *Kafka) Collect(ch chan<- prometheus.Metric) {
	for _, m := range append(k.metrics(), k.latency.commit, k.latency.publish) {
		ch <- m
	}
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
