package cdc

import (
	"testing"

	"github.com/jackc/pglogrepl"
)

func TestLeftAt(t *testing.T) {
	t.Parallel()
	const file = "# comment\n1\t0/5000148\tno recovery target specified\n\n2\t1/A0\tbefore 2026-11-25 10:00:00+00\n"
	for _, tc := range []struct {
		timeline int32
		want     pglogrepl.LSN
	}{
		{1, 0x5000148},
		{2, 0x1_0000_00A0},
		{3, 0},
	} {
		if got, err := leftAt([]byte(file), tc.timeline); got != tc.want || err != nil {
			t.Errorf("timeline %d: got %s and %v, want %s", tc.timeline, got, err, tc.want)
		}
	}
	if _, err := leftAt([]byte("1\tnowhere\tx\n"), 1); err == nil {
		t.Error("a position that is none: no error")
	}
}
