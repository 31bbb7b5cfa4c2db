package cdc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

const (
	// statusInterval is how often a status update goes out at least: a third of
	// the walSenderTimeout that our connection sets (Invariant 4).
	statusInterval = 3 * time.Second
	// reportInterval bounds how often updates go out beyond that.
	reportInterval = 100 * time.Millisecond
	writeTimeout   = 5 * time.Second
	// farewell bounds the wait for the server to take the last report.
	farewell = 2 * time.Second
)

// errQuiet says that nothing came before the deadline.
var errQuiet = errors.New("nothing received")

// errServerDone says that the walsender ended the stream in order.
var errServerDone = errors.New("the server ended the stream")

// stream is the replication connection: frames in, status updates out. Only
// the line's goroutine uses it, but for interrupt.
type stream struct {
	conn     *pgconn.PgConn
	system   string // the cluster's identifier
	timeline int32
	fork     *fork // nil: all that was published before is in the server's WAL
	started  bool  // the server streams, and has let us

	received pglogrepl.LSN // highest position seen, for the write field of reports
	reported pglogrepl.LSN // flush of the last report
	lastSent time.Time     // of a report
	lastAsk  time.Time     // of a report that asked for a reply
	asked    int           // replies asked for since anything was heard,
	firstAsk time.Time     // when the first of these was,
	quiet    int64         // and what heard was
	deadline time.Time     // read deadline that is set
	buf      []byte

	heard       *atomic.Int64 // bytes that came
	interrupted atomic.Bool
}

// frame is what the server sent: a piece of WAL, or a keepalive.
type frame struct {
	wal       []byte // nil for a keepalive; aliases the read buffer until the next receive
	lsn       pglogrepl.LSN
	wantReply bool
}

// openStream starts replication where the slot stands. confirmed is the
// slot's confirmed_flush_lsn (Invariant 8); before is what earlier sessions published.
func openStream(ctx context.Context, c Config, confirmed pglogrepl.LSN, before history) (*stream, error) {
	heard := new(atomic.Int64)
	conn, err := connectReplication(ctx, c.URL, heard)
	if err != nil {
		return nil, err
	}
	s := &stream{conn: conn, heard: heard, received: confirmed, reported: confirmed, buf: make([]byte, 0, statusUpdateSize)}
	limited, cancel := brief(ctx)
	defer cancel()
	system, err := pglogrepl.IdentifySystem(limited, conn)
	if err == nil {
		s.system, s.timeline = system.SystemID, system.Timeline
		s.fork, err = before.forked(limited, conn, system)
	}
	if err == nil {
		// 0/0 means where the slot stands: a position of our own could only skip or be ignored.
		err = pglogrepl.StartReplication(limited, conn, ident(c.Slot), 0, pglogrepl.StartReplicationOptions{
			Mode: pglogrepl.LogicalReplication,
			PluginArgs: []string{
				"proto_version '1'",
				"publication_names " + literal(ident(c.Publication)),
			},
		})
	}
	if err != nil {
		s.close()
		return nil, s.refused("start replication", late(ctx, err))
	}
	s.started = true
	return s, nil
}

// receive returns the next frame, errQuiet at the deadline, or what ended the stream.
func (s *stream) receive(deadline time.Time) (frame, error) {
	if deadline.Before(s.deadline) || !time.Now().Before(s.deadline) {
		if err := s.conn.Conn().SetReadDeadline(deadline); err != nil {
			return frame{}, s.broken("set read deadline", err)
		}
		s.deadline = deadline
	}
	if s.interrupted.Swap(false) {
		s.deadline = time.Time{}
		return frame{}, errQuiet
	}
	for {
		// A context that can be cancelled would cost allocations for every message.
		msg, err := s.conn.ReceiveMessage(context.Background())
		if err != nil {
			if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
				s.deadline = time.Time{}
				return frame{}, errQuiet
			}
			return frame{}, s.broken("receive", err)
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyData:
			return s.parse(msg.Data)
		case *pgproto3.ErrorResponse:
			return frame{}, s.refused("stream", pgconn.ErrorResponseToPgError(msg))
		case *pgproto3.CopyDone, *pgproto3.CommandComplete, *pgproto3.ReadyForQuery:
			return frame{}, errServerDone
		}
		// Notices and parameter changes carry no data.
	}
}

