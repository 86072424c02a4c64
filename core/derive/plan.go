// Package derive finds out which tracks of a stream a target gets, and has the
// tracks made that it needs and the stream lacks: one transform session per
// stream and setting, whatever the number of targets, whose output is a track of
// the stream like any other.
//
// It knows what targets accept and which transforms there are. It does not know
// how targets are reached, nor what a transform does.
package derive

import (
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/sdk/media"
)

// A Need is a track that has to be made. Equal needs share one track.
type Need struct {
	From media.TrackID
	To   media.Codec
}

// A Plan is what a target gets of a stream.
type Plan struct {
	// Tracks are those to send that are there, complete or not.
	Tracks []media.Track
	// Needs are tracks that have to be made, and are there or not.
	Needs []Need
	// LeftOut are originals that the target does not get, beside its being given
	// others of their kind.
	LeftOut []media.Track
	// Complete: all that the target is to get is there, with what a decoder needs.
	Complete bool
	// Refused says why the target cannot be served at all, and what to do; empty
	// if it can.
	Refused string
}

// Transforms are the codecs that can be made of others.
type Transforms map[media.Codec][]media.Codec

// TransformsOf collects what plugins declare.
func TransformsOf(specs []pluginhost.Spec) Transforms {
	ts := make(Transforms)
	for _, s := range specs {
		for _, t := range s.Info.GetTransforms() {
			from, to := media.Codec(t.GetFrom()), media.Codec(t.GetTo())
			if !slices.Contains(ts[from], to) {
				ts[from] = append(ts[from], to)
			}
		}
	}
	return ts
}

// accepts reports whether a target that says a takes a codec. One that says
// nothing takes everything.
func accepts(a pluginhost.Accepts, c media.Codec) bool {
	if len(a.Codecs) == 0 {
		return true
	}
	return slices.Contains(a.Codecs, c)
}

// limit is how many tracks of a kind a target takes.
func limit(a pluginhost.Accepts, k media.Kind) int {
	if len(a.Codecs) == 0 && a.VideoTracks == 0 && a.AudioTracks == 0 {
		return 1 << 10
	}
	if k == media.Video {
		return a.VideoTracks
	}
	return a.AudioTracks
}

// makes returns the codec that can be made of c and that the target likes best;
// empty if there is none.
func (ts Transforms) makes(c media.Codec, a pluginhost.Accepts) media.Codec {
	for _, want := range a.Codecs {
		if slices.Contains(ts[c], want) {
			return want
		}
	}
	return ""
}

// Choose plans what a target that accepts a gets of the stream with these tracks.
// Of a group of tracks it gets the best that it takes; a sound that it does not
// take is derived if there is a transform.
func Choose(tracks []media.Track, a pluginhost.Accepts, ts Transforms) Plan {
	var p Plan
	for _, kind := range []media.Kind{media.Video, media.Audio} {
		p.choose(kind, tracks, a, ts)
	}
	p.Complete = p.Refused == "" && len(p.Tracks) > 0
	made := 0
	for _, t := range p.Tracks {
		p.Complete = p.Complete && t.Complete()
		if t.DerivedFrom != 0 {
			made++
		}
	}
	p.Complete = p.Complete && made == len(p.Needs)
	return p
}

// hoped is what a target takes that takes its optional codecs too.
func hoped(a pluginhost.Accepts) pluginhost.Accepts {
	a.Codecs = append(slices.Clip(a.Codecs), a.Optional...)
	return a
}

// ChooseBefore is Choose before the target was asked what it accepts: a stream that
// it could not be served with for certain is planned in the hope that it takes one
// of the optional codecs.
func ChooseBefore(tracks []media.Track, a pluginhost.Accepts, ts Transforms) Plan {
	p := Choose(tracks, a, ts)
	if p.Refused == "" || len(a.Optional) == 0 {
		return p
	}
	if h := Choose(tracks, hoped(a), ts); h.Refused == "" {
		return h
	}
	return p
}

