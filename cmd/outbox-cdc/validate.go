package main

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// validate checks what the types do not say. What only one package can judge
// (a topic template, a slot name) is left to it.
func (l *loaded) validate() error {
	for _, s := range settings() {
		if err := l.validateChoice(s); err != nil {
			return err
		}
	}
	switch {
	case l.Limits.InFlightBytes == 0:
		return l.invalid("limits.in_flight_bytes", errors.New("must be more than 0"), "the default is 16MiB; one event is let through whatever its size")
	case l.Limits.InFlightEvents == 0:
		return l.invalid("limits.in_flight_events", errors.New("must be more than 0"), "the default is 50000")
	case len(l.Kafka.Brokers) == 0:
		return l.invalid("kafka.brokers", errors.New("must name at least one broker"), "such as localhost:9092")
	}
	if _, err := l.tableName(); err != nil {
		return l.invalid("table.name", err, "such as public.outbox")
	}
	return nil
}

// validateChoice holds a setting to its allowed and built tags.
func (l *loaded) validateChoice(s setting) error {
	allowed, built := choices(s, "allowed"), choices(s, "built")
	if built == nil {
		built = allowed
	}
	value := s.In(&l.Config)
	text := fmt.Sprint(value.Interface())
	if built == nil || slices.Contains(built, text) {
		return nil
	}
	hint := "use " + orList(built)
	if allowed == nil || slices.Contains(allowed, text) {
		return fault.New(fault.Usage, "read configuration",
			fmt.Errorf("%s: %s (%s) is not built yet", s.Key, text, l.origin(s.Key)), hint)
	}
	unbuilt := slices.DeleteFunc(slices.Clone(allowed), func(a string) bool { return slices.Contains(built, a) })
	if len(unbuilt) > 0 {
		hint += "; not built yet: " + strings.Join(unbuilt, ", ")
	}
	if value.Kind() == reflect.String {
		text = strconv.Quote(text)
	}
	return fault.New(fault.Usage, "read configuration",
		fmt.Errorf("%s is %s (%s), which is none of its values", s.Key, text, l.origin(s.Key)), hint)
}

// choices returns the values that a tag lists, or nil when it is absent.
func choices(s setting, tag string) []string {
	text, ok := s.Tag.Lookup(tag)
	if !ok {
		return nil
	}
	return strings.Split(text, ",")
}

func orList(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		if quoted[i] = v; v == "" {
			quoted[i] = `"" (empty)`
		}
	}
	if len(quoted) == 1 {
		return quoted[0]
	}
	return strings.Join(quoted[:len(quoted)-1], ", ") + " or " + quoted[len(quoted)-1]
}

func (l *loaded) invalid(key string, cause error, hint string) error {
	return fault.New(fault.Usage, "read configuration", fmt.Errorf("%s (%s) %w", key, l.origin(key), cause), hint)
}
