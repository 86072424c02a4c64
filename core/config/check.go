package config

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate/gateway/sdk/secret"
)

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?$`)

// A checker turns a document into a Config and collects what is wrong.
type checker struct {
	file        string
	options     Options
	sources     *sources
	diagnostics Diagnostics
	strays      []stray

	doc        *document
	schema     *schema
	catalog    Catalog
	configured map[string]bool           // third-party plugins
	targets    map[string]*schema        // compiled target schemas by plugin
	sent       map[[2]secret.String]path // where a URL and key were first seen
	questions  []question                // to plugins, of targets
	fetches    []fetch                   // likewise of sources
	unfit      map[string]bool           // plugins whose options do not fit their schema
}

func newChecker(file string, o Options) *checker {
	if o.hash == nil {
		o.hash = hashFile
	}
	if o.isDir == nil {
		o.isDir = isDir
	}
	name := file
	if name == "" {
		name = runSource
	}
	return &checker{file: name, options: o, sources: o.sources(file), catalog: maps.Clone(o.Catalog),
		configured: map[string]bool{}, targets: map[string]*schema{}, sent: map[[2]secret.String]path{}, unfit: map[string]bool{}}
}

func (c *checker) report(d Diagnostic) { c.diagnostics = append(c.diagnostics, d) }

// errors is how many there are so far.
func (c *checker) errors() (n int) {
	for _, d := range c.diagnostics {
		if !d.Warning {
			n++
		}
	}
	return n
}

// value reports a fault of the value at p, or of the nearest mapping that has a
// place if p has none.
func (c *checker) value(p path, f fault) { c.at(p, false, f, false) }

// key reports a fault of the key p itself.
func (c *checker) key(p path, f fault) { c.at(p, true, f, false) }

// warn reports something about the key p that is no error.
func (c *checker) warn(p path, f fault) { c.at(p, true, f, true) }

func (c *checker) at(p path, key bool, f fault, warning bool) {
	for q := p; ; q = q[:len(q)-1] {
		at, ok := c.doc.places[q.key()]
		if !ok && len(q) > 0 {
			continue
		}
		d := at.diagnostic(p, f)
		if d.File == "" {
			d.File = c.file
		}
		// A fault of a missing key, or of a whole mapping, is shown at the key
		// above it.
		if (key || !at.hasText) && at.keyLine > 0 {
			d.Line, d.Col = at.keyLine, at.keyCol
		}
		d.Warning = warning
		c.report(d)
		return
	}
}

// get is the value at p, or nil.
func (c *checker) get(p path) any {
	var v any = c.doc.root
	for _, k := range p {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

func (c *checker) mapping(p path) map[string]any {
	m, _ := c.get(p).(map[string]any)
	return m
}

// text is the text at p; ok is false if there is none that can be judged.
func (c *checker) text(p path) (s string, ok bool) {
	s, ok = c.get(p).(string)
	return s, ok && s != unresolved
}

func (c *checker) flag(p path, otherwise bool) bool {
	if b, ok := c.get(p).(bool); ok {
		return b
	}
	return otherwise
}

// present reports whether the source has the key at all, resolved or not.
func (c *checker) present(p path) bool { return c.get(p) != nil }

// show is the value at p as it may be shown: as written, and nothing of secrets.
func (c *checker) show(p path) string {
	at := c.doc.places[p.key()]
	if !at.hasText || c.secret(p) || len(at.text) > 200 {
		return "the value"
	}
	return strconv.Quote(at.text)
}

// secret reports whether the value at p must not be shown. Options of plugins
// are only shown as far as their schema is known.
func (c *checker) secret(p path) bool {
	if len(p) > 3 && p[0] == "plugins" && p[2] == "options" {
		s, err := compileSchema(p[1], c.catalog[p[1]].GetOptionsSchema())
		return err != nil || s.at.walk(p[3:]).secret()
	}
	if at := c.schema.at.walk(p); at.node != nil {
		return at.secret()
	}
	return true
}

func (c *checker) config(ctx context.Context, doc *document) *Config {
	c.doc = doc
	s, err := compileSchema("gateway", coreSchema)
	if err != nil {
		c.report(Diagnostic{File: c.file, Finding: err.Error(), Remedy: "report this"})
		return nil
	}
	c.schema = s
	s.at.fit(doc.root, nil, doc.places)
	c.misfits(nil, s.check(doc.root))

	cfg := &Config{Listen: c.address("listen"), Admin: c.address("admin"), TLS: c.tls()}
	token, _ := c.text(path{"admin_token"})
	cfg.AdminToken = secret.New(token)
	if c.present(path{"admin_token"}) {
		c.token(path{"admin_token"})
	}
	if cfg.Admin != "" && !Loopback(cfg.Admin) && !c.present(path{"admin_token"}) {
		c.value(path{"admin"}, fault{c.show(path{"admin"}) + " can be reached from other machines without a token",
			`add admin_token: "${env:NAME}", or listen on 127.0.0.1`})
	}
	if cfg.Admin != "" && cfg.Admin == cfg.Listen && !strings.HasSuffix(cfg.Admin, ":0") {
		c.value(path{"admin"}, fault{"listen and admin are the same address", "give admin a port of its own"})
	}
	for _, name := range doc.keys(path{"plugins"}, c.mapping(path{"plugins"})) {
		if p := c.plugin(ctx, name); p != nil {
			cfg.Plugins = append(cfg.Plugins, *p)
		}
	}
	routes := c.mapping(path{"routes"})
	if len(routes) == 0 {
		c.value(path{"routes"}, fault{"there is no route", `add one, for example routes: {studio: {to: {backup: {url: "rtmp://HOST/APP/KEY"}}}}`})
	}
	for _, name := range doc.keys(path{"routes"}, routes) {
		if r := c.route(name, cfg.Listen); r != nil {
			cfg.Routes = append(cfg.Routes, *r)
		}
	}
	c.ask(ctx, cfg.Plugins)
	cfg.Catalog, cfg.read = c.catalog, c.options.ReadFile
	cfg.validate, cfg.lost, cfg.made = c.options.Validate, c.options.Lost, c.options.Made
	return cfg
}

// misfits reports findings of a schema check of the value at base.
func (c *checker) misfits(base path, found []misfit) {
	for _, m := range found {
		p := append(slices.Clone(base), m.at...)
		if v, ok := c.get(p).(string); ok && v == unresolved {
			continue
		}
		if example := mappingExample(p); len(base) == 0 && example != "" && m.remedy == "write "+typeName("object") {
			m.remedy = example
		}
		c.at(p, m.key, m.fault, false)
	}
}

// mappingExample is what to write where a mapping belongs and something shorter
// looks right at first.
func mappingExample(p path) string {
	if len(p) < 3 || p[0] != "routes" {
		return ""
	}
	switch in := p[2]; {
	case len(p) == 3 && in == "publish":
		return `write publish: {token: "${env:NAME}"}`
	case len(p) == 3 && in == "from":
		return `write from: {url: "clip:"}`
	case len(p) == 3 && in == "to":
		return `give each target a name: to: {backup: {url: "rtmp://HOST/APP/KEY"}}`
	case len(p) == 4 && in == "to":
		return fmt.Sprintf(`write %s: {url: "rtmp://HOST/APP/KEY"}`, p[3])
	}
	return ""
}

// Loopback reports whether only this machine reaches a listener at addr.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (c *checker) address(key string) string {
	p := path{key}
	s, ok := c.text(p)
	if !ok {
		return ""
	}
	remedy := "write host:port, for example 127.0.0.1:8080, or :8080 for every address of this machine"
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		c.value(p, fault{c.show(p) + " is not an address", remedy})
		return ""
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strings.HasPrefix(port, "+") {
		c.value(p, fault{c.show(p) + " has no valid port", "write a port from 1 to 65535"})
		return ""
	} else if n == 0 && port != "0" {
		c.value(p, fault{c.show(p) + " has no valid port", "write a port from 1 to 65535"})
		return ""
	}
	if host != "" && net.ParseIP(stripZone(host)) == nil && !hostName.MatchString(host) {
		c.value(p, fault{c.show(p) + " has no valid host", remedy})
		return ""
	}
	return s
}

func stripZone(host string) string { h, _, _ := strings.Cut(host, "%"); return h }

func (c *checker) tls() *TLS {
	p := path{"tls"}
	if !c.present(p) {
		return nil
	}
	cert, okCert := c.text(p.child("cert"))
	key, okKey := c.text(p.child("key"))
	if !okCert || !okKey {
		return nil
	}
	certPEM, f := c.sources.file(cert)
	if f != nil {
		c.value(p.child("cert"), *f)
	}
	keyPEM, g := c.sources.file(key)
	if g != nil {
		c.value(p.child("key"), *g)
	}
	if f != nil || g != nil {
		return nil
	}
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		c.value(p, fault{"certificate and key cannot be used: " + strings.TrimPrefix(err.Error(), "tls: "),
			"name the PEM files of a certificate chain and of its own private key"})
		return nil
	}
	return &TLS{CertFile: c.sources.abs(cert), KeyFile: c.sources.abs(key)}
}

// abs is the name of a file as it can be opened.
func (s *sources) abs(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(s.dir, name)
}

// token checks a secret that people log in with.
func (c *checker) token(p path) secret.String {
	s, ok := c.text(p)
	switch {
	case !ok:
		return secret.String{}
	case s == "":
		c.value(p, fault{"the token is empty", "give it a value, for example what openssl rand -hex 16 prints"})
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }):
		c.value(p, fault{"the token contains a space or a character that HTTP headers cannot carry", "use letters, digits and punctuation"})
	}
	if strings.Contains(s, streamRef) {
		c.misplaced(p)
	}
	c.likeShell(p)
	return secret.New(s)
}

// variable is a reference as a shell would have it.
var variable = regexp.MustCompile(`^\$[A-Za-z_][A-Za-z0-9_]*$`)

// likeShell warns of a secret that is nothing but $NAME: that is no reference here.
func (c *checker) likeShell(p path) {
	if at := c.doc.places[p.key()]; at.hasText && variable.MatchString(at.text) {
		c.warn(p, fault{"a name behind a $ is taken as it stands", "write ${env:NAME} if a variable of the environment is meant"})
	}
}

func (c *checker) misplaced(p path) {
	c.value(p, fault{streamRef + " has no meaning here", "use it in the key of a target"})
}
