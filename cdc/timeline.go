package cdc

import (
	"bufio"
	"bytes"
	"context"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// history is how far the events of this process go, and in which WAL they
// stand: a server that was promoted may have left it before that.
type history struct {
	system    string // the cluster's identifier; empty: nothing was streamed yet
	timeline  int32
	published pglogrepl.LSN // commit of the last transaction of which an event was acknowledged
}

// fork is where a server's WAL has parted from what was published.
type fork struct {
	at       pglogrepl.LSN // the end of what both have; 0: not known
	system   string        // of the server,
	timeline int32         // and its timeline
}

// forked asks the server whether it lacks what was published before. It is nil
// when it does not.
func (h history) forked(ctx context.Context, conn *pgconn.PgConn, now pglogrepl.IdentifySystemResult) (*fork, error) {
	f := &fork{system: now.SystemID, timeline: now.Timeline}
	switch {
	case h.system == "" || now.SystemID == h.system && (now.Timeline == h.timeline || h.published == 0):
		return nil, nil
	case now.SystemID != h.system, now.Timeline < h.timeline: // an earlier timeline has no history of a later one
		return f, nil
	}
	const op = "read timeline history"
	result, err := pglogrepl.TimelineHistory(ctx, conn, now.Timeline)
	if err != nil {
		return nil, postgresError(op, err)
	}
	f.at, err = leftAt(result.Content, h.timeline)
	switch {
	case err != nil:
		return nil, fault.New(fault.Unexpected, op, err, "please report this with the server's version")
	case f.at > h.published:
		return nil, nil
	}
	return f, nil
}

// leftAt finds in a timeline's history file where it left an earlier one: each
// line has a timeline, the position where the next one begins, and a reason. 0
// means that it does not come from there.
// https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-TIMELINE-HISTORY
func leftAt(file []byte, timeline int32) (pglogrepl.LSN, error) {
	lines := bufio.NewScanner(bytes.NewReader(file))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if id, err := strconv.ParseInt(fields[0], 10, 32); err != nil || int32(id) != timeline {
			continue
		}
		return pglogrepl.ParseLSN(fields[1])
	}
	return 0, lines.Err()
}

// remember notes which WAL the stream reads, and says when it is another one.
func (r *Relay) remember(s *stream, confirmed pglogrepl.LSN) {
	if s.fork != nil {
		r.sayForked(s.fork)
		r.window.Rewind(confirmed)
	}
	r.history.system, r.history.timeline = s.system, s.timeline
}

// sayForked logs that consumers have events that the server does not have.
func (r *Relay) sayForked(f *fork) {
	h := r.history
	const compare = "consumers have seen what this server never committed: compare their state with its tables from there on, and mind that it uses the positions of outbox-lsn again, with another timeline"
	until, hint := f.at.String(), compare+"; synchronized_standby_slots on the primary (PostgreSQL 17 on) keeps back what no standby has yet"
	switch {
	case f.system != h.system:
		until, hint = "unknown", "this is another database cluster, that knows nothing of what was published: look whether postgres.url is right"
	case f.at == 0:
		until, hint = "unknown", "this server's WAL does not come from the timeline that was published: it is an old primary that is back, or was restored from a backup. "+
			"Look whether postgres.url leads to the right one; if it does, "+compare
	}
	r.config.Log.Error("outbox.timeline_diverged", "published_until", h.published.String(), "timeline", h.timeline,
		"server_has_until", until, "server_timeline", f.timeline, "hint", hint)
}
