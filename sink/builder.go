package sink

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/outbox-cdc/outbox-cdc/decoder"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// The formats that are built.
const (
	formatBinary = "cloudevents-binary" // https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/kafka-protocol-binding.md
	formatPlain  = "plain"
)

// DefaultTopic is RecordConfig.Topic when it is empty.
const DefaultTopic = "outbox.event.{aggregate_type}"

// RecordConfig says what a record is made of.
type RecordConfig struct {
	Columns Columns
	// Explicit names the columns that the user has mapped himself, by their
	// keys in the configuration file ("source", "correlation_id"). These must
	// exist; the others are used when the table has them. id, key, type and
	// payload must exist in any case.
	Explicit []string
	// Topic is a template: any column of the table in braces. Default DefaultTopic.
	Topic string
	// Format is "cloudevents-binary", the default, or "plain".
	Format string
	// Source is ce_source when the row has none; required by cloudevents-binary.
	Source string
	// Attributes are CloudEvents extension attributes that each record gets:
	// lower-case letters and digits.
	Attributes map[string]string
	// ExtraHeaders are columns that become headers: "column" or "column:header".
	ExtraHeaders []string
}

// Builder makes records of events. It reuses its memory from event to event,
// and belongs to one goroutine.
type Builder struct {
	columns  [roles]string
	required []string
	askedBy  map[string][]string // the settings that name each required column
	topic    template
	binary   bool
	source   []byte
	static   []header      // the same in each record: the attributes
	extra    []extraHeader // from columns

	reserved string // topic that events may not route to; empty: none

	plan       plan
	topics     map[string]string // intern table; it holds valid names only
	names      map[string]string // intern table of header names
	rec        record
	commit     time.Time // of the last event
	commitText []byte    // in RFC 3339
	scratch    []byte
}

// extraHeader is an entry of RecordConfig.ExtraHeaders.
type extraHeader struct{ column, header string }

// header is a record header. The value is never nil.
type header struct {
	name  string
	value []byte
}

// NewBuilder checks the configuration; its errors are of kind fault.Usage.
func NewBuilder(cfg RecordConfig) (*Builder, error) {
	b := &Builder{
		columns: cfg.Columns.names(),
		topics:  make(map[string]string),
		names:   make(map[string]string),
		askedBy: make(map[string][]string),
		scratch: make([]byte, 0, 512),
	}
	if err := b.setFormat(cfg); err != nil {
		return nil, err
	}
	for r := range requiredRoles {
		if b.columns[r] == "" {
			return nil, usage(fmt.Errorf("%s is empty", columnKey(r)), "name the column that holds it")
		}
		b.require(b.columns[r], columnKey(r))
	}
	text := cmp.Or(cfg.Topic, DefaultTopic)
	topic, err := parseTemplate(text)
	if err != nil {
		return nil, usage(fmt.Errorf("route.topic %q: %w", text, err),
			"a topic name, in which {column} stands for the value of that column, such as "+DefaultTopic)
	}
	b.topic = topic
	for _, c := range topic.columns {
		b.require(c, "route.topic")
	}
	for _, e := range cfg.ExtraHeaders {
		column, name, renamed := strings.Cut(e, ":")
		if !renamed {
			name = column
		}
		if column == "" || name == "" || strings.Contains(name, ":") || !utf8.ValidString(name) {
			return nil, usage(fmt.Errorf("headers.extra: %q is not column or column:header", e), "")
		}
		if b.isOurs(name) {
			return nil, usage(fmt.Errorf("headers.extra: header %q of %q is set by the relay", name, e), "give it another name: column:header")
		}
		b.extra = append(b.extra, extraHeader{column, name})
		b.require(column, "headers.extra")
	}
	for _, e := range cfg.Explicit {
		r := slices.Index(roleNames[:roleTracestate], e)
		if r < 0 {
			return nil, usage(fmt.Errorf("table.columns has no key %q", e), "the keys are "+strings.Join(roleNames[:roleTracestate], ", "))
		}
		if b.columns[r] != "" {
			b.require(b.columns[r], columnKey(role(r)))
		}
	}
	return b, nil
}

// isOurs tells whether each record has a header of the name from the relay, so
// that no column's would ever be seen.
func (b *Builder) isOurs(name string) bool {
	always := []string{headerPlainID, headerPlainType}
	if b.binary {
		always = []string{headerContentType, headerSpecVersion, headerID, headerType, headerSource}
	}
	return strings.HasPrefix(name, reservedHeaderPrefix) || slices.Contains(always, name)
}

