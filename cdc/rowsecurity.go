package cdc

import (
	"fmt"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// withheldRows says that the role may not read every row of the table. Our
// sessions run with row_security off: the server refuses then, where it would
// otherwise leave rows out without a word.
func withheldRows(op string, cause error, c Config, role string) error {
	return fault.New(fault.Unexpected, op, oneLine{cause},
		fmt.Sprintf("recovery reads every row of the table, and row-level security withholds some from role %q: run `outbox-cdc recover` as a role that may BYPASSRLS, "+
			"or as the owner after ALTER TABLE %s NO FORCE ROW LEVEL SECURITY", role, c.Table.quoted()))
}

// checkRowSecurity warns of what streaming does not mind, and a recovery would.
func (cat catalog) checkRowSecurity(c Config) []fault.Finding {
	if cat.table == nil || !cat.table.RowSecurity {
		return nil
	}
	return []fault.Finding{warned("row-level security", fmt.Sprintf("it withholds rows of %s from role %q: streaming does not mind, and `outbox-cdc recover` would refuse", c.Table, cat.server.Role),
		fmt.Sprintf("for a recovery name a role that may BYPASSRLS in postgres.url, or, if this role is the owner, ALTER TABLE %s NO FORCE ROW LEVEL SECURITY", c.Table.quoted()))}
}
