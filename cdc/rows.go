package cdc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/checkpoint"
	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// progressInterval is how often a recovery says how far it is.
const progressInterval = 10 * time.Second

// progress says how far a recovery is.
func (r *Relay) progress(v *recovery, tracker *checkpoint.Tracker) {
	r.config.Log.Info("outbox.recovering", "acknowledged", uint64(tracker.Confirmed()), "rows", v.plan.Rows)
}

// order is the ORDER BY of the rows. The physical position decides between
// rows of one moment: later rows stand behind earlier ones unless space was reused.
func (v *recovery) order() string {
	by := "tableoid, ctid"
	switch o := v.options; {
	case o.Order != "":
		return ident(o.Order) + ", " + by
	case o.Timestamp != "":
		return ident(o.Timestamp) + ", " + by
	}
	return by
}

// selectFrom returns the query for what of the rows to recover.
func (v *recovery) selectFrom(what string) (sql string, args []any) {
	sql = fmt.Sprintf("SELECT %s FROM %s WHERE true", what, v.config.Table.quoted())
	if v.filter != "" {
		sql += fmt.Sprintf(" AND (%s)", v.filter)
	}
	if !v.options.Since.IsZero() {
		sql += fmt.Sprintf(" AND (%[1]s >= $1::timestamptz OR %[1]s IS NULL)", ident(v.options.Timestamp))
		args = append(args, v.options.Since.UTC().Format(time.RFC3339Nano))
	}
	return sql, args
}

// unreadable adds what the role lacks.
func (v *recovery) unreadable(op string, err error) error {
	if pgCode(err) == codeInsufficientPrivilege && v.cat.table.RowSecurity {
		return withheldRows(op, err, v.config, v.cat.server.Role)
	}
	if pgCode(err) == codeInsufficientPrivilege {
		return fault.New(fault.Unexpected, op, oneLine{err},
			fmt.Sprintf("recovery reads the table, which streaming does not: GRANT SELECT ON %s TO %s", v.config.Table.quoted(), ident(v.cat.server.Role)))
	}
	if strings.HasPrefix(pgCode(err), classData) {
		return fault.New(fault.Poison, op, oneLine{err}, unsendable)
	}
	return postgresError(op, err)
}

// publishRows sends the rows of the snapshot, in order, and returns how many
// of them, from the first on, are acknowledged. After trouble with the sink it
// goes on behind these.
func (r *Relay) publishRows(ctx context.Context, v *recovery) (int64, error) {
	var acknowledged pglogrepl.LSN // of rows: the tracker only compares positions
	var b backoff
	for {
		// A tracker's position is the number of rows that are acknowledged without a gap.
		tracker := checkpoint.NewTracker(acknowledged, r.window)
		err := r.publishFrom(ctx, v, tracker)
		acknowledged = tracker.Confirmed()
		// With a statement that failed, the snapshot is gone.
		if err == nil || ctx.Err() != nil || !r.retry(err) || v.conn.IsClosed() || v.conn.PgConn().TxStatus() == 'E' {
			return int64(acknowledged), err
		}
		r.complain(Recovering, err)
		r.sink.Reset()
		select {
		case <-ctx.Done():
			return int64(acknowledged), ctx.Err()
		case <-time.After(b.wait()):
		}
	}
}

// publishFrom sends the rows behind those that the tracker has confirmed, and
// waits for the last acknowledgement.
func (r *Relay) publishFrom(ctx context.Context, v *recovery, tracker *checkpoint.Tracker) error {
	n := int(tracker.Confirmed())
	sql, args := v.selectFrom(v.columns())
	sql = fmt.Sprintf("DECLARE recovered NO SCROLL CURSOR FOR %s ORDER BY %s OFFSET %d", sql, v.order(), n)
	if _, err := v.conn.Exec(ctx, sql, args...); err != nil {
		return v.unreadable("read rows", err)
	}
	r.progress(v, tracker)
	p := publisher{relay: r, tracker: tracker, recovery: v, n: n, said: time.Now()}
	for more := true; more; {
		var err error
		if more, err = p.fetch(ctx); err != nil {
			// The transaction goes on, for the next try; without its connection it is over anyway.
			_, _ = v.conn.Exec(ctx, "CLOSE recovered")
			return err
		}
	}
	if _, err := v.conn.Exec(ctx, "CLOSE recovered"); err != nil {
		return postgresError("read rows", err)
	}
	return r.settled(ctx, tracker, pglogrepl.LSN(p.n))
}

// publisher takes rows from the cursor to the sink.
type publisher struct {
	relay    *Relay
	tracker  *checkpoint.Tracker
	recovery *recovery
	n        int // rows given to the sink, by this and earlier tries
	said     time.Time
}

// fetch publishes some rows, and tells whether there may be more.
func (p *publisher) fetch(ctx context.Context) (more bool, err error) {
	const some = 500 // bounds what is read in vain when the sink has trouble
	// Text, as on the replication stream.
	rows, err := p.recovery.conn.Query(ctx, fmt.Sprintf("FETCH %d FROM recovered", some), pgx.QueryResultFormats{pgx.TextFormatCode})
	if err != nil {
		return false, p.recovery.unreadable("read rows", err)
	}
	defer rows.Close()
	var relation *decoder.Relation
	for rows.Next() {
		if relation == nil {
			relation = p.recovery.relation(rows)
		}
		if err := p.publish(ctx, relation, rows.RawValues()); err != nil {
			return false, err
		}
		more = true
	}
	if err := rows.Err(); err != nil {
		return false, p.recovery.unreadable("read rows", err)
	}
	return more, nil
}

func (p *publisher) publish(ctx context.Context, relation *decoder.Relation, values [][]byte) error {
	r := p.relay
	if err := r.room(ctx, p.tracker); err != nil {
		return err
	}
	now := time.Now()
	if now.Sub(p.said) >= r.progressInterval {
		p.said = now
		r.progress(p.recovery, p.tracker)
	}
	ev := decoder.FromTable(relation, values, p.n, now)
	tx := p.tracker.Begin()
	tx.Add(ev.Size)
	r.sink.Publish(&ev, tx)
	p.n++
	tx.End(pglogrepl.LSN(p.n))
	r.counters.events.Add(1)
	return nil
}

// relation describes the rows as the replication stream would.
func (v *recovery) relation(rows pgx.Rows) *decoder.Relation {
	relation := &decoder.Relation{Namespace: v.config.Table.Schema, Name: v.config.Table.Name}
	for _, f := range rows.FieldDescriptions() {
		relation.OID = f.TableOID
		relation.Columns = append(relation.Columns, decoder.Column{Name: f.Name, TypeOID: f.DataTypeOID, TypeModifier: f.TypeModifier})
	}
	return relation
}

// room waits until the window takes another event (Invariant 7).
func (r *Relay) room(ctx context.Context, tracker *checkpoint.Tracker) error {
	for r.window.Full() && tracker.Err() == nil {
		if err := r.changed(ctx); err != nil {
			return err
		}
	}
	return tracker.Err()
}

// settled waits until n rows are acknowledged.
func (r *Relay) settled(ctx context.Context, tracker *checkpoint.Tracker, n pglogrepl.LSN) error {
	for tracker.Confirmed() < n && tracker.Err() == nil {
		if err := r.changed(ctx); err != nil {
			return err
		}
	}
	return tracker.Err()
}

// changed waits for a change of the window, or a moment.
func (r *Relay) changed(ctx context.Context) error {
	timer := time.NewTimer(reportInterval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return errors.Join(errors.New("recovery interrupted"), ctx.Err())
	case <-r.window.Changed():
	case <-timer.C:
	}
	return nil
}
