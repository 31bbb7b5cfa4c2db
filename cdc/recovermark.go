package cdc

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
)

// A recovery that has begun is written into the publication's comment: recovering, since
// when rows are sent, and the position of a slot that is to be replaced. The next one
// completes it.

// resume takes over how far back a recovery reaches that was begun and not
// finished: the slot, which may be its new one, has nothing of what is older.
func (v *recovery) resume() {
	p := v.cat.publication
	if p == nil || readMark(p.Comment) != recovering {
		return
	}
	if begun := readSince(p.Comment); begun.Before(v.options.Since) {
		v.options.Since, v.plan.Resumed = begun, true
	}
}

// sincePrefix precedes, in the comment, the time since which rows are sent; all of them without it.
const sincePrefix = "since "

func readSince(comment string) time.Time {
	_, text, _ := strings.Cut(comment, " "+sincePrefix)
	text, _, _ = strings.Cut(text, " ")
	since, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}
	}
	return since
}

// replacesPrefix precedes, in the comment, the confirmed position of a slot
// that looks usable and is to be replaced: a slot that stands elsewhere is its
// successor already.
const replacesPrefix = "instead of the slot at "

func replaces(comment string) pglogrepl.LSN {
	_, text, _ := strings.Cut(comment, replacesPrefix)
	lsn, err := pglogrepl.ParseLSN(text)
	if err != nil {
		return 0
	}
	return lsn
}

// mark writes down that a recovery has begun.
func (v *recovery) mark(ctx context.Context) error {
	c := v.config
	comment := string(recovering)
	if since := v.options.Since; !since.IsZero() {
		comment += " " + sincePrefix + since.UTC().Format(time.RFC3339Nano)
	}
	if v.plan.Slot == planReplace && !v.cat.slot.lost() {
		comment += " " + replacesPrefix + v.cat.slot.ConfirmedLSN.String()
	}
	sql := lockMarkSQL(c) + ";" + commentSQL(c, mark(comment)) // in one transaction
	if v.plan.Publication == planCreate {
		sql = createPublicationSQL(c) + ";" + sql
	}
	return exec(ctx, v.conn, "mark publication", sql)
}
