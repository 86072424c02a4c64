package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds on what is read, so that a small hostile file cannot grow.
const (
	maxNodes = 200_000
	maxDepth = 64
	// maxWide is how many lines of one indentation may follow one another: the time
	// that the parser needs for a mapping grows with the square of its keys.
	maxWide = 5000
)

// A path is the keys from the root of the configuration to a value. Keys may
// contain dots and slashes.
type path []string

func (p path) String() string { return strings.Join(p, ".") }

func (p path) child(key string) path { return append(p[:len(p):len(p)], key) }

// pathDelim joins the keys of a path where one text is needed. Stream names
// contain dots and slashes; no key contains this one ([build] refuses it).
const pathDelim = "\x1f"

func (p path) key() string { return strings.Join(p, pathDelim) }

// A place is where in its source a value stands.
type place struct {
	file               string
	keyLine, keyCol    int    // of the key; 0 for the root
	line, col          int    // of the value
	text               string // a scalar as written, references unresolved
	hasText, reference bool
}

// A document is a configuration source as a tree of map[string]any, []any and
// scalars, together with where everything stands.
type document struct {
	root   map[string]any
	places map[string]place    // by path.key()
	order  map[string][]string // keys of a mapping in the order of the source
}

func newDocument() *document {
	return &document{root: map[string]any{}, places: map[string]place{}, order: map[string][]string{}}
}

// parseYAML reads text. What it finds wrong is reported; the document holds the
// rest. It is nil if the text is no YAML at all.
func parseYAML(file string, text []byte, report func(Diagnostic)) (doc *document) {
	defer func() {
		// The parser is fed by whatever a person writes: a fault of it is a
		// finding, not the end of the gateway.
		if r := recover(); r != nil {
			report(Diagnostic{File: file, Line: 1, Col: 1, Finding: "the file cannot be parsed as YAML", Remedy: "reduce it until it can, and please report the text that could not"})
			doc = nil
		}
	}()
	if line := tooWide(text); line > 0 {
		report(Diagnostic{File: file, Line: line, Col: 1, Finding: fmt.Sprintf("a mapping has more than %d keys", maxWide), Remedy: "use patterns such as live/*, or split it over several gateways"})
		return nil
	}
	f, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d := Diagnostic{File: file, Line: 1, Col: 1, Finding: "not valid YAML", Remedy: "check quotes, colons and indentation here"}
		var ye yaml.Error
		if line := tabIndented(text); line > 0 {
			d.Line, d.Finding, d.Remedy = line, "a tab indents this line", "indent with spaces only, as YAML demands"
		} else if errors.As(err, &ye) {
			if t := ye.GetToken(); t != nil && t.Position != nil {
				d.Line, d.Col = t.Position.Line, t.Position.Column
			}
			// The message of the parser names what it expected; it may repeat a
			// piece of the text, which may be a secret.
			if m := ye.GetMessage(); !strings.ContainsAny(m, "'\"`") {
				d.Finding = "not valid YAML: " + m
			}
		}
		report(d)
		return nil
	}
	b := builder{file: file, report: report, doc: newDocument(), anchors: map[string]ast.Node{}}
	var body ast.Node
	for _, d := range f.Docs {
		if d.Body == nil || d.Body.Type() == ast.CommentType || d.Body.Type() == ast.DirectiveType {
			continue
		}
		if body != nil {
			line, col := position(d.Body)
			report(Diagnostic{File: file, Line: line, Col: col, Finding: "a second document begins here", Remedy: "keep one document per file: remove the --- line and what follows"})
			break
		}
		body = d.Body
	}
	if body == nil || body.Type() == ast.NullType {
		report(Diagnostic{File: file, Line: 1, Col: 1, Finding: "the file is empty", Remedy: "declare at least one route, as examples/minimal.yaml does"})
		return nil
	}
	v := b.build(body, nil, place{file: file, line: 1, col: 1}, 0)
	root, ok := v.(map[string]any)
	if !ok {
		line, col := position(body)
		report(Diagnostic{File: file, Line: line, Col: col, Finding: "the file is not a mapping of keys", Remedy: "begin with a key such as routes:"})
		return nil
	}
	b.doc.root = root
	return b.doc
}

