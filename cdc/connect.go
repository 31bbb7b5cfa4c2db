package cdc

import (
	"cmp"
	"context"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	connectTimeout = 10 * time.Second
	// walSenderTimeout is set for our own walsender, so that one whose client
	// has vanished frees the slot soon.
	walSenderTimeout = "10s"
	applicationName  = "outbox-cdc"
)

// sessionSettings pin what ALTER DATABASE or ALTER ROLE may have changed:
// pgoutput prints values by these settings, and a timeout would end a session
// that is idle on purpose. The startup packet outranks both.
var sessionSettings = map[string]string{
	"client_encoding":                     "UTF8",
	"DateStyle":                           "ISO",
	"TimeZone":                            "UTC",
	"IntervalStyle":                       "postgres",
	"extra_float_digits":                  "3",
	"bytea_output":                        "hex",
	"statement_timeout":                   "0",
	"lock_timeout":                        "0",
	"idle_in_transaction_session_timeout": "0",
	"idle_session_timeout":                "0",
	"row_security":                        "off", // what a policy withholds is an error, not left out
	"default_transaction_read_only":       "off", // of a primary; a standby is read-only all the same
}

// pin adds our session settings to a parsed connection string.
func pin(c *pgconn.Config, text string) {
	if c.RuntimeParams == nil {
		c.RuntimeParams = map[string]string{}
	}
	delete(c.RuntimeParams, "replication") // ours to say
	for k, v := range sessionSettings {
		for given := range c.RuntimeParams {
			if strings.EqualFold(given, k) {
				delete(c.RuntimeParams, given)
			}
		}
		c.RuntimeParams[k] = v
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = applicationName
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	if len(hosts(c)) > 1 && !strings.Contains(text, "target_session_attrs") {
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
}

// hosts lists the distinct host:port pairs that c tries, in order.
func hosts(c *pgconn.Config) []string {
	_, address := pgconn.NetworkAddress(c.Host, c.Port)
	seen := []string{address}
	for _, f := range c.Fallbacks {
		if _, address := pgconn.NetworkAddress(f.Host, f.Port); !slices.Contains(seen, address) {
			seen = append(seen, address)
		}
	}
	return seen
}

// connectSQL opens the plain connection: for set-up, for checks, and to watch the server.
func connectSQL(ctx context.Context, text string) (*pgx.Conn, error) {
	c, err := pgx.ParseConfig(text)
	if err != nil {
		return nil, badURL(err)
	}
	pin(&c.Config, text)
	// No prepared statements: each query runs once in a while.
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, postgresError("connect to postgres", err)
	}
	if err := liftTransactionTimeout(ctx, conn.PgConn()); err != nil {
		closeSQL(conn)
		return nil, err
	}
	return conn, nil
}

// pulse is a connection that counts the bytes it reads: the first ones of a
// long message are a sign of life, too, long before the message is complete.
type pulse struct {
	net.Conn
	heard *atomic.Int64
}

func (p pulse) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	p.heard.Add(int64(n))
	return n, err
}

// connectReplication opens a walsender connection to the database. What comes
// over it is added to heard, in bytes.
func connectReplication(ctx context.Context, text string, heard *atomic.Int64) (*pgconn.PgConn, error) {
	parsed, err := pgx.ParseConfig(text) // as for the plain connection: it takes out what is not the server's
	if err != nil {
		return nil, badURL(err)
	}
	c := &parsed.Config
	pin(c, text)
	c.RuntimeParams["replication"] = "database"
	c.RuntimeParams["wal_sender_timeout"] = walSenderTimeout
	dial := c.DialFunc
	c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return pulse{conn, heard}, nil
	}
	conn, err := pgconn.ConnectConfig(ctx, c)
	if err != nil {
		return nil, replicationError("connect for replication", err)
	}
	if err := liftTransactionTimeout(ctx, conn); err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	return conn, nil
}

// tryReplication opens a walsender connection and closes it again.
func tryReplication(ctx context.Context, c Config) error {
	conn, err := connectReplication(ctx, c.URL, new(atomic.Int64))
	if err != nil {
		return err
	}
	closing, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = conn.Close(closing)
	return nil
}

// liftTransactionTimeout switches off transaction_timeout where it exists
// (PostgreSQL 17 on): older servers refuse it in the startup packet.
func liftTransactionTimeout(ctx context.Context, conn *pgconn.PgConn) error {
	const sql = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'"
	limited, cancel := brief(ctx)
	defer cancel()
	if _, err := conn.Exec(limited, sql).ReadAll(); err != nil {
		return postgresError("set transaction_timeout", late(ctx, err))
	}
	return nil
}

// closeSQL ends the connection without waiting for a server that does not answer.
func closeSQL(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// Source names the database and table for ce_source: postgres://<host>/<database>/<table>,
// without user, password and port. The schema is left out when it is public.
func (c Config) Source() (string, error) {
	c, err := c.withDefaults()
	if err != nil {
		return "", err
	}
	parsed, err := pgconn.ParseConfig(c.URL)
	if err != nil {
		return "", badURL(err)
	}
	table := c.Table.String()
	if c.Table.Schema == defaultTable.Schema {
		table = c.Table.Name
	}
	host := parsed.Host
	switch {
	case strings.HasPrefix(host, "/"): // a Unix socket
		host = "localhost"
	case strings.Contains(host, ":"): // IPv6
		host = "[" + host + "]"
	}
	source := url.URL{Scheme: "postgres", Host: host, Path: "/" + cmp.Or(parsed.Database, parsed.User) + "/" + table}
	return source.String(), nil
}
