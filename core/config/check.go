package config

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// Bounds of durations.
const (
	minMaxLag = 100 * time.Millisecond
	maxMaxLag = time.Minute
	maxHold   = 24 * time.Hour
)

// openRemedy is what to do about a route that anyone may publish to.
const openRemedy = `add publish: {token: "${env:NAME}"}, or publish: {open: true} if anyone may publish`

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
}

func newChecker(file string, o Options) *checker {
	if o.hash == nil {
		o.hash = hashFile
	}
	name := file
	if name == "" {
		name = runSource
	}
	return &checker{file: name, options: o, sources: o.sources(file), catalog: maps.Clone(o.Catalog),
		configured: map[string]bool{}, targets: map[string]*schema{}, sent: map[[2]secret.String]path{}}
}

func (c *checker) report(d Diagnostic) { c.diagnostics = append(c.diagnostics, d) }

// value reports a fault of the value at p, or of the nearest mapping that has a
// place if p has none.
func (c *checker) value(p path, f fault, warning ...bool) {
	c.at(p, p, false, f, len(warning) > 0 && warning[0])
}

// key reports a fault of the key p itself.
func (c *checker) key(p path, f fault, warning ...bool) {
	c.at(p, p, true, f, len(warning) > 0 && warning[0])
}

func (c *checker) at(p, shown path, key bool, f fault, warning bool) {
	for q := p; ; q = q[:len(q)-1] {
		at, ok := c.doc.places[q.key()]
		if !ok && len(q) > 0 {
			continue
		}
		d := at.diagnostic(shown, f)
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
	cfg.Catalog = c.catalog
	return cfg
}

// misfits reports findings of a schema check of the value at base.
func (c *checker) misfits(base path, found []misfit) {
	for _, m := range found {
		p := append(slices.Clone(base), m.at...)
		if v, ok := c.get(p).(string); ok && v == unresolved {
			continue
		}
		c.at(p, p, m.key, m.fault, false)
	}
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
	return secret.New(s)
}

func (c *checker) misplaced(p path) {
	c.value(p, fault{streamRef + " has no meaning here", "use it in the key of a target"})
}

var (
	hexSHA256 = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
	hostName  = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?$`)
	schemeOf  = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*):`)
)

func (c *checker) plugin(ctx context.Context, name string) *Plugin {
	p := path{"plugins", name}
	m := c.mapping(p)
	if m == nil {
		return nil
	}
	if err := checkSegment(name); err != nil {
		c.key(p, fault{err.Error(), "name the plugin with letters, digits, -, _ and dots"})
		return nil
	}
	out := &Plugin{Name: name, InsecureUnpinned: c.flag(p.child("insecure_unpinned"), false)}
	out.SHA256, _ = c.text(p.child("sha256"))
	_, builtIn := c.options.Catalog[name]
	switch {
	case c.present(p.child("path")):
		file, ok := c.text(p.child("path"))
		if !ok {
			return nil
		}
		out.Path = c.sources.abs(file)
		if builtIn {
			c.value(p.child("path"), fault{fmt.Sprintf("%s is the name of a built-in plugin", name), "give yours another name"})
			return nil
		}
		c.configured[name] = true
		if !c.pinned(p, out) || !c.describe(ctx, p, out) {
			return nil
		}
	case !builtIn:
		f := fault{"no built-in plugin has this name", "built in are " + c.list(slices.Sorted(maps.Keys(c.options.Catalog))) + "; a plugin of your own needs path and sha256"}
		if best := closest(name, slices.Collect(maps.Keys(c.options.Catalog))); best != "" {
			f.remedy = fmt.Sprintf("did you mean %q?", best)
		}
		c.key(p, f)
		return nil
	default:
		for _, k := range []string{"sha256", "insecure_unpinned"} {
			if c.present(p.child(k)) {
				c.key(p.child(k), fault{k + " is for plugins with a path", "remove it"})
			}
		}
	}
	info := c.catalog[name]
	if !c.present(p.child("options")) {
		return out
	}
	options := c.mapping(p.child("options"))
	if options == nil {
		return out
	}
	if len(info.GetOptionsSchema()) == 0 {
		for _, k := range c.doc.keys(p.child("options"), options) {
			c.key(p.child("options").child(k), fault{fmt.Sprintf("unknown key %q", k), name + " has no options"})
		}
		return out
	}
	s, err := compileSchema(name+"/options", info.GetOptionsSchema())
	if err != nil {
		c.key(p, fault{err.Error(), "this is a fault of the plugin; report it to its author"})
		return out
	}
	out.Options, out.Files = c.pluginOptions(p.child("options"), options, s)
	return out
}

