package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// yamlFile applies one file to a configuration. It walks the syntax tree
// instead of unmarshalling it, for an error has to name the key, the line and
// what was meant.
type yamlFile struct {
	path    string
	config  *Config
	set     map[string]string // key → where
	anchors map[string]ast.Node
}

var errAlias = errors.New("the alias names no anchor above it")

func (l *loaded) file(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fault.New(fault.Usage, "read configuration", err, "--config or OUTBOX_CDC_CONFIG names the file")
	}
	f := &yamlFile{path: path, config: &l.Config, set: map[string]string{}, anchors: map[string]ast.Node{}}
	if err := f.read(data); err != nil {
		return err
	}
	return l.merge(f.set)
}

func (f *yamlFile) read(data []byte) error {
	tree, err := parser.ParseBytes(data, 0)
	if err != nil {
		return f.syntaxError(err)
	}
	found := false
	for _, doc := range tree.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if found {
			return f.fail(doc.Body, errors.New("a second document begins"), "keep all settings in one document")
		}
		found = true
		if err := f.section(doc.Body, ""); err != nil {
			return err
		}
	}
	return nil
}

// section applies the mapping at path ("" or "kafka.tls.") to the settings below it.
func (f *yamlFile) section(node ast.Node, path string) error {
	at := node
	if node = f.resolve(node); node == nil {
		return f.fail(at, errAlias, "")
	}
	if node.Type() == ast.NullType {
		return nil
	}
	mapping, ok := node.(*ast.MappingNode)
	if !ok {
		name := strings.TrimSuffix(path, ".")
		if name == "" {
			return f.fail(node, fmt.Errorf("the file is %s", describe(node, false)), "expected a mapping such as postgres: {url: …}")
		}
		return f.fail(node, fmt.Errorf("%s is %s", name, describe(node, false)),
			"expected a mapping with the keys "+strings.Join(keysBelow(path), ", "))
	}
	for _, pair := range mapping.Values {
		key := keyText(pair.Key)
		if s, ok := lookup(path + key); ok {
			if err := f.leaf(pair.Value, s); err != nil {
				return err
			}
			continue
		}
		if keysBelow(path+key+".") == nil {
			return f.unknown(pair.Key, path, key)
		}
		if err := f.section(pair.Value, path+key+"."); err != nil {
			return err
		}
	}
	return nil
}

// leaf sets one setting. A key without a value leaves it as it is.
func (f *yamlFile) leaf(node ast.Node, s setting) error {
	at := node
	if node = f.resolve(node); node == nil {
		return f.fail(at, errAlias, "")
	}
	if node.Type() == ast.NullType {
		return nil
	}
	field := s.In(f.config)
	switch field.Interface().(type) {
	case []string:
		sequence, ok := node.(*ast.SequenceNode)
		if !ok {
			return f.wrongType(node, s)
		}
		list := []string{}
		for _, item := range sequence.Values {
			text, ok := f.scalar(item)
			if !ok {
				return f.wrongType(node, s)
			}
			list = append(list, text)
		}
		field.Set(reflect.ValueOf(list))
	case map[string]string:
		mapping, ok := node.(*ast.MappingNode)
		if !ok {
			return f.wrongType(node, s)
		}
		pairs := map[string]string{}
		for _, pair := range mapping.Values {
			text, ok := f.scalar(pair.Value)
			if !ok {
				return f.wrongType(pair.Value, s)
			}
			pairs[keyText(pair.Key)] = text
		}
		field.Set(reflect.ValueOf(pairs))
	default:
		text, ok := f.scalar(node)
		if !ok || !fits(node, s.Type) {
			return f.wrongType(node, s)
		}
		if err := setText(field, text); err != nil {
			return f.wrongType(node, s)
		}
	}
	f.set[s.Key] = fmt.Sprintf("%s line %d", f.path, line(node))
	return nil
}

// fits tells whether a scalar of this YAML type may stand for a setting of type t.
func fits(node ast.Node, t reflect.Type) bool {
	text := []ast.NodeType{ast.StringType, ast.LiteralType}
	switch reflect.Zero(t).Interface().(type) {
	case bool:
		return node.Type() == ast.BoolType
	case int:
		return node.Type() == ast.IntegerType
	case Size, time.Duration:
		return slices.Contains(append(text, ast.IntegerType), node.Type())
	}
	// A password of digits is text that nobody quotes.
	return slices.Contains(append(text, ast.IntegerType, ast.FloatType), node.Type())
}

