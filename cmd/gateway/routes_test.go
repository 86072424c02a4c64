package main

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/derive"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

const routesPage = "../../docs/routes.md"

// TestRoutesPageAndExamples holds docs/routes.md to what the plugins declare, and its
// configurations to be valid.
func TestRoutesPageAndExamples(t *testing.T) {
	want := newMatrix(catalog()).page()
	if *rewrite {
		if err := os.WriteFile(routesPage, want, 0o644); err != nil { //nolint:gosec // a page of the documentation
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(routesPage)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the plugins declare; run go test ./cmd/gateway -run RoutesPage -rewrite", routesPage)
	}
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(got, -1)
	if len(examples) == 0 {
		t.Error("the page shows no configuration")
	}
	for _, e := range examples {
		file := filepath.Join(t.TempDir(), "gateway.yaml")
		if err := os.WriteFile(file, e[1], 0o600); err != nil {
			t.Fatal(err)
		}
		for _, m := range reference.FindAllSubmatch(e[1], -1) {
			t.Setenv(string(m[1]), "canary-"+string(m[1]))
		}
		if code, out, stderr := gateway(t, "", "validate", file); code != 0 {
			t.Errorf("%s\n%d %s%s", e[1], code, out, stderr)
		}
	}
}

// A matrix is what becomes of what each ingest brings on its way to each egress.
type matrix struct {
	catalog    config.Catalog
	transforms derive.Transforms
	makers     map[string][]string // plugins by what they make: opus -> aac
	ingests    []string
	egresses   []string
	notes      []string // refusals, by their numbers on the page
}

func newMatrix(c config.Catalog) *matrix {
	m := &matrix{catalog: c, makers: map[string][]string{}}
	var all []pluginhost.Spec
	for _, name := range slices.Sorted(maps.Keys(c)) {
		info := c[name]
		all = append(all, pluginhost.Spec{Name: name, Info: info})
		if info.GetIngest() != nil {
			m.ingests = append(m.ingests, name)
		}
		if info.GetEgress() != nil {
			m.egresses = append(m.egresses, name)
		}
		for _, t := range info.GetTransforms() {
			what := cmp.Or(t.GetFrom(), "silence") + " → " + t.GetTo()
			m.makers[what] = append(m.makers[what], name)
		}
	}
	m.transforms = derive.TransformsOf(all)
	return m
}

// cell says what a target of an egress gets of a stream's only track, of codec c.
func (m *matrix) cell(c media.Codec, egress string) string {
	accepts := pluginhost.AcceptsOf(m.catalog[egress].GetEgress().GetAccepts())
	want := derive.WantOf(config.Audio{}, accepts)
	tracks := []media.Track{{ID: 1, Codec: c}}
	sure := derive.Choose(tracks, want, m.transforms)
	switch optional := slices.Contains(accepts.Optional, c); {
	case len(sure.Tracks) == 1:
		return "as it is"
	case len(sure.Needs) == 1 && optional:
		return fmt.Sprintf("%s, or as it is", sure.Needs[0].To)
	case len(sure.Needs) == 1:
		return string(sure.Needs[0].To)
	case derive.ChooseBefore(tracks, want, m.transforms).Refused == "":
		return "if taken " + m.note(sure.Refused)
	default:
		return "refused " + m.note(sure.Refused)
	}
}

// note is the mark of a refusal.
func (m *matrix) note(refusal string) string {
	i := slices.Index(m.notes, refusal)
	if i < 0 {
		i = len(m.notes)
		m.notes = append(m.notes, refusal)
	}
	return fmt.Sprintf("(%d)", i+1)
}

// byKind puts pictures before sound, and keeps the order otherwise.
func byKind(codecs []string) []media.Codec {
	var out []media.Codec
	for _, c := range codecs {
		out = append(out, media.Codec(c))
	}
	slices.SortStableFunc(out, func(a, b media.Codec) int { return -cmp.Compare(a.Kind(), b.Kind()) })
	return out
}

func tableRow(cells ...string) string { return "| " + strings.Join(cells, " | ") + " |\n" }

func tableRuler(n int) string { return "|" + strings.Repeat("---|", n) + "\n" }

func linked(plugin string) string { return fmt.Sprintf("[%s](../plugins/%s)", plugin, plugin) }

func (m *matrix) page() []byte {
	var b strings.Builder
	b.WriteString(routesHead)
	head := []string{"from", "brings"}
	for _, e := range m.egresses {
		head = append(head, "to "+linked(e))
	}
	b.WriteString(tableRow(head...) + tableRuler(len(head)))
	for _, in := range m.ingests {
		first := linked(in)
		for _, c := range byKind(m.catalog[in].GetIngest().GetCodecs()) {
			cells := []string{first, string(c)}
			for _, e := range m.egresses {
				cells = append(cells, m.cell(c, e))
			}
			b.WriteString(tableRow(cells...))
			first = ""
		}
	}
	b.WriteString(routesLegend)
	for _, what := range slices.Sorted(maps.Keys(m.makers)) {
		fmt.Fprintf(&b, "- %s: made by %s, once per stream and setting, whatever the number of targets.\n", what, strings.Join(m.makers[what], " or "))
	}
	b.WriteString(routesRefusals)
	for i, n := range m.notes {
		fmt.Fprintf(&b, "%d. *%s*\n", i+1, n)
	}
	b.WriteString(routesPlugins)
	b.WriteString(tableRow("plugin", "reached by", "pictures", "sound") + tableRuler(4))
	for _, in := range m.ingests {
		info := m.catalog[in]
		how := strings.Join(slices.Concat(paths(info.GetMounts()), urls(info.GetIngest().GetSchemes())), ", ")
		video, audio := byKindOnly(info.GetIngest().GetCodecs(), media.Video), byKindOnly(info.GetIngest().GetCodecs(), media.Audio)
		b.WriteString(tableRow(linked(in), how, video, audio))
	}
	for _, e := range m.egresses {
		info := m.catalog[e].GetEgress()
		b.WriteString(tableRow(linked(e), strings.Join(urls(info.GetSchemes()), ", "), taken(info.GetAccepts(), media.Video), taken(info.GetAccepts(), media.Audio)))
	}
	b.WriteString(routesTail)
	return []byte(b.String())
}

func paths(mounts []string) (out []string) {
	for _, p := range mounts {
		out = append(out, "`"+p+"`")
	}
	return out
}

func urls(schemes []string) (out []string) {
	for _, s := range schemes {
		out = append(out, "`"+s+":`")
	}
	return out
}

func byKindOnly(codecs []string, k media.Kind) string {
	return strings.Join(slices.DeleteFunc(slices.Clone(codecs), func(c string) bool { return media.Codec(c).Kind() != k }), ", ")
}

// taken says what an egress takes of a kind.
func taken(a *wire.Accepts, k media.Kind) string {
	n := a.GetVideoTracks()
	if k == media.Audio {
		n = a.GetAudioTracks()
	}
	s := fmt.Sprintf("%d: %s", n, byKindOnly(a.GetCodecs(), k))
	if some := byKindOnly(a.GetOptionalCodecs(), k); some != "" {
		s += "; some peers " + some
	}
	return s
}

const routesHead = `# What goes where

<!-- made of what the plugins declare by go test ./cmd/gateway -run RoutesPage -rewrite -->

Any ingest can be sent to any egress. This page says what becomes of each codec on the way: whether it
passes bit for bit, what is made of it, and where it is refused. It is made of what the plugins declare,
and a test sends real media through every cell and looks at what arrives (` + "`test/e2e`, `TestRoutes`" + `).

`

const routesLegend = `
| a cell says | and means |
|---|---|
| as it is | passes bit for bit |
| ` + "`aac`" + ` or another codec | is made into that |
| ` + "`aac`" + `, or as it is | is made into that; passes where the peer says that it takes it (Enhanced RTMP) or the target does with ` + "`codecs`" + `, or where the target asks for it with ` + "`audio: {codec: ...}`" + ` and takes it |
| if taken | passes where the peer says that it takes it, or the target does with ` + "`codecs`" + `; refused otherwise, with the message of that number |
| refused | the target is refused with the message of that number |

`

const routesRefusals = `
## Refusals

A target that needs sound, because its service does or it says ` + "`audio: {codec: aac}`" + `, gets
silence of a publisher without sound.

A target that would lose all pictures or all sound is refused, and never goes out silent or dark. The others of
the stream go on.

| when | how |
|---|---|
| the configuration can never work: nothing that the ingest brings can go to the target, or ` + "`audio.codec`" + ` asks for what nobody makes | ` + "`gateway validate`" + ` and ` + "`gateway run`" + ` say where, and what to do; so does the API |
| a publisher over WHIP offers several codecs | H.264 is chosen, or else one that every target takes for certain, or else one that some target does; where there is none he is refused by 422 |
| no target of the stream could take what a publisher can send, even at the best | he is refused: WHIP by 422 with the message of the first target, RTMP by ` + "`NetStream.Publish.Rejected`" + ` with it, RTSP by 415 and SRT by code 1400 with the message in the log |
| one target of several cannot carry what comes | its state is ` + "`failed`" + ` with the message, in ` + "`/v1/streams`, `gateway top`" + ` and on the page; it is looked at again when the tracks change |
| a second picture or sound that a target has no room for | is left out: a warning in the log, ` + "`tracks_left_out`" + ` of the target, and a metric |

The messages, by their numbers in the table:

`

const routesPlugins = `
## What each declares

`

const routesTail = `
` + "`gateway plugins list gateway.yaml`" + ` shows the same of plugins of your own, for which the same rules hold.

## Examples

A browser to two kinds of server: H.264 passes to both, Opus becomes AAC once.

` + "```yaml" + `
routes:
  studio:
    publish: {token: "${env:STUDIO_TOKEN}"}
    to:
      cdn:     {url: "rtmps://ingest.example.com/live", key: "${env:CDN_KEY}"}
      partner: {url: "srt://partner.example.com:9000", passphrase: "${env:SRT_PASSPHRASE}"}
` + "```" + `

Opus as it is over SRT, for a peer that takes it, and a smaller AAC track of one channel for a CDN: each is
made once, and only if somebody needs it.

` + "```yaml" + `
routes:
  studio:
    publish: {token: "${env:STUDIO_TOKEN}"}
    to:
      archive: {url: "srt://archive.example.com:9000", audio: {codec: opus}}
      cdn:     {url: "rtmps://ingest.example.com/live", key: "${env:CDN_KEY}", audio: {bitrate: 64kbps, channels: 1}}
` + "```" + `
`