func (c *checker) list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// pinned checks the executable of a third-party plugin.
func (c *checker) pinned(p path, out *Plugin) bool {
	sum, err := c.options.hash(out.Path)
	if err != nil {
		c.value(p.child("path"), fault{"reading the executable: " + reason(err), "name an executable file"})
		return false
	}
	sha := p.child("sha256")
	switch {
	case out.SHA256 == "" && !c.present(sha):
		if !out.InsecureUnpinned {
			c.key(p, fault{"the executable is not pinned", "add sha256 (sha256sum FILE prints it), or insecure_unpinned: true while you develop it"})
			return false
		}
		return true
	case !hexSHA256.MatchString(out.SHA256):
		c.value(sha, fault{"not a SHA-256", "write the 64 hexadecimal digits that sha256sum FILE prints"})
		return false
	case !strings.EqualFold(sum, out.SHA256):
		c.value(sha, fault{"the executable has another SHA-256, " + sum, "correct it if you trust the file as it is now"})
		return false
	}
	return true
}

func reason(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

func hashFile(name string) (string, error) {
	st, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	if !st.Mode().IsRegular() {
		return "", errors.New("not a regular file")
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// describe asks a third-party plugin what it is.
func (c *checker) describe(ctx context.Context, p path, out *Plugin) bool {
	if c.options.Describe == nil {
		c.key(p, fault{"third-party plugins cannot be used here", "use gateway run with a file"})
		return false
	}
	info, err := c.options.Describe(ctx, *out)
	if err != nil {
		c.key(p, fault{"asking the plugin what it is: " + err.Error(), "check that the file is a gateway plugin for this machine"})
		return false
	}
	if c.catalog == nil {
		c.catalog = Catalog{}
	}
	for _, other := range slices.Sorted(maps.Keys(c.catalog)) {
		o := c.catalog[other]
		for _, m := range info.GetMounts() {
			if slices.Contains(o.GetMounts(), m) {
				c.key(p, fault{fmt.Sprintf("it serves %s, as %s does", m, other), "use one of the two"})
				return false
			}
		}
		if !c.configured[other] {
			continue
		}
		for _, kinds := range [][2][]string{{info.GetEgress().GetSchemes(), o.GetEgress().GetSchemes()}, {info.GetIngest().GetSchemes(), o.GetIngest().GetSchemes()}} {
			for _, s := range kinds[0] {
				if slices.Contains(kinds[1], s) {
					c.key(p, fault{fmt.Sprintf("it serves %s:// URLs, as %s does", s, other), "use one of the two"})
					return false
				}
			}
		}
	}
	c.catalog[out.Name] = info
	return true
}

// pluginOptions checks options against the plugin's own schema, and reads the
// files that they name.
func (c *checker) pluginOptions(p path, options map[string]any, s *schema) (text []byte, files map[string][]byte) {
	s.at.fit(options, p, c.doc.places)
	c.misfits(p, s.check(options))
	var walk func(v any, rel path, at cursor)
	walk = func(v any, rel path, at cursor) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				walk(v[k], rel.child(k), at.child(k))
			}
		case []any:
			for i, e := range v {
				walk(e, rel.child(strconv.Itoa(i)), at.child(""))
			}
		case string:
			full := append(slices.Clone(p), rel...)
			if strings.Contains(v, streamRef) {
				c.misplaced(full)
			}
			if v == unresolved {
				return
			}
			switch at.format() {
			case "duration": // the SDK's are Go's, other authors may want ISO 8601
				if _, err := time.ParseDuration(v); err != nil && !strings.HasPrefix(v, "P") {
					c.value(full, notDuration(c.show(full)))
				}
				return
			case "file":
			default:
				return
			}
			b, f := c.sources.file(v)
			if f != nil {
				c.value(full, *f)
				return
			}
			if files == nil {
				files = map[string][]byte{}
			}
			files[rel.String()] = b
		}
	}
	walk(options, nil, s.at)
	text, err := json.Marshal(options)
	if err != nil {
		c.value(p, fault{"the options cannot be passed on", "use plain texts, numbers, lists and mappings"})
	}
	return text, files
}

// byScheme is the plugin that serves a scheme: one that the configuration
// declares before a built-in one.
func (c *checker) byScheme(scheme string, schemes func(*wire.DescribeResponse) []string) string {
	found := ""
	for _, name := range slices.Sorted(maps.Keys(c.catalog)) {
		if slices.Contains(schemes(c.catalog[name]), scheme) && (found == "" || c.configured[name]) {
			found = name
		}
	}
	return found
}

