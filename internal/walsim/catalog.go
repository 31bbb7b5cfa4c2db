package walsim

import (
	"fmt"
	"strconv"
	"strings"
)

// result is what a query returns, in text format; nil is NULL.
type result struct {
	columns []column
	rows    [][]string
}

// questions are the queries of package cdc, each known by a part of its text
// that no earlier one has.
var questions = []struct {
	part   string
	answer func(s *Server, args []string) result
}{
	{"slot_name = $1 AND active_pid = $2", (*Server).watched},
	{"EXISTS (SELECT FROM published", (*Server).cover},
	{"FROM pub p\n", (*Server).publication},
	{"current_setting('server_version_num')", (*Server).settings},
	{"FROM pg_class c", (*Server).table},
	{"FROM pg_replication_slots s\n", (*Server).replicationSlot},
	{"FROM pg_stat_activity WHERE pid = $1", (*Server).activity},
	{"FROM pg_stat_replication WHERE pid = $1", (*Server).replies},
	{"SELECT set_config(name, '0', false)", (*Server).setting},
	{"IDENTIFY_SYSTEM", (*Server).system},
	{"TIMELINE_HISTORY", (*Server).history},
}

// answer looks up a query; ok is false when it is not known.
func (s *Server) answer(sql string, args []string) (result, bool) {
	for _, q := range questions {
		if strings.Contains(sql, q.part) {
			if want := strings.Count(sql, "$"); want > 0 && len(args) == 0 {
				return result{}, false
			}
			return q.answer(s, args), true
		}
	}
	return result{}, false
}

func arg(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

func boolean(b bool) string {
	if b {
		return "t"
	}
	return "f"
}

func (s *Server) settings([]string) result {
	return result{
		[]column{{"current_setting", int4OID}, {"current_setting", textOID}, {"pg_is_in_recovery", boolOID},
			{"current_database", nameOID}, {"current_user", nameOID}, {"has_database_privilege", boolOID}},
		[][]string{{strconv.Itoa(s.config.Version), "logical", "f", s.config.Database, "relay", "t"}},
	}
}

// covered tells whether the names at two places are the table's.
func covered(schema, table string) bool { return schema == "public" && table == "outbox" }

func columnNames() string {
	names := make([]string, len(outboxColumns))
	for i, c := range outboxColumns {
		names[i] = c.name
	}
	return "{" + strings.Join(names, ",") + "}"
}

func (s *Server) table(args []string) result {
	r := result{columns: []column{{"relkind", textOID}, {"relpersistence", textOID}, {"pg_has_role", boolOID}, {"row_security_active", boolOID}, {"identity", boolOID}, {"coalesce", textArrayOID}, {"coalesce", textArrayOID},
		{"coalesce", textArrayOID}}}
	if covered(arg(args, 0), arg(args, 1)) {
		r.rows = [][]string{{"r", "p", "t", "f", "t", columnNames(), "{}", "{}"}}
	}
	return r
}

func (s *Server) publication(args []string) result {
	r := result{columns: []column{{"pubinsert", boolOID}, {"pubupdate", boolOID}, {"pubdelete", boolOID}, {"pubtruncate", boolOID}, {"pubviaroot", boolOID}, {"exists", boolOID}, {"exists", boolOID},
		{"pg_has_role", boolOID}, {"coalesce", textOID}, {"exists", boolOID}, {"coalesce", textArrayOID}, {"count", int8OID}}}
	if arg(args, 0) == s.config.Publication {
		r.rows = [][]string{{"t", "f", "f", "f", "t", "t", "f", "t", s.mark(), boolean(covered(arg(args, 1), arg(args, 2))), columnNames(), "2"}}
	}
	return r
}

// The table's entry in the publication, and the version of that, which nobody alters.
const (
	entryOID           = 16401
	publicationVersion = "700"
)

// mark is the publication's comment, as the relay writes it once the slot is there.
func (s *Server) mark() string {
	return fmt.Sprintf("outbox-cdc: ready v%d %d:%d %s", s.config.Version/10000, outboxOID, entryOID, publicationVersion)
}

func (s *Server) replicationSlot(args []string) result {
	r := result{columns: []column{{"slot_type", textOID}, {"plugin", textOID}, {"database", textOID},
		{"active", boolOID}, {"active_pid", int4OID}, {"creating", boolOID}, {"restart_lsn", textOID}, {"confirmed_flush_lsn", textOID},
		{"wal_status", textOID}, {"invalidation_reason", textOID}, {"two_phase", boolOID}}}
	if arg(args, 0) != s.config.Slot {
		return r
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	pid := s.slot.active()
	confirmed := s.slot.confirmed.String()
	r.rows = [][]string{{"logical", "pgoutput", s.config.Database, boolean(pid != 0), strconv.FormatUint(uint64(pid), 10), "f", confirmed, confirmed, "reserved", "", "f"}}
	return r
}

// cover is what the publication shows of the table, which nobody alters.
func (s *Server) cover(args []string) result {
	shown := boolean(arg(args, 0) == s.config.Publication && covered(arg(args, 1), arg(args, 2)))
	return result{[]column{{"exists", boolOID}, {"exists", boolOID}, {"coalesce", oidOID}, {"coalesce", oidOID}, {"coalesce", oidOID}, {"coalesce", textOID},
		{"unlogged", textOID}, {"foreign", textOID}, {"heirs", textOID}},
		[][]string{{shown, shown, strconv.Itoa(outboxOID), "16400", strconv.Itoa(entryOID), publicationVersion, "", "", ""}}}
}

func (s *Server) watched(args []string) result {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid := s.slot.active()
	r := result{columns: []column{{"wal_status", textOID}}}
	if arg(args, 0) == s.config.Slot && pid != 0 && arg(args, 1) == strconv.FormatUint(uint64(pid), 10) {
		r.rows = [][]string{{"reserved"}}
	}
	return r
}

func (s *Server) activity([]string) result {
	return result{[]column{{"format", textOID}}, [][]string{{"outbox-cdc from 127.0.0.1, since 2026-01-02 03:04:05+00"}}}
}

// replies says nothing of when the walsender last heard: it may be busy.
func (s *Server) replies([]string) result {
	return result{[]column{{"reply_time", textOID}}, [][]string{}}
}

func (s *Server) setting([]string) result {
	r := result{columns: []column{{"set_config", textOID}}}
	if s.config.Version >= 170000 { // transaction_timeout exists
		r.rows = [][]string{{"0"}}
	}
	return r
}

func (s *Server) system([]string) result {
	s.mu.Lock()
	defer s.mu.Unlock()
	return result{[]column{{"systemid", textOID}, {"timeline", int8OID}, {"xlogpos", textOID}, {"dbname", textOID}},
		[][]string{{s.identity.System, strconv.Itoa(int(s.identity.Timeline)), s.config.WAL.End().String(), s.config.Database}}}
}

func (s *Server) history([]string) result {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.identity.Timeline == 1 { // which has none
		return result{[]column{{"filename", textOID}, {"content", textOID}}, nil}
	}
	return result{[]column{{"filename", textOID}, {"content", textOID}},
		[][]string{{fmt.Sprintf("%08X.history", s.identity.Timeline), s.identity.History}}}
}
