package cdc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// RecoverOptions say which rows Recover publishes, and in which order.
type RecoverOptions struct {
	// Since leaves out rows whose Timestamp column is older; zero: all rows. Those
	// without a timestamp may be younger.
	Since time.Time
	// Timestamp and Order are columns, or empty. Rows come by Order, else by
	// Timestamp, else as the table holds them. That is the order of the commits
	// as far as the columns know it: best effort.
	Timestamp string
	Order     string
	// ReplaceSlot drops the slot even though it looks usable: what it has not
	// sent yet and the table no longer holds is given up.
	ReplaceSlot bool
}

// Recovery is what Recover would do, as PlanRecover found it.
type Recovery struct {
	Rows        int64  `json:"rows"`        // that would be published
	Publication string `json:"publication"` // "keep", "create" or "repair"
	// Repair is the SQL that makes the publication show the table.
	Repair    []string `json:"repair,omitempty"`
	Slot      string   `json:"slot"` // "keep", "create" or "replace"
	OrderedBy string   `json:"ordered_by"`
	// Since is the time before which rows are left out; zero: none are. Resumed
	// tells that it is an earlier one than was asked for: that of a recovery that
	// was begun and not finished.
	Since   time.Time `json:"since,omitzero"`
	Resumed bool      `json:"resumed,omitempty"`
	Problem string    `json:"problem,omitempty"` // what run would say; empty when it could stream
	// UnusedSlots are other slots of this database that nobody streams from: one
	// of them may be the one that is meant.
	UnusedSlots []string `json:"unused_slots,omitempty"`
}

// What a recovery does with the publication and the slot.
const (
	planKeep    = "keep"
	planRepair  = "repair"
	planCreate  = "create"
	planReplace = "replace"
)

// recovery is a recovery under way.
type recovery struct {
	config  Config
	options RecoverOptions
	conn    *pgx.Conn
	mine    bool // conn holds the lock of recoveries of this slot
	cat     catalog
	filter  string // the publication's, an SQL expression; "": none
	plan    Recovery
}

// PlanRecover reads what Recover would do, and changes nothing.
func PlanRecover(ctx context.Context, c Config, o RecoverOptions) (Recovery, error) {
	c, err := c.withDefaults()
	if err != nil {
		return Recovery{}, err
	}
	conn, err := reach(ctx, c)
	if err != nil {
		return Recovery{}, err
	}
	defer closeSQL(conn)
	v := recovery{config: c, options: o, conn: conn}
	err = v.look(ctx)
	return v.plan, err
}

// Recover publishes the table's rows to the relay's sink, with a new slot when
// the old one is lost, and returns how many it published. Run streams on from
// there. Nothing that the table holds is skipped; what had been published
// before is published again.
//
// Before anything else the publication is marked as recovering, and only
// behind the last acknowledgement as ready: Recover can be stopped at any step
// and started again, and Run refuses to stream in between. Use the Relay for
// this alone.
func (r *Relay) Recover(ctx context.Context, o RecoverOptions) (int64, error) {
	conn, err := reach(ctx, r.config)
	if err != nil {
		return 0, err
	}
	v := recovery{config: r.config, options: o, conn: conn}
	defer func() { closeSQL(v.conn) }()
	if err := v.alone(ctx); err != nil {
		return 0, err
	}
	if err := v.look(ctx); err != nil {
		return 0, err
	}
	if err := v.mark(ctx); err != nil {
		return 0, err
	}
	n, err := r.carryOut(ctx, &v)
	if err != nil {
		return n, unfinished(err, n)
	}
	return n, nil
}

// carryOut does what was planned and marked.
func (r *Relay) carryOut(ctx context.Context, v *recovery) (int64, error) {
	if err := v.repair(ctx); err != nil {
		return 0, err
	}
	if err := v.snapshot(ctx); err != nil {
		return 0, err
	}
	n, err := r.publishRows(ctx, v)
	if err != nil {
		return n, err
	}
	return n, r.done(ctx, v)
}

// unfinished says how far a recovery came that has begun, and what that means for the relays.
func unfinished(err error, n int64) error {
	hint := "start `outbox-cdc recover` again: it begins anew, and no relay streams before it has ended"
	if h := fault.HintOf(err); h != "" && !errors.Is(err, context.Canceled) {
		hint = h + "; `outbox-cdc recover` is what to start again: it begins anew, and no relay streams before it has ended"
	}
	return fault.New(fault.KindOf(err), "recover", fmt.Errorf("stopped after %d rows: %w", n, err), hint)
}

