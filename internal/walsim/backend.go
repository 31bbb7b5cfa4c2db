package walsim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgproto3"
)

// SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	codeAdminShutdown       = "57P01"
	codeCannotConnectNow    = "57P03"
	codeObjectInUse         = "55006"
	codeUndefinedObject     = "42704"
	codeFeatureNotSupported = "0A000"
)

// backend is one connection, with its goroutine.
type backend struct {
	server      *Server
	conn        *net.TCPConn
	pg          *pgproto3.Backend
	pid         uint32
	refused     bool // the server takes nobody now
	replication atomic.Bool
	params      map[string]string // of the startup packet

	sql    string // unnamed statement
	args   []string
	found  result
	failed bool // until the next Sync
}

func newBackend(s *Server, conn *net.TCPConn, pid uint32) *backend {
	return &backend{server: s, conn: conn, pg: pgproto3.NewBackend(conn, conn), pid: pid}
}

// reset ends the connection with RST; what is buffered is lost. Any goroutine.
func (b *backend) reset() {
	_ = b.conn.SetLinger(0)
	_ = b.conn.Close()
}

// cut ends a connection that is not a walsender's with a last word. Any goroutine.
func (b *backend) cut(last *pgproto3.ErrorResponse) {
	if last != nil {
		if raw, err := last.Encode(nil); err == nil {
			_, _ = b.conn.Write(raw)
		}
		_ = b.conn.Close()
		return
	}
	b.reset()
}

func shuttingDown() *pgproto3.ErrorResponse {
	return fatal(codeAdminShutdown, "terminating connection due to administrator command")
}

func fatal(code, text string) *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: code, Message: text}
}

// run serves the connection until either side ends it.
func (b *backend) run() {
	defer b.server.leave(b)
	defer b.conn.Close()
	if !b.startUp() {
		return
	}
	for {
		msg, err := b.pg.Receive()
		if err != nil {
			if _, network := errors.AsType[net.Error](err); !network && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				b.server.strange("%v", err)
			}
			return
		}
		if !b.take(msg) || b.pg.Flush() != nil {
			return
		}
	}
}

// startUp greets the client, and reports whether it may stay.
func (b *backend) startUp() bool {
	for {
		msg, err := b.pg.ReceiveStartupMessage()
		if err != nil {
			return false
		}
		switch msg := msg.(type) {
		case *pgproto3.SSLRequest, *pgproto3.GSSEncRequest:
			if _, err := b.conn.Write([]byte{'N'}); err != nil {
				return false
			}
		case *pgproto3.StartupMessage:
			b.params = msg.Parameters
			return b.greet()
		default: // a CancelRequest: nothing here takes long
			return false
		}
	}
}

func (b *backend) greet() bool {
	if b.refused {
		b.pg.Send(fatal(codeCannotConnectNow, "the database system is starting up"))
		_ = b.pg.Flush()
		return false
	}
	if name := b.params["database"]; name != b.server.config.Database {
		b.server.strange("database %q asked for", name)
	}
	b.replication.Store(b.params["replication"] == "database")
	b.pg.Send(&pgproto3.AuthenticationOk{})
	for name, value := range map[string]string{
		"server_version": strconv.Itoa(b.server.config.Version/10000) + ".6", "client_encoding": "UTF8",
		"standard_conforming_strings": "on", "in_hot_standby": "off", "default_transaction_read_only": "off",
	} {
		b.pg.Send(&pgproto3.ParameterStatus{Name: name, Value: value})
	}
	b.pg.Send(&pgproto3.BackendKeyData{ProcessID: b.pid, SecretKey: []byte{1, 2, 3, 4}})
	b.ready()
	return b.pg.Flush() == nil
}

func (b *backend) ready() { b.pg.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'}) }

func (b *backend) fail(code, text string) {
	b.pg.Send(&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: code, Message: text})
}

// take handles one message, and reports whether the connection goes on.
func (b *backend) take(msg pgproto3.FrontendMessage) bool {
	if _, sync := msg.(*pgproto3.Sync); b.failed && !sync {
		return true
	}
	switch msg := msg.(type) {
	case *pgproto3.Terminate:
		return false
	case *pgproto3.Query:
		return b.simple(msg.String)
	case *pgproto3.Parse:
		b.sql = msg.Query
		b.pg.Send(&pgproto3.ParseComplete{})
	case *pgproto3.Bind:
		b.bind(msg)
	case *pgproto3.Describe:
		b.pg.Send(b.found.description())
	case *pgproto3.Execute:
		b.rows(b.found)
	case *pgproto3.Sync:
		b.failed = false
		b.ready()
	case *pgproto3.CopyData, *pgproto3.CopyDone: // what was under way when a stream ended
	case *pgproto3.Flush, *pgproto3.Close:
	default:
		b.server.strange("%T received", msg)
		return false
	}
	return true
}

// simple runs a query of the simple protocol.
func (b *backend) simple(sql string) bool {
	if b.replication.Load() && isStart(sql) {
		return b.startReplication(sql)
	}
	r, ok := b.server.answer(sql, nil)
	if !ok {
		b.unknown(sql)
	} else {
		b.pg.Send(r.description())
		b.rows(r)
	}
	b.ready()
	return true
}

func (b *backend) bind(msg *pgproto3.Bind) {
	b.args = b.args[:0]
	for i, p := range msg.Parameters {
		format := int16(0)
		switch len(msg.ParameterFormatCodes) {
		case 0:
		case 1:
			format = msg.ParameterFormatCodes[0]
		default:
			format = msg.ParameterFormatCodes[i]
		}
		b.args = append(b.args, argument(p, format))
	}
	for _, f := range msg.ResultFormatCodes {
		if f != 0 {
			b.server.strange("results in binary asked for: %s", b.sql)
		}
	}
	var ok bool
	if b.found, ok = b.server.answer(b.sql, b.args); !ok {
		b.failed = true
		b.unknown(b.sql)
		return
	}
	b.pg.Send(&pgproto3.BindComplete{})
}

// argument returns a parameter as text. What comes in binary is an integer.
func argument(p []byte, format int16) string {
	switch {
	case format == 1 && len(p) == 8:
		return strconv.FormatInt(int64(binary.BigEndian.Uint64(p)), 10)
	case format == 1 && len(p) == 4:
		return strconv.FormatInt(int64(int32(binary.BigEndian.Uint32(p))), 10)
	}
	return string(p)
}

func (b *backend) unknown(sql string) {
	b.server.strange("unknown query: %s", sql)
	b.fail(codeFeatureNotSupported, fmt.Sprintf("walsim does not know the query %q", sql))
}

func (r result) description() *pgproto3.RowDescription {
	d := &pgproto3.RowDescription{}
	for _, c := range r.columns {
		d.Fields = append(d.Fields, pgproto3.FieldDescription{Name: []byte(c.name), DataTypeOID: c.oid, DataTypeSize: -1, TypeModifier: -1})
	}
	return d
}

func (b *backend) rows(r result) {
	for _, row := range r.rows {
		values := make([][]byte, len(row))
		for i, v := range row {
			values[i] = []byte(v)
		}
		b.pg.Send(&pgproto3.DataRow{Values: values})
	}
	b.pg.Send(&pgproto3.CommandComplete{CommandTag: fmt.Appendf(nil, "SELECT %d", len(r.rows))})
}
