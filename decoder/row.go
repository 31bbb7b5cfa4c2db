package decoder

import "fmt"

func (d *Decoder) decodeInsert(r *reader) Message {
	d.needTransaction(r)
	rel := d.relation(r)
	at := r.off
	if tag := r.uint8("tuple"); tag != 'N' {
		r.fail(at, "tuple", fmt.Sprintf("a new row (N) must follow, not %q", tag))
	}
	columnCount(r, rel)
	if r.err != nil {
		return nil
	}
	values, size := d.values[:0], EventOverhead
	for i := range rel.Columns {
		at = r.off
		kind := r.uint8("column format")
		v := value(r, rel, i, at, kind)
		if kind == 'u' {
			// An insert's values are all in the WAL. NULL would be another value than the row's.
			failColumn(r, rel, i, at, "unchanged TOAST value in an insert")
		}
		if r.err != nil {
			return nil
		}
		values = append(values, v)
		size += len(v)
	}
	d.values = values
	d.event = Event{
		Row:        Row{Relation: rel, Values: values},
		Timeline:   d.timeline,
		LSN:        d.begin.CommitLSN,
		Seq:        d.seq,
		XID:        d.begin.XID,
		CommitTime: d.begin.CommitTime,
		Size:       size,
	}
	d.seq++
	return &d.event
}

// decodeOldRow reads an UPDATE or a DELETE to its end and keeps nothing of it
// but the relation. An UPDATE is a new row (N), after the old one (O) or its
// key (K) if they were written; a DELETE is an old row or a key.
func (d *Decoder) decodeOldRow(r *reader, kind byte) Message {
	d.needTransaction(r)
	rel := d.relation(r)
	at := r.off
	tag := r.uint8("tuple")
	old := tag == 'K' || tag == 'O'
	if old {
		skipTuple(r, rel)
		at = r.off
	}
	switch {
	case kind == 'D' && !old:
		r.fail(at, "tuple", fmt.Sprintf("an old row (O) or its key (K) must follow, not %q", tag))
	case kind == 'U':
		if old {
			tag = r.uint8("tuple")
		}
		if tag != 'N' {
			r.fail(at, "tuple", fmt.Sprintf("a new row (N) must follow, not %q", tag))
		}
		skipTuple(r, rel)
	}
	d.skipped = Skipped{Kind: kind, Relation: rel, Relations: 1}
	return &d.skipped
}

// truncateCascade and truncateRestart are the option bits of proto.c.
const (
	truncateCascade = 1
	truncateRestart = 2
)

func (d *Decoder) decodeTruncate(r *reader) Message {
	d.needTransaction(r)
	at := r.off
	n := int64(r.uint32("relation count"))
	r.flags("options", truncateCascade|truncateRestart)
	if left := len(r.data) - r.off; n*4 > int64(left) {
		r.fail(at, "relation count", fmt.Sprintf("%d relations do not fit into the %d bytes left", n, left))
	}
	for range n {
		if d.relation(r); r.err != nil {
			return nil
		}
	}
	d.skipped = Skipped{Kind: 'T', Relations: int(n)}
	return &d.skipped
}

// columnCount reads the number of a tuple's columns, which must be the relation's.
func columnCount(r *reader, rel *Relation) {
	at := r.off
	n := int(r.uint16("column count"))
	if r.err == nil && n != len(rel.Columns) {
		r.fail(at, "column count", fmt.Sprintf("is %d, but %s.%s was announced with %d", n, rel.Namespace, rel.Name, len(rel.Columns)))
	}
}

// skipTuple reads a tuple that is not published.
func skipTuple(r *reader, rel *Relation) {
	columnCount(r, rel)
	if r.err != nil {
		return
	}
	for i := range rel.Columns {
		at := r.off
		if value(r, rel, i, at, r.uint8("column format")); r.err != nil {
			return
		}
	}
}

// value reads what follows a column's format byte, which stands at at: nothing
// for NULL (n) and for an unchanged TOAST value (u), both of which it returns as
// nil, and the length and bytes of a text (t), which it never returns as nil.
func value(r *reader, rel *Relation, i, at int, format byte) []byte {
	if r.err != nil {
		return nil
	}
	switch format {
	case 't':
		v := r.bytes("length")
		if r.err != nil {
			r.err.Field = columnField(rel, i) + " length"
		}
		return v
	case 'n', 'u':
	case 'b':
		failColumn(r, rel, i, at, "binary value, but text was asked for")
	default:
		failColumn(r, rel, i, at, fmt.Sprintf("unknown format %q", format))
	}
	return nil
}

// failColumn fails at the format byte of column i.
func failColumn(r *reader, rel *Relation, i, at int, what string) {
	r.fail(at, columnField(rel, i), what)
}

// columnField names column i in an error, counting from 1.
func columnField(rel *Relation, i int) string {
	return fmt.Sprintf("column %d %q of %s.%s", i+1, rel.Columns[i].Name, rel.Namespace, rel.Name)
}
