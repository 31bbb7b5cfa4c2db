package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// runCI runs .ci/run with nothing real behind it: of make's targets those in
// broken fail, those in env's SKIPS skip a test, and all that would install
// something does nothing.
func runCI(t *testing.T, broken string, env ...string) (code int, stderr string) {
	t.Helper()
	bin := t.TempDir()
	stub := func(name, script string) {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"go", "git", "gcc", "java", "mvn", "apt-get"} {
		stub(name, "exit 0")
	}
	stub("sudo", `exec "$@"`)
	stub("make", `for target; do
		case " $BROKEN " in *" $target "*) exit 2;; esac
		case " $SKIPS " in *" $target "*) echo "=== SKIP: e2e TestOne (0.00s)";; esac
	done
	echo "DONE 3 tests"`)
	if _, err := os.Stat("../../.ci/run"); err != nil { // opened by bash: go test would keep a result that is old
		t.Fatal(err)
	}
	var errs bytes.Buffer
	c := exec.CommandContext(t.Context(), "bash", "../../.ci/run")
	c.Env = append([]string{"PATH=" + bin + ":/usr/bin:/bin", "TMPDIR=" + bin, "BROKEN=" + broken}, env...)
	c.Stderr = &errs
	_ = c.Run() // its code says it
	return c.ProcessState.ExitCode(), errs.String()
}

// TestCIScript: what fails, fails the run. A linter that cannot be fetched does
// so in CI only.
func TestCIScript(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		broken string
		env    []string
		code   int
		says   string
	}{
		"all well":              {"", nil, 0, ""},
		"all well in CI":        {"", []string{"CI=true"}, 0, ""},
		"tests":                 {"test", nil, 2, ""},
		"long tests":            {"test-long", nil, 2, ""},
		"a skipped test":        {"", []string{"SKIPS=test"}, 1, "here every one has to run"},
		"a skipped long test":   {"", []string{"SKIPS=test-long"}, 1, "here every one has to run"},
		"findings":              {"lint", nil, 2, ""},
		"findings in CI":        {"lint", []string{"CI=true"}, 2, ""},
		"no linter":             {"lint-tool", nil, 0, "note: the linter could not be fetched"},
		"no linter, CI is off":  {"lint-tool", []string{"CI=false"}, 0, "note: the linter could not be fetched"},
		"no linter in CI":       {"lint-tool", []string{"CI=true"}, 1, "could not be fetched"},
		"no linter and no test": {"lint-tool test", nil, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stderr := runCI(t, tc.broken, tc.env...)
			if code != tc.code || !strings.Contains(stderr, tc.says) || tc.says == "" && stderr != "" {
				t.Errorf("exit code %d, want %d with %q in\n%s", code, tc.code, tc.says, stderr)
			}
		})
	}
}
