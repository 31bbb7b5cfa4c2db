// Package sim runs the relay itself, cdc.Relay with sink.Kafka, through faults
// that are drawn from a seed, and watches every promise that it makes.
//
//	                           ┌───────────────── relay ────────────────┐
//	walsim.Server ──pgoutput──►│ cdc.Relay ──► probe ──► sink.Kafka     │──► network ──► kfake
//	   │   ▲                   └───────▲────────────────────────────────┘        │         │
//	   │   └── status updates ─────────┘                        late, lost, cut ─┘    ledger: what
//	   │                                                                         is in the log, in order
//	   └── Steps ──────────────► walsim.Oracle ◄── arrived, acknowledged ─────────────────┘
//
// What is real: the relay and its sink, the protocols on both sides, TCP, and
// time. What is not: the servers. Their faults, all of them drawn from the seed:
//
//   - Postgres (script.go): pauses, keepalives anywhere, connections that end in
//     every way, a server that is away for a while or holds the slot, fast
//     shutdowns, crashes after which the slot has fallen back and commits come again;
//     WALs that begin just below 4 GiB.
//   - Kafka (faults.go): errors of each class in answers to produce requests,
//     before and after the batch is in the log; of metadata, producer ids and
//     settings; leaders that move; brokers that freeze.
//   - The network before Kafka (network.go): requests and answers that are late,
//     and so overtake those of other connections; lost with their connection.
//   - The relay (life.go): stopped in order, or killed, and started anew from the
//     slot; windows of one event and more; acknowledgements that come late and
//     in another order (probe.go).
//   - Events that cannot be published (plan.go): too large, refused by the
//     broker, or such that no record can be made of them; to the dead letters, or
//     stopping the relay until an operator starts it with the event's id.
//
// What is watched:
//
//  1. At the moment that a status update is read, all events of the transactions
//     before its flush position are in Kafka's log, or their dead letters are.
//  2. Only positions that the server gave to confirm are reported.
//  3. A keepalive's position counts only in its place.
//  4. Status updates come in time, and not faster than they may.
//  5. The first arrivals of each key are in the order of the commits, dead letters
//     included. The order is that in which the brokers took them.
//  6. Each event is settled exactly once, and in the end it is in Kafka's log or a
//     dead letter is: none is lost, none is invented, each value is that of the
//     row byte for byte. What goes to the dead letters or stops the relay has a
//     fault of its own or met one.
//  7. What is in flight is counted before the sink has it, and stays within the limits.
//  8. Each session starts where the server says.
//
// A run follows from its seed as far as time lets it: goroutines and the kernel
// are not part of the draw, so a seed that failed may have to be run some times.
package sim
