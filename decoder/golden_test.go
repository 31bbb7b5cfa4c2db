package decoder_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/outbox-cdc/outbox-cdc/decoder"
)

var update = flag.Bool("update", false, "write down again what the golden WAL decodes to")

// majors are the PostgreSQL versions that the golden WAL is from.
var majors = []string{"14", "15", "16", "17", "18"}

// publications are what is captured of the workload: each has a slot and a
// session of its own, of the same name.
var publications = []string{"inserts", "everything"}

// walFile names a file of the golden WAL: of a major version, or of all.
func walFile(major, name string) string {
	if major != "" {
		name = "pg" + major + "." + name
	}
	return filepath.Join("..", "testdata", "wal", name)
}

type walMessage struct {
	lsn  pglogrepl.LSN
	data []byte
}

// goldenWAL reads pg<major>.wal: the messages of each session, by name.
func goldenWAL(t testing.TB, major string) map[string][]walMessage {
	t.Helper()
	file, err := os.Open(walFile(major, "wal"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	sessions, name := make(map[string][]walMessage), ""
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		if header, ok := strings.CutPrefix(line, "== "); ok {
			name = header
			continue
		}
		position, data, _ := strings.Cut(line, " ")
		lsn, err := pglogrepl.ParseLSN(position)
		if err != nil {
			t.Fatalf("%s:%d: %v", file.Name(), n, err)
		}
		b, err := hex.DecodeString(data)
		if err != nil {
			t.Fatalf("%s:%d: %v", file.Name(), n, err)
		}
		sessions[name] = append(sessions[name], walMessage{lsn, b})
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	for _, name := range publications {
		if len(sessions[name]) == 0 {
			t.Fatalf("%s: no session %s", file.Name(), name)
		}
	}
	return sessions
}

// TestGolden decodes what real servers sent. pg*.txt has every field of every
// message; -update writes it.
func TestGolden(t *testing.T) {
	for _, major := range majors {
		t.Run(major, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			for _, name := range publications {
				fmt.Fprintf(&b, "== %s\n", name)
				d := decoder.New(1)
				for _, m := range goldenWAL(t, major)[name] {
					b.WriteString(full(decodeAt(t, d, m)))
				}
			}
			file := walFile(major, "txt")
			if *update {
				if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			diff(t, file, b.String())
		})
	}
}

// TestGoldenMeaning checks the decoded messages against meaning.txt, which is
// written by hand from workload.sql: what a reader of the SQL expects, with
// nothing in it that depends on the server. No -update touches it.
func TestGoldenMeaning(t *testing.T) {
	for _, major := range majors {
		t.Run(major, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			b.WriteString(comment(t, walFile("", "meaning.txt")))
			for _, name := range publications {
				fmt.Fprintf(&b, "== %s\n", name)
				b.WriteString(meaning(t, goldenWAL(t, major)[name]))
			}
			diff(t, walFile("", "meaning.txt"), b.String())
		})
	}
}

// comment returns the lines that a file begins with # with.
func comment(t *testing.T, file string) (head string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			break
		}
		head += line
	}
	return head
}

func decodeAt(t testing.TB, d *decoder.Decoder, m walMessage) decoder.Message {
	t.Helper()
	decoded, err := d.Decode(m.lsn, m.data)
	if err != nil {
		t.Fatal(err)
	}
	return decoded
}

// diff reports the first line in which got is not what file holds.
func diff(t *testing.T, file, got string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	g, w := strings.Split(got, "\n"), strings.Split(string(text), "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Fatalf("%s:%d:\n got %s\nwant %s", file, i+1, g[i], w[i])
		}
	}
	if len(g) != len(w) {
		t.Fatalf("%s: %d lines, want %d", file, len(g), len(w))
	}
}

// full prints every field of a message.
func full(m decoder.Message) string {
	var b strings.Builder
	switch m := m.(type) {
	case *decoder.Begin:
		fmt.Fprintf(&b, "begin commit=%s time=%s xid=%d\n", m.CommitLSN, m.CommitTime.Format(time.RFC3339Nano), m.XID)
	case *decoder.Commit:
		fmt.Fprintf(&b, "commit commit=%s end=%s time=%s\n", m.CommitLSN, m.EndLSN, m.CommitTime.Format(time.RFC3339Nano))
	case *decoder.Origin:
		fmt.Fprintf(&b, "origin commit=%s name=%s\n", m.CommitLSN, m.Name)
	case *decoder.Type:
		fmt.Fprintf(&b, "type oid=%d name=%s.%s\n", m.OID, m.Namespace, m.Name)
	case *decoder.Relation:
		fmt.Fprintf(&b, "relation oid=%d name=%s.%s identity=%c\n", m.OID, m.Namespace, m.Name, m.ReplicaIdentity)
		for _, c := range m.Columns {
			fmt.Fprintf(&b, "  column %q type=%d modifier=%d key=%v\n", c.Name, c.TypeOID, c.TypeModifier, c.Key)
		}
	case *decoder.Event:
		r := m.Row.Relation
		fmt.Fprintf(&b, "event table=%s.%s timeline=%d lsn=%s seq=%d xid=%d time=%s size=%d\n",
			r.Namespace, r.Name, m.Timeline, m.LSN, m.Seq, m.XID, m.CommitTime.Format(time.RFC3339Nano), m.Size)
		for i, v := range m.Row.Values {
			fmt.Fprintf(&b, "  %q: %s\n", r.Columns[i].Name, show(v))
		}
	case *decoder.Skipped:
		fmt.Fprintf(&b, "skipped kind=%c relations=%d", m.Kind, m.Relations)
		if m.Relation != nil {
			fmt.Fprintf(&b, " table=%s.%s", m.Relation.Namespace, m.Relation.Name)
		}
		b.WriteString("\n")
	case *decoder.LogicalMessage:
		fmt.Fprintf(&b, "message transactional=%v lsn=%s prefix=%q content=%q\n", m.Transactional, m.LSN, m.Prefix, m.Content)
	default:
		fmt.Fprintf(&b, "%T\n", m)
	}
	return b.String()
}

