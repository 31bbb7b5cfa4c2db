package cdc

import (
	"errors"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// Whatever ends the relay for good, what is on its way to the broker gets a
// moment, and the next run does not repeat it.
func TestFatalErrorLetsAcknowledgementsCome(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	sink := newMemory(true)
	r := start(t, configFor(name), sink)
	r.await(t, Streaming)
	insertRows(t, conn, 1, 2)
	got := sink.await(t, 2)
	got[1].ack.Fail(got[1].ev.Size, fault.New(fault.Usage, "publish", errors.New("not allowed"), ""))
	acknowledge := time.AfterFunc(time.Second, func() { got[0].ack.Done(got[0].ev.Size) }) // the line has heard of the failure
	defer acknowledge.Stop()
	if err := r.wait(t); fault.KindOf(err) != fault.Usage {
		t.Fatalf("Run returned %v", err)
	}
	if at := confirmedLSN(t, conn, name); at <= got[0].ev.LSN || at > got[1].ev.LSN {
		t.Errorf("confirmed %s; want it behind %s and not beyond %s", at, got[0].ev.LSN, got[1].ev.LSN)
	}
}

// A drain has its time once, also when it ends with poison.
func TestPoisonDuringDrainIsBounded(t *testing.T) {
	t.Parallel()
	name, conn := database(t)
	sink := newMemory(true)
	c := configFor(name)
	c.DrainTimeout = 5 * time.Second
	r := start(t, c, sink)
	r.await(t, Streaming)
	insertRows(t, conn, 1, 2)
	got := sink.await(t, 2)
	began, late := time.Now(), meter.Late()
	r.cancel()
	r.await(t, Draining)
	// The second event is refused, the first never settled: the drain waits for that to its end.
	got[1].ack.Fail(got[1].ev.Size, fault.New(fault.Poison, "publish", errors.New("too large"), ""))
	err := r.wait(t)
	if took := time.Since(began); fault.KindOf(err) != fault.Poison || took > 2*c.DrainTimeout-time.Second+meter.Late()-late {
		t.Errorf("Run returned %v after %v", err, took)
	}
}
