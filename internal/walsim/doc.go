// Package walsim is a scripted PostgreSQL server for tests of the relay: the
// protocol is real, what is behind it is not.
//
//	WAL (generated from a seed) ──► walsender ──pgoutput──► relay
//	                                   │  ▲                   │
//	            Script: what goes wrong┘  └──status updates───┘
//	                                   │
//	                                   └──Steps──► Oracle ◄── what the sink has acknowledged
//
// A Server listens on loopback. It answers the questions that package cdc asks
// over a plain connection as a server does on which everything is set up: the
// table, a publication that covers it and is marked ready, and one slot. On a
// replication connection it streams a WAL as pgoutput protocol 1. Whatever else
// it is asked is refused, and listed by Server.Unexpected.
//
// A WAL is a list of records. Walking them one by one is what the walsender
// does: rows send nothing, a commit record sends its whole transaction, and the
// end of the last record walked is the position that a keepalive carries. Hence
// the stream has the properties that a real one has and that an invented list
// of messages would lack: row LSNs that are not monotonic across transactions,
// a commit record that starts where the one before ended, keepalives inside of
// a transaction with a position before it, keepalives below the confirmed
// position just after a start.
//
// The slot behaves as https://www.postgresql.org/docs/current/logicaldecoding-explanation.html
// and walsender.c say: one walsender holds it at a time; the flush position of
// a status update moves it forward and is not checked against anything; a new
// session sends, whole, each transaction whose commit record starts at or
// behind the confirmed position; a crash takes it back to where it was saved.
//
// The Script decides what happens at each Point of a session, and the whole
// run follows from the WAL and the Script as far as timing lets it. The Oracle
// listens to the Steps of the sessions and to the sink, and keeps what the
// relay has broken of its promises.
package walsim
