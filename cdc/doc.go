// Package cdc is the relay: it reads the inserts on an outbox table from a
// logical replication slot, hands them to a sink, and confirms to Postgres
// what the sink's acknowledgements allow.
//
//	Postgres ──WAL──► stream.receive ─► decoder.Decode ─► tracker.Add, sink.Publish ─► Kafka
//	   ▲                                                                                │ ack
//	   └─── stream.report(flush) ◄── tracker.Confirmed ◄── tx.Done ◄────────────────────┘
//
// One goroutine owns the replication connection and runs the whole line
// (line.go). Acknowledgements come back through one checkpoint.Tracker, the
// only gate for progress. While the window is full the line stops reading and
// keeps reporting. A second, plain connection watches the publication
// (cover.go) and the server's health (watch.go).
//
// # Invariants
//
//  1. The flush LSN reported is at most the end LSN of the longest prefix of
//     fully acknowledged transactions, in commit order.
//  2. Only LSNs received from the server are reported: a commit's end LSN, a
//     non-transactional message's LSN, a keepalive's. Never arithmetic on one,
//     never a row's, never a zero for a library to fill in.
//  3. A keepalive's position counts only in its place in the queue.
//  4. A status update goes out every statusInterval at least, whatever the sink
//     does; when the server asks for one, at most ten times a second; and when
//     the confirmed position has moved, at most every 100 ms.
//  5. Per key, publish order is commit order.
//  6. An event is acknowledged, or stops the relay.
//  7. Everything is bounded: events and bytes in flight, buffers, retries.
//  8. After any fault: a new connection, a new decoder, and a new tracker from
//     the server's own confirmed position.
//
// The rules of the protocol are those of
// https://www.postgresql.org/docs/current/protocol-replication.html and
// https://www.postgresql.org/docs/current/protocol-logical-replication.html.
package cdc
