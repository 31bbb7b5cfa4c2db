package walsim

import (
	"math/rand/v2"
	"time"

	"github.com/jackc/pglogrepl"
)

// Script decides what a session does next. It is asked before each message,
// and again and again until it answers Go; it belongs to the Server, which
// asks for one session at a time.
type Script func(Point) Action

// Point is where a session stands.
type Point struct {
	Session   int           // counts successful START_REPLICATIONs from 1
	Sent      pglogrepl.LSN // the position that a keepalive would carry
	Confirmed pglogrepl.LSN // the slot's
	Record    int           // index of the WAL's record; the number of records when Idle
	Message   int           // index of the record's message that is next
	Messages  int           // of the record; 0 when it sends nothing
	Idle      bool          // everything is sent; Go waits a moment
}

// Deed is what an Action does.
type Deed int

// What happens to a session. Those from Close on end it.
//
// Stop ends the plain connections with 57P01 and refuses new ones with 57P03.
// The walsender then sends what there is, asks for replies until the client
// has confirmed it all, and ends the stream in order: as long as the client
// does not confirm, it goes on, as WalSndDone does. The server takes
// connections again when that session has ended and Action.Refuse is over.
const (
	Go        Deed = iota // send the next message
	Keepalive             // send a keepalive
	Ask                   // send a keepalive that asks for a reply
	Pause                 // send nothing, for Action.For
	Deaf                  // take nothing from the client for Action.For, and go on
	CutPlain              // reset the plain connections
	Stop                  // a fast shutdown: see above
	Close                 // send what is buffered, then FIN
	Reset                 // lose what is buffered, and RST
	Tear                  // send half of a message, then FIN
	Fatal                 // terminate the backend with 57P01
	Finish                // end the stream in order: CopyDone, CommandComplete, FIN
	Crash                 // reset all connections; the slot falls back to where it was saved
)

// Action is a Deed with what it needs.
type Action struct {
	Do     Deed
	For    time.Duration // of Pause and Deaf
	Refuse time.Duration // after the session's end: no new connections for so long
	Hold   time.Duration // after the session's end: the slot stays active for so long
}

// Chaos returns a Script that draws from a seed: keepalives, pauses, and in
// all sessions together at most so many faults that end one, rarely or often.
// After them no session ends any more, so that a run comes to its end.
func Chaos(seed uint64, faults int) Script {
	rng := rand.New(rand.NewPCG(seed, 1))
	ends := []Deed{Close, Reset, Reset, Tear, Fatal, Finish, Crash}
	often := 2 + rng.IntN(14)
	return func(Point) Action {
		switch n := rng.IntN(4000); {
		case n < 120:
			return Action{Do: Keepalive}
		case n < 140:
			return Action{Do: Ask}
		case n < 220:
			return Action{Do: Pause, For: time.Duration(rng.IntN(8)) * time.Millisecond}
		case n < 224:
			return Action{Do: Deaf, For: time.Duration(rng.IntN(100)) * time.Millisecond}
		case n < 225:
			return Action{Do: CutPlain}
		case n < 225+often && faults > 0:
			faults--
			a := Action{Do: ends[rng.IntN(len(ends))]}
			switch rng.IntN(6) {
			case 0:
				a.Refuse = time.Duration(rng.IntN(300)) * time.Millisecond
			case 1:
				a.Hold = time.Duration(rng.IntN(200)) * time.Millisecond
			}
			return a
		}
		return Action{}
	}
}
