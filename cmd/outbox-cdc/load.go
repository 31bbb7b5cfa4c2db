package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// loaded is the configuration with what is worth knowing about how it came to be.
type loaded struct {
	Config
	// Origin tells where each setting that is not at its default was set: a
	// flag, a variable, or a line of the file. The keys are Config's.
	Origin   map[string]string
	Warnings []warning
	// deadLetterIDs is no setting, for it is meant for one start: runCmd.DeadLetterID.
	deadLetterIDs []string
}

// warning is something odd that does not keep a command from running.
type warning struct{ Text, Hint string }

// sources are the layers of the configuration besides the defaults, lowest first.
type sources struct {
	File    string                   // path; may be empty
	Environ []string                 // as os.Environ
	Flags   map[string]reflect.Value // by key; those given on the command line
	Sides   []string                 // sections whose secrets are needed
}

// load reads all layers: a flag overrides the environment, that the file, that the default.
func load(from sources) (*loaded, error) {
	config, err := defaults()
	if err != nil {
		return nil, err
	}
	l := &loaded{Config: config, Origin: map[string]string{}}
	if from.File != "" {
		if err := l.file(from.File); err != nil {
			return nil, err
		}
	}
	if err := l.environment(from.Environ); err != nil {
		return nil, err
	}
	if err := l.flags(from.Flags); err != nil {
		return nil, err
	}
	if err := l.secrets(from.Sides); err != nil {
		return nil, err
	}
	return l, l.validate()
}

func (l *loaded) flags(given map[string]reflect.Value) error {
	set := map[string]string{}
	for _, s := range settings() {
		if v, ok := given[s.Key]; ok {
			s.In(&l.Config).Set(v)
			set[s.Key] = "--" + s.Flag()
		}
	}
	return l.merge(set)
}

// merge notes what a layer has set. A secret and its file are one setting:
// both in one layer contradict each other, and either one overrides whichever
// of them a lower layer has set.
func (l *loaded) merge(set map[string]string) error {
	for _, s := range settings() {
		key := s.FileOf()
		if key == "" {
			continue
		}
		value, hasValue := set[key]
		file, hasFile := set[s.Key]
		switch secret, _ := lookup(key); {
		case hasValue && hasFile:
			return fault.New(fault.Usage, "read configuration", fmt.Errorf("%s and %s are both set (%s, %s)", key, s.Key, value, file),
				"set one of them")
		case hasValue:
			s.In(&l.Config).SetZero()
			delete(l.Origin, s.Key)
		case hasFile:
			secret.In(&l.Config).SetZero()
			delete(l.Origin, key)
		}
	}
	maps.Copy(l.Origin, set)
	return nil
}

// secrets reads the files that hold secrets of these sections.
func (l *loaded) secrets(sections []string) error {
	for _, s := range settings() {
		key, path := s.FileOf(), s.In(&l.Config).String()
		section, _, _ := strings.Cut(key, ".")
		if key == "" || path == "" || !slices.Contains(sections, section) {
			continue
		}
		op := "read " + s.Key
		value, err := readSecret(path)
		if err != nil {
			return fault.New(fault.Usage, op, err, "write the secret alone into the file; its path comes from "+l.origin(s.Key))
		}
		secret, _ := lookup(key)
		secret.In(&l.Config).SetString(value)
		l.Origin[key] = "file " + path
	}
	return nil
}

// readSecret returns what a file holds. One line break at the end is not part of it.
func readSecret(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case value == "":
		return "", fmt.Errorf("file %s is empty", path)
	case strings.ContainsAny(value, "\r\n\x00"):
		return "", fmt.Errorf("file %s holds more than one line", path)
	}
	return value, nil
}

// rereader returns what reads a secret's file again, as after a rotation; nil
// without a file that can be read twice, unlike a pipe.
func rereader(path string) func() (string, error) {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	return func() (string, error) { return readSecret(path) }
}

// origin says where a setting was set.
func (l *loaded) origin(key string) string {
	if from, ok := l.Origin[key]; ok {
		return from
	}
	return "the default"
}

// explicit returns the last parts of the keys under section that were set, in Config's order.
func (l *loaded) explicit(section string) []string {
	var names []string
	for _, s := range settings() {
		if name, ok := strings.CutPrefix(s.Key, section+"."); ok && l.Origin[s.Key] != "" {
			names = append(names, name)
		}
	}
	return names
}

var errNoURL = errors.New("postgres.url is not set")

// requireURL is for the commands that connect. The PG* variables of libpq do
// not replace the URL: a relay that silently streams from whatever database
// they happen to name is not worth the saved line.
func (l *loaded) requireURL() error {
	if l.Postgres.URL != "" {
		return nil
	}
	return fault.New(fault.Usage, "read configuration", errNoURL,
		"set OUTBOX_CDC_POSTGRES_URL, --postgres-url or postgres.url in the file, such as postgres://relay@db:5432/app (PG* variables do not replace it)")
}
