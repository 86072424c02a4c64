package secret

import (
	"encoding/json"
	"strings"
)

// InOptions returns the texts in options, a JSON object, that its JSON Schema calls
// secret: those with format password, or writeOnly, and all below a value of that
// kind. What is no JSON has none.
func InOptions(schema, options []byte) []string {
	if len(options) == 0 {
		return nil
	}
	var root map[string]any
	var v any
	if json.Unmarshal(schema, &root) != nil || json.Unmarshal(options, &v) != nil {
		return nil
	}
	s := search{root: root}
	s.look(root, v, false)
	return s.found
}

type search struct {
	root  map[string]any // of the schema
	found []string
}

// look goes through v, which node describes; hidden says that v is within a secret.
func (s *search) look(node map[string]any, v any, hidden bool) {
	node = s.resolve(node)
	w, _ := node["writeOnly"].(bool)
	hidden = hidden || w || node["format"] == "password"
	// Of alternatives it need not be known which one v is.
	for _, k := range []string{"allOf", "anyOf", "oneOf"} {
		list, _ := node[k].([]any)
		for _, o := range list {
			if m, ok := o.(map[string]any); ok {
				s.look(m, v, hidden)
			}
		}
	}
	switch v := v.(type) {
	case string:
		if hidden && v != "" {
			s.found = append(s.found, v)
		}
	case map[string]any:
		props, _ := node["properties"].(map[string]any)
		for k, e := range v {
			m, ok := props[k].(map[string]any)
			if !ok {
				m, _ = node["additionalProperties"].(map[string]any)
			}
			s.look(m, e, hidden)
		}
	case []any:
		m, _ := node["items"].(map[string]any)
		for _, e := range v {
			s.look(m, e, hidden)
		}
	}
}

// resolve follows references within the schema.
func (s *search) resolve(node map[string]any) map[string]any {
	for range 32 {
		ref, ok := node["$ref"].(string)
		if !ok || !strings.HasPrefix(ref, "#/") {
			return node
		}
		n := s.root
		for step := range strings.SplitSeq(ref[2:], "/") {
			n, _ = n[strings.NewReplacer("~1", "/", "~0", "~").Replace(step)].(map[string]any)
		}
		node = n
	}
	return nil
}
