package walsim

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgproto3"
)

// startCommand is START_REPLICATION for a logical slot:
// https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-START-REPLICATION-SLOT-LOGICAL
var startCommand = regexp.MustCompile(`^START_REPLICATION SLOT "([^"]+)" LOGICAL ([0-9A-F]+/[0-9A-F]+) \((.*)\)$`)

func isStart(sql string) bool { return strings.HasPrefix(sql, "START_REPLICATION ") }

// startReplication answers the command and, when it may, streams. It reports
// whether the connection goes on.
func (b *backend) startReplication(sql string) bool {
	s := b.server
	part := startCommand.FindStringSubmatch(strings.TrimSpace(sql))
	if part == nil {
		b.unknown(sql)
		b.ready()
		return true
	}
	from, err := pglogrepl.ParseLSN(part[2])
	options := part[3]
	if err != nil || !strings.Contains(options, "proto_version '1'") ||
		!strings.Contains(options, fmt.Sprintf(`publication_names '"%s"'`, s.config.Publication)) {
		b.unknown(sql)
		b.ready()
		return true
	}
	if part[1] != s.config.Slot {
		b.fail(codeUndefinedObject, fmt.Sprintf("replication slot %q does not exist", part[1]))
		b.ready()
		return true
	}
	session, start, holder := s.acquire(b.pid)
	if holder != 0 {
		b.fail(codeObjectInUse, fmt.Sprintf("replication slot %q is active for PID %d", part[1], holder))
		b.ready()
		return true
	}
	if from > start { // as a server does, and no relay should ask for
		s.strange("asked for %s, past the slot's own position", part[2])
		start = from
	}
	timeout, err := time.ParseDuration(cmp.Or(b.params["wal_sender_timeout"], "60s"))
	if err != nil {
		s.strange("wal_sender_timeout: %v", err)
		timeout = time.Minute
	}
	w := &walsender{
		backend: b, session: session, start: start, sent: start, timeout: timeout,
		messages:  s.config.Messages || strings.Contains(options, "messages 'true'"),
		announced: make(map[uint32]bool), write: start, flush: start,
		said: make(chan struct{}, 1), left: make(chan struct{}),
	}
	s.config.Observe(Step{Kind: Opened, Session: session, At: time.Now(), LSN: start})
	b.pg.Send(&pgproto3.CopyBothResponse{})
	return w.run()
}
