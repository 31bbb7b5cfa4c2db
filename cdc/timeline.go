package cdc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
)

// history is how far the events of this process go, and in which WAL they
// stand: a server that was promoted may have left it before that.
type history struct {
	system    string // the cluster's identifier; empty: nothing was published yet
	timeline  int32
	published pglogrepl.LSN // end of the last transaction with events
}

// fork is where a server's WAL has parted from what was published.
type fork struct {
	at       pglogrepl.LSN // the last position that both have
	timeline int32         // of the server
}

// forked asks the server whether it lacks what was published before. It is nil
// when it does not.
func (h history) forked(ctx context.Context, conn *pgconn.PgConn, now pglogrepl.IdentifySystemResult) (*fork, error) {
	switch {
	case h.system == "" || now.SystemID == h.system && now.Timeline == h.timeline:
		return nil, nil
	case now.SystemID != h.system:
		return &fork{timeline: now.Timeline}, nil
	}
	result, err := pglogrepl.TimelineHistory(ctx, conn, now.Timeline)
	if err != nil {
		return nil, postgresError("read timeline history", err)
	}
	at, err := leftAt(result.Content, h.timeline)
	if err != nil {
		return nil, fmt.Errorf("read timeline history: %w", err)
	}
	if at >= h.published {
		return nil, nil
	}
	return &fork{at: at, timeline: now.Timeline}, nil
}

// leftAt finds in a timeline's history file where it left an earlier one: each
// line has a timeline, the position where the next one begins, and a reason.
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
	return 0, errors.Join(fmt.Errorf("the server's timeline does not come from timeline %d", timeline), lines.Err())
}

// remember notes which WAL the stream reads, and says when it is another one.
func (r *Relay) remember(s *stream, confirmed pglogrepl.LSN) {
	if s.fork != nil {
		r.sayForked(s.fork)
		r.history.published = confirmed
	}
	r.history.system, r.history.timeline = s.system, s.timeline
}

// sayForked logs that consumers have events that the server does not have.
func (r *Relay) sayForked(f *fork) {
	h := r.history
	hint := "consumers have seen what this server never committed: compare their state with its tables from there on, and mind that it uses the positions of outbox-lsn again, with another timeline; " +
		"synchronized_standby_slots on the primary (PostgreSQL 17 on) keeps back what no standby has yet"
	if f.at == 0 {
		hint = "this is another database cluster, that knows nothing of what was published: look whether postgres.url is right"
	}
	r.config.Log.Error("outbox.timeline_diverged", "published_until", h.published.String(), "timeline", h.timeline,
		"server_has_until", f.at.String(), "server_timeline", f.timeline, "hint", hint)
}
