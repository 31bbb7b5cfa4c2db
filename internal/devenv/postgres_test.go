package devenv

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestSmoke(t *testing.T) {
	for _, v := range []string{"", "14", "15", "16", "17", "18", "17"} {
		start := time.Now()
		p, err := StartPostgres(t.Context(), PostgresOptions{Version: v})
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		c, err := pgx.Connect(t.Context(), p.URL())
		if err != nil {
			t.Fatal(err)
		}
		var s, w string
		if err := c.QueryRow(t.Context(), "select version(), current_setting('wal_level')").Scan(&s, &w); err != nil {
			t.Fatal(err)
		}
		t.Log(v, p.Version(), took, s[:30], w)
		start = time.Now()
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		t.Log("kill", time.Since(start))
		start = time.Now()
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Log("start", time.Since(start))
		start = time.Now()
		if err := p.Stop(context.Background(), StopFast); err != nil {
			t.Fatal(err)
		}
		t.Log("stop", time.Since(start))
		start = time.Now()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		t.Log("close", time.Since(start))
	}
}
