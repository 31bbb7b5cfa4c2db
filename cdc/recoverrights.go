package cdc

import (
	"context"
	"fmt"
	"strings"
)

// checkRights tries what recovery does once it has begun: its mark keeps every
// relay from streaming, so it is not set for a role that could not go on.
func (v *recovery) checkRights(ctx context.Context) error {
	if err := tryReplication(ctx, v.config); err != nil {
		return err
	}
	sql, args := v.selectFrom(v.columns())
	if _, err := v.conn.Exec(ctx, fmt.Sprintf("%s ORDER BY %s LIMIT 0", sql, v.order()), args...); err != nil {
		return v.unreadable("read rows", err)
	}
	return nil
}

// columns are those that the stream shows too.
func (v *recovery) columns() string {
	p := v.cat.publication
	if p == nil || !p.Covers || len(p.Columns) == 0 {
		return "*"
	}
	quoted := make([]string, len(p.Columns))
	for i, column := range p.Columns {
		quoted[i] = ident(column)
	}
	return strings.Join(quoted, ", ")
}
