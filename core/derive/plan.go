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
	"maps"
	"slices"
	"strings"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

// A Need is a track that has to be made. Equal needs share one track. Sound from a
// track of pictures is silence in their time.
type Need struct {
	From    media.TrackID
	To      media.Codec
	Setting Setting
}

// makes reports whether t is the track that n asks for.
func (n Need) makes(t media.Track) bool {
	return t.DerivedFrom == n.From && t.Codec == n.To && t.DerivedAs == n.Setting.name()
}

// MadeOf returns the track of n among tracks.
func (n Need) MadeOf(tracks []media.Track) (media.Track, bool) {
	if i := slices.IndexFunc(tracks, n.makes); i >= 0 {
		return tracks[i], true
	}
	return media.Track{}, false
}

// A Setting says how a track is to be made. Zero leaves it to the transform.
type Setting struct {
	BitsPerSecond int
	Channels      int
	Quality       string // high or fast
}

// name is s as [media.Track.DerivedAs].
func (s Setting) name() string {
	if s == (Setting{}) {
		return ""
	}
	return fmt.Sprintf("%d/%d/%s", s.BitsPerSecond, s.Channels, s.Quality)
}

// A Want is what a target takes, and how it wants its sound.
type Want struct {
	pluginhost.Accepts
	// Audio is the codec that its sound must have, empty for whatever it takes, and
	// Setting how it is made where it has to be.
	Audio   media.Codec
	Setting Setting
	// NeedsAudio: it gets silence where the stream has no sound.
	NeedsAudio bool
}

// WantOf is what a target wants that the configuration speaks of so, if it takes
// what accepts says. Who names a codec of its sound wants sound.
func WantOf(a config.Audio, accepts pluginhost.Accepts) Want {
	return Want{
		Accepts: accepts, Audio: media.Codec(a.Codec), NeedsAudio: a.Codec != "",
		Setting: Setting{BitsPerSecond: a.BitsPerSecond, Channels: a.Channels, Quality: a.Quality},
	}
}

