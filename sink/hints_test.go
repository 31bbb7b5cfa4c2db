package sink

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// settings reads the command's configuration tree and returns every key that
// can be set, as the file spells it: kafka.tls.ca_file.
func settings(t *testing.T) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../cmd/outbox-cdc/config.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	structs := make(map[string]*ast.StructType)
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok {
			if st, ok := spec.Type.(*ast.StructType); ok {
				structs[spec.Name.Name] = st
			}
		}
		return true
	})
	keys := make(map[string]bool)
	var walk func(st *ast.StructType, path string)
	walk = func(st *ast.StructType, path string) {
		for _, f := range st.Fields.List {
			text, err := strconv.Unquote(f.Tag.Value)
			if err != nil {
				t.Fatal(err)
			}
			tag := reflect.StructTag(text)
			name := strings.TrimSuffix(tag.Get("name")+tag.Get("prefix"), "-")
			key := path + strings.ReplaceAll(name, "-", "_")
			if of, ok := f.Type.(*ast.Ident); ok && structs[of.Name] != nil {
				walk(structs[of.Name], key+".")
				continue
			}
			keys[key] = true
		}
	}
	walk(structs["Config"], "")
	return keys
}

// A message that names a setting names one that there is.
func TestMessagesNameSettings(t *testing.T) {
	t.Parallel()
	keys := settings(t)
	if !keys["kafka.tls.ca_file"] || !keys["route.topic"] || keys["kafka.tls"] {
		t.Fatalf("the configuration was not understood: %v", keys)
	}
	named := regexp.MustCompile(`\b(postgres|table|route|cloudevents|headers|kafka|limits|http|log)(\.[a-z_]+)+\.?`)
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	check := func(where, text string) {
		for _, key := range named.FindAllString(text, -1) {
			seen++
			// table.columns is named as a whole where a key under it does not exist.
			if !keys[strings.TrimSuffix(key, ".")] && strings.TrimSuffix(key, ".") != "table.columns" {
				t.Errorf("%s: %q names %s, which is no setting", where, text, key)
			}
		}
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, src, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ImportSpec:
				return false
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil {
					check(set.Position(n.Pos()).String(), text)
				}
			}
			return true
		})
	}
	for r := range roleTracestate {
		check("columnKey", columnKey(r))
	}
	if seen < 50 {
		t.Errorf("found %d names of settings: the test proves nothing", seen)
	}
}
