//go:build long

package e2e_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/devenv"
	"github.com/outbox-cdc/outbox-cdc/internal/devenv/devtest"
	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// pair is a primary with a standby, and a stage whose relay and writers know both.
type pair struct {
	*stage
	primary, standby *devenv.Postgres
}

// newPair returns a pair whose standby has the relay's slot. With synchronized, the primary's walsender
// shows the relay nothing that the standby does not have.
func newPair(t *testing.T, version string, synchronized bool) *pair {
	t.Helper()
	primary := devtest.Postgres(t, devenv.PostgresOptions{Version: version})
	standby, err := primary.Standby(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Close(); err != nil {
			t.Error(err)
		}
	})
	p := &pair{stage: newStage(t, primary, sharedKafka(t).Brokers()), primary: primary, standby: standby}
	if synchronized {
		physical := one[string](p.stage, "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical'")
		p.exec(p.url, fmt.Sprintf("ALTER SYSTEM SET synchronized_standby_slots = '%s'", physical))
		p.exec(p.url, "SELECT pg_reload_conf()")
	}
	both, err := url.Parse(p.url)
	if err != nil {
		t.Fatal(err)
	}
	other, err := url.Parse(standby.URL())
	if err != nil {
		t.Fatal(err)
	}
	both.Host += "," + other.Host
	p.env = append(p.env, "OUTBOX_CDC_POSTGRES_URL="+both.String())
	query := both.Query()
	query.Set("target_session_attrs", "read-write") // the relay sets that by itself
	both.RawQuery = query.Encode()
	p.url = both.String()
	return p
}

// awaitSlot waits until the standby has the slot for good: a worker of its
// copies it, and only keeps what the primary's has moved past the standby's start.
func (p *pair) awaitSlot() {
	p.t.Helper()
	url := p.standby.URLFor(p.name, "postgres", "")
	began := time.Now()
	rig.Eventually(p.t, 2*time.Minute, "the standby has the slot", func() bool {
		conn := p.connect(url)
		defer func() { _ = conn.Close(p.t.Context()) }()
		var there bool
		err := conn.QueryRow(p.t.Context(), "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND synced AND NOT temporary)", p.name).Scan(&there)
		return err == nil && there
	})
	p.t.Logf("the standby had the slot after %v", time.Since(began).Round(time.Millisecond))
}

// failOver kills the primary and promotes the standby. The stage is the new primary's.
func (p *pair) failOver() {
	p.t.Helper()
	if err := p.primary.Kill(); err != nil {
		p.t.Fatal(err)
	}
	if err := p.standby.Promote(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	p.pg = p.standby
}

// The primary dies under load and its standby is promoted: the relay follows by
// itself, and every event that the new primary has is in Kafka.
func TestLongFaultFailover(t *testing.T) {
	for _, version := range []string{"17", "18"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, version, true)
			r := p.run()
			l := p.write(1500, 0)
			p.more(1000)
			p.awaitSlot()
			p.more(1000)
			p.failOver()
			began := time.Now()
			p.more(1)
			took := time.Since(began)
			p.more(2000)
			l.end()
			records := p.finish(r)
			t.Logf("events again %v after the promotion; %d records, %d transactions broken: none lost that the new primary has, order kept; %d reconnects of the relay's one process",
				took.Round(time.Millisecond), len(records), l.broken.Load(), strings.Count(r.Log(), `"event":"outbox.reconnecting"`))
			if took > 20*time.Second {
				t.Errorf("no event for %v", took)
			}
			if strings.Contains(r.Log(), "outbox.timeline_diverged") {
				t.Error("the relay says that it has published what the new primary does not have")
			}
		})
	}
}

// A standby that did not have everything is promoted: the relay has published
// events that the new primary never saw. It says so, and goes on with what there is.
func TestLongFaultFailoverToAnOlderStandby(t *testing.T) {
	p := newPair(t, "17", false)
	r := p.run()
	l := p.write(1500, 0)
	p.more(500)
	p.awaitSlot()
	if err := p.standby.Stop(t.Context(), devenv.StopFast); err != nil {
		t.Fatal(err)
	}
	p.more(1000)
	if err := p.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.pg = p.standby
	p.more(1000)
	l.end()
	rig.Eventually(t, 30*time.Second, "the relay says that the timelines diverged", func() bool {
		return strings.Contains(r.Log(), `"event":"outbox.timeline_diverged"`)
	})
	rows := p.rows()
	phantoms := map[string]bool{}
	rig.Eventually(t, 60*time.Second, "all events of the new primary", func() bool {
		arrived := map[string]bool{}
		for _, record := range p.seen.Records() {
			id := record.Header("ce_id")
			if _, committed := rows[id]; committed {
				arrived[id] = true
			} else {
				phantoms[id] = true
			}
		}
		return len(arrived) == len(rows)
	})
	t.Logf("%d events that the new primary has: none lost; %d events in Kafka that it does not have, and the log says so", len(rows), len(phantoms))
	if len(phantoms) == 0 {
		t.Error("the standby had everything: nothing was tested")
	}
	if code := r.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
