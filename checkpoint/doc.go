// Package checkpoint decides which LSN may be confirmed to Postgres, and how
// much may be in flight. It is the only gate for progress: nothing else in the
// relay computes a position.
//
// # Line
//
//	tracker := checkpoint.NewTracker(slotConfirmed, window)
//	tx := tracker.Begin()        // at each Begin
//	tx.Add(size)                 // at each event, before the sink has it
//	tx.Done(size)                // at its acknowledgement, on any goroutine
//	tx.End(commit.EndLSN)        // at the Commit
//	tracker.Idle(lsn)            // at a keepalive
//	tracker.Confirmed()          // what the next status update reports as flushed
//
// # The queue
//
// Transactions stand in a queue in the order of their commits, which is the
// order in which they arrive. One is complete when it has ended and each of its
// events is acknowledged. Acknowledgements come in any order; the position is
// the LSN of the last entry of the longest complete prefix:
//
//	head                                              tail
//	[T1 0/1000 complete] [T2 0/2000 complete] [T3 0/3000 1 unacked] [T4 0/4000 complete] [T5 open]
//	                                    ^ Confirmed = 0/2000
//
// What this keeps:
//
// Invariant 1: the position never passes the end LSN of the longest prefix of
// fully acknowledged transactions. T4 above is complete and not confirmed:
// Postgres would never send T3 again.
//
// Invariant 2: the position is always one that the server sent: the end of a
// commit, of a non-transactional message, or a keepalive's. There is no
// arithmetic on one and no default for one. confirmed_flush_lsn + 1 may be
// inside of the next commit record, and a row's LSN says nothing about commits.
//
// Invariant 3: a keepalive's position counts only in its place. It is an entry
// that is complete from the start, behind everything that was received before
// it. So an idle outbox in a busy database moves the slot, and a keepalive
// during a broker outage does not.
//
// See https://www.postgresql.org/docs/current/view-pg-replication-slots.html
// for confirmed_flush_lsn, and LogicalConfirmReceivedLocation in
// src/backend/replication/logical/logical.c: the server takes any LSN, however
// wrong, and never gives back what is before it.
//
// # Memory
//
// Neighbours that are complete become one entry, so the queue is never longer
// than twice the transactions with unacknowledged events and one more. Those
// are bounded by the Window, however long Kafka is down and however many
// keepalives come meanwhile (Invariant 7).
//
// # Sessions
//
// A Tracker serves one replication session: after a fault a new one starts from
// the server's own confirmed position (Invariant 8). The Window outlives them:
// what an old session's sink still holds is in flight until it settles it.
package checkpoint