// tabIndented is the number of the first line with a tab in its indentation, or 0.
// Empty lines and comments do not count: there a tab does no harm.
func tabIndented(text []byte) int {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		rest := bytes.TrimLeft(line, " \t")
		if bytes.IndexByte(line[:len(line)-len(rest)], '\t') >= 0 && len(bytes.TrimSpace(rest)) > 0 && rest[0] != '#' {
			return n
		}
	}
	return 0
}

// tooWide is the number of the line that is one too many of its indentation, or 0.
func tooWide(text []byte) int {
	type level struct{ indent, lines int }
	var open []level
	n := 0
	for line := range bytes.Lines(text) {
		n++
		rest := bytes.TrimLeft(line, " ")
		if len(bytes.TrimSpace(rest)) == 0 || rest[0] == '#' {
			continue
		}
		indent := len(line) - len(rest)
		for len(open) > 0 && open[len(open)-1].indent > indent {
			open = open[:len(open)-1]
		}
		if len(open) == 0 || open[len(open)-1].indent < indent {
			open = append(open, level{indent: indent})
		}
		top := &open[len(open)-1]
		if top.lines++; top.lines > maxWide {
			return n
		}
	}
	return 0
}

type builder struct {
	file    string
	report  func(Diagnostic)
	doc     *document
	anchors map[string]ast.Node
	nodes   int
	full    bool
}

func (b *builder) fault(n ast.Node, p path, finding, remedy string) {
	line, col := position(n)
	b.report(Diagnostic{File: b.file, Line: line, Col: col, Path: p.String(), Finding: finding, Remedy: remedy})
}

// build turns n into plain values and notes the places below p.
func (b *builder) build(n ast.Node, p path, at place, depth int) any {
	if b.nodes++; b.nodes > maxNodes || depth > maxDepth {
		if !b.full {
			b.full = true
			b.fault(n, p, "the configuration is too large or nested too deeply", "split it over several gateways, or use fewer aliases")
		}
		return nil
	}
	at.line, at.col = position(n)
	note := func(text string, value any) any {
		at.text, at.hasText = text, true
		b.doc.places[p.key()] = at
		if strings.ContainsRune(text, 0) {
			b.fault(n, p, "the text contains a NUL character", "remove it")
			return unresolved
		}
		return value
	}
	b.doc.places[p.key()] = at
	switch n := n.(type) {
	case *ast.MappingNode:
		return b.mapping(n.Values, p, depth)
	case *ast.MappingValueNode:
		return b.mapping([]*ast.MappingValueNode{n}, p, depth)
	case *ast.SequenceNode:
		out := make([]any, 0, len(n.Values))
		for i, v := range n.Values {
			out = append(out, b.build(v, p.child(fmt.Sprint(i)), place{file: b.file}, depth+1))
		}
		return out
	case *ast.AnchorNode:
		v := b.build(n.Value, p, at, depth+1)
		b.anchors[n.Name.GetToken().Value] = n.Value // only now: a node cannot contain itself
		return v
	case *ast.AliasNode:
		name := n.Value.GetToken().Value
		target, ok := b.anchors[name]
		if !ok {
			b.fault(n, p, fmt.Sprintf("no anchor &%s stands before this alias", name), "define it above, or write the value out")
			return unresolved
		}
		return b.build(target, p, at, depth+1)
	case *ast.TagNode:
		if n.Start.Value == "!!str" {
			if t := n.Value.GetToken(); t != nil {
				return note(t.Value, t.Value)
			}
		}
		b.fault(n, p, "tags have no meaning here", "leave the "+tagName(n.Start)+" out")
		return unresolved
	case *ast.NullNode:
		return nil
	case *ast.BoolNode:
		return note(n.Token.Value, n.Value)
	case *ast.IntegerNode:
		return note(n.Token.Value, n.Value)
	case *ast.FloatNode:
		return note(n.Token.Value, n.Value)
	case *ast.StringNode:
		return note(n.Value, n.Value)
	case *ast.LiteralNode:
		return note(n.Value.Value, n.Value.Value)
	default: // .inf, .nan
		if t := n.GetToken(); t != nil {
			return note(t.Value, t.Value)
		}
		return nil
	}
}

