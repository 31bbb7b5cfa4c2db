package checkpoint

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/jackc/pglogrepl"
)

// TestConcurrent acknowledges on many goroutines while the line goes on, and
// watches the position: it never moves back, and never passes a transaction
// whose acknowledgements have not all been started.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	const transactions, workers = 20_000, 8
	w := NewWindow(1000, 1<<20) // more than the workers hold back together
	tr := NewTracker(0, w)
	type ack struct{ tx *Tx }
	acks := make(chan ack, 2000)
	stop := make(chan struct{})
	var wg, watch sync.WaitGroup
	for range workers {
		wg.Go(func() {
			held := make([]ack, 0, 64) // settled out of order
			flush := func() {
				rand.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
				for _, a := range held {
					a.tx.Done(10)
				}
				held = held[:0]
			}
			for a := range acks {
				if held = append(held, a); len(held) == cap(held) || len(acks) == 0 {
					flush()
				}
			}
			flush()
		})
	}
	watch.Go(func() {
		last := pglogrepl.LSN(0)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if now := tr.Confirmed(); now < last {
				t.Errorf("the position moved back from %s to %s", last, now)
				return
			} else {
				last = now
			}
			if events, bytes := w.InFlight(); events < 0 || bytes < 0 {
				t.Errorf("in flight: %d events, %d bytes", events, bytes)
				return
			}
			entries(tr)
			runtime.Gosched()
		}
	})
	for i := range pglogrepl.LSN(transactions) {
		x := tr.Begin()
		for range i % 4 {
			for w.Full() {
				<-w.Changed()
			}
			x.Add(10)
			acks <- ack{x}
		}
		x.End(10 * (i + 1))
		tr.Idle(10*(i+1) + 5)
	}
	close(acks)
	wg.Wait()
	close(stop)
	watch.Wait()
	wantConfirmed(t, tr, "all acked", 10*transactions+5)
	if events, bytes := w.InFlight(); events != 0 || bytes != 0 || entries(tr) != 0 || tr.Err() != nil {
		t.Errorf("in flight %d, %d, pending %d, err %v", events, bytes, entries(tr), tr.Err())
	}
	if len(w.Changed()) != 1 {
		t.Error("no token when nothing was in flight any more")
	}
}

// BenchmarkEvent is one event's way through the tracker.
func BenchmarkEvent(b *testing.B) {
	for _, perTx := range []int{1, 100} {
		b.Run(map[int]string{1: "one per transaction", 100: "hundred per transaction"}[perTx], func(b *testing.B) {
			b.ReportAllocs()
			tr := newTracker()
			for i := 0; i < b.N; i += perTx {
				x := begin(tr, perTx)
				x.End(pglogrepl.LSN(1000 + i))
				for range perTx {
					x.Done(10)
				}
			}
		})
	}
}
