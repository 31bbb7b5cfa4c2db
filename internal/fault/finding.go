package fault

// Status is the outcome of one check.
type Status string

// The outcomes, from good to bad. Only Fail makes `check` exit with 1.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Finding is the outcome of one check of a preflight.
type Finding struct {
	Check  string `json:"check"`          // what was looked at, in a few words: "wal_level"
	Status Status `json:"status"`         // ok, warn or fail
	Detail string `json:"detail"`         // what was found
	Hint   string `json:"hint,omitempty"` // the SQL or the setting that mends it
}
