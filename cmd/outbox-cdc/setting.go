package main

import (
	"reflect"
	"slices"
	"strings"
	"sync"
)

const envPrefix = "OUTBOX_CDC_"

// setting is one leaf of Config.
type setting struct {
	Key   string // "limits.in_flight_bytes"
	Tag   reflect.StructTag
	Type  reflect.Type
	index []int
}

// Flag returns the name without the leading dashes: "limits-in-flight-bytes".
func (s setting) Flag() string { return strings.NewReplacer(".", "-", "_", "-").Replace(s.Key) }

// Env returns the variable's name: "OUTBOX_CDC_LIMITS_IN_FLIGHT_BYTES".
func (s setting) Env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(s.Key, ".", "_"))
}

// In returns the setting's field in c, settable.
func (s setting) In(c *Config) reflect.Value { return reflect.ValueOf(c).Elem().FieldByIndex(s.index) }

// Secret tells whether the value must not be printed.
func (s setting) Secret() bool { _, ok := s.Tag.Lookup("secret"); return ok }

// FileOf returns the key of the setting whose value is in the file that s names, or "".
func (s setting) FileOf() string {
	if name := s.Tag.Get("fileof"); name != "" {
		return s.Key[:strings.LastIndexByte(s.Key, '.')+1] + name
	}
	return ""
}

// settings lists every leaf of Config in its order.
var settings = sync.OnceValue(func() []setting {
	return leaves(reflect.TypeFor[Config](), "", nil)
})

func leaves(t reflect.Type, path string, index []int) []setting {
	var all []setting
	for i := range t.NumField() {
		f := t.Field(i)
		at := append(slices.Clone(index), i)
		if _, section := f.Tag.Lookup("embed"); section {
			all = append(all, leaves(f.Type, path+yamlKey(f)+".", at)...)
			continue
		}
		all = append(all, setting{Key: path + yamlKey(f), Tag: f.Tag, Type: f.Type, index: at})
	}
	return all
}

// yamlKey returns the key of a field within its section.
func yamlKey(f reflect.StructField) string {
	name := f.Tag.Get("name")
	if name == "" {
		name = strings.TrimSuffix(f.Tag.Get("prefix"), "-")
	}
	return strings.ReplaceAll(name, "-", "_")
}

// lookup finds a setting by its key.
func lookup(key string) (setting, bool) {
	i := slices.IndexFunc(settings(), func(s setting) bool { return s.Key == key })
	if i < 0 {
		return setting{}, false
	}
	return settings()[i], true
}

// defaults returns the configuration that nothing has touched.
func defaults() (Config, error) {
	var c Config
	for _, s := range settings() {
		if text, ok := s.Tag.Lookup("default"); ok {
			if err := setText(s.In(&c), text); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}
