//go:build long

package sim

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	// mutantSeeds is within how many runs the simulator has to notice that a guard is gone.
	mutantSeeds = 400
	// mutantsVariable is a regular expression that picks guards by their names.
	mutantsVariable = "OUTBOX_CDC_GUARDS"
)

// TestLongGuards proves the simulator: it takes away each guard, one at a time,
// and the simulator has to notice; or the test that is named, where the draw
// rarely meets what is guarded against.
func TestLongGuards(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	picked := regexp.MustCompile(os.Getenv(mutantsVariable))
	for _, g := range guards {
		if !picked.MatchString(g.name) {
			continue
		}
		t.Run(g.name, func(t *testing.T) { // one after the other: each run uses the machine well
			pkg, test, named := strings.Cut(g.by, " ")
			if !named {
				pkg, test = "internal/sim", "TestSim"
			}
			binary := g.build(t, root, pkg)
			began := time.Now()
			says := g.run(t, binary, filepath.Join(root, pkg), test)
			if says == "" {
				t.Fatalf("not noticed by %s of %s", test, pkg)
			}
			t.Logf("noticed by %s, %v: %s", test, time.Since(began).Round(100*time.Millisecond), says)
		})
	}
}

// build returns a package's test binary without the guard.
func (g guard) build(t *testing.T, root, pkg string) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(root, g.file)
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	mutant := replaceLine(t, g.file, string(text), g.line, g.with)
	if g.more[0] != "" {
		mutant = replaceLine(t, g.file, mutant, g.more[0], g.more[1])
	}
	mutant = withImports(mutant, g.also) + "\n" + g.also
	copied := filepath.Join(dir, "mutant.go")
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: copied}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{copied: []byte(mutant), filepath.Join(dir, "overlay.json"): overlay} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(dir, "mutant.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, "./"+pkg)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	return binary
}

// replaceLine puts something else in the place of the one line that, without
// the space around it, is line.
func replaceLine(t *testing.T, file, text, line, with string) string {
	t.Helper()
	if n := countLines(text, line); n != 1 {
		t.Fatalf("%s has the line %q %d times: the guard has moved", file, line, n)
	}
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.TrimSpace(l) == line {
			lines[i] = with
		}
	}
	return strings.Join(lines, "\n")
}

// withImports adds the imports that declarations need and the file lacks.
func withImports(text, declarations string) string {
	for name, path := range map[string]string{"sync.": "sync", "pglogrepl.": "github.com/jackc/pglogrepl"} {
		if strings.Contains(declarations, name) && !strings.Contains(text, fmt.Sprintf("%q\n", path)) {
			text = strings.Replace(text, "import (\n", fmt.Sprintf("import (\n\t%q\n", path), 1)
		}
	}
	return text
}

var (
	failedAfter = regexp.MustCompile(`seed \d+ failed, after \d+ that did not; .*`)
	failed      = regexp.MustCompile(`(?m)^(\s+\S+_test\.go:.*\s+--- FAIL: .*|\s*--- FAIL: .*|panic: .*|fatal error: .*)$`)
)

// run runs the test until it fails, and returns what it said then; nothing when it did not.
func (g guard) run(t *testing.T, binary, dir, test string) (says string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, "-test.run=^"+test+"$", "-test.v", "-test.timeout=20m")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", seedsVariable, mutantSeeds), seedVariable+"=")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return ""
	}
	for _, how := range []*regexp.Regexp{failedAfter, failed} {
		if m := how.Find(out); m != nil {
			return string(m)
		}
	}
	t.Fatalf("%v:\n%s", err, out)
	return ""
}
