package cdc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// SQLSTATEs that decide what happens next:
// https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	codeInvalidPassword        = "28P01"
	codeInvalidAuthorization   = "28000"
	codeNoSuchDatabase         = "3D000"
	codeInsufficientPrivilege  = "42501"
	codeDuplicateObject        = "42710"
	codeUndefinedObject        = "42704"
	codeUniqueViolation        = "23505"
	codeInternalError          = "XX000"
	codeProtocolViolation      = "08P01"
	codeTooManyConnections     = "53300"
	codeLimitExceeded          = "53400"
	codeObjectInUse            = "55006"
	codeNotInPrerequisiteState = "55000"
	codeAdminShutdown          = "57P01"
	codeCrashShutdown          = "57P02"
	codeCannotConnectNow       = "57P03"
)

// classData are errors that a row's content raises, such as bytes for which the
// client's encoding has no character.
const classData = "22"

// unsendable is the hint for such a row.
const unsendable = "a row has what the server cannot send as text in UTF-8, or on which the publication's row filter fails: mend or delete the row (or the filter)"

// past is how to get past such a row once it is mended: the WAL has it as it was.
const past = ", then give up what the slot has not sent: stop every relay of this slot, and `outbox-cdc recover --replace-slot` sends what the table holds"

// pgCode returns the SQLSTATE of err, or "" when it is not the server's.
func pgCode(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// postgresError sorts an error of the Postgres side. Kind Unreachable is
// trouble that passes by itself and is retried; every other kind is an answer
// that only a change on the operator's side alters.
func postgresError(op string, err error) error {
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	flat := oneLine{err}
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	switch code := pgCode(err); {
	case connecting && code == codeUndefinedObject:
		return fault.New(fault.Usage, op, flat, "postgres.url has a parameter that the server does not know: parameters of connection pools are of no use here")
	case connecting && code == codeProtocolViolation:
		return fault.New(fault.Usage, op, flat, "connect to Postgres itself: this connection pooler does not carry replication")
	case code == codeInvalidPassword:
		return fault.New(fault.Usage, op, flat, "check the user and the password in postgres.url (or the file named by postgres.url_file)")
	case code == codeInvalidAuthorization:
		return fault.New(fault.Usage, op, flat,
			"check the user and sslmode in postgres.url and pg_hba.conf: a replication connection needs a line for the database itself (the keyword \"replication\" matches physical replication only)")
	case code == codeNoSuchDatabase:
		return fault.New(fault.Usage, op, flat, "check the database name in postgres.url")
	case code == codeInsufficientPrivilege && missingGrant(op, err) != "":
		return fault.New(fault.Unexpected, op, flat, missingGrant(op, err))
	case code == codeInsufficientPrivilege:
		return fault.New(fault.Unexpected, op, flat, "have the table's owner run `outbox-cdc init`, or the SQL that `outbox-cdc init --print-sql` prints")
	case code == codeTooManyConnections:
		return fault.New(fault.Unreachable, op, flat, "raise max_connections (max_wal_senders, if it is about walsenders or replication) and restart the server, or end connections that nobody uses")
	case code == codeLimitExceeded && strings.HasPrefix(op, "create"): // a slot; elsewhere it is temp_file_limit
		return fault.New(fault.Unreachable, op, flat, freeSlotHint)
	case connecting && strings.HasPrefix(code, classData):
		return fault.New(fault.Usage, op, flat, "postgres.url gives a parameter a value that the server does not take")
	case code != "":
		if passing(code) {
			return fault.New(fault.Unreachable, op, flat, "")
		}
		return fault.New(fault.Unexpected, op, flat, "")
	}
	if errors.Is(err, errLate) {
		return fault.New(fault.Unreachable, op, flat,
			"the connection may have died, or the server is busy, or waits for a lock on the table: look at pg_stat_activity")
	}
	if hint := tlsRefusal(err); hint != "" {
		return fault.New(fault.Usage, op, flat, hint)
	}
	if disconnected(err) {
		return fault.New(fault.Unreachable, op, flat, "check that postgres.url names the right host and port and that the server accepts connections")
	}
	return fault.New(fault.Unexpected, op, flat, "")
}

// replicationError is postgresError for what needs a right of its own.
func replicationError(op string, err error) error {
	if pgCode(err) == codeInsufficientPrivilege {
		return fault.New(fault.Unexpected, op, oneLine{err},
			"the role needs REPLICATION: ALTER ROLE <role> REPLICATION (on managed Postgres grant its replication role, such as rds_replication)")
	}
	return postgresError(op, err)
}

// disconnected tells whether err is of the connection: it could not be made,
// broke, or was given up. Anything else, such as an answer that cannot be read,
// comes back the same the next time.
func disconnected(err error) bool {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, end) {
			return true
		}
	}
	return pgconn.SafeToRetry(err) // such as "conn closed"
}

// passing tells whether a SQLSTATE stands for trouble that ends by itself:
// connection exceptions, resources exhausted, an operator's intervention
// (shutdown, start-up), a serialization failure, an I/O error.
func passing(code string) bool {
	switch code[:2] {
	case "08", "40", "53", "57", "58":
		return true
	}
	return code == codeObjectInUse
}

// tlsRefusal returns the hint for a TLS handshake that will fail again the same way.
func tlsRefusal(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the server's certificate is signed by an authority that is not trusted: set sslrootcert in postgres.url"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the server's certificate is for another name: connect by that name, or use sslmode=verify-ca"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the server's certificate could not be verified: check its validity and sslrootcert in postgres.url"
	}
	if refusedTLS(err) {
		return "the server does not offer TLS: enable ssl there, or choose another sslmode in postgres.url"
	}
	return ""
}

// refusedTLS tells whether that is all that is wrong: with sslmode=prefer it is
// the first of two tries with each host.
func refusedTLS(err error) bool {
	const refused = "server refused TLS connection"
	for line := range strings.Lines(err.Error()) {
		if strings.HasPrefix(line, "\t") && !strings.Contains(line, refused) {
			return false
		}
	}
	return strings.Contains(err.Error(), refused)
}

// badURL says that the connection string cannot be used. The string itself is
// left out: it may hold the password.
func badURL(err error) error {
	cause := errors.New("the connection string cannot be parsed")
	// Behind the string itself stands the reason; that of a string which has no
	// parts yet may quote any of them.
	if _, reason, ok := strings.Cut(err.Error(), "`: "); ok && !strings.Contains(reason, "failed to parse as") {
		cause = fmt.Errorf("%w: %s", cause, reason)
	}
	return fault.New(fault.Usage, "read postgres.url", cause,
		"expected a form such as postgres://relay:secret@db:5432/app?sslmode=verify-full; special characters in a password are percent-encoded")
}

// stopping tells whether err is the server saying that it shuts down, or has.
func stopping(err error) bool {
	switch pgCode(err) {
	case codeAdminShutdown, codeCrashShutdown, codeCannotConnectNow:
		return true
	}
	return false
}