// parse reads the header of a replication message:
// https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-XLOGDATA
func (s *stream) parse(data []byte) (frame, error) {
	if len(data) == 0 {
		return frame{}, s.broken("receive", errors.New("empty CopyData message"))
	}
	switch kind, body := data[0], data[1:]; kind {
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(body)
		if err != nil {
			return frame{}, s.broken("receive", err)
		}
		s.received = max(s.received, x.WALStart)
		return frame{wal: x.WALData, lsn: x.WALStart}, nil
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(body)
		if err != nil {
			return frame{}, s.broken("receive", err)
		}
		s.received = max(s.received, k.ServerWALEnd)
		return frame{lsn: k.ServerWALEnd, wantReply: k.ReplyRequested}, nil
	default:
		return frame{}, s.broken("receive", fmt.Errorf("unknown replication message %q", kind))
	}
}

// report sends a status update. flush is what the tracker confirms.
func (s *stream) report(now time.Time, flush pglogrepl.LSN, askReply bool) error {
	// Never above what this session has received: a larger LSN would discard data for good.
	flush = min(flush, s.received)
	s.buf = appendStatusUpdate(s.buf[:0], s.received, flush, now, askReply)
	if err := s.send(&pgproto3.CopyData{Data: s.buf}); err != nil {
		return s.broken("send status update", err)
	}
	s.lastSent, s.reported = now, flush
	if askReply {
		s.lastAsk = now
		if s.asked++; s.asked == 1 {
			s.firstAsk = now
		}
	}
	return nil
}

func (s *stream) send(msg pgproto3.FrontendMessage) error {
	if s.conn.IsClosed() { // by pgconn when a receive failed: a goroutine of its own is at the same buffer then
		return net.ErrClosed
	}
	if err := s.conn.Conn().SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	s.conn.Frontend().Send(msg)
	return s.conn.Frontend().Flush()
}

// interrupt makes the receive that is under way, or the next one, return
// errQuiet; any goroutine. The flag is for a receive that is just setting its deadline.
func (s *stream) interrupt() {
	s.interrupted.Store(true)
	_ = s.conn.Conn().SetReadDeadline(time.Now())
}

// bye reports a last time and goes on discarding until the server has taken
// it: closing with unread data may reset the connection before the report is
// read. CopyDone comes back only behind what was sent before it.
func (s *stream) bye(flush pglogrepl.LSN) error {
	now := time.Now()
	err := s.report(now, flush, false)
	if err == nil {
		err = s.send(&pgproto3.CopyDone{})
	}
	end := now.Add(farewell)
	for err == nil || errors.Is(err, errQuiet) {
		if time.Now().After(end) {
			return s.broken("close stream", fmt.Errorf("the server did not answer within %v", farewell))
		}
		_, err = s.receive(end)
	}
	if errors.Is(err, errServerDone) {
		return nil
	}
	return err
}

// close ends the connection without waiting for a server that does not answer.
func (s *stream) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// refused sorts an error of the walsender's: some of them come back for ever.
func (s *stream) refused(op string, err error) error {
	switch pgCode(err) {
	case codeNotInPrerequisiteState: // invalidated, or of a standby, or …: set-up looks at the slot afresh
		return fault.New(fault.Unreachable, op, oneLine{err}, "")
	case codeUndefinedObject: // the publication, as of the WAL that is being decoded; or a slot that was dropped just now
		if s.started {
			return fault.New(fault.SlotLost, op, oneLine{err},
				"the publication must exist where decoding begins: the slot is older than it, or it was dropped for a while, and no run gets past that; "+replaceHint)
		}
		return fault.New(fault.Unreachable, op, oneLine{err}, "")
	}
	if s.started && strings.HasPrefix(pgCode(err), classData) {
		return fault.New(fault.Poison, op, oneLine{err}, unsendable+past)
	}
	return replicationError(op, err)
}

// broken is a connection that is of no more use; the line reconnects.
func (s *stream) broken(op string, err error) error {
	if pgCode(err) != "" {
		return s.refused(op, err)
	}
	return fault.New(fault.Unreachable, op, oneLine{err}, "")
}
