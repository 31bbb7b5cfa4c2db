package cdc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// Ack settles one published event. It is an alias so that a sink can spell it without importing this package.
type Ack = interface {
	Done(bytes int)            // the event is durable on all in-sync replicas
	Fail(bytes int, err error) // the event will not be published
}

// Sink is where the line ends.
type Sink interface {
	// Publish copies what it keeps of ev before it returns, and never blocks: the
	// window is the relay's. It settles ack exactly once with ev.Size, from any
	// goroutine. Events with one key keep their order. An error of kind
	// fault.Poison stops the relay; after any other the line starts again from
	// the confirmed LSN.
	Publish(ev *decoder.Event, ack Ack)
	// Reset makes ready for the line to start again from the confirmed LSN. What
	// was queued is failed; a batch on the wire is settled before anything newer
	// of its partition goes out.
	Reset()
}

// Config is what the relay needs to know of its Postgres side.
type Config struct {
	// URL is a pgx connection string to the primary, with a role that has
	// REPLICATION. Several hosts may be given; the one that is writable is used.
	URL string
	// RereadURL returns URL as it is now, where it comes from a file; optional.
	// Run asks before it connects. After an error, or with what is no URL, it goes
	// on with the last one.
	RereadURL   func() (string, error)
	Slot        string // default "outbox_cdc"
	Publication string // default "outbox_cdc"
	Table       Table  // default public.outbox
	// Columns must exist in Table: those that the sink's mapping names.
	Columns []string
	// AskedBy names the setting that asks for one of Columns, for hints; optional.
	AskedBy func(column string) string
	// NoInit forbids to create what is missing on a first start.
	NoInit bool
	// BeforeSlot is asked before a first start creates anything, and before Run
	// takes the slot; optional. An error puts that off: Run asks again after a
	// while, and another instance may have the slot meanwhile. Init does not ask.
	BeforeSlot func(ctx context.Context) error
	// SinkNotReady tells why the sink cannot take events yet, "" when it can;
	// optional. The relay calls itself ready only then.
	SinkNotReady func() string
	// StartupTimeout bounds how long Run tries to reach Postgres before it has
	// once; 0 is for ever. A recovery tries once, for so long at most.
	StartupTimeout time.Duration
	// DrainTimeout bounds how long Run waits for acknowledgements after its
	// context has ended. Default 10 s.
	DrainTimeout time.Duration
	// InFlightBytes and InFlightEvents bound what was read and is not yet
	// acknowledged. Defaults 16 MiB and 50,000.
	InFlightBytes  int
	InFlightEvents int
	// Log receives one line per change of state; default discards.
	Log *slog.Logger
}

// currentURL returns the URL as it is now, as for a password that was rotated.
func (c Config) currentURL() string {
	if c.RereadURL == nil {
		return c.URL
	}
	url, err := c.RereadURL()
	if err == nil {
		if _, wrong := pgx.ParseConfig(url); wrong != nil {
			err = badURL(wrong)
		}
	}
	if err != nil {
		c.Log.Warn("outbox.secret_unreadable", "setting", "postgres.url_file", "error", err.Error(), "hint", "the relay goes on with what it read before")
		return c.URL
	}
	return url
}

// Table is a schema-qualified table name, unquoted.
type Table struct{ Schema, Name string }

// String returns schema.name, unquoted, for messages.
func (t Table) String() string { return t.Schema + "." + t.Name }

var defaultTable = Table{Schema: "public", Name: "outbox"}

// slotName is what Postgres accepts: https://www.postgresql.org/docs/current/warm-standby.html#STREAMING-REPLICATION-SLOTS-MANIPULATION
var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// withDefaults returns the configuration with every zero replaced, or what is wrong with it.
func (c Config) withDefaults() (Config, error) {
	c.Slot = cmp.Or(c.Slot, "outbox_cdc")
	c.Publication = cmp.Or(c.Publication, "outbox_cdc")
	c.Table.Schema = cmp.Or(c.Table.Schema, defaultTable.Schema)
	c.Table.Name = cmp.Or(c.Table.Name, defaultTable.Name)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, 10*time.Second)
	c.InFlightBytes = cmp.Or(c.InFlightBytes, 16<<20)
	c.InFlightEvents = cmp.Or(c.InFlightEvents, 50_000)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.URL == "":
		return c, fault.New(fault.Usage, "configure", errors.New("postgres.url is not set"),
			"set OUTBOX_CDC_POSTGRES_URL, --postgres-url or postgres.url, such as postgres://relay@db:5432/app")
	case !slotName.MatchString(c.Slot):
		return c, fault.New(fault.Usage, "configure", fmt.Errorf("postgres.slot %q is not a valid slot name", c.Slot),
			"use 1 to 63 lower-case letters, digits and underscores")
	case c.InFlightBytes < 0 || c.InFlightEvents < 0:
		return c, fault.New(fault.Usage, "configure",
			fmt.Errorf("limits must be positive, got in_flight_bytes %d, in_flight_events %d", c.InFlightBytes, c.InFlightEvents), "")
	}
	return c, nil
}
