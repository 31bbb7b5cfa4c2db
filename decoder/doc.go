// Package decoder turns the WAL bytes that a walsender's pgoutput plugin sends
// into messages: transactions, tables and inserted rows. It is pure: no I/O, no
// clock, no goroutine, no log.
//
// # Line
//
//	d := decoder.New(timeline)
//	for each XLogData x {
//		m, err := d.Decode(x.WALStart, x.WALData)
//		switch m := m.(type) { case *decoder.Begin: … case *decoder.Event: … }
//	}
//
// # Format
//
// Protocol version 1, text format, as described in
// https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
// and written by src/backend/replication/logical/proto.c. Version 1 has no
// streamed and no two-phase transactions, so a transaction arrives whole, after
// it committed, between one Begin and one Commit, and transactions arrive in
// commit order:
//
//	Begin Origin? (Type | Relation | Insert | Update | Delete | Truncate | transactional Message)* Commit
//	non-transactional Message, between transactions
//
// A Relation message precedes the first row of its table in each session, and
// comes again after the table changed; Type messages precede the Relation that
// uses them.
//
// # What is refused
//
// Every length is checked before it is used. Input that is short, too long,
// unknown or contradicts what came before (a row outside of a transaction, a
// row of an unknown table, a Commit that does not fit its Begin, a value that
// is not text) is an *Error. Nothing is skipped: a message that is not
// understood might be an event. After an error the Decoder's picture of the
// stream can no longer be trusted, so it returns the same error from then on;
// the session has to end, and a new one starts with a new Decoder
// (Invariant 8).
//
// # Memory
//
// Messages and values alias the bytes given to Decode, and all but *Relation
// are reused by the next Decode, so that a row costs no allocation. What is
// kept between messages is one *Relation for each table that the publication
// sent rows of, and room for the values of the widest row (Invariant 7); both
// are bounded by the schema of what is published, not by its traffic.
package decoder
