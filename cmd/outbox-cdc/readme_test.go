package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// between returns the part of text behind one mark and before the next.
func between(t *testing.T, text, from, to string) string {
	t.Helper()
	_, rest, found := strings.Cut(text, from)
	part, _, ended := strings.Cut(rest, to)
	if !found || !ended {
		t.Fatalf("nothing between %q and %q", from, to)
	}
	return part
}

// TestReadme keeps true what README.md and docs/operating.md say of the command line.
func TestReadme(t *testing.T) {
	t.Parallel()
	readme := readTree(t, "README.md")
	if n := strings.Count(readme, "\n"); n > 220 {
		t.Errorf("it has %d lines: who begins reads less", n)
	}

	file := writeFile(t, "relay.yaml", between(t, readme, "```yaml\n", "```"))
	if got := runCommand(t, nil, "init", "--print-sql", "--config", file); got.code != 0 || got.stderr != "" {
		t.Errorf("its configuration: exit code %d, %s", got.code, got.stderr)
	}

	docs := readme + readTree(t, "docs/operating.md")
	var variables []string
	for _, s := range settings() {
		variables = append(variables, s.Env())
	}
	for _, name := range regexp.MustCompile(`OUTBOX_CDC_[A-Z_]+`).FindAllString(docs, -1) {
		if !slices.Contains(variables, name) {
			t.Errorf("%s is not a setting; the nearest is %s", name, nearest(name, variables))
		}
	}
	help := runCommand(t, nil, "--help").stdout
	for _, m := range regexp.MustCompile("(?:`|bin/)outbox-cdc ([a-z]+)").FindAllStringSubmatch(docs, -1) {
		if !strings.Contains(help, "\n  "+m[1]+" ") {
			t.Errorf("%s: there is no such command", m[0])
		}
	}
	for _, command := range []string{"run", "init", "recover"} {
		help += runCommand(t, nil, command, "--help").stdout
	}
	for _, m := range regexp.MustCompile("`[^`\n]*(--[a-z][a-z-]+)").FindAllStringSubmatch(docs, -1) {
		if !regexp.MustCompile(m[1] + `\b`).MatchString(help) {
			t.Errorf("there is no flag %s", m[1])
		}
	}
	kinds := []fault.Kind{0, fault.Unexpected, fault.Usage, fault.Poison, fault.SlotLost, fault.Unreachable}
	table := between(t, readme, "| exit code | means |\n|---|---|\n", "\n\n")
	for i, row := range strings.Split(table, "\n") {
		if i >= len(kinds) || !strings.HasPrefix(row, "| "+strconv.Itoa(int(kinds[i]))+" |") {
			t.Errorf("exit codes: row %q", row)
		}
	}
}

// TestGuaranteesNameTests holds docs/guarantees.md to naming tests that exist.
func TestGuaranteesNameTests(t *testing.T) {
	t.Parallel()
	named := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(readTree(t, "docs/guarantees.md"), -1)
	if len(named) < 20 {
		t.Errorf("it names %d tests", len(named))
	}
	var all strings.Builder
	err := filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			var text []byte
			if text, err = os.ReadFile(path); err == nil {
				all.Write(text)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range named {
		if !strings.Contains(all.String(), "func "+name[1]+"(t *testing.T)") {
			t.Errorf("there is no test %s", name[1])
		}
	}
}