// url checks the URL at p and finds the plugin that serves it.
func (c *checker) url(p path, schemes func(*wire.DescribeResponse) []string) (u secret.String, plugin string) {
	s, ok := c.text(p)
	if !ok {
		return secret.String{}, ""
	}
	var served []string
	for _, info := range c.catalog {
		served = append(served, schemes(info)...)
	}
	slices.Sort(served)
	served = slices.Compact(served)
	if strings.Contains(s, streamRef) {
		c.misplaced(p)
	}
	m := schemeOf.FindStringSubmatch(s)
	switch {
	case s == "":
		c.value(p, fault{"the URL is empty", "write one, served are " + c.list(served)})
		return secret.String{}, ""
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		c.value(p, fault{"the URL contains a space or control character", "remove it, or write it as %20"})
		return secret.String{}, ""
	case m == nil:
		c.value(p, fault{"the URL has no scheme", "begin it with one of " + c.list(served) + ", followed by ://"})
		return secret.String{}, ""
	}
	scheme := strings.ToLower(m[1])
	if plugin = c.byScheme(scheme, schemes); plugin != "" {
		return secret.New(s), plugin
	}
	// Of a value that came by reference nothing is shown: it may be a key that
	// stands where the URL should.
	f := fault{"no plugin serves its scheme", "served are " + c.list(served)}
	if w := schemeOf.FindStringSubmatch(c.doc.places[p.key()].text); w != nil && strings.HasPrefix(s, w[0]+"//") {
		f.finding = fmt.Sprintf("no plugin serves %s://", scheme)
		if best := closest(scheme, served); best != "" {
			f.remedy = fmt.Sprintf("did you mean %s://?", best)
		}
	}
	c.value(p, f)
	return secret.String{}, ""
}

func egressSchemes(i *wire.DescribeResponse) []string { return i.GetEgress().GetSchemes() }
func ingestSchemes(i *wire.DescribeResponse) []string { return i.GetIngest().GetSchemes() }

func (c *checker) duration(p path, otherwise, least, most time.Duration) time.Duration {
	if !c.present(p) {
		return otherwise
	}
	s, ok := c.text(p)
	if !ok {
		return otherwise
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		c.value(p, notDuration(c.show(p)))
	case d < least:
		c.value(p, fault{c.show(p) + " is too short", fmt.Sprintf("write at least %s", least)})
	case d > most:
		c.value(p, fault{c.show(p) + " is too long", fmt.Sprintf("write at most %s", brief(most))})
	default:
		return d
	}
	return otherwise
}

func notDuration(shown string) fault {
	return fault{shown + " is not a duration", "write a number and its unit, for example 500ms, 3s or 1m30s"}
}

// brief is a duration without zero parts: 24h rather than 24h0m0s.
func brief(d time.Duration) string {
	s := d.String()
	s = strings.TrimSuffix(s, "0s")
	return strings.TrimSuffix(s, "0m")
}

func (c *checker) route(name, listen string) *Route {
	p := path{"routes", name}
	if err := checkPattern(name); err != nil {
		c.key(p, fault{err.Error(), "write up to 4 segments of letters, digits, -, _ and dots, or * for any one segment: studio, live/*"})
	}
	if c.mapping(p) == nil {
		return nil
	}
	r := &Route{Name: name, Hold: c.duration(p.child("hold"), DefaultHold, 0, maxHold), HoldOnEnd: c.flag(p.child("hold_on_end"), false)}
	pub := p.child("publish")
	r.Publish.Open = c.flag(pub.child("open"), false)
	hasToken := c.present(pub.child("token"))
	if hasToken {
		r.Publish.Token = c.token(pub.child("token"))
	}
	if c.present(p.child("from")) {
		u, plugin := c.url(p.child("from").child("url"), ingestSchemes)
		r.From = &From{URL: u, Plugin: plugin}
		if IsPattern(name) {
			c.key(p.child("from"), fault{"a pattern stands for many streams, and a source is one", "give the route the name of one stream"})
		}
		if hasToken || r.Publish.Open {
			c.key(pub, fault{"the route fetches its stream, so nobody publishes it", "keep either from or publish"})
		}
	} else {
		c.publishing(p, listen, hasToken, r.Publish.Open)
	}
	to := p.child("to")
	targets := c.mapping(to)
	if to := c.get(to); len(targets) == 0 && (to == nil || targets != nil) {
		c.key(p, fault{"the route has no target", "add one under to:"}, true)
	}
	for _, t := range c.doc.keys(to, targets) {
		if target := c.target(name, t); target != nil {
			r.To = append(r.To, *target)
		}
	}
	return r
}