func (p *Plan) choose(kind media.Kind, tracks []media.Track, a pluginhost.Accepts, ts Transforms) {
	room := limit(a, kind)
	var there, got int
	var groups []string
	for _, t := range originals(tracks, kind) {
		there++
		if t.Group != "" && slices.Contains(groups, t.Group) {
			continue // a better one of the group is chosen
		}
		made := ts.makes(t.Codec, a)
		switch {
		case got == room:
			p.LeftOut = append(p.LeftOut, t)
			continue
		case accepts(a, t.Codec):
			p.Tracks = append(p.Tracks, t)
		case made != "":
			p.Needs = append(p.Needs, Need{From: t.ID, To: made})
			if i := slices.IndexFunc(tracks, func(d media.Track) bool { return d.DerivedFrom == t.ID && d.Codec == made }); i >= 0 {
				p.Tracks = append(p.Tracks, tracks[i])
			}
		default:
			p.LeftOut = append(p.LeftOut, t)
			continue
		}
		got++
		if t.Group != "" {
			groups = append(groups, t.Group)
		}
	}
	if there > 0 && got == 0 && p.Refused == "" {
		p.Refused = refusal(kind, codecsOf(originals(tracks, kind)), a, room)
	}
}

// originals returns the tracks of a kind that were not derived, the best of each
// group first.
func originals(tracks []media.Track, kind media.Kind) []media.Track {
	var out []media.Track
	for _, t := range tracks {
		if t.Codec.Kind() == kind && t.DerivedFrom == 0 {
			out = append(out, t)
		}
	}
	slices.SortStableFunc(out, func(x, y media.Track) int {
		if x.Group != "" && x.Group == y.Group {
			return x.Rank - y.Rank
		}
		return 0
	})
	return out
}

func codecsOf(tracks []media.Track) []media.Codec {
	var out []media.Codec
	for _, t := range tracks {
		if !slices.Contains(out, t.Codec) {
			out = append(out, t.Codec)
		}
	}
	return out
}

func refusal(kind media.Kind, have []media.Codec, a pluginhost.Accepts, room int) string {
	var takes []media.Codec
	for _, c := range a.Codecs {
		if c.Kind() == kind {
			takes = append(takes, c)
		}
	}
	if room == 0 || len(takes) == 0 {
		return fmt.Sprintf("the target takes no %s and would lose all of it (%s): publish without %s, or send the stream elsewhere",
			kind, names(have), kind)
	}
	return fmt.Sprintf("the target would lose all %s: it takes %s, the stream has %s, and no plugin makes one of the other; publish %s",
		kind, names(takes), names(have), names(takes))
}

func names(codecs []media.Codec) string {
	s := make([]string, len(codecs))
	for i, c := range codecs {
		s[i] = string(c)
	}
	return strings.Join(s, ", ")
}

// Carried reports whether a target that accepts a gets a track of codec c, as it is
// or transformed.
func Carried(c media.Codec, a pluginhost.Accepts, ts Transforms) bool {
	return limit(a, c.Kind()) > 0 && (accepts(a, c) || ts.makes(c, a) != "")
}

// Usable says why a target that accepts a could not be served by a publisher who
// can send these codecs; empty if it could, or nothing is known.
func Usable(codecs []media.Codec, a pluginhost.Accepts, ts Transforms) string {
	if len(a.Codecs) > 0 {
		a = hoped(a)
	}
	for _, kind := range []media.Kind{media.Video, media.Audio} {
		var have []media.Codec
		usable := false
		for _, c := range codecs {
			if c.Kind() != kind {
				continue
			}
			have = append(have, c)
			usable = usable || limit(a, kind) > 0 && (accepts(a, c) || ts.makes(c, a) != "")
		}
		if len(have) > 0 && !usable {
			return refusal(kind, have, a, limit(a, kind))
		}
	}
	return ""
}
