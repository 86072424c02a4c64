package config

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// Options are what a configuration is read with.
type Options struct {
	// Catalog has the built-in plugins.
	Catalog Catalog
	// Describe asks a third-party plugin, whose pin was checked, what it is.
	Describe func(context.Context, Plugin) (*wire.DescribeResponse, error)
	// Validate asks a plugin what is wrong with its options and targets, those that
	// fit its schemas; nil asks nobody.
	Validate func(context.Context, Plugin, *wire.ValidateRequest) (*wire.ValidateResponse, error)
	// Lost are the kinds of media of which a target can never get anything, whichever
	// of codecs a stream has; nil asks nobody.
	Lost func(c Catalog, codecs []media.Codec, t *Target) []media.Kind
	// Made reports whether a target may get sound that the gateway makes, of a stream
	// with some of codecs; nil asks nobody.
	Made func(c Catalog, codecs []media.Codec, t *Target) bool
	// Environ is the environment, for references and for GATEWAY_* overrides. Nil
	// is that of the process.
	Environ []string
	// Overrides stand above file and environment.
	Overrides []Override
	// ReadFile reads the files that the configuration names; nil reads regular
	// files of at most 1 MiB.
	ReadFile func(name string) ([]byte, error)

	hash  func(file string) (string, error) // for tests
	isDir func(name string) (bool, error)   // likewise
}

// An Override sets a key from the command line.
type Override struct {
	Flag  string // as the user wrote it: --listen
	Key   string // listen, admin
	Value string
}

// Load reads a file. The configuration is nil if the diagnostics have an error.
func Load(ctx context.Context, file string, o Options) (*Config, Diagnostics) {
	s := o.sources(file)
	text, f := s.file(filepath.Base(file))
	if f != nil {
		return nil, Diagnostics{{File: file, Finding: f.finding, Remedy: "name a configuration that can be read"}}
	}
	return Parse(ctx, file, text, o)
}

// Parse reads text; file is the name to show, and relative names in it start at
// its folder.
func Parse(ctx context.Context, file string, text []byte, o Options) (*Config, Diagnostics) {
	c := newChecker(file, o)
	doc := parseYAML(file, text, c.report)
	if doc == nil {
		return nil, c.diagnostics.sorted()
	}
	return c.finish(ctx, doc)
}

// A Run is a configuration without a file: one stream to some targets.
type Run struct {
	Stream string
	// Token is what publishers need; From is set instead if the gateway fetches
	// the stream itself.
	Token   secret.String
	From    string
	Targets []RunTarget
}

// A RunTarget is one target of a [Run].
type RunTarget struct {
	Name string // empty: made from the URL
	// URL, or PRESET:KEY. It may contain references unless it is Literal.
	URL     string
	Literal bool
}

// runSource is shown as the file of a [Run].
const runSource = "--to"

// ForRun makes the configuration of a run, with the same checks as for a file.
func ForRun(ctx context.Context, r Run, o Options) (*Config, Diagnostics) {
	c := newChecker("", o)
	doc := newDocument()
	at := place{file: runSource}
	set := func(m map[string]any, p path, key string, value any) {
		m[key] = value
		a := at
		if text, ok := value.(string); ok {
			a.text, a.hasText = text, true
		}
		doc.places[p.child(key).key()] = a
		doc.order[p.key()] = append(doc.order[p.key()], key)
	}
	doc.places[""] = at
	routes, route, to := map[string]any{}, map[string]any{}, map[string]any{}
	set(doc.root, nil, "routes", routes)
	p := path{"routes"}
	set(routes, p, r.Stream, route)
	p = p.child(r.Stream)
	if from, publish := map[string]any{}, map[string]any{}; r.From != "" {
		set(route, p, "from", from)
		set(from, p.child("from"), "url", r.From)
	} else {
		set(route, p, "publish", publish)
		set(publish, p.child("publish"), "token", escape(r.Token.Reveal()))
	}
	set(route, p, "to", to)
	p = p.child("to")
	names := map[string]bool{}
	for i, t := range r.Targets {
		text := t.URL
		if t.Literal {
			text = escape(text)
		}
		preset, key := o.shorthand(text)
		name := t.Name
		if name == "" {
			name = preset
		}
		if name == "" {
			name = targetName(text, i+1)
		}
		for n := 2; names[name]; n++ {
			if base := fmt.Sprintf("%s-%d", strings.TrimSuffix(name, fmt.Sprintf("-%d", n-1)), n); !names[base] {
				name = base
			}
		}
		names[name] = true
		target := map[string]any{}
		set(to, p, name, target)
		if preset != "" {
			set(target, p.child(name), "preset", preset)
			set(target, p.child(name), "key", key)
			continue
		}
		set(target, p.child(name), "url", text)
	}
	return c.finish(ctx, doc)
}

