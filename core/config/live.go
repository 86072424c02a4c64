package config

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/headgate/gateway/sdk/secret"
)

// Target makes a target of a running gateway from its definition: the same
// mapping that stands below to: in a file, as JSON. route is the name of its
// route. before is what the target was so far, or nil.
//
// References are refused, and so are files that before does not name: whoever
// speaks with the gateway must not make it read what only the gateway may read.
// The target is Restricted unless before leads to the same place and is not.
// The paths of diagnostics start below the target.
func (c *Config) Target(route, name string, definition []byte, before *Target) (*Target, Diagnostics) {
	k := newChecker("", Options{Catalog: c.Catalog, Validate: c.validate, Lost: c.lost, Made: c.made, Environ: []string{}, ReadFile: before.readFile})
	for _, p := range c.Plugins {
		k.configured[p.Name] = p.Path != ""
	}
	p := path{"routes", route, "to", name}
	finish := func(t *Target) (*Target, Diagnostics) {
		ds := k.diagnostics.sorted()
		for i := range ds {
			ds[i].File = ""
			ds[i].Path = strings.TrimPrefix(strings.TrimPrefix(ds[i].Path, p.String()), ".")
		}
		if ds.Failed() {
			return nil, ds
		}
		return t, ds
	}
	var value map[string]any
	dec := json.NewDecoder(bytes.NewReader(definition))
	dec.UseNumber()
	err := dec.Decode(&value)
	if err == nil && dec.More() {
		err = errors.New("more than one value")
	}
	if err != nil || value == nil {
		k.report(Diagnostic{Finding: "not an object of JSON", Remedy: `send one such as {"url": "rtmp://HOST/APP", "key": "KEY"}`})
		return finish(nil)
	}
	doc := newDocument()
	doc.root = map[string]any{"routes": map[string]any{route: map[string]any{"to": map[string]any{name: plainNumbers(value)}}}}
	if k.doc = doc; k.references(p, value) {
		return finish(nil)
	}
	if k.schema, err = compileSchema("gateway", coreSchema); err != nil {
		k.report(Diagnostic{Finding: err.Error(), Remedy: "report this"})
		return finish(nil)
	}
	k.misfits(nil, k.schema.check(doc.root))
	t := k.target(route, name)
	if t != nil {
		if i := slices.IndexFunc(c.Routes, func(r Route) bool { return r.Name == route }); i >= 0 {
			k.deliverable(p, t, c.Routes[i].From)
		}
		t.Definition = secret.New(string(definition))
		t.Restricted = before == nil || before.Restricted || !t.sameDestination(before)
		if len(k.questions) > 0 {
			k.ask(context.Background(), slices.DeleteFunc(slices.Clone(c.Plugins), func(p Plugin) bool { return p.Name != t.Plugin }))
		}
	}
	return finish(t)
}

// references reports whether there is a text that is one in a file, and says so.
func (c *checker) references(p path, v any) (found bool) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			found = c.references(p.child(k), v[k]) || found
		}
	case []any:
		for i, e := range v {
			found = c.references(p.child(fmt.Sprint(i)), e) || found
		}
	case string:
		if rest := strings.ReplaceAll(v, streamRef, ""); strings.Contains(rest, "${") {
			c.report(Diagnostic{Path: p.String(), Finding: "references are for files: the environment is the gateway's own", Remedy: "send the value itself"})
			return true
		}
	}
	return found
}

// plainNumbers turns numbers into those that YAML gives.
func plainNumbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = plainNumbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = plainNumbers(e)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
	}
	return v
}

// sameDestination reports whether t leads where o does, by the same options.
func (t *Target) sameDestination(o *Target) bool {
	return t.Plugin == o.Plugin && t.URL.Equal(o.URL) && t.Backup.Equal(o.Backup) && bytes.Equal(t.Options, o.Options)
}

// readFile reads the files that the target's options name, and no others.
func (t *Target) readFile(name string) ([]byte, error) {
	if t != nil {
		var options any
		if err := json.Unmarshal(t.Options, &options); err == nil {
			for at, content := range t.Files {
				if named, ok := lookup(options, strings.Split(at, ".")).(string); ok && filepath.Clean(named) == name {
					return content, nil
				}
			}
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("files are named in the configuration only")}
}

func lookup(v any, at []string) any {
	for _, k := range at {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

// Patch changes a definition by a merge patch (RFC 7396): what is null in it goes,
// what is a value comes.
func Patch(definition secret.String, patch []byte) ([]byte, error) {
	var now, change any
	if err := json.Unmarshal([]byte(definition.Reveal()), &now); err != nil {
		return nil, fmt.Errorf("reading the definition: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(patch))
	if err := dec.Decode(&change); err != nil || dec.More() {
		return nil, errors.New("the patch is not JSON")
	}
	if _, ok := change.(map[string]any); !ok {
		return nil, errors.New("the patch is not an object of JSON")
	}
	return json.Marshal(merge(now, change))
}

func merge(now, change any) any {
	c, ok := change.(map[string]any)
	if !ok {
		return change
	}
	n, ok := now.(map[string]any)
	if !ok {
		n = map[string]any{}
	}
	for k, v := range c {
		if v == nil {
			delete(n, k)
		} else {
			n[k] = merge(n[k], v)
		}
	}
	return n
}
