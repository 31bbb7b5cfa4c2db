package main

import (
	"cmp"
	"errors"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// eventSource is the default of cloudevents.source: postgres://host/database/table.
// Of several hosts it is the first, so that a failover does not change it.
func (l *loaded) eventSource() (string, error) {
	c, err := pgx.ParseConfig(l.Postgres.URL)
	if err != nil {
		// The parser's words are left out: they may quote the password.
		return "", fault.New(fault.Usage, "read postgres.url", errors.New("the connection string cannot be parsed"),
			"expected a form such as postgres://relay:secret@db:5432/app?sslmode=verify-full; special characters in a password are percent-encoded")
	}
	host := c.Host
	if strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") { // a Unix socket
		host = "localhost"
	}
	table, _ := l.tableName() // validated
	u := url.URL{Scheme: "postgres", Host: host, Path: "/" + cmp.Or(c.Database, c.User) + "/" + table.String()}
	if strings.Contains(host, ":") { // IPv6
		u.Host = "[" + host + "]"
	}
	return u.String(), nil
}
