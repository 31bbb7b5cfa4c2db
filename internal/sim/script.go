package sim

import (
	"math/rand/v2"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/walsim"
)

// script returns what Postgres does: it talks and is silent as it likes, and
// ends sessions until it has ended as many as the plan says.
func (p *plan) script(seed uint64) walsim.Script {
	rng := rand.New(rand.NewPCG(seed, 11))
	ends := []walsim.Deed{
		walsim.Close, walsim.Reset, walsim.Tear, walsim.Fatal, walsim.Finish, walsim.Stop,
		walsim.Crash, walsim.Crash, walsim.Crash,
	}
	left := p.sessionEnds
	return func(at walsim.Point) walsim.Action {
		if left > 0 && !at.Idle && rng.IntN(p.often) == 0 || left > 0 && at.Idle && rng.IntN(10) == 0 {
			left--
			a := walsim.Action{Do: ends[rng.IntN(len(ends))]}
			switch rng.IntN(6) {
			case 0:
				a.Refuse = time.Duration(rng.IntN(300)) * time.Millisecond
			case 1:
				a.Hold = time.Duration(rng.IntN(200)) * time.Millisecond
			}
			return a
		}
		switch n := rng.IntN(400); {
		case n < 16:
			return walsim.Action{Do: walsim.Keepalive}
		case n < 20:
			return walsim.Action{Do: walsim.Ask}
		case n < 28:
			return walsim.Action{Do: walsim.Pause, For: time.Duration(rng.IntN(8)) * time.Millisecond}
		case n < 30:
			return walsim.Action{Do: walsim.Pause, For: time.Duration(rng.IntN(250)) * time.Millisecond}
		case n < 31:
			return walsim.Action{Do: walsim.Deaf, For: time.Duration(rng.IntN(100)) * time.Millisecond}
		case n == 31 && rng.IntN(10) == 0:
			return walsim.Action{Do: walsim.CutPlain}
		}
		return walsim.Action{}
	}
}