// narrowed is w without the codecs of sound that the target is not to get.
func (w Want) narrowed() Want {
	if w.Audio == "" {
		return w
	}
	keep := func(codecs []media.Codec) []media.Codec {
		return slices.DeleteFunc(slices.Clone(codecs), func(c media.Codec) bool { return c.Kind() == media.Audio && c != w.Audio })
	}
	if len(w.Codecs) == 0 { // it takes everything
		w.VideoTracks, w.AudioTracks = limit(w.Accepts, media.Video), limit(w.Accepts, media.Audio)
		w.Codecs = []media.Codec{media.H264, media.H265, media.AV1, media.VP8, media.VP9, w.Audio}
		return w
	}
	w.Codecs, w.Optional = keep(w.Codecs), keep(w.Optional)
	return w
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

// Transforms are the codecs that can be made of others; of none, as silence.
type Transforms map[media.Codec][]media.Codec

// TransformsOf collects what plugins declare.
func TransformsOf(specs []pluginhost.Spec) Transforms {
	ts := make(Transforms)
	for _, s := range specs {
		ts.add(s.Info)
	}
	return ts
}

func (ts Transforms) add(info *wire.DescribeResponse) {
	for _, t := range info.GetTransforms() {
		from, to := media.Codec(t.GetFrom()), media.Codec(t.GetTo())
		if !slices.Contains(ts[from], to) {
			ts[from] = append(ts[from], to)
		}
	}
}

// accepts reports whether a target that says a takes a codec. One that says
// nothing takes everything.
func accepts(a pluginhost.Accepts, c media.Codec) bool {
	if len(a.Codecs) == 0 {
		return true
	}
	return slices.Contains(a.Codecs, c)
}

// anyNumber of tracks is what a target takes that sets no limit.
const anyNumber = 1 << 10

// limit is how many tracks of a kind a target takes.
func limit(a pluginhost.Accepts, k media.Kind) int {
	if len(a.Codecs) == 0 && a.VideoTracks == 0 && a.AudioTracks == 0 {
		return anyNumber
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

// Choose plans what a target that wants w gets of the stream with these tracks.
// Of a group of tracks it gets the best that it takes; a sound that it does not
// take is derived if there is a transform.
func Choose(tracks []media.Track, w Want, ts Transforms) Plan {
	narrow := w.narrowed()
	var p Plan
	for _, kind := range []media.Kind{media.Video, media.Audio} {
		p.choose(kind, tracks, narrow, ts)
	}
	if w.NeedsAudio && p.Refused == "" {
		p.fillAudio(tracks, narrow, ts)
	}
	if w.Audio != "" && p.Refused != "" && Choose(tracks, Want{Accepts: w.Accepts, Setting: w.Setting}, ts).Refused == "" {
		p.Refused = fmt.Sprintf("the target is to get its sound as %s (audio.codec) and does not take that, or nothing makes it of the stream's: remove audio.codec", w.Audio)
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

// hoped is w of a target that takes its optional codecs too.
func (w Want) hoped() Want {
	w.Codecs = append(slices.Clip(w.Codecs), w.Optional...)
	return w
}

// ChooseBefore is Choose before the target was asked what it accepts: a stream that
// it could not be served with for certain is planned in the hope that it takes one
// of the optional codecs.
func ChooseBefore(tracks []media.Track, w Want, ts Transforms) Plan {
	p := Choose(tracks, w, ts)
	if p.Refused == "" || len(w.Optional) == 0 {
		return p
	}
	if h := Choose(tracks, w.hoped(), ts); h.Refused == "" {
		return h
	}
	return p
}

func (p *Plan) choose(kind media.Kind, tracks []media.Track, w Want, ts Transforms) {
	a := w.Accepts
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
			n := Need{From: t.ID, To: made, Setting: w.Setting}
			p.Needs = append(p.Needs, n)
			if d, ok := n.MadeOf(tracks); ok {
				p.Tracks = append(p.Tracks, d)
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

// fillAudio plans silence beside the picture where there is no sound. Where there
// will be some, and silence until now, that stays until the sound is there.
func (p *Plan) fillAudio(tracks []media.Track, w Want, ts Transforms) {
	isAudio := func(t media.Track) bool { return t.Codec.Kind() == media.Audio }
	video := slices.IndexFunc(p.Tracks, func(t media.Track) bool { return t.Codec.Kind() == media.Video })
	to := ts.makes("", w.Accepts)
	if video < 0 || to == "" || limit(w.Accepts, media.Audio) == 0 || slices.ContainsFunc(p.Tracks, isAudio) {
		return
	}
	n := Need{From: p.Tracks[video].ID, To: to, Setting: Setting{Channels: w.Setting.Channels}}
	made, there := n.MadeOf(tracks)
	if there {
		p.Tracks = append(p.Tracks, made)
	}
	if there || len(originals(tracks, media.Audio)) == 0 {
		p.Needs = append(p.Needs, n)
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
			kind, names(have, " and "), kind)
	}
	return fmt.Sprintf("the target would lose all %s: it takes %s, the stream has %s, and no plugin makes one of the other; publish %s",
		kind, names(takes, " or "), names(have, " and "), names(takes, " or "))
}

// names is a list for people: h264, h265 or av1.
func names(codecs []media.Codec, last string) string {
	s := make([]string, len(codecs))
	for i, c := range codecs {
		s[i] = string(c)
	}
	if n := len(s); n > 1 {
		s = append(s[:n-2], s[n-2]+last+s[n-1])
	}
	return strings.Join(s, ", ")
}

// LostOf is [Lost] for a target of a configuration, by what the plugins declare: what
// [config.Options] asks for.
func LostOf(catalog config.Catalog, codecs []media.Codec, t *config.Target) []media.Kind {
	ts := make(Transforms)
	for _, name := range slices.Sorted(maps.Keys(catalog)) {
		ts.add(catalog[name])
	}
	return Lost(codecs, WantOf(t.Audio, AcceptsOf(catalog[t.Plugin].GetEgress(), t)), ts)
}

// MadeOf reports whether a target of a configuration may get sound that is made, of a
// stream with some of codecs or none: what [config.Options] asks for.
func MadeOf(catalog config.Catalog, codecs []media.Codec, t *config.Target) bool {
	ts := make(Transforms)
	for _, info := range catalog {
		ts.add(info)
	}
	// Whatever its peer takes beyond that for certain.
	w := WantOf(t.Audio, AcceptsOf(catalog[t.Plugin].GetEgress(), t)).narrowed()
	if w.NeedsAudio && w.Setting.Channels != 0 && ts.makes("", w.Accepts) != "" {
		return true // silence
	}
	return slices.ContainsFunc(ofKind(codecs, media.Audio), func(c media.Codec) bool {
		return !accepts(w.Accepts, c) && ts.makes(c, w.Accepts) != ""
	})
}

// AcceptsOf is what a target takes as far as it is known without asking its peer: what
// its plugin declares, or what its user says.
func AcceptsOf(plugin *wire.EgressInfo, t *config.Target) pluginhost.Accepts {
	a := pluginhost.AcceptsOf(plugin.GetAccepts())
	if said := t.Codecs(plugin); len(said) > 0 {
		a.Codecs, a.Optional = said, nil
	}
	return a
}

// Carried reports whether a target that wants w gets a track of codec c, as it is
// or transformed.
func Carried(c media.Codec, w Want, ts Transforms) bool {
	return w.narrowed().carried(c, ts)
}

// carried is Carried of a want that is narrowed.
func (w Want) carried(c media.Codec, ts Transforms) bool {
	return limit(w.Accepts, c.Kind()) > 0 && (accepts(w.Accepts, c) || ts.makes(c, w.Accepts) != "")
}

// Usable says why a target that wants w could not be served by a publisher who
// can send these codecs; empty if it could, or nothing is known.
func Usable(codecs []media.Codec, w Want, ts Transforms) string {
	possible := w.possible()
	for _, kind := range Lost(codecs, w, ts) {
		return refusal(kind, ofKind(codecs, kind), possible.Accepts, limit(possible.Accepts, kind))
	}
	return ""
}

// Lost are the kinds of which a target that wants w could get nothing, whichever of
// codecs a stream has, and whatever its peer takes.
func Lost(codecs []media.Codec, w Want, ts Transforms) (kinds []media.Kind) {
	w = w.possible()
	for _, kind := range []media.Kind{media.Video, media.Audio} {
		have := ofKind(codecs, kind)
		if len(have) > 0 && !slices.ContainsFunc(have, func(c media.Codec) bool { return w.carried(c, ts) }) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// possible is w with all that a target can take at the best.
func (w Want) possible() Want {
	if len(w.Codecs) > 0 {
		w = w.hoped()
	}
	return w.narrowed()
}

func ofKind(codecs []media.Codec, kind media.Kind) []media.Codec {
	return slices.DeleteFunc(slices.Clone(codecs), func(c media.Codec) bool { return c.Kind() != kind })
}
