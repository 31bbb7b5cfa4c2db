package cdc

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// deniedFor is how the server says where the right to create something is missing.
var deniedFor = regexp.MustCompile(`^permission denied for (schema|database) (.+)$`)

// missingGrant names the grant that the role lacks which creates something in
// a schema or a database, or returns "": it may be the table's owner already.
func missingGrant(op string, err error) string {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || !strings.HasPrefix(op, "create ") {
		return ""
	}
	where := deniedFor.FindStringSubmatch(e.Message)
	if where == nil {
		return ""
	}
	return fmt.Sprintf("GRANT CREATE ON %s %s TO <this role>, as a superuser or the %s's owner, and try again", strings.ToUpper(where[1]), ident(where[2]), where[1])
}
