package e2e_test

import (
	"strings"
	"testing"
	"time"

	"github.com/outbox-cdc/outbox-cdc/internal/rig"
)

// A column that the stream does not show as it is would go out as something
// else, or stop the relay at the first event: it is refused at the start.
func TestColumnsThatAreNotStreamed(t *testing.T) {
	const table = `CREATE DOMAIN raw AS bytea; CREATE DOMAIN digest AS raw;
		CREATE TABLE outbox (id int, aggregate_type text DEFAULT 'x', aggregate_id text, event_type text DEFAULT 'made', `
	for _, c := range []struct {
		name, version, create string
		says                  string // "": it streams
	}{
		{"generated", "17", table + `payload text GENERATED ALWAYS AS ('x' || id) STORED)`, `column "payload" of table public.outbox is generated`},
		{"generated in 18", "18", table + `payload text GENERATED ALWAYS AS ('x' || id) STORED)`, `column "payload" of table public.outbox is generated`},
		{"generated and published", "18", table + `payload text GENERATED ALWAYS AS ('"x' || id || '"') STORED);
			CREATE PUBLICATION published FOR TABLE outbox WITH (publish = 'insert', publish_generated_columns = stored)`, ""},
		{"domain over bytea", "17", table + `payload raw)`, `column "payload" of table public.outbox is of a domain over bytea`},
		{"domain over a domain over bytea", "14", table + `payload digest)`, `column "payload" of table public.outbox is of a domain over bytea`},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t, c.version, "")
			b.exec(b.conn, c.create)
			env := b.env("OUTBOX_CDC_POSTGRES_PUBLICATION=published")
			if c.says == "" {
				b.initialize(env)
				relay := rig.Start(t, env, "run", "--stdout")
				b.exec(b.conn, "INSERT INTO outbox (id) VALUES (7)")
				rig.Eventually(t, time.Minute, "the event", func() bool { return strings.Contains(relay.Stdout(), `"value":"x7"`) })
				return
			}
			for _, command := range [][]string{{"run", "--stdout"}, {"init"}} {
				r := rig.Start(t, env, command...)
				if code := r.Wait(time.Minute); code != 2 || !strings.Contains(r.Log(), c.says) || !strings.Contains(r.Log(), "hint: ") {
					t.Errorf("%v: exit code %d, want 2 and %q:\n%s", command, code, c.says, r.Log())
				}
			}
			if n := b.count("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1", b.name); n != 0 {
				t.Errorf("%d slots were created", n)
			}
		})
	}
}