// show prints a value: NULL, quoted, or by its digest when it is long.
func show(v []byte) string {
	switch {
	case v == nil:
		return "NULL"
	case len(v) > 200:
		return fmt.Sprintf("%d bytes, sha256 %x", len(v), sha256.Sum256(v))
	}
	return fmt.Sprintf("%q", v)
}

// short prints what a reader of workload.sql can know of a message: no
// positions, times or OIDs, and no values that are NULL.
func short(m decoder.Message) string {
	switch m := m.(type) {
	case *decoder.Begin:
		return "begin"
	case *decoder.Commit:
		return "commit"
	case *decoder.Origin:
		return fmt.Sprintf("origin %s %s", m.CommitLSN, m.Name)
	case *decoder.Type:
		return fmt.Sprintf("type %s.%s", m.Namespace, m.Name)
	case *decoder.Relation:
		line := fmt.Sprintf("relation %s.%s %c", m.Namespace, m.Name, m.ReplicaIdentity)
		for _, c := range m.Columns {
			line += " " + strings.ReplaceAll(c.Name, " ", "_")
			if c.Key {
				line += "*"
			}
		}
		return line
	case *decoder.Event:
		line := fmt.Sprintf("insert %s.%s #%d", m.Row.Relation.Namespace, m.Row.Relation.Name, m.Seq)
		for i, v := range m.Row.Values {
			if v != nil {
				line += " " + strings.ReplaceAll(m.Row.Relation.Columns[i].Name, " ", "_") + "=" + show(v)
			}
		}
		return line
	case *decoder.Skipped:
		if m.Kind == 'T' {
			return fmt.Sprintf("truncate %d", m.Relations)
		}
		return fmt.Sprintf("%s %s.%s", map[byte]string{'U': "update", 'D': "delete"}[m.Kind], m.Relation.Namespace, m.Relation.Name)
	case *decoder.LogicalMessage:
		return fmt.Sprintf("message transactional=%v %q %q", m.Transactional, m.Prefix, m.Content)
	}
	return fmt.Sprintf("%T", m)
}

// emptyTransaction is what PostgreSQL 14 sends, and later ones do not, for a
// transaction of which nothing is published.
var emptyTransaction = regexp.MustCompile(`(?m)^begin\ncommit\n`)

// meaning prints a session's messages short, and checks what positions and
// times have to be for all of them.
func meaning(t *testing.T, messages []walMessage) string {
	t.Helper()
	var b strings.Builder
	var begin decoder.Begin
	var end pglogrepl.LSN
	d := decoder.New(1)
	for _, m := range messages {
		decoded := decodeAt(t, d, m)
		b.WriteString(short(decoded) + "\n")
		switch decoded := decoded.(type) {
		case *decoder.Begin:
			if decoded.CommitLSN < end || decoded.XID == 0 {
				t.Errorf("%+v follows a transaction that ended at %s", decoded, end)
			}
			begin = *decoded
		case *decoder.Commit:
			if m.lsn != decoded.EndLSN { // commit_cb_wrapper of logical.c
				t.Errorf("WALStart %s of %+v is not its end", m.lsn, decoded)
			}
			if !decoded.CommitTime.Equal(begin.CommitTime) {
				t.Errorf("%+v closes %+v", decoded, begin)
			}
			end = decoded.EndLSN
		case *decoder.Event:
			if decoded.LSN != begin.CommitLSN || decoded.XID != begin.XID || m.lsn >= decoded.LSN {
				t.Errorf("%+v at %s in %+v", decoded, m.lsn, begin)
			}
		case *decoder.LogicalMessage:
			if !decoded.Transactional && decoded.LSN != m.lsn {
				t.Errorf("WALStart %s of %+v is not its end", m.lsn, decoded)
			}
		case *decoder.Relation, *decoder.Type:
			if m.lsn != 0 { // WalSndPrepareWrite of walsender.c: not the last write for its change
				t.Errorf("WALStart %s of %+v, want 0/0", m.lsn, decoded)
			}
		}
	}
	return emptyTransaction.ReplaceAllString(b.String(), "")
}