// shorthand takes PRESET:KEY apart; empty if text is none.
func (o Options) shorthand(text string) (preset, key string) {
	preset, key, ok := strings.Cut(text, ":")
	if !ok || strings.HasPrefix(key, "//") {
		return "", ""
	}
	for _, info := range o.Catalog {
		if slices.Contains(info.GetEgress().GetSchemes(), preset) {
			return "", "" // a URL
		}
	}
	for _, info := range o.Catalog {
		if byName(info.GetEgress().GetPresets(), preset) != nil {
			return preset, key
		}
	}
	return "", ""
}

// escape makes a text in which nothing is a reference.
func escape(text string) string { return strings.ReplaceAll(text, "${", "$${") }

// targetName makes a name of the host in a URL as written: youtube of
// rtmps://a.rtmps.youtube.com/live2.
func targetName(url string, n int) string {
	_, rest, ok := strings.Cut(url, "://")
	host, _, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	host, _, _ = strings.Cut(host, ":")
	labels := strings.Split(host, ".")
	if ok && len(labels) >= 2 {
		if name := labels[len(labels)-2]; checkSegment(name) == nil && strings.IndexFunc(name, func(r rune) bool { return r >= 'a' && r <= 'z' }) >= 0 {
			return name
		}
	}
	return fmt.Sprintf("target%d", n)
}

func (o Options) environ() []string {
	if o.Environ != nil {
		return o.Environ
	}
	return os.Environ()
}

func (o Options) sources(file string) *sources {
	s := &sources{read: o.ReadFile, used: map[string]bool{}}
	if file != "" {
		s.dir = filepath.Dir(file)
	}
	if s.read == nil {
		s.read = readFile
	}
	env := map[string]string{}
	for _, e := range o.environ() {
		if k, v, ok := strings.Cut(e, "="); ok {
			env[k] = v
		}
	}
	s.lookup = func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	return s
}

// finish layers, resolves and checks a document.
func (c *checker) finish(ctx context.Context, doc *document) (*Config, Diagnostics) {
	c.layer(doc)
	doc.resolve(c.sources, c.report)
	c.unknownVariables()
	cfg := c.config(ctx, doc)
	ds := c.diagnostics.sorted()
	if ds.Failed() {
		return nil, ds
	}
	return cfg, ds
}

// defaults stand below everything else.
func defaults() map[string]any {
	return map[string]any{"listen": DefaultListen, "admin": DefaultAdmin}
}

// layer puts defaults below and environment and flags above the document.
func (c *checker) layer(doc *document) {
	schema, err := combined(c.options.Catalog)
	if err != nil {
		c.report(Diagnostic{File: c.file, Finding: err.Error(), Remedy: "this is a fault of the plugin; report it to its author"})
		return
	}
	env := map[string]any{}
	for _, e := range slices.Sorted(slices.Values(c.options.environ())) {
		name, value, _ := strings.Cut(e, "=")
		if p := c.variable(name, doc, cursor{root: schema, node: schema}); p != nil {
			env[p.key()] = value
			doc.overlay(p, place{file: name, text: value, hasText: true})
		}
	}
	flags := map[string]any{}
	for _, o := range c.options.Overrides {
		p := path{o.Key}
		flags[p.key()] = o.Value
		doc.overlay(p, place{file: o.Flag, text: o.Value, hasText: true})
	}
	k := koanf.New(pathDelim)
	for _, l := range []*confmap.Confmap{
		confmap.Provider(defaults(), ""), confmap.Provider(doc.root, ""),
		confmap.Provider(env, pathDelim), confmap.Provider(flags, pathDelim),
	} {
		if err := k.Load(l, nil); err != nil {
			c.report(Diagnostic{File: c.file, Finding: "merging file, environment and flags: " + err.Error(), Remedy: "report this"})
		}
	}
	doc.root = k.Raw()
}