// reach connects, for no longer than the startup timeout allows.
func reach(ctx context.Context, c Config) (*pgx.Conn, error) {
	if c.StartupTimeout > 0 {
		limited, cancel := context.WithTimeout(ctx, c.StartupTimeout)
		defer cancel()
		ctx = limited
	}
	return connectSQL(ctx, c.URL)
}

// alone makes sure that no other recovery of the slot is at work.
func (v *recovery) alone(ctx context.Context) error {
	err := queryRow(ctx, v.conn, []any{&v.mine}, "SELECT pg_try_advisory_lock(hashtext('outbox-cdc recover'), hashtext($1))", v.config.Slot)
	switch {
	case err != nil:
		return postgresError("lock", err)
	case !v.mine:
		return fault.New(fault.Unexpected, "recover", fmt.Errorf("another recovery of slot %q is at work", v.config.Slot), "wait for it to end")
	}
	return nil
}

// look reads how things stand, makes the plan and counts the rows.
func (v *recovery) look(ctx context.Context) error {
	c := v.config
	cat, err := readCatalog(ctx, v.conn, c)
	if err != nil {
		return err
	}
	if cat.others, err = readOtherSlots(ctx, v.conn, c.Slot); err != nil {
		return err
	}
	v.cat = cat
	v.resume()
	v.plan.UnusedSlots = cat.unused()
	if err := cat.checkServer(); err != nil {
		return err
	}
	if err := cat.checkTable(c); err != nil {
		return err
	}
	if err := v.checkOptions(); err != nil {
		return err
	}
	if err := v.choose(); err != nil {
		return err
	}
	v.plan.OrderedBy, v.plan.Since = v.order(), v.options.Since
	if err := v.readFilter(ctx); err != nil {
		return err
	}
	if err := v.checkRights(ctx); err != nil {
		return err
	}
	sql, args := v.selectFrom("count(*)")
	if err := v.conn.QueryRow(ctx, sql, args...).Scan(&v.plan.Rows); err != nil {
		return v.unreadable("count rows", err)
	}
	return nil
}

// checkOptions tells whether the columns that rows are chosen and ordered by
// are there. Without the timestamp column the table's own order has to do.
func (v *recovery) checkOptions() error {
	o, columns := &v.options, v.cat.table.Columns
	if o.Order != "" && !slices.Contains(columns, o.Order) {
		return fault.New(fault.Usage, "recover", fmt.Errorf("table %s has no column %q to order by; it has %s", v.config.Table, o.Order, strings.Join(columns, ", ")),
			"correct table.columns.order")
	}
	if slices.Contains(columns, o.Timestamp) {
		return nil
	}
	if !o.Since.IsZero() {
		return fault.New(fault.Usage, "recover", fmt.Errorf("table %s has no column %q to tell which rows are since %s; it has %s",
			v.config.Table, o.Timestamp, o.Since.Format(time.RFC3339), strings.Join(columns, ", ")),
			"set table.columns.timestamp, or leave out --since")
	}
	o.Timestamp = ""
	return nil
}

// choose decides what happens with publication and slot. A usable slot is kept:
// it may hold rows that the table no longer has.
func (v *recovery) choose() error {
	c, s, p := v.config, v.cat.slot, v.cat.publication
	if _, err := v.cat.nextStep(c, false); err != nil {
		v.plan.Problem = err.Error()
	}
	v.plan.Publication, v.plan.Slot = planKeep, planKeep
	if err := v.cat.ownSlot(c); err != nil {
		return err
	}
	switch {
	case p == nil:
		v.plan.Publication = planCreate
		if err := v.cat.mayPublish(c); err != nil {
			return err
		}
	case !p.Owned:
		return fault.New(fault.Unexpected, "recover", fmt.Errorf("publication %q belongs to another role than %q", c.Publication, v.cat.server.Role),
			"run `outbox-cdc recover` as the publication's owner, with REPLICATION")
	case v.cat.usablePublication(c) != nil:
		v.plan.Publication = planRepair
		if err := v.repairable(*p); err != nil {
			return err
		}
		v.planRepair(*p)
	}
	switch {
	case s == nil:
		v.plan.Slot = planCreate
	case s.Active:
		return fault.New(fault.Unexpected, "recover", fmt.Errorf("pid %d holds slot %q", s.ActivePID, c.Slot),
			"stop every relay of this slot first; they refuse to stream until the recovery has ended")
	case v.options.ReplaceSlot, p == nil, s.lost(), p != nil && replaces(p.Comment) == s.ConfirmedLSN && s.ConfirmedLSN != 0:
		v.plan.Slot = planReplace
	}
	if v.plan.Slot == planKeep {
		return v.cat.usableSlot(c)
	}
	return nil
}

