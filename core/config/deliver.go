package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

// deliverable checks that something of what comes in can go to the target at p, and
// that its sound can be what it asks for. from is nil if publishers come by
// themselves.
func (c *checker) deliverable(p path, t *Target, from *From) {
	if c.options.Lost == nil || c.catalog[t.Plugin].GetEgress() == nil {
		return
	}
	who, codecs := c.brings(from)
	lost := c.options.Lost(c.catalog, codecs, t)
	if len(lost) == 0 {
		c.effective(p.child("audio"), t, who, codecs)
		return
	}
	if t.Audio.Codec != "" && slices.Contains(lost, media.Audio) {
		plain := *t
		plain.Audio.Codec = ""
		if !slices.Contains(c.options.Lost(c.catalog, codecs, &plain), media.Audio) {
			c.value(p.child("audio").child("codec"), fault{
				fmt.Sprintf("the sound of this target can never be %s: %s, %s, and nothing makes one of the other",
					t.Audio.Codec, c.takes(t, media.Audio), who+" "+listOf(codecs, media.Audio)),
				"remove codec",
			})
			return
		}
	}
	var all, bad []string
	for _, k := range []media.Kind{media.Video, media.Audio} {
		have := listOf(codecs, k)
		if have == "" {
			continue
		}
		all = append(all, have)
		if slices.Contains(lost, k) {
			bad = append(bad, fmt.Sprintf("%s, %s %s", c.takes(t, k), who, have))
		}
	}
	finding, elsewhere := strings.Join(bad, "; ")+"; no plugin makes one of the other", "send the stream elsewhere"
	if info := c.catalog[t.Plugin].GetEgress(); len(t.Codecs(info)) > 0 {
		elsewhere = "correct " + info.GetCodecsOption() + ", or " + elsewhere
	}
	if len(bad) == len(all) {
		c.key(p, fault{"nothing can ever go to this target: " + finding, elsewhere + ", or take it from elsewhere"})
		return
	}
	kind := lost[0]
	c.warn(p, fault{fmt.Sprintf("a stream with %s will be refused by this target: %s", kind, finding),
		fmt.Sprintf("publish without %s, or %s", kind, elsewhere)})
}

// Codecs are those that the user says that the target takes, by the option that its plugin
// has for that; none if nothing is said. What is wrong with them the plugin tells.
func (t *Target) Codecs(plugin *wire.EgressInfo) (said []media.Codec) {
	var options map[string]json.RawMessage
	if plugin.GetCodecsOption() == "" || json.Unmarshal(t.Options, &options) != nil ||
		json.Unmarshal(options[plugin.GetCodecsOption()], &said) != nil {
		return nil
	}
	return said
}

// effective says of settings for sound that is made, at p, that none ever will be.
func (c *checker) effective(p path, t *Target, who string, codecs []media.Codec) {
	set := t.Audio.ForMade()
	if len(set) == 0 || t.Audio.Codec == string(media.Opus) || len(codecs) == 0 || c.options.Made == nil || c.options.Made(c.catalog, codecs, t) {
		return // of opus it has been said
	}
	c.warn(p, fault{
		fmt.Sprintf("%s will have no effect: they are for sound that is made, and that of this target passes as it comes (%s %s)",
			strings.Join(set, ", "), who, listOf(codecs, media.Audio)),
		"remove them, and set the encoder of whoever publishes",
	})
}

// brings is what can come in on a route, and the words for who brings it. No codecs:
// nothing is known.
func (c *checker) brings(from *From) (who string, codecs []media.Codec) {
	plugins := slices.Sorted(maps.Keys(c.catalog))
	who = "publishers can bring"
	if from != nil {
		plugins = []string{from.Plugin}
		who = from.Plugin + " brings"
	}
	for _, name := range plugins {
		in := c.catalog[name].GetIngest()
		if in == nil {
			continue
		}
		if len(in.GetCodecs()) == 0 {
			return who, nil // it may bring anything
		}
		for _, codec := range in.GetCodecs() {
			if m := media.Codec(codec); !slices.Contains(codecs, m) {
				codecs = append(codecs, m)
			}
		}
	}
	return who, codecs
}

// takes says what a target takes of a kind: what its user says, or its plugin.
func (c *checker) takes(t *Target, k media.Kind) string {
	info := c.catalog[t.Plugin].GetEgress()
	some, none, codecs := t.Plugin+" takes", t.Plugin+" takes", t.Codecs(info)
	if len(codecs) > 0 {
		some, none = "its "+info.GetCodecsOption()+" are", "its "+info.GetCodecsOption()+" hold"
	} else {
		for _, name := range slices.Concat(info.GetAccepts().GetCodecs(), info.GetAccepts().GetOptionalCodecs()) {
			codecs = append(codecs, media.Codec(name))
		}
	}
	if list := listOf(codecs, k); list != "" {
		return some + " " + list
	}
	return fmt.Sprintf("%s no %s", none, k)
}

func listOf(codecs []media.Codec, k media.Kind) string {
	var s []string
	for _, c := range codecs {
		if c.Kind() == k {
			s = append(s, string(c))
		}
	}
	return strings.Join(s, ", ")
}