// scalar returns a scalar's text as it stands in the file, quotes removed.
func (f *yamlFile) scalar(node ast.Node) (string, bool) {
	switch n := f.resolve(node).(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// resolve looks through tags, anchors and aliases. It returns nil for an alias
// whose anchor does not stand above it.
func (f *yamlFile) resolve(node ast.Node) ast.Node {
	switch n := node.(type) {
	case *ast.TagNode:
		return f.resolve(n.Value)
	case *ast.AnchorNode:
		value := f.resolve(n.Value)
		f.anchors[n.Name.GetToken().Value] = value
		return value
	case *ast.AliasNode:
		return f.anchors[n.Value.GetToken().Value]
	}
	return node
}

// unknown reports a key that is none of ours, with the nearest that is.
func (f *yamlFile) unknown(at ast.Node, path, key string) error {
	siblings := keysBelow(path)
	suggestion := path + nearest(key, siblings)
	// A key at the wrong level is as common as a slip of the finger.
	if !slices.ContainsFunc(siblings, func(s string) bool { return editDistance(key, s) <= 2 }) {
		suggestion = elsewhere(path, key, suggestion)
	}
	return f.fail(at, fmt.Errorf("unknown key %q", path+key), fmt.Sprintf("the nearest known key is %q", suggestion))
}

// urlParts are what others configure beside the database's address.
var urlParts = []string{"host", "port", "user", "username", "password", "password_file", "database", "dbname", "sslmode"}

// elsewhere returns where a key belongs that stands at the wrong level, in the
// same section if there is one, or else the suggestion that it was given.
func elsewhere(path, key, suggestion string) string {
	section, _, _ := strings.Cut(path, ".")
	if section == "postgres" && slices.Contains(urlParts, key) {
		return "postgres.url"
	}
	var found []string
	for _, s := range settings() {
		if s.Key == key || strings.HasSuffix(s.Key, "."+key) {
			found = append(found, s.Key)
		}
	}
	for _, f := range found {
		if strings.HasPrefix(f, section+".") {
			return f
		}
	}
	if len(found) > 0 {
		return found[0]
	}
	return suggestion
}

func (f *yamlFile) wrongType(node ast.Node, s setting) error {
	return f.fail(node, fmt.Errorf("%s is %s", s.Key, describe(node, s.Secret())), "expected "+expectation(s.Type))
}

func (f *yamlFile) fail(node ast.Node, cause error, hint string) error {
	return fault.New(fault.Usage, "read "+f.path, fmt.Errorf("line %d: %w", line(node), cause), hint)
}

// syntaxError keeps the parser's message and drops the excerpt that it prints
// with it: the lines may hold a password.
func (f *yamlFile) syntaxError(err error) error {
	var at yaml.Error
	if errors.As(err, &at) && at.GetToken() != nil {
		err = fmt.Errorf("line %d: %s", at.GetToken().Position.Line, at.GetMessage())
	}
	return fault.New(fault.Usage, "read "+f.path, err, "the file is not valid YAML")
}

// describe says what a node is, for messages.
func describe(node ast.Node, secret bool) string {
	switch n := node.(type) {
	case *ast.MappingNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode:
		if secret {
			return "not usable"
		}
		return strconv.Quote(n.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		if secret {
			return "not usable"
		}
		return n.GetToken().Value
	}
	return strings.ToLower(node.Type().String())
}

func keyText(key ast.MapKeyNode) string {
	if s, ok := key.(*ast.StringNode); ok {
		return s.Value
	}
	return key.GetToken().Value
}

func line(node ast.Node) int {
	if mapping, ok := node.(*ast.MappingNode); ok && len(mapping.Values) > 0 {
		node = mapping.Values[0].Key
	}
	return node.GetToken().Position.Line
}

// keysBelow lists the keys directly under path ("" or "kafka."), in Config's order.
func keysBelow(path string) []string {
	var keys []string
	for _, s := range settings() {
		rest, ok := strings.CutPrefix(s.Key, path)
		if !ok {
			continue
		}
		key, _, _ := strings.Cut(rest, ".")
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}
