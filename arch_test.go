// Package outboxcdc_test holds what is true of the whole tree: which package
// may know which, and what no production code may do.
package outboxcdc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module   = "github.com/outbox-cdc/outbox-cdc"
	lsnPkg   = "github.com/jackc/pglogrepl"
	maxLines = 400
)

// arrows lists what of ours each package may import. A folder ending in /
// stands for all below it; a package that no line stands for is refused, so
// that a new one is thought about.
var arrows = []struct {
	from string
	to   []string // nil: all of ours
}{
	{"decoder", []string{}},
	{"checkpoint", []string{}},
	{"sink", []string{"decoder", "internal/fault"}},
	{"cdc", []string{"decoder", "checkpoint", "internal/fault"}},
	{"internal/fault", []string{}},
	{"internal/devenv/", []string{"internal/devenv"}},
	{"internal/walsim", nil},
	{"internal/rig", nil},
	{"internal/sim", nil},
	{"cmd/outbox-cdc", []string{"cdc", "sink", "internal/fault", "internal/devenv"}},
	{"bench/", nil},
	{".", []string{}},
}

// homes lists where a library may be imported, besides tools and tests. The
// command speaks SQL of its own in the demo's service only; the connection that
// replicates is cdc's. A library ending in / stands for all of its packages.
var homes = map[string][]string{
	"github.com/jackc/pgx/v5":           {"cdc", "cmd/outbox-cdc"},
	"github.com/jackc/pgx/v5/pgconn":    {"cdc"},
	"github.com/jackc/pgx/v5/pgproto3/": {"cdc"},
	"github.com/IBM/sarama":             {"sink"},
	lsnPkg:                              {"decoder", "checkpoint", "cdc"},
}

// tools are what tests, the demo and benchmarks are made with. They never run
// beside a database that matters.
var tools = []string{"internal/devenv/", "internal/walsim", "internal/rig", "internal/sim", "bench/"}

// below reports whether dir is the folder, or below it if it ends in /.
func below(dir, folder string) bool {
	if trimmed, ok := strings.CutSuffix(folder, "/"); ok {
		return dir == trimmed || strings.HasPrefix(dir, folder)
	}
	return dir == folder
}

// source is one production file.
type source struct {
	dir, name string // of the package in the module, and of the file in the package
	lines     int
	file      *ast.File
}

func (s source) String() string { return path.Join(s.dir, s.name) }

// tool reports whether the file is part of one.
func (s source) tool() bool {
	return slices.ContainsFunc(tools, func(folder string) bool { return below(s.dir, folder) })
}

// production parses every .go file that is not a test, whatever its build tags.
func production(t *testing.T, fset *token.FileSet) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		base := filepath.Base(name)
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			if name != "." && (base[0] == '.' || base[0] == '_' || base == "testdata") {
				return filepath.SkipDir
			}
			return nil
		case !strings.HasSuffix(base, ".go") || strings.HasSuffix(base, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		all = append(all, source{filepath.ToSlash(filepath.Dir(name)), base, bytes.Count(text, []byte("\n")), file})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestArrows checks who imports whom.
func TestArrows(t *testing.T) {
	t.Parallel()
	for _, s := range production(t, token.NewFileSet()) {
		i := slices.IndexFunc(arrows, func(a struct {
			from string
			to   []string
		}) bool {
			return below(s.dir, a.from)
		})
		if i < 0 {
			t.Errorf("%s: no arrow starts at %s: add it to the list of arrows", s, s.dir)
			continue
		}
		for _, spec := range s.file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if ours, ok := strings.CutPrefix(imported, module+"/"); ok && arrows[i].to != nil && !slices.Contains(arrows[i].to, ours) {
				t.Errorf("%s imports %s; %s may import %v of ours", s, ours, s.dir, arrows[i].to)
			}
			for library, dirs := range homes {
				if below(imported, library) && !s.tool() && !slices.Contains(dirs, s.dir) {
					t.Errorf("%s imports %s, which may be imported in %v only", s, imported, dirs)
				}
			}
		}
	}
}

// TestHouseRules checks the length of files, and that nothing panics or waits
// by sleeping.
func TestHouseRules(t *testing.T) {
	t.Parallel()
	fset := token.NewFileSet()
	for _, s := range production(t, fset) {
		if s.lines > maxLines {
			t.Errorf("%s has %d lines, more than %d: a file holds one noun", s, s.lines, maxLines)
		}
		if s.tool() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch name := types.ExprString(call.Fun); name {
			case "panic", "time.Sleep":
				t.Errorf("%s: %s( in production code", fset.Position(call.Pos()), name)
			}
			return true
		})
	}
}

// TestPositionsAreNotComputed is Invariant 2 at the source: an LSN comes from
// the server or from nowhere.
func TestPositionsAreNotComputed(t *testing.T) {
	t.Parallel()
	dirs := []string{"decoder", "checkpoint", "cdc"}
	exports := exportData(t, dirs)
	fset := token.NewFileSet()
	files := make(map[string][]*ast.File)
	for _, s := range production(t, fset) {
		if built, err := build.Default.MatchFile(s.dir, s.name); err == nil && built {
			files[s.dir] = append(files[s.dir], s.file)
		}
	}
	for _, dir := range dirs {
		if len(files[dir]) == 0 {
			t.Errorf("no files in %s", dir)
		}
		found, err := arithmetic(fset, exports, module+"/"+dir, files[dir])
		if err != nil {
			t.Errorf("type-check %s: %v", dir, err)
		}
		for _, f := range found {
			t.Error(f)
		}
	}
}

