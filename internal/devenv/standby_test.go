//go:build unix

package devenv

import (
	"testing"
	"time"
)

// A standby shows what the primary commits, and takes writes once it is promoted.
func TestStandby(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"14", "17"} { // the functions for a backup have two names
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			testStandby(t, version)
		})
	}
}

func testStandby(t *testing.T, version string) {
	t.Helper()
	primary := postgres(t, PostgresOptions{Version: version})
	conn := connect(t, primary.URL())
	execute(t, conn, "CREATE TABLE before AS SELECT 1 AS n")
	standby, err := primary.Standby(t.Context(), map[string]string{"max_connections": "101"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(standby.Log())
		}
		if err := standby.Close(); err != nil {
			t.Error(err)
		}
	})
	replica := connect(t, standby.URL())
	if got := query(t, replica, "SELECT pg_is_in_recovery()::text || (SELECT n FROM before)"); got != "true1" {
		t.Errorf("got %s, want true1", got)
	}
	if got := query(t, replica, "SHOW max_connections"); got != "101" {
		t.Errorf("max_connections is %s, want 101", got)
	}
	execute(t, conn, "CREATE TABLE after AS SELECT 2 AS n")
	err = poll(t.Context(), 10*time.Millisecond, func() (bool, error) {
		return query(t, replica, "SELECT (to_regclass('after') IS NOT NULL)::text") == "true", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	execute(t, connect(t, standby.URL()), "INSERT INTO after VALUES (3)")
}