// setFormat takes the format and what belongs to it.
func (b *Builder) setFormat(cfg RecordConfig) error {
	switch cfg.Format {
	case "", formatBinary:
		b.binary = true
	case formatPlain:
		if len(cfg.Attributes) > 0 {
			return usage(errors.New("cloudevents.attributes have no place in format plain"), "remove them, or set format: "+formatBinary)
		}
		return nil
	case "cloudevents-structured", "debezium":
		return usage(fmt.Errorf("format %s is not built yet", cfg.Format), "use "+formatBinary+" or "+formatPlain)
	default:
		return usage(fmt.Errorf("format %q does not exist", cfg.Format), "use "+formatBinary+" or "+formatPlain)
	}
	if cfg.Source == "" {
		return usage(errors.New("cloudevents.source is empty"), "name the service that writes the outbox, such as //orders.example.com")
	}
	b.source = []byte(cfg.Source)
	if !utf8.Valid(b.source) {
		return usage(errors.New("cloudevents.source is not UTF-8"), "")
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Attributes)) {
		value := cfg.Attributes[name]
		switch {
		case !isAttribute(name):
			return usage(fmt.Errorf("cloudevents.attributes: %q is not a name for an attribute", name), "use lower-case letters and digits only")
		case slices.Contains(ownAttributes, name):
			return usage(fmt.Errorf("cloudevents.attributes: %s is set by the relay", name), "remove it")
		case value == "" || !utf8.ValidString(value):
			return usage(fmt.Errorf("cloudevents.attributes: the value of %s is empty or not UTF-8", name), "")
		}
		b.static = append(b.static, header{"ce_" + name, []byte(value)})
	}
	return nil
}

// ownAttributes are those that a record may get from its row.
var ownAttributes = []string{
	"specversion", "id", "type", "source", "time", "subject", "datacontenttype",
	"correlationid", "causationid", "dataversion",
}

// isAttribute follows the naming rule of the CloudEvents specification, 1.0, "Naming conventions".
func isAttribute(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

func usage(cause error, hint string) error { return fault.New(fault.Usage, "configure", cause, hint) }

// columnKey is the configuration key that maps a column.
func columnKey(r role) string { return "table.columns." + roleNames[r] }

// require notes that the table must have a column, because of a setting.
func (b *Builder) require(column, setting string) {
	if !slices.Contains(b.required, column) {
		b.required = append(b.required, column)
	}
	if !slices.Contains(b.askedBy[column], setting) {
		b.askedBy[column] = append(b.askedBy[column], setting)
	}
}

// RequiredColumns returns the columns that the table must have.
func (b *Builder) RequiredColumns() []string { return slices.Clone(b.required) }

// AskedBy returns the setting that makes a required column so, for a hint:
// "route.topic", "headers.extra", "table.columns.key"; several are joined by
// " and ". It is empty for a column that is not required.
func (b *Builder) AskedBy(column string) string { return strings.Join(b.askedBy[column], " and ") }

// Topics returns the topics that are known before the first event: the one of
// a template that names no column, else none.
func (b *Builder) Topics() []string {
	if name, ok := b.topic.constant(); ok {
		return []string{name}
	}
	return nil
}

// reserve keeps events out of the dead-letter topic.
func (b *Builder) reserve(topic string) error {
	if topic == "" {
		return nil
	}
	if err := checkTopic(topic); err != nil {
		return usage(fmt.Errorf("dead_letter_topic: %w", err), "")
	}
	if slices.Contains(b.Topics(), topic) {
		return usage(fmt.Errorf("route.topic and dead_letter_topic are both %s", topic), "choose another dead_letter_topic")
	}
	b.reserved = topic
	return nil
}

// plan is where the columns are in one version of the table.
type plan struct {
	relation    *decoder.Relation
	role        [roles]int // index into Row.Values, -1 when the table lacks the column
	topic       []int      // for each of template.columns
	extra       []int      // for each of Builder.extra
	contentType []byte
	keyBytea    bool
	valueBytea  bool
}

const byteaOID = 17 // pg_type

var (
	contentJSON   = []byte("application/json")
	contentBinary = []byte("application/octet-stream")
)

// setPlan looks the columns up in a relation that the last event did not have.
func (b *Builder) setPlan(rel *decoder.Relation) error {
	for _, c := range b.required {
		if rel.Index(c) < 0 {
			return &columnError{table: rel.Namespace + "." + rel.Name, column: c}
		}
	}
	p := plan{relation: rel, contentType: contentJSON}
	for r, name := range b.columns {
		p.role[r] = -1
		if name != "" {
			p.role[r] = rel.Index(name)
		}
	}
	for _, c := range b.topic.columns {
		p.topic = append(p.topic, rel.Index(c))
	}
	for _, e := range b.extra {
		p.extra = append(p.extra, rel.Index(e.column))
	}
	p.keyBytea = rel.Columns[p.role[roleKey]].TypeOID == byteaOID
	if rel.Columns[p.role[rolePayload]].TypeOID == byteaOID {
		p.valueBytea, p.contentType = true, contentBinary
	}
	b.plan = p
	return nil
}

// columnError is of an event whose table lacks a column that the configuration names.
type columnError struct{ table, column string }

func (e *columnError) Error() string {
	return fmt.Sprintf("table %s has no column %q: it was dropped, renamed, or is not in the publication's column list", e.table, e.column)
}