// TestArithmeticIsFound proves the check by what it must find and must not.
func TestArithmeticIsFound(t *testing.T) {
	t.Parallel()
	exports := exportData(t, []string{"decoder"})
	for code, want := range map[string]bool{
		"a = a + 1":                            true,
		"a++":                                  true,
		"a -= 8":                               true,
		"a = b - 1":                            true,
		"a = a + b":                            true,
		"a = a &^ 7":                           true,
		"n = uint64(a) + n":                    true,
		"n += uint64(a)":                       true,
		"a = pglogrepl.LSN(n + 1)":             true,
		"a = pglogrepl.LSN(uint64(b) + n)":     true,
		"n = uint64(a - b)":                    false,
		"n = uint64(a) - uint64(b)":            false,
		"a = max(a, b)":                        false,
		"a = pglogrepl.LSN(n)":                 false,
		"n = n + 1":                            false,
		"if a > b && uint64(a) >= n { a = b }": false,
	} {
		fset := token.NewFileSet()
		text := "package p\nimport \"" + lsnPkg + "\"\nfunc f(a, b pglogrepl.LSN, n uint64) (pglogrepl.LSN, uint64) {\n" + code + "\nreturn a, n }"
		file, err := parser.ParseFile(fset, "p.go", text, 0)
		if err != nil {
			t.Fatal(err)
		}
		found, err := arithmetic(fset, exports, "p", []*ast.File{file})
		if err != nil || (len(found) > 0) != want {
			t.Errorf("%s: found %v, err %v, want found: %v", code, found, err, want)
		}
	}
}

// exportData returns the files of compiled type information of what dirs
// import, by import path, from the build cache.
func exportData(t *testing.T, dirs []string) map[string]string {
	t.Helper()
	args := []string{"list", "-e", "-export", "-deps", "-json=ImportPath,Export"}
	for _, dir := range dirs {
		args = append(args, "./"+dir)
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	exports := make(map[string]string)
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct{ ImportPath, Export string }
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return exports
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
	}
}

// arithmetic type-checks a package and returns where it computes an LSN. The
// difference of two LSNs is a number of bytes, a lag, and allowed.
func arithmetic(fset *token.FileSet, exports map[string]string, pkg string, files []*ast.File) (found []string, err error) {
	config := types.Config{Importer: importer.ForCompiler(fset, "gc", func(name string) (io.ReadCloser, error) {
		if exports[name] == "" {
			return nil, fmt.Errorf("no export data for %s", name)
		}
		return os.Open(exports[name])
	})}
	info := &types.Info{Types: make(map[ast.Expr]types.TypeAndValue)}
	if _, err := config.Check(pkg, fset, files, info); err != nil {
		return nil, err
	}
	isLSN := func(e ast.Expr) bool {
		if named, ok := info.TypeOf(e).(*types.Named); ok {
			return named.Obj().Pkg() != nil && named.Obj().Pkg().Path() == lsnPkg && named.Obj().Name() == "LSN"
		}
		return false
	}
	// position reports whether e is an LSN, also when converted to a number.
	// A constant is one by its context only, as in lsn-1.
	position := func(e ast.Expr) bool {
		e = ast.Unparen(e)
		if info.Types[e].Value != nil {
			return false
		}
		if call, ok := e.(*ast.CallExpr); ok && len(call.Args) == 1 && info.Types[call.Fun].IsType() {
			return isLSN(call) || isLSN(ast.Unparen(call.Args[0]))
		}
		return isLSN(e)
	}
	computes := func(op token.Token) bool {
		switch op {
		case token.ADD, token.SUB, token.MUL, token.QUO, token.REM, token.AND, token.OR, token.XOR, token.AND_NOT, token.SHL, token.SHR:
			return true
		}
		return false
	}
	report := func(n ast.Node) {
		found = append(found, fmt.Sprintf("%s: arithmetic on an LSN: report what the server sent (Invariant 2)", fset.Position(n.Pos())))
	}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BinaryExpr:
				x, y := position(n.X), position(n.Y)
				if computes(n.Op) && (x || y) && !(n.Op == token.SUB && x && y) {
					report(n)
				}
			case *ast.IncDecStmt:
				if position(n.X) {
					report(n)
				}
			case *ast.AssignStmt:
				if n.Tok != token.ASSIGN && n.Tok != token.DEFINE && (position(n.Lhs[0]) || position(n.Rhs[0])) {
					report(n)
				}
			case *ast.CallExpr: // pglogrepl.LSN(n + 1)
				if len(n.Args) != 1 || !info.Types[n.Fun].IsType() || !isLSN(n) {
					return true
				}
				if sum, ok := ast.Unparen(n.Args[0]).(*ast.BinaryExpr); ok && computes(sum.Op) && info.Types[sum].Value == nil {
					report(n)
				}
			}
			return true
		})
	}
	return found, nil
}
