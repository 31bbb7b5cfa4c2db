package cdc

import (
	"bytes"
	"testing"
	"time"
)

func TestStatusUpdate(t *testing.T) {
	t.Parallel()
	now := postgresEpoch.Add(3*time.Second + 5*time.Microsecond)
	got := appendStatusUpdate(nil, 0x0102030405060708, 0x11, now, true)
	want := []byte{'r',
		1, 2, 3, 4, 5, 6, 7, 8,
		0, 0, 0, 0, 0, 0, 0, 0x11,
		0, 0, 0, 0, 0, 0, 0, 0x11,
		0, 0, 0, 0, 0, 0x2d, 0xc6, 0xc5,
		1}
	if !bytes.Equal(got, want) || len(got) != statusUpdateSize {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

// A flush position of zero stays zero: a library that fills in the write
// position would confirm everything that was received.
func TestStatusUpdateKeepsZero(t *testing.T) {
	t.Parallel()
	got := appendStatusUpdate(nil, 0xffff, 0, postgresEpoch, false)
	if flush := got[9:17]; !bytes.Equal(flush, make([]byte, 8)) {
		t.Errorf("flush is %x", flush)
	}
	if apply := got[17:25]; !bytes.Equal(apply, make([]byte, 8)) {
		t.Errorf("apply is %x", apply)
	}
}
