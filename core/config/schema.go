package config

import (
	"bytes"
	_ "embed" // the schema of the configuration
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	js "github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

//go:embed gateway.schema.json
var coreSchema []byte

// A schema is a JSON Schema, compiled to check with and plain to look into.
type schema struct {
	compiled *js.Schema
	at       cursor
}

func compileSchema(name string, text []byte) (*schema, error) {
	doc, err := js.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("parsing the schema %s: %w", name, err)
	}
	m, ok := doc.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("parsing the schema %s: not an object", name)
	}
	c := js.NewCompiler()
	c.UseLoader(noLoader{})
	url := "mem:///" + name
	if err := c.AddResource(url, doc); err != nil {
		return nil, fmt.Errorf("compiling the schema %s: %w", name, err)
	}
	sch, err := c.Compile(url)
	if err != nil {
		return nil, fmt.Errorf("compiling the schema %s: %w", name, err)
	}
	return &schema{compiled: sch, at: cursor{root: m, node: m}}, nil
}

// noLoader keeps a schema from making the gateway read files or URLs.
type noLoader struct{}

func (noLoader) Load(string) (any, error) {
	return nil, errors.New("a schema may refer to itself only")
}

// A cursor is a place in a schema. The zero cursor allows everything.
type cursor struct{ root, node map[string]any }

// resolved follows references within the document.
func (c cursor) resolved() cursor {
	for range 32 {
		ref, ok := c.node["$ref"].(string)
		if !ok || !strings.HasPrefix(ref, "#/") {
			return c
		}
		n := c.root
		for step := range strings.SplitSeq(ref[2:], "/") {
			step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
			n, _ = n[step].(map[string]any)
		}
		if n == nil {
			return cursor{}
		}
		c.node = n
	}
	return cursor{}
}

func (c cursor) to(node any) cursor {
	m, _ := node.(map[string]any)
	if _, own := m["$id"]; own { // a document of its own
		return cursor{root: m, node: m}
	}
	return cursor{root: c.root, node: m}
}

// child is the schema of a key, or of the items of a list.
func (c cursor) child(key string) cursor {
	c = c.resolved()
	if props, ok := c.node["properties"].(map[string]any); ok {
		if p, ok := props[key]; ok {
			return c.to(p).resolved()
		}
	}
	for _, k := range []string{"additionalProperties", "items"} {
		if p, ok := c.node[k].(map[string]any); ok {
			return c.to(p).resolved()
		}
	}
	return cursor{}
}

func (c cursor) walk(p []string) cursor {
	for _, key := range p {
		c = c.child(key)
	}
	return c.resolved()
}

// properties are the keys that it names, sorted.
func (c cursor) properties() []string {
	props, _ := c.resolved().node["properties"].(map[string]any)
	return slices.Sorted(maps.Keys(props))
}

func (c cursor) is(typ string) bool {
	switch t := c.node["type"].(type) {
	case string:
		return t == typ
	case []any:
		return slices.Contains(t, any(typ))
	}
	return false
}

func (c cursor) format() string { f, _ := c.node["format"].(string); return f }

// secret reports whether a value here must not be shown.
func (c cursor) secret() bool {
	w, _ := c.node["writeOnly"].(bool)
	return w || c.format() == "password"
}

// fit turns v, as YAML or the environment has it, into what the schema wants
// where nothing is lost by it: a key that consists of digits is a text, true from
// a variable is a boolean, a mapping with nothing below it is an empty one.
func (c cursor) fit(v any, p path, places map[string]place) any {
	at := places[p.key()]
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			x[k] = c.child(k).fit(e, p.child(k), places)
		}
	case []any:
		for i, e := range x {
			x[i] = c.child("").fit(e, p.child(strconv.Itoa(i)), places)
		}
	case nil:
		if c.is("object") {
			return map[string]any{}
		}
	case string:
		if c.is("string") || c.node == nil || !at.reference && at.line > 0 {
			return v
		}
		if c.is("boolean") {
			if b, err := strconv.ParseBool(x); err == nil {
				return b
			}
		}
		if c.is("integer") || c.is("number") {
			if n, err := strconv.ParseInt(x, 10, 64); err == nil {
				return n
			}
			if f, err := strconv.ParseFloat(x, 64); err == nil {
				return f
			}
		}
	default:
		if c.is("string") && at.hasText {
			return at.text
		}
	}
	return v
}

// A misfit is what a schema check found, at a path below the checked value.
type misfit struct {
	at path
	// key: the finding is about the key itself rather than its value.
	key bool
	fault
}

// check validates v. Findings never contain values.
func (s *schema) check(v any) []misfit {
	var ve *js.ValidationError
	if err := s.compiled.Validate(v); err == nil {
		return nil
	} else if !errors.As(err, &ve) {
		return []misfit{{fault: fault{"does not fit the schema", "compare it with the documentation"}}}
	}
	var out []misfit
	var leaves func(e *js.ValidationError)
	leaves = func(e *js.ValidationError) {
		_, anyOf := e.ErrorKind.(*kind.AnyOf)
		_, oneOf := e.ErrorKind.(*kind.OneOf)
		if len(e.Causes) > 0 && !anyOf && !oneOf {
			for _, c := range e.Causes {
				leaves(c)
			}
			return
		}
		out = append(out, s.explain(e)...)
	}
	leaves(ve)
	return out
}