// overlay says that the value at p stands somewhere else.
func (d *document) overlay(p path, at place) {
	d.places[p.key()] = at
	for i := range p {
		parent, key := p[:i].key(), p[i]
		if !slices.Contains(d.order[parent], key) {
			d.order[parent] = append(d.order[parent], key)
		}
	}
}

const envPrefix = "GATEWAY_"

var (
	// Variables that Kubernetes sets for services named gateway-something.
	serviceVariable = regexp.MustCompile(`_SERVICE_(HOST|PORT)|_PORT(_|$)`)
	notInVariables  = regexp.MustCompile(`[^a-z0-9]`)
)

// reservedVariables belong to the command line and to plugin processes.
var reservedVariables = []string{"GATEWAY_LOG_LEVEL", "GATEWAY_LOG_FORMAT", "GATEWAY_PLUGIN", "GATEWAY_PLUGIN_REATTACH"}

func variableForm(key string) string {
	return notInVariables.ReplaceAllString(strings.ToLower(key), "_")
}

// variable is the key that an environment variable overrides: keys are joined by
// two underscores, and what cannot stand in a variable is one underscore.
// GATEWAY_ROUTES__STUDIO__TO__BACKUP__MAX_LAG. It never makes a new route,
// target or plugin.
func (c *checker) variable(name string, doc *document, at cursor) path {
	rest, ok := strings.CutPrefix(name, envPrefix)
	if !ok || slices.Contains(reservedVariables, name) {
		return nil
	}
	var p path
	var here any = doc.root
	for seg := range strings.SplitSeq(rest, "__") {
		at = at.resolved()
		known := at.properties()
		m, _ := here.(map[string]any)
		for k := range m {
			if !slices.Contains(known, k) {
				known = append(known, k)
			}
		}
		var found []string
		for _, k := range known {
			if variableForm(k) == variableForm(seg) {
				found = append(found, k)
			}
		}
		switch len(found) {
		case 1:
		case 0:
			if len(p) == 0 {
				c.strays = append(c.strays, stray{name, at.properties()})
				return nil
			}
			f := unknownKey(strings.ToLower(seg), slices.Sorted(slices.Values(known)))
			c.report(Diagnostic{File: name, Path: p.String(), Finding: f.finding, Remedy: f.remedy})
			return nil
		default:
			c.report(Diagnostic{File: name, Path: p.String(), Finding: fmt.Sprintf("several keys are meant by %s: %s", seg, strings.Join(slices.Sorted(slices.Values(found)), ", ")),
				Remedy: "set this key in the file"})
			return nil
		}
		p = p.child(found[0])
		at = at.child(found[0])
		here = m[found[0]]
	}
	if at.is("object") {
		c.report(Diagnostic{File: name, Path: p.String(), Finding: "the variable names a mapping of keys",
			Remedy: "name one key below it, after two underscores"})
		return nil
	}
	return p
}

// A stray is a GATEWAY_* variable that names no key.
type stray struct {
	name  string
	known []string
}

// unknownVariables warns of strays that nothing refers to.
func (c *checker) unknownVariables() {
	for _, s := range c.strays {
		if c.sources.used[s.name] || serviceVariable.MatchString(s.name) {
			continue
		}
		f := fault{"no key of the configuration has this name", "remove the variable, or refer to it as ${env:" + s.name + "}"}
		if best := closest(strings.ToLower(strings.TrimPrefix(s.name, envPrefix)), s.known); best != "" {
			f.remedy = "did you mean " + envPrefix + strings.ToUpper(best) + "?"
		}
		c.report(Diagnostic{File: s.name, Finding: f.finding, Remedy: f.remedy, Warning: true})
	}
}

// keys are those of the mapping at p, in the order of the source.
func (d *document) keys(p path, m map[string]any) []string {
	out := make([]string, 0, len(m))
	seen := make(map[string]bool, len(m))
	for _, k := range d.order[p.key()] {
		if _, ok := m[k]; ok && !seen[k] {
			seen[k] = true
			out = append(out, k)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !seen[k] {
			out = append(out, k)
		}
	}
	return out
}