// publishing checks who may publish.
func (c *checker) publishing(p path, listen string, hasToken, open bool) {
	pub := p.child("publish")
	switch {
	case hasToken && open:
		c.key(pub.child("open"), fault{"open contradicts token", "keep one of the two"})
	case hasToken || open:
	case listen == "": // reported already
	case Loopback(listen):
		c.key(p, fault{"anyone on this machine may publish", openRemedy}, true)
	default:
		c.key(p, fault{fmt.Sprintf("anyone who reaches %s could publish", c.show(path{"listen"})), openRemedy})
	}
}

// targetKeys are the keys of a target that are not the plugin's.
var targetKeys = []string{"url", "key", "max_lag", "enabled"}

func (c *checker) target(route, name string) *Target {
	p := path{"routes", route, "to", name}
	if err := checkSegment(name); err != nil || len(name) > maxNameBytes {
		c.key(p, fault{"this cannot be the name of a target", "use letters, digits, -, _ and dots"})
	}
	m := c.mapping(p)
	if m == nil {
		return nil
	}
	t := &Target{Name: name, MaxLag: c.duration(p.child("max_lag"), DefaultMaxLag, minMaxLag, maxMaxLag), Enabled: c.flag(p.child("enabled"), true)}
	t.URL, t.Plugin = c.url(p.child("url"), egressSchemes)
	key, judged := c.text(p.child("key"))
	t.Key = secret.New(key)
	switch {
	case judged && key == "":
		c.value(p.child("key"), fault{"the key is empty", "give it a value, or remove it if the URL contains the key"})
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f }) && judged:
		c.value(p.child("key"), fault{"the key contains a control character", "remove it"})
	}
	if IsPattern(route) {
		if unresolvedKey := c.present(p.child("key")) && !judged; !unresolvedKey && !strings.Contains(key, streamRef) {
			c.key(p, fault{"two streams of this route would be sent to one key", "put " + streamRef + " into its key"}, true)
		}
	}
	if !t.URL.Empty() && (judged || !c.present(p.child("key"))) {
		id := [2]secret.String{t.URL, t.Key}
		if first, twice := c.sent[id]; twice {
			c.key(p, fault{fmt.Sprintf("the same URL and key as %s", first), "remove one of the two, most servers refuse a second publisher"}, true)
		} else {
			c.sent[id] = p
		}
	}
	own := map[string]any{}
	for k, v := range m {
		if !slices.Contains(targetKeys, k) {
			own[k] = v
		}
	}
	t.Options, t.Files = c.targetOptions(p, own, t.Plugin)
	return t
}

// targetOptions checks the options of a target that are its plugin's own.
func (c *checker) targetOptions(p path, own map[string]any, plugin string) ([]byte, map[string][]byte) {
	s, ok := c.targets[plugin]
	if !ok && plugin != "" {
		if text := c.catalog[plugin].GetEgress().GetTargetSchema(); len(text) > 0 {
			var err error
			if s, err = compileSchema(plugin+"/target", text); err != nil {
				c.key(p, fault{err.Error(), "this is a fault of the plugin " + plugin + "; report it to its author"})
				s = nil
			}
		}
		c.targets[plugin] = s
	}
	if s == nil && plugin == "" {
		// The URL is wrong, so nobody knows what belongs to it: a key that is
		// nearly one of ours is a mistake all the same.
		for _, k := range c.doc.keys(p, own) {
			if closest(k, targetKeys) != "" {
				c.key(p.child(k), unknownKey(k, targetKeys))
			}
		}
		return nil, nil
	}
	known := slices.Clone(targetKeys)
	if s != nil {
		known = append(known, s.at.properties()...)
	}
	stray := false
	for _, k := range c.doc.keys(p, own) {
		if !slices.Contains(known, k) && (s == nil || s.at.resolved().node["additionalProperties"] == false) {
			c.key(p.child(k), unknownKey(k, known))
			delete(own, k)
			stray = true
		}
	}
	if len(own) == 0 && (s == nil || stray) || s == nil {
		return nil, nil
	}
	text, files := c.pluginOptions(p, own, s)
	if len(own) == 0 {
		text = nil
	}
	return text, files
}
