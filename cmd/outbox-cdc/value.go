package main

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// setText sets a setting's field from text, as a flag, a variable or a scalar
// of the file gives it. Its error says what is expected.
func setText(field reflect.Value, text string) error {
	switch field.Interface().(type) {
	case string:
		field.SetString(text)
	case bool:
		return setBool(field, text)
	case int:
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 0 {
			return errors.New("expected a whole number, 0 or more")
		}
		field.SetInt(int64(n))
	case Size:
		n, err := parseSize(text)
		if err != nil {
			return err
		}
		field.SetInt(int64(n))
	case time.Duration:
		d, err := time.ParseDuration(strings.TrimSpace(text))
		if err != nil || d < 0 {
			return errors.New("expected a duration such as 10s, 1m30s or 0")
		}
		field.SetInt(int64(d))
	case []string:
		field.Set(reflect.ValueOf(splitList(text)))
	case map[string]string:
		pairs, err := splitPairs(text)
		if err != nil {
			return err
		}
		field.Set(reflect.ValueOf(pairs))
	default:
		return fmt.Errorf("settings of type %s are not supported", field.Type())
	}
	return nil
}

func setBool(field reflect.Value, text string) error {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "true":
		field.SetBool(true)
	case "false":
		field.SetBool(false)
	default:
		return errors.New("expected true or false")
	}
	return nil
}

// splitList splits at commas. Empty text is an empty list.
func splitList(text string) []string {
	list := []string{}
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}

func splitPairs(text string) (map[string]string, error) {
	pairs := map[string]string{}
	for _, item := range splitList(text) {
		name, value, ok := strings.Cut(item, "=")
		if !ok || name == "" {
			return nil, errors.New("expected name=value pairs, comma separated")
		}
		pairs[name] = value
	}
	return pairs, nil
}

// expectation says in words what a setting's type takes.
func expectation(t reflect.Type) string {
	switch reflect.Zero(t).Interface().(type) {
	case bool:
		return "true or false"
	case int:
		return "a whole number, 0 or more"
	case Size:
		return "a size such as 16MiB, 64KB or a number of bytes"
	case time.Duration:
		return "a duration such as 10s, 1m30s or 0"
	case []string:
		return "a list such as [a, b]"
	case map[string]string:
		return "a mapping such as {name: value}"
	}
	return "text"
}