// snapshot begins a transaction that sees what was committed when the slot was
// created: neither is a row missing from both, nor is one in both of a new slot.
// For a slot that is kept a temporary one gives the snapshot. Its creation
// waits for every transaction that is open: one that inserted before the
// publication was repaired is then seen by the snapshot.
func (v *recovery) snapshot(ctx context.Context) error {
	c := v.config
	if v.plan.Slot == planReplace {
		if err := exec(ctx, v.conn, "drop slot", fmt.Sprintf("SELECT pg_drop_replication_slot(%s)", literal(c.Slot))); err != nil {
			return err
		}
	}
	exporter, err := connectReplication(ctx, c.URL, new(atomic.Int64))
	if err != nil {
		return err
	}
	defer func() { // the snapshot has been taken over, or is of no use
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = exporter.Close(closing)
	}()
	var name string
	err = whileWatched(ctx, c, exporter, func(ctx context.Context) error {
		name, err = exportSnapshot(ctx, exporter, v.createSlotSQL())
		return err
	})
	if err != nil {
		return err
	}
	return exec(ctx, v.conn, "take over snapshot",
		"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT "+literal(name))
}

// createSlotSQL is the replication command that creates the slot, or a temporary one beside a slot that is kept:
// https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-CREATE-REPLICATION-SLOT
func (v *recovery) createSlotSQL() string {
	name, temporary, failover := ident(v.config.Slot), "", ", FAILOVER"
	if v.plan.Slot == planKeep {
		name, temporary, failover = ident(fmt.Sprintf("outbox_cdc_recover_%d", v.conn.PgConn().PID())), " TEMPORARY", ""
	}
	switch version := v.cat.server.Version; {
	case version < 150000:
		return fmt.Sprintf("CREATE_REPLICATION_SLOT %s%s LOGICAL pgoutput EXPORT_SNAPSHOT", name, temporary)
	case version < 170000:
		failover = ""
	}
	return fmt.Sprintf("CREATE_REPLICATION_SLOT %s%s LOGICAL pgoutput (SNAPSHOT 'export'%s)", name, temporary, failover)
}

// exportSnapshot runs the command and returns the name of the snapshot, which
// lasts until the connection is used again.
func exportSnapshot(ctx context.Context, conn *pgconn.PgConn, sql string) (string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", replicationError("create replication slot", err)
	}
	const snapshotName = 2 // of slot_name, consistent_point, snapshot_name, output_plugin
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) <= snapshotName {
		return "", fault.New(fault.Unexpected, "create replication slot", errors.New("the server exported no snapshot"), "")
	}
	return string(results[0].Rows[0][snapshotName]), nil
}

// done ends the transaction and lets Run stream on. After hours of sending, a lock
// and a connection that broke are waited for.
func (r *Relay) done(ctx context.Context, v *recovery) error {
	_ = exec(ctx, v.conn, "end snapshot", "COMMIT") // of what was only read
	var b backoff
	for {
		err := v.finish(ctx)
		switch {
		case errors.Is(err, errMarkChanged):
			return fault.New(fault.Unexpected, "recover", err, "every row was sent; start `outbox-cdc recover` again to have it remembered")
		case fault.KindOf(err) != fault.Unreachable || err == nil:
			return err
		}
		r.complain(Recovering, err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(b.wait()):
		}
	}
}

// finish marks the publication as it was when the snapshot was taken: what has
// changed since is the next run's to notice.
func (v *recovery) finish(ctx context.Context) error {
	if v.conn.IsClosed() {
		conn, err := connectSQL(ctx, v.config.currentURL())
		if err != nil {
			return err
		}
		v.conn, v.mine = conn, false
	}
	if !v.mine { // another recovery may have begun meanwhile, or the session that is lost has not ended yet
		if err := v.alone(ctx); err != nil {
			return fault.New(fault.Unreachable, "mark publication", err, "")
		}
	}
	return setMark(ctx, v.conn, v.config, v.cat.publication.Comment, v.cat.readyMark())
}
