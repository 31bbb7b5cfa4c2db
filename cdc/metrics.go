package cdc

import (
	"github.com/prometheus/client_golang/prometheus"
)

// histograms are the latencies that the line itself can see, in seconds. The
// one from commit to acknowledgement is the sink's.
type histograms struct {
	commitToReceive prometheus.Histogram
	transactionSize prometheus.Histogram
}

func newHistograms() histograms {
	return histograms{
		commitToReceive: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "outbox_cdc_commit_to_receive_seconds",
			Help: "From a transaction's commit, by the server's clock, to its end on the replication stream.",
			// 0.5 ms to 131 s, then what a long outage leaves behind.
			Buckets: append(prometheus.ExponentialBuckets(0.0005, 2, 19), 600, 3600),
		}),
		transactionSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "outbox_cdc_transaction_events",
			Help:    "Events in a transaction that has any.",
			Buckets: prometheus.ExponentialBuckets(1, 10, 7),
		}),
	}
}

// metric is one number of a snapshot.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	get  func(*Stats) float64
}

func gauge(name, help string, get func(*Stats) float64) metric {
	return metric{prometheus.NewDesc("outbox_cdc_"+name, help, nil, nil), prometheus.GaugeValue, get}
}

func counter(name, help string, get func(*Stats) float64) metric {
	return metric{prometheus.NewDesc("outbox_cdc_"+name, help, nil, nil), prometheus.CounterValue, get}
}

var (
	stateDesc   = prometheus.NewDesc("outbox_cdc_state", "1 for the state that the relay is in.", []string{"state"}, nil)
	skippedDesc = prometheus.NewDesc("outbox_cdc_events_skipped_total",
		"Changes that were received and are not events, by reason.", []string{"reason"}, nil)
)

// LSNs are exported as floats, exact up to 8 PiB of WAL; compare differences only.
var metrics = []metric{
	gauge("ready", "1 when the relay is healthy in its role: streaming and progressing, or standing by.", func(s *Stats) float64 {
		if s.Ready {
			return 1
		}
		return 0
	}),
	gauge("received_lsn", "Highest WAL position received.", func(s *Stats) float64 { return float64(s.ReceivedLSN) }),
	gauge("confirmed_lsn", "WAL position up to which every event is acknowledged.", func(s *Stats) float64 { return float64(s.ConfirmedLSN) }),
	gauge("reported_lsn", "WAL position last confirmed to Postgres.", func(s *Stats) float64 { return float64(s.ReportedLSN) }),
	gauge("server_wal_end_lsn", "WAL position that the server had sent up to, by its last keepalive.", func(s *Stats) float64 { return float64(s.ServerWALEnd) }),
	gauge("inflight_events", "Events received and not yet acknowledged.", func(s *Stats) float64 { return float64(s.InFlightEvents) }),
	gauge("inflight_bytes", "Bytes of events received and not yet acknowledged, with their overhead.", func(s *Stats) float64 { return float64(s.InFlightBytes) }),
	gauge("last_event_timestamp_seconds", "When an event was last received; 0 before the first.", func(s *Stats) float64 { return seconds(s.LastEvent) }),
	gauge("last_progress_timestamp_seconds", "When the confirmed position last moved, or nothing was in flight.", func(s *Stats) float64 { return seconds(s.LastProgress) }),
	counter("transactions_total", "Transactions received.", func(s *Stats) float64 { return float64(s.Transactions) }),
	counter("events_total", "Events received and handed to the sink.", func(s *Stats) float64 { return float64(s.Events) }),
	counter("status_updates_total", "Standby status updates sent to Postgres.", func(s *Stats) float64 { return float64(s.StatusUpdates) }),
	counter("reconnects_total", "Times that the line started again after trouble.", func(s *Stats) float64 { return float64(s.Reconnects) }),
	counter("backpressure_seconds_total", "Time during which reading paused because the window was full.", func(s *Stats) float64 { return s.Backpressure.Seconds() }),
}

// Describe implements prometheus.Collector.
func (r *Relay) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics {
		ch <- m.desc
	}
	ch <- stateDesc
	ch <- skippedDesc
	r.histograms.commitToReceive.Describe(ch)
	r.histograms.transactionSize.Describe(ch)
}

// Collect implements prometheus.Collector from one snapshot.
func (r *Relay) Collect(ch chan<- prometheus.Metric) {
	s := r.Stats()
	for _, m := range metrics {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.get(&s))
	}
	for _, state := range []State{Starting, Standby, Streaming, Reconnecting, Draining, Stopped} {
		v := 0.0
		if state == s.State {
			v = 1
		}
		ch <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, v, string(state))
	}
	for reason, n := range map[string]uint64{
		"update": s.Updates, "delete": s.Deletes, "truncate": s.Truncates, "message": s.Messages, "other_table": s.OtherTables,
	} {
		ch <- prometheus.MustNewConstMetric(skippedDesc, prometheus.CounterValue, float64(n), reason)
	}
	r.histograms.commitToReceive.Collect(ch)
	r.histograms.transactionSize.Collect(ch)
}