func (s *schema) explain(e *js.ValidationError) []misfit {
	at := path(slices.Clone(e.InstanceLocation))
	one := func(finding, remedy string) []misfit { return []misfit{{at: at, fault: fault{finding, remedy}}} }
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		var out []misfit
		for _, name := range slices.Sorted(slices.Values(k.Properties)) {
			out = append(out, misfit{at: at.child(name), key: true, fault: unknownKey(name, s.at.walk(at).properties())})
		}
		return out
	case *kind.Required:
		var out []misfit
		for _, name := range slices.Sorted(slices.Values(k.Missing)) {
			out = append(out, one(fmt.Sprintf("the key %q is missing", name), "add it")...)
		}
		return out
	case *kind.Type:
		want := make([]string, len(k.Want))
		for i, w := range k.Want {
			want[i] = typeName(w)
		}
		return one("found "+typeName(k.Got), "write "+strings.Join(want, " or "))
	case *kind.Enum:
		var want []string
		for _, w := range k.Want {
			b, _ := json.Marshal(w)
			want = append(want, string(b))
		}
		return one("not one of the values it can have", "write "+strings.Join(want, ", "))
	case *kind.Const:
		b, _ := json.Marshal(k.Want)
		return one("not the value it must have", "write "+string(b))
	case *kind.Pattern:
		return one("does not have the form it must have", "match the regular expression "+k.Want)
	case *kind.Format:
		return one("not a valid "+k.Want, "correct it")
	case *kind.Minimum:
		return one("too small", "write at least "+k.Want.RatString())
	case *kind.ExclusiveMinimum:
		return one("too small", "write more than "+k.Want.RatString())
	case *kind.Maximum:
		return one("too large", "write at most "+k.Want.RatString())
	case *kind.ExclusiveMaximum:
		return one("too large", "write less than "+k.Want.RatString())
	case *kind.MultipleOf:
		return one("not a multiple of "+k.Want.RatString(), "write one")
	case *kind.MinLength:
		return one("too short", fmt.Sprintf("write at least %d characters", k.Want))
	case *kind.MaxLength:
		return one("too long", fmt.Sprintf("write at most %d characters", k.Want))
	case *kind.MinItems:
		return one("too few entries", fmt.Sprintf("give at least %d", k.Want))
	case *kind.MaxItems:
		return one("too many entries", fmt.Sprintf("give at most %d", k.Want))
	default:
		return one("does not fit the schema ("+strings.Join(e.ErrorKind.KeywordPath(), "/")+")", "compare it with the documentation")
	}
}

func typeName(t string) string {
	switch t {
	case "object":
		return "a mapping of keys"
	case "array":
		return "a list"
	case "string":
		return "a text"
	case "boolean":
		return "true or false"
	case "integer":
		return "a whole number"
	case "number":
		return "a number"
	case "null":
		return "nothing"
	}
	return t
}

// unknownKey is the fault of a key that nothing knows.
func unknownKey(name string, known []string) fault {
	f := fault{finding: fmt.Sprintf("unknown key %q", name)}
	switch best := closest(name, known); {
	case best != "":
		f.remedy = fmt.Sprintf("did you mean %q?", best)
	case len(known) == 0:
		f.remedy = "remove it"
	default:
		f.remedy = "known here: " + strings.Join(known, ", ")
	}
	return f
}

// closest is the known word that name was probably meant to be, or "".
func closest(name string, known []string) string {
	best, least := "", max(1, min(2, len(name)/2))+1
	for _, k := range slices.Sorted(slices.Values(known)) {
		if d := distance(strings.ToLower(name), strings.ToLower(k), least); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance counts the letters to add, remove, change or swap with their
// neighbour to get from a to b; limit or more is limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit || len(a) > 64 {
		return limit
	}
	before := make([]int, len(b)+1) // two rows above
	above := make([]int, len(b)+1)
	row := make([]int, len(b)+1)
	for j := range row {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := above[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(change, above[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above, row = above, row, before
	}
	return min(limit, above[len(b)])
}

// Schema is the JSON Schema of the whole configuration, with the options of the
// plugins of the catalog, for editors.
func Schema(c Catalog) ([]byte, error) {
	doc, err := combined(c)
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the schema: %w", err)
	}
	return append(b, '\n'), nil
}

// combined is the core schema with those of the plugins put in.
func combined(c Catalog) (map[string]any, error) {
	var doc map[string]any
	if err := json.Unmarshal(coreSchema, &doc); err != nil {
		return nil, fmt.Errorf("parsing the schema of the configuration: %w", err)
	}
	at := cursor{root: doc, node: doc}
	named := map[string]any{}
	at.child("plugins").node["properties"] = named
	common := maps.Clone(at.walk([]string{"plugins", ""}).node["properties"].(map[string]any))
	for _, key := range []string{"path", "sha256", "insecure_unpinned"} { // not of built-in ones
		delete(common, key)
	}
	target := at.walk([]string{"routes", "", "to", ""}).node
	target["additionalProperties"] = false
	targetProps := target["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(c)) {
		var options map[string]any
		if text := c[name].GetOptionsSchema(); len(text) > 0 {
			if err := json.Unmarshal(text, &options); err != nil {
				return nil, fmt.Errorf("parsing the options schema of %s: %w", name, err)
			}
			options["$id"] = "plugin:" + name + ":options"
			delete(options, "$schema")
			props := maps.Clone(common)
			props["options"] = options
			named[name] = map[string]any{"type": "object", "additionalProperties": false, "properties": props}
		}
		text := c[name].GetEgress().GetTargetSchema()
		if len(text) == 0 {
			continue
		}
		s, err := compileSchema(name, text)
		if err != nil {
			return nil, err
		}
		for _, key := range s.at.properties() {
			p := maps.Clone(s.at.child(key).node)
			p["$id"] = "plugin:" + name + ":target:" + key
			if defs, ok := s.at.root["$defs"]; ok {
				p["$defs"] = defs
			}
			if _, taken := targetProps[key]; !taken {
				targetProps[key] = p
			}
		}
	}
	return doc, nil
}
