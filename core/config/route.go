package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/gateway/sdk/media"
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

var schemeOf = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*):`)

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
	c.likeShell(p)
	m := schemeOf.FindStringSubmatch(s)
	switch {
	case s == "":
		c.value(p, fault{"the URL is empty", "write one, served are " + c.list(served)})
		return secret.String{}, ""
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		c.value(p, fault{"the URL contains a space or control character", "remove it, or write it as %20"})
		return secret.String{}, ""
	case m == nil:
		f := fault{"the URL has no scheme", "begin it with one of " + c.list(served) + ", followed by ://"}
		if slices.Contains(served, s) {
			f = fault{"the colon after the scheme is missing", "write " + s + ":"}
		}
		c.value(p, f)
		return secret.String{}, ""
	case !validPort(s):
		c.value(p, fault{"the URL has no valid port", "write a port from 1 to 65535, or none"})
		return secret.String{}, ""
	}
	scheme := strings.ToLower(m[1])
	if plugin = c.byScheme(scheme, schemes); plugin != "" {
		return secret.New(s), plugin
	}
	// Of a value that came by reference nothing is shown: it may be a key that
	// stands where the URL should.
	f := fault{"no plugin serves its scheme", "served are " + c.list(served)}
	switch w := schemeOf.FindStringSubmatch(c.doc.places[p.key()].text); {
	case w == nil:
	case !strings.HasPrefix(s, w[0]+"//"):
		if best := closest(scheme, c.presets()); best != "" {
			f.remedy = fmt.Sprintf("did you mean the preset %s? Served are %s", best, c.list(served))
		}
	default:
		f.finding = fmt.Sprintf("no plugin serves %s://", scheme)
		if best := closest(scheme, served); best != "" {
			f.remedy = fmt.Sprintf("did you mean %s://? Served are %s", best, c.list(served))
		}
	}
	c.value(p, f)
	return secret.String{}, ""
}

// validPort reports whether the port of a URL, if it names one, can be a port.
func validPort(url string) bool {
	_, rest, ok := strings.Cut(url, "://")
	if !ok {
		return true
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	host := rest[strings.LastIndexByte(rest, '@')+1:]
	host = host[strings.LastIndexByte(host, ']')+1:]
	_, port, ok := strings.Cut(host, ":")
	if !ok || port == "" {
		return true
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
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
	r.Congestion = c.congestion(p.child("congestion"))
	pub := p.child("publish")
	r.Publish.Open = c.flag(pub.child("open"), false)
	hasToken := c.present(pub.child("token"))
	if hasToken {
		r.Publish.Token = c.token(pub.child("token"))
	}
	if c.present(p.child("from")) {
		u, plugin := c.url(p.child("from").child("url"), ingestSchemes)
		r.From = &From{URL: u, Plugin: plugin, OnDemand: c.flag(p.child("from").child("on_demand"), false)}
		if !u.Empty() {
			c.fetches = append(c.fetches, fetch{r.From, p.child("from").child("url")})
		}
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
		c.warn(p, fault{"the route has no target", "add one under to:"})
	}
	for _, t := range c.doc.keys(to, targets) {
		if target := c.target(name, t); target != nil {
			c.deliverable(to.child(t), target, r.From)
			r.To = append(r.To, *target)
		}
	}
	r.Isolate = c.flag(p.child("isolate"), false)
	if r.Isolate {
		c.isolated(p.child("isolate"), r)
	}
	return r
}

// Bounds of the bitrate that a publisher is asked for at least.
const (
	minFloorBPS = 50_000
	maxFloorBPS = 100_000_000
)

// congestion checks what a publisher is told when targets do not keep up.
func (c *checker) congestion(p path) Congestion {
	out := Congestion{Follow: FollowNone, FloorBPS: DefaultFloorBPS}
	if !c.present(p) || c.mapping(p) == nil {
		return out
	}
	if f := p.child("follow"); c.present(f) {
		if s, ok := c.text(f); ok {
			switch out.Follow = Follow(s); out.Follow {
			case FollowNone, FollowSlowest, FollowPrimary:
			default:
				out.Follow = FollowNone // the schema complains
			}
		}
	}
	out.FloorBPS = c.bitrate(p.child("floor"), DefaultFloorBPS, minFloorBPS, maxFloorBPS)
	return out
}

// bitrate is the bitrate at p, in bits per second.
func (c *checker) bitrate(p path, otherwise, least, most uint64) uint64 {
	if !c.present(p) {
		return otherwise
	}
	s, ok := c.text(p)
	if !ok {
		return otherwise
	}
	bps, err := media.ParseBitrate(s)
	switch {
	case err != nil:
		c.value(p, fault{c.show(p) + " is not a bitrate", "write a number and its unit, for example 500kbps or 2.5mbps"})
	case bps < least || bps > most:
		c.value(p, fault{c.show(p) + " is out of range", fmt.Sprintf("write from %dkbps to %dkbps", least/1000, most/1000)})
	default:
		return bps
	}
	return otherwise
}

// isolated checks that each plugin of the route can have a second process.
func (c *checker) isolated(p path, r *Route) {
	var names []string
	if r.From != nil {
		names = append(names, r.From.Plugin)
	}
	for _, t := range r.To {
		names = append(names, t.Plugin)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if info := c.catalog[name]; info != nil && !info.GetShardable() {
			c.value(p, fault{fmt.Sprintf("%s cannot have a second process, which this route would need", name), "remove isolate"})
		}
	}
}

// publishing checks who may publish.
func (c *checker) publishing(p path, listen string, hasToken, open bool) {
	pub := p.child("publish")
	switch {
	case hasToken && open:
		c.key(pub.child("open"), fault{"open contradicts token", "keep one of the two"})
	case hasToken || open:
	case listen == "": // reported already
	case c.present(pub) && c.mapping(pub) == nil: // likewise
	case Loopback(listen):
		c.warn(p, fault{"anyone on this machine may publish", openRemedy})
	default:
		c.key(p, fault{fmt.Sprintf("anyone who reaches %s could publish", c.show(path{"listen"})), openRemedy})
	}
}

// targetKeys are the keys of a target that are not the plugin's.
var targetKeys = []string{"preset", "url", "key", "backup", "backup_key", "mode", "max_lag", "audio", "enabled"}

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
	t.Audio = c.audio(p.child("audio"))
	c.destination(p, t)
	key, judged := c.streamKey(p.child("key"))
	t.Key = secret.New(key)
	if IsPattern(route) {
		if unresolvedKey := c.present(p.child("key")) && !judged; !unresolvedKey && !strings.Contains(key, streamRef) {
			c.warn(p, fault{"two streams of this route would be sent to one key", "put " + streamRef + " into its key"})
		}
	}
	if !t.URL.Empty() && (judged || !c.present(p.child("key"))) {
		id := [2]secret.String{t.URL, t.Key}
		if first, twice := c.sent[id]; twice {
			c.warn(p, fault{fmt.Sprintf("the same URL and key as %s", first), "remove one of the two, most servers refuse a second publisher"})
		} else {
			c.sent[id] = p
		}
	}
	backup := c.backup(p, t)
	own := map[string]any{}
	for k, v := range m {
		if !slices.Contains(targetKeys, k) {
			own[k] = v
		}
	}
	for k, v := range presetOptions(t.Preset) {
		if _, set := own[k]; !set {
			own[k] = v
		}
	}
	errs := c.errors()
	t.Options, t.Files = c.targetOptions(p, own, t.Plugin)
	if fit := c.errors() == errs; fit && t.Plugin != "" {
		if !t.URL.Empty() && (judged && key != "" || !c.present(p.child("key"))) {
			c.questions = append(c.questions, question{target: t, at: p, url: p.child("url"), key: p.child("key")})
		}
		if backup {
			c.questions = append(c.questions, question{target: t, backup: true, at: p, url: p.child("backup"), key: p.child("backup_key")})
		}
	}
	if b, err := json.Marshal(m); err == nil { // what YAML and JSON hold can be written as JSON
		t.Definition = secret.New(string(b))
	}
	return t
}

// Bounds of the bitrate of each channel of sound; mono may have a little more.
const (
	minChannelBPS = 32_000
	maxStereoBPS  = 256_000
	maxMonoBPS    = 160_000
)

// audio reads how a target wants its sound; words and numbers of channels are
// checked by the schema.
func (c *checker) audio(p path) Audio {
	var a Audio
	if !c.present(p) || c.mapping(p) == nil {
		return a
	}
	word := func(name string) string {
		if q := p.child(name); c.present(q) {
			s, _ := c.text(q)
			return s
		}
		return ""
	}
	a.Codec, a.Quality = word("codec"), word("quality")
	a.Channels = c.count(p.child("channels"), 0)
	least, most := uint64(2*minChannelBPS), uint64(maxStereoBPS)
	if a.Channels == 1 {
		least, most = minChannelBPS, maxMonoBPS
	}
	a.BitsPerSecond = int(c.bitrate(p.child("bitrate"), 0, least, most))
	if a.Codec == "opus" && (a.BitsPerSecond != 0 || a.Channels != 0 || a.Quality != "") {
		c.warn(p, fault{"bitrate, channels and quality are for sound that is made, and nothing makes opus", "remove them, or codec"})
	}
	return a
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
	out := c.pluginOptions(p, own, s)
	if len(own) == 0 {
		out.text = nil
	}
	return out.text, out.files
}
