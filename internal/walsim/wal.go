package walsim

import (
	"time"

	"github.com/jackc/pglogrepl"
)

// WAL is what the server has written, in order.
type WAL struct {
	Start   pglogrepl.LSN
	Records []Record
}

// Record is one record. A row's record sends nothing by itself; one with a Tx
// is the transaction's commit record.
type Record struct {
	Start, End pglogrepl.LSN
	Tx         *Tx      // committed by this record, or nil
	Message    *Message // non-transactional, or nil
}

// Tx is a committed transaction.
type Tx struct {
	XID   uint32
	Time  time.Time     // of the commit
	First pglogrepl.LSN // of its first record
	Rows  []Row
}

// Row is an inserted row.
type Row struct {
	LSN      pglogrepl.LSN // start of its record
	Event    *Event        // nil: the row is another table's, which the publication has too
	Announce bool          // the table's Relation message comes again before it, as after a change of the catalog
}

// Event is a row of the outbox table.
type Event struct {
	ID, Key, Type, Payload string // "" as key is NULL
	Route                  string // aggregate_type; "" is AggregateType
	Headers                string // "" is NULL
}

// Message was written with pg_logical_emit_message(false, …). Its position is
// the end of its record.
type Message struct{ Prefix, Content string }

// End returns the end of the last record.
func (w *WAL) End() pglogrepl.LSN {
	if len(w.Records) == 0 {
		return w.Start
	}
	return w.Records[len(w.Records)-1].End
}

// Events returns the events of all transactions in commit order.
func (w *WAL) Events() []*Event {
	var all []*Event
	for _, r := range w.Records {
		if r.Tx == nil {
			continue
		}
		for _, row := range r.Tx.Rows {
			if row.Event != nil {
				all = append(all, row.Event)
			}
		}
	}
	return all
}