func (b *builder) mapping(values []*ast.MappingValueNode, p path, depth int) any {
	out := make(map[string]any, len(values))
	var merges []ast.Node
	var order []string
	for _, v := range values {
		if v.Key.IsMergeKey() {
			merges = append(merges, v.Value)
			continue
		}
		var key ast.Node = v.Key
		if k, ok := key.(*ast.MappingKeyNode); ok {
			key = k.Value
		}
		for {
			if a, ok := key.(*ast.AnchorNode); ok {
				key = a.Value
				continue
			}
			break
		}
		name, ok := keyText(key)
		if !ok || strings.Contains(name, pathDelim) {
			b.fault(v.Key, p, "a key must be plain text", "write a name before the colon")
			continue
		}
		line, col := position(key)
		kp := p.child(name)
		if _, dup := out[name]; dup {
			first := b.doc.places[kp.key()]
			b.report(Diagnostic{File: b.file, Line: line, Col: col, Path: kp.String(),
				Finding: fmt.Sprintf("the key is there already, at line %d", first.keyLine), Remedy: "rename or remove one of the two"})
			continue
		}
		order = append(order, name)
		out[name] = nil
		out[name] = b.build(v.Value, kp, place{file: b.file, keyLine: line, keyCol: col}, depth+1)
		// build has set the place of the value; an alias leaves the place of its
		// anchor there, where the value can be mended.
	}
	for _, m := range merges {
		order = b.merge(out, m, p, order, depth)
	}
	b.doc.order[p.key()] = order
	return out
}

// merge adds the keys of a merge key's value (a mapping, an alias of one, or a
// list of these) that out does not have.
func (b *builder) merge(out map[string]any, n ast.Node, p path, order []string, depth int) []string {
	if seq, ok := n.(*ast.SequenceNode); ok {
		for _, v := range seq.Values {
			order = b.merge(out, v, p, order, depth+1)
		}
		return order
	}
	// Build in a document of its own, then move over what is new.
	own := b.doc
	b.doc = newDocument()
	v := b.build(n, p, place{file: b.file}, depth+1)
	from := b.doc
	b.doc = own
	m, ok := v.(map[string]any)
	if !ok {
		if v != nil {
			b.fault(n, p, "<< needs a mapping", "merge an alias of a mapping, such as <<: *defaults")
		}
		return order
	}
	for _, name := range from.order[p.key()] {
		if _, have := out[name]; have {
			continue
		}
		out[name] = m[name]
		order = append(order, name)
		k := p.child(name).key()
		for q, at := range from.places {
			if q == k || strings.HasPrefix(q, k+pathDelim) {
				own.places[q] = at
			}
		}
		for q, o := range from.order {
			if q == k || strings.HasPrefix(q, k+pathDelim) {
				own.order[q] = o
			}
		}
	}
	return order
}

// keyText is the text of a key, as written.
func keyText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	default:
		return "", false
	}
}

// position is where n begins. The token of a mapping is the colon of its first
// pair, so a mapping begins at its first key.
func position(n ast.Node) (line, col int) {
	for {
		switch m := n.(type) {
		case *ast.MappingNode:
			if m.IsFlowStyle || len(m.Values) == 0 {
				return tokenPosition(m.Start)
			}
			n = m.Values[0].Key
			continue
		case *ast.MappingValueNode:
			n = m.Key
			continue
		case *ast.MappingKeyNode:
			return tokenPosition(m.Start)
		case *ast.LiteralNode:
			return tokenPosition(m.Start)
		}
		return tokenPosition(n.GetToken())
	}
}

func tokenPosition(t *token.Token) (line, col int) {
	if t == nil || t.Position == nil {
		return 1, 1
	}
	return t.Position.Line, t.Position.Column
}

func tagName(t *token.Token) string {
	if t == nil || len(t.Value) > 32 {
		return "tag"
	}
	return t.Value
}
