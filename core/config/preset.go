package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// noPreset and noBackup switch off what would be chosen otherwise.
const (
	noPreset = "none"
	noBackup = "none"
)

// modes are the ways to use a backup.
const (
	modeFailover = "failover"
	modeBoth     = "both"
)

// destination finds the URL of a target, the plugin that serves it and the preset
// that it has: the one that it names, or the one of its host.
func (c *checker) destination(p path, t *Target) {
	name, named := c.text(p.child("preset"))
	named = named && name != noPreset
	at := p.child("url")
	switch {
	case c.present(at):
		t.URL, t.Plugin = c.url(at, egressSchemes)
		if t.Plugin == "" {
			return
		}
		if named {
			t.Preset = c.preset(p.child("preset"), name, t.Plugin)
		} else if !c.present(p.child("preset")) {
			t.Preset = byHost(c.catalog[t.Plugin].GetEgress().GetPresets(), hostOf(t.URL.Reveal()))
		}
	case named:
		t.Plugin = c.presetPlugin(name)
		if t.Preset = c.preset(p.child("preset"), name, t.Plugin); t.Preset == nil {
			t.Plugin = ""
			return
		}
		if t.Preset.GetUrl() == "" {
			c.key(p, fault{fmt.Sprintf("the preset %s has no URL of its own", name), strings.TrimSpace("add url; " + t.Preset.GetNote())})
			return
		}
		t.URL = secret.New(t.Preset.GetUrl())
	case c.present(p.child("preset")) && name == unresolved:
	default:
		c.key(p, fault{`the key "url" is missing`, "add it, or a preset such as youtube"})
	}
	c.presetWarnings(p, t)
}

// presetWarnings says what is to be known of a preset before anything is sent.
func (c *checker) presetWarnings(p path, t *Target) {
	if t.Preset == nil || t.URL.Empty() {
		return
	}
	if t.Preset.GetUnverified() {
		c.warn(p, fault{fmt.Sprintf("what the preset %s says of %s could not be verified with a page of the service", t.Preset.GetName(), t.Preset.GetTitle()),
			strings.TrimSpace("compare it with what the service tells you; " + t.Preset.GetNote())})
	}
	scheme, _, _ := strings.Cut(t.URL.Reveal(), ":")
	if want := t.Preset.GetSchemes(); len(want) > 0 && !slices.Contains(want, strings.ToLower(scheme)) {
		c.warn(p, fault{fmt.Sprintf("%s wants %s, and the URL is %s", t.Preset.GetTitle(), strings.Join(want, " or "), strings.ToLower(scheme)),
			fmt.Sprintf("begin the URL with %s://", want[0])})
	}
}

// presets are the names of all.
func (c *checker) presets() (names []string) {
	for _, info := range c.catalog {
		for _, p := range info.GetEgress().GetPresets() {
			names = append(names, p.GetName())
		}
	}
	return names
}

// presetPlugin is the plugin that knows a preset best: one that the configuration
// declares before a built-in one; empty if none does.
func (c *checker) presetPlugin(name string) string {
	found := ""
	for _, plugin := range slices.Sorted(maps.Keys(c.catalog)) {
		if byName(c.catalog[plugin].GetEgress().GetPresets(), name) != nil && (found == "" || c.configured[plugin]) {
			found = plugin
		}
	}
	return found
}

// preset is the one of that name; a plugin that does not have it is a fault.
func (c *checker) preset(p path, name, plugin string) *wire.Preset {
	list := c.catalog[plugin].GetEgress().GetPresets()
	if found := byName(list, name); found != nil {
		return found
	}
	names := []string{noPreset}
	for other, info := range c.catalog {
		if plugin != "" && plugin != other {
			continue
		}
		for _, pr := range info.GetEgress().GetPresets() {
			names = append(names, pr.GetName())
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	f := fault{"there is no preset of this name", "known are " + strings.Join(names, ", ")}
	if best := closest(name, names); best != "" {
		f.remedy = fmt.Sprintf("did you mean %q?", best)
	}
	if plugin != "" && c.presetPlugin(name) != "" {
		f = fault{"the preset is not one of " + plugin + ", which serves the URL", "remove the url, or the preset"}
	}
	c.value(p, f)
	return nil
}

func byName(list []*wire.Preset, name string) *wire.Preset {
	for _, p := range list {
		if p.GetName() == name {
			return p
		}
	}
	return nil
}

func byHost(list []*wire.Preset, host string) *wire.Preset {
	for _, p := range list {
		for _, h := range p.GetHosts() {
			if host == h || strings.HasSuffix(host, "."+h) {
				return p
			}
		}
	}
	return nil
}

// hostOf is the host name in a URL, in lower case; empty if there is none.
func hostOf(url string) string {
	_, rest, ok := strings.Cut(url, "://")
	if !ok {
		return ""
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	host, _, _ := strings.Cut(rest[strings.LastIndexByte(rest, '@')+1:], ":")
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// presetOptions are the options of a target that a preset has.
func presetOptions(p *wire.Preset) map[string]any {
	var out map[string]any
	if err := json.Unmarshal(p.GetOptionsJson(), &out); err != nil {
		return nil // none, or a fault of the plugin that its own check finds
	}
	return out
}

// streamKey checks a key; judged says whether there is one that can be judged.
func (c *checker) streamKey(p path) (key string, judged bool) {
	key, judged = c.text(p)
	if !judged {
		return key, false
	}
	c.likeShell(p)
	switch {
	case key == "":
		c.value(p, fault{"the key is empty", "give it a value, or remove it if the URL contains the key"})
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f }):
		c.value(p, fault{"the key contains a control character", "remove it"})
	}
	return key, true
}

// backup finds where to send when the URL fails. That of the preset goes with the
// URL of the preset, and with a key that stands apart: one in the URL is unknown
// here.
// It reports whether there is a backup of which URL and key are known.
func (c *checker) backup(p path, t *Target) (known bool) {
	at, keyAt, modeAt := p.child("backup"), p.child("backup_key"), p.child("mode")
	text, given := c.text(at)
	key, keyJudged := c.streamKey(keyAt)
	if mode, ok := c.text(modeAt); ok && mode == modeBoth {
		t.Both = true
	}
	switch {
	case given && text == noBackup:
	case c.present(at):
		url, plugin := c.url(at, egressSchemes)
		if plugin != "" && t.Plugin != "" && plugin != t.Plugin {
			c.value(at, fault{fmt.Sprintf("%s serves the backup, and %s the target", plugin, t.Plugin), "make it a target of its own"})
			return false
		}
		t.Backup = url
	case t.Preset != nil && !t.Key.Empty() && t.URL.Reveal() == t.Preset.GetUrl():
		t.Backup = secret.New(t.Preset.GetBackupUrl())
	}
	if t.Backup.Empty() {
		if c.present(keyAt) && !c.present(at) {
			c.key(keyAt, fault{"there is no backup that this could be the key of", "add backup, or remove the key"})
		}
		if t.Both && !c.present(at) {
			c.value(modeAt, fault{"there is no backup to send to as well", "add backup with its URL, or remove mode"})
		}
		t.Both = false
		return false
	}
	t.BackupKey = t.Key
	if keyJudged {
		t.BackupKey = secret.New(key)
	}
	if unresolvedKey := c.present(keyAt) && !keyJudged || c.present(p.child("key")) && c.get(p.child("key")) == any(unresolved); unresolvedKey {
		return false
	}
	if t.Backup.Equal(t.URL) && t.BackupKey.Equal(t.Key) {
		c.warn(at, fault{"the backup is the target itself", "give the URL of another server, or remove it"})
	}
	return true
}
