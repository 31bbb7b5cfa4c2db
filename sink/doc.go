// Package sink takes events to where they go: Apache Kafka, or standard output
// for a look. It also decides what an event looks like there.
//
// # The path of a record
//
//	         the relay's goroutine          │       one goroutine per broker
//	                                        │
//	Publish ─► Builder.build ─► message ─► partition ─► sender.take ─► batch ─► Produce
//	            topic, key,      a copy     its queue,     all that      │         │
//	            value, headers              by murmur2     is ready      │         ▼
//	                                           ▲                         └── settle, by judge:
//	                                           │                                acked    Ack.Done
//	         control, its own goroutine:       │                                again    sent again as it is
//	         a producer id, who leads what,    │                                refused  halved; the guilty: Ack.Fail,
//	         how large a record may be ────────┘                                         or a dead letter in its place
//	                                                                            fenced   all fail, until Reset
//
// The Builder (builder.go, record.go) is pure: what record an event becomes
// depends on the event and the configuration only. Its wire format is the
// contract with consumers; testdata/records holds examples of all of it.
//
// Kafka makes its own record batches and sends them through sarama's broker
// connections, because sarama's producers cannot keep invariant 5: on an error
// that they do not retry they go on with the next batch. A partition has at most
// one batch without an outcome. It keeps its sequence number and its contents
// on every try, so the broker takes it once (KIP-98), and tries go on for as
// long as it takes. Nothing that the network or a broker does makes Publish wait.
//
// sarama's Client is left out on purpose: whoever asks it waits for its own
// retries, and it refreshes when it sees fit. Here one goroutine (control.go)
// asks, so that nothing that publishes, sends or closes ever waits for metadata,
// and a wrong password is told from a broker that is still starting.
//
// Stdout has none of this: a queue of lines, and a goroutine that writes them.
//
// # Invariants
//
//   - 5, order: a partition's queue is in commit order, and one batch at a time
//     leaves it (partition.sendable, partition.next). A batch that is refused is
//     halved until the guilty record is alone (partition.halve, Kafka.convict); then
//     the partition stands still. An event that no record can be made of stops the
//     whole sink (Kafka.stop), since nobody knows what would be its partition. While
//     a dead letter is not acknowledged, nothing else is sent (gate). When
//     the number of partitions grows, what is under way goes out first (topic.grow);
//     when it shrinks, for the topic was created anew, the line starts again
//     (setPartitions). Consumers lose a key's order at either point, so both are warned of.
//   - 6, every event is settled: deliver acknowledges what the broker has on all
//     in-sync replicas, be it the event or its dead letter, and nothing else; what
//     is given up is failed, exactly once, by the one who takes it off its queue
//     under Kafka.mu.
//   - 7, bounds: what the sink keeps of an event is about what the relay's window
//     counts for it; a dead letter has some 500 bytes more. Retries keep no copies:
//     a batch is encoded anew each time. A sender has one request at a time, of at
//     most tuning.requestBytes or one record. Intern tables and metric labels are
//     bounded. What remains for ever of each topic written to is about 140 bytes per
//     partition and 270 besides: 19 MB for 10,000 topics of 12 partitions. It is not
//     forgotten, because the broker remembers the numbers that it took: a producer
//     that began at 0 again would be refused, or its batch taken for a repeat and
//     lost (KIP-98).
package sink
