package decoder

import "fmt"

// columnKey is LOGICALREP_IS_REPLICA_IDENTITY of proto.c.
const columnKey = 1

// minColumn is the length of the shortest column of a Relation message: flags,
// an empty name, type OID and type modifier.
const minColumn = 1 + 1 + 4 + 4

// decodeRelation reads a table's schema, which holds for the rows that follow.
// It comes inside of transactions, but nothing depends on that.
func (d *Decoder) decodeRelation(r *reader) Message {
	rel := &Relation{
		OID:       r.uint32("relation OID"),
		Namespace: string(r.namespace("relation namespace")),
		Name:      string(r.text("relation name")),
	}
	at := r.off
	rel.ReplicaIdentity = r.uint8("replica identity")
	switch rel.ReplicaIdentity {
	case 'd', 'n', 'f', 'i':
	default:
		r.fail(at, "replica identity", fmt.Sprintf("unknown setting %q", rel.ReplicaIdentity))
	}
	at = r.off
	n := int(r.uint16("column count"))
	if left := len(r.data) - r.off; n*minColumn > left { // before room is made for n
		r.fail(at, "column count", fmt.Sprintf("%d columns do not fit into the %d bytes left", n, left))
		return nil
	}
	rel.Columns = make([]Column, n)
	seen := make(map[string]struct{}, n)
	for i := range rel.Columns {
		c := &rel.Columns[i]
		c.Key = r.flags("column flags", columnKey) != 0
		at = r.off
		c.Name = string(r.text("column name"))
		c.TypeOID = r.uint32("column type OID")
		c.TypeModifier = int32(r.uint32("column type modifier"))
		// Columns are found by name: with two of one name the second would be lost.
		if _, dup := seen[c.Name]; dup {
			r.fail(at, "column name", fmt.Sprintf("%s.%s has two columns %q", rel.Namespace, rel.Name, c.Name))
		}
		seen[c.Name] = struct{}{}
		if r.err != nil {
			return nil
		}
	}
	if r.err != nil {
		return nil
	}
	d.relations[rel.OID] = rel
	return rel
}

// relation reads an OID and returns the relation that was announced with it, or
// nil with an error.
func (d *Decoder) relation(r *reader) *Relation {
	at := r.off
	oid := r.uint32("relation OID")
	rel := d.relations[oid]
	if rel == nil {
		r.fail(at, "relation OID", fmt.Sprintf("no Relation message came for %d", oid))
	}
	return rel
}
