package config

import (
	"context"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// A question is about one target, to its plugin: what is wrong with it, beyond what
// the schemas tell?
type question struct {
	target *Target
	backup bool // with its backup for the URL

	at, url, key path
}

// A fetch is a source, about which its plugin is asked too.
type fetch struct {
	from *From
	at   path // of its URL
}

// Bounds of an answer, which comes from the process of somebody else.
const (
	maxFindings     = 64
	maxFindingBytes = 1 << 10
)

// ask puts the questions, and asks the plugins about their options, those that fit
// their schema. Each plugin is asked once.
func (c *checker) ask(ctx context.Context, plugins []Plugin) {
	if c.options.Validate == nil {
		return
	}
	asked := make(map[string]Plugin, len(plugins))
	for _, p := range plugins {
		asked[p.Name] = p
	}
	about := map[string][]question{}
	for _, q := range c.questions {
		name := q.target.Plugin
		if _, ok := asked[name]; !ok && c.catalog[name] != nil && !c.configured[name] {
			asked[name] = Plugin{Name: name}
		}
		if !unresolvedIn(q.target.Options) { // else it was said what is missing
			about[name] = append(about[name], q)
		}
	}
	fetched := map[string][]fetch{}
	for _, f := range c.fetches {
		name := f.from.Plugin
		if _, ok := asked[name]; !ok && c.catalog[name] != nil && !c.configured[name] {
			asked[name] = Plugin{Name: name}
		}
		fetched[name] = append(fetched[name], f)
	}
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		p := asked[name]
		request := &wire.ValidateRequest{}
		own := !c.unfit[name] && !unresolvedIn(p.Options)
		if own {
			request.OptionsJson, request.Files = p.Options, p.Files
		}
		for _, q := range about[name] {
			request.Targets = append(request.Targets, q.message())
		}
		for _, f := range fetched[name] {
			request.Sources = append(request.Sources, f.from.URL.Reveal())
		}
		answer, err := c.options.Validate(ctx, p, request)
		if err != nil {
			c.key(path{"plugins", name}, fault{"asking the plugin about its options, targets and sources: " + err.Error(), "gateway plugins check says what is wrong with it"})
			continue
		}
		for i, d := range answer.GetDiagnostics() {
			if i == maxFindings {
				break
			}
			c.answer(name, p.Options, own, about[name], fetched[name], d)
		}
	}
}

// answer reports one finding of a plugin.
func (c *checker) answer(plugin string, options []byte, own bool, about []question, fetched []fetch, d *wire.Diagnostic) {
	first, rest, _ := strings.Cut(d.GetPath(), ".")
	at, hide := path{"plugins", plugin}, secret.Redact(secret.InOptions(c.catalog[plugin].GetOptionsSchema(), options)...)
	index, below, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(index)
	if err != nil || n < 0 {
		n = math.MaxInt // of none
	}
	switch first {
	case "targets":
		if n >= len(about) {
			break
		}
		q := about[n]
		at, hide = q.place(below), c.secretsOf(q)
	case "sources":
		if n < len(fetched) {
			at, hide = fetched[n].at, secret.Redact(fetched[n].from.URL.Reveal())
		}
	default: // options, and what cannot be told
		if !own {
			return
		}
		if first == "options" {
			at = at.child("options")
			if rest != "" {
				at = append(at, strings.Split(rest, ".")...)
			}
		}
	}
	f := fault{words(d.GetFinding(), hide), words(d.GetRemedy(), hide)}
	if f.finding == "" {
		f.finding = "the plugin cannot use this"
	}
	if f.remedy == "" {
		f.remedy = "correct it, as the page of " + plugin + " says"
	}
	// An option that is wrong is wrong for the backup as well.
	if name := at.String(); slices.ContainsFunc(c.diagnostics, func(o Diagnostic) bool { return o.Path == name && o.Finding == f.finding }) {
		return
	}
	c.at(at, false, f, d.GetWarning())
}

// words is what a plugin says, fit to be shown: one line, not too long, no secret.
func words(s string, hide secret.Redaction) string {
	s = strings.Join(strings.FieldsFunc(hide.Text(s), unicode.IsControl), " ")
	return strings.ToValidUTF8(s[:min(len(s), maxFindingBytes)], "")
}

// place is where a part of the target stands.
func (q question) place(part string) path {
	switch {
	case part == "key":
		return q.key
	case strings.HasPrefix(part, "options."):
		return append(slices.Clone(q.at), strings.Split(strings.TrimPrefix(part, "options."), ".")...)
	case part == "options":
		return q.at
	default:
		return q.url
	}
}

// message is the target as its plugin will get it.
func (q question) message() *wire.Target {
	t := q.target
	m := &wire.Target{Name: t.Name, Url: t.URL.Reveal(), Key: t.Key.Reveal(), OptionsJson: t.Options, Files: t.Files, Restricted: t.Restricted}
	if q.backup {
		m.Url, m.Key = t.Backup.Reveal(), t.BackupKey.Reveal()
	}
	return m
}

// secretsOf are those of a target.
func (c *checker) secretsOf(q question) secret.Redaction {
	m := q.message()
	own := secret.InOptions(c.catalog[q.target.Plugin].GetEgress().GetTargetSchema(), m.GetOptionsJson())
	return secret.Redact(append(own, m.GetUrl(), m.GetKey())...)
}
