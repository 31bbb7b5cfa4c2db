package sink

// Columns says which column of the outbox table holds what. The four that a
// record cannot do without must be named; of the others "" means not mapped.
type Columns struct {
	ID      string // identifies the event; required
	Key     string // becomes the record's key; required
	Type    string // required
	Payload string // becomes the record's value; required

	Timestamp     string // when it happened, for ce_time only
	Headers       string // a JSON object of record headers
	Source        string // ce_source; RecordConfig.Source stands in for NULL
	Subject       string // ce_subject; the key stands in for NULL
	CorrelationID string
	CausationID   string
	DataVersion   string
	Traceparent   string // https://www.w3.org/TR/trace-context/
	Tracestate    string
}

// DefaultColumns returns the names of the default preset.
func DefaultColumns() Columns {
	return Columns{
		ID: "id", Key: "aggregate_id", Type: "event_type", Payload: "payload",
		Timestamp: "occurred_at", Headers: "headers", Source: "source", Subject: "",
		CorrelationID: "correlation_id", CausationID: "causation_id", DataVersion: "data_version",
		Traceparent: "traceparent", Tracestate: "tracestate",
	}
}

// role is what a column is used for; it indexes a plan.
type role int

const (
	roleID role = iota
	roleKey
	roleType
	rolePayload
	roleTimestamp
	roleHeaders
	roleSource
	roleSubject
	roleCorrelationID
	roleCausationID
	roleDataVersion
	roleTraceparent
	roleTracestate
	roles
)

// requiredRoles come first: a row without these columns is not an event.
const requiredRoles = rolePayload + 1

// roleNames are the keys under table.columns in the configuration file, but for
// the last: tracestate cannot be mapped there.
var roleNames = [roles]string{
	"id", "key", "type", "payload", "timestamp", "headers", "source", "subject",
	"correlation_id", "causation_id", "data_version", "traceparent", "tracestate",
}

// names returns the column of each role.
func (c *Columns) names() [roles]string {
	return [roles]string{
		c.ID, c.Key, c.Type, c.Payload, c.Timestamp, c.Headers, c.Source, c.Subject,
		c.CorrelationID, c.CausationID, c.DataVersion, c.Traceparent, c.Tracestate,
	}
}
