package derive

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

// parse reads tracks: id:codec[/group.rank][<from][?], ? for one that is not
// described yet.
func parse(s string) []media.Track {
	number := func(s string) int {
		n, _ := strconv.Atoi(s)
		return n
	}
	var out []media.Track
	for f := range strings.FieldsSeq(s) {
		t := media.Track{DecoderConfig: []byte("c")}
		if strings.HasSuffix(f, "?") {
			t.DecoderConfig = nil
			f = strings.TrimSuffix(f, "?")
		}
		if a, b, ok := strings.Cut(f, "<"); ok {
			t.DerivedFrom = media.TrackID(number(b))
			f = a
		}
		if a, b, ok := strings.Cut(f, "/"); ok {
			group, rank, _ := strings.Cut(b, ".")
			t.Group = group
			t.Rank = number(rank)
			f = a
		}
		id, codec, _ := strings.Cut(f, ":")
		t.ID = media.TrackID(number(id))
		t.Codec = media.Codec(codec)
		out = append(out, t)
	}
	return out
}

func TestChoose(t *testing.T) {
	ts := TransformsOf([]pluginhost.Spec{
		{Info: &wire.DescribeResponse{Transforms: []*wire.TransformInfo{{From: "opus", To: "aac"}, {From: "pcmu", To: "opus"}}}},
		{Info: &wire.DescribeResponse{Transforms: []*wire.TransformInfo{{From: "opus", To: "aac"}}}},
	})
	rtmp := pluginhost.Accepts{Codecs: []media.Codec{media.H264, media.AAC, media.MP3}, VideoTracks: 1, AudioTracks: 1}
	f := func(tracks string, a pluginhost.Accepts, want string) {
		t.Helper()
		p := Choose(parse(tracks), Want{Accepts: a}, ts)
		var s []string
		for _, tr := range p.Tracks {
			s = append(s, fmt.Sprintf("%d", tr.ID))
		}
		for _, n := range p.Needs {
			s = append(s, fmt.Sprintf("need %s of %d", n.To, n.From))
		}
		for _, tr := range p.LeftOut {
			s = append(s, fmt.Sprintf("not %d", tr.ID))
		}
		if p.Complete {
			s = append(s, "complete")
		}
		if p.Refused != "" {
			s = append(s, "refused: "+p.Refused)
		}
		if got := strings.Join(s, ", "); got != want {
			t.Errorf("%s:\n got %s\nwant %s", tracks, got, want)
		}
	}
	f("1:h264 2:aac", rtmp, "1, 2, complete")
	f("1:h264? 2:aac", rtmp, "1, 2")
	f("1:h264 2:opus", rtmp, "1, need aac of 2")
	f("1:h264 2:opus 3:aac<2", rtmp, "1, 3, need aac of 2, complete")
	f("1:h264 2:opus 3:aac<2?", rtmp, "1, 3, need aac of 2")
	f("1:h264 2:opus 3:aac<2", pluginhost.Accepts{Codecs: []media.Codec{media.H264, media.Opus, media.AAC}, VideoTracks: 1, AudioTracks: 1}, "1, 2, complete")
	f("1:h264", rtmp, "1, complete")
	f("2:opus 3:aac<2", rtmp, "3, need aac of 2, complete")
	f("", rtmp, "")
	f("1:h264/v.2 2:h264/v.0 3:h264/v.1 4:aac", rtmp, "2, 4, complete")
	f("1:av1/v.0 2:h264/v.1 4:aac", rtmp, "2, 4, not 1, complete")
	f("1:h264 2:h264 4:aac 5:aac", rtmp, "1, 4, not 2, not 5, complete")
	f("1:vp8 2:aac", rtmp, "2, not 1, refused: the target would lose all video: it takes h264, the stream has vp8, and no plugin makes one of the other; publish h264")
	f("1:h264 2:pcma", rtmp, "1, not 2, refused: the target would lose all audio: it takes aac or mp3, the stream has pcma, and no plugin makes one of the other; publish aac or mp3")
	f("1:h264 2:aac", pluginhost.Accepts{Codecs: []media.Codec{media.AAC}, AudioTracks: 1},
		"2, not 1, refused: the target takes no video and would lose all of it (h264): publish without video, or send the stream elsewhere")
	// Who says nothing takes everything there is.
	f("1:vp9/v.0 2:vp9/v.1 3:opus 4:pcmu", pluginhost.Accepts{}, "1, 3, 4, complete")
}

// TestChooseBefore: optional codecs count where there is no other way, and only
// before the target was asked.
func TestChooseBefore(t *testing.T) {
	ts := Transforms{media.Opus: {media.AAC}}
	a := pluginhost.Accepts{
		Codecs: []media.Codec{media.H264, media.AAC}, VideoTracks: 1, AudioTracks: 1,
		Optional: []media.Codec{media.H265, media.Opus},
	}
	f := func(tracks string, want int, needs int, refused bool) {
		t.Helper()
		p := ChooseBefore(parse(tracks), Want{Accepts: a}, ts)
		if len(p.Tracks) != want || len(p.Needs) != needs || (p.Refused != "") != refused {
			t.Errorf("%s: %+v", tracks, p)
		}
	}
	f("1:h264 2:opus", 1, 1, false) // the sound is made, not hoped for
	f("1:h265 2:opus", 2, 0, false)
	f("1:vp8 2:aac", 1, 0, true)
	if p := Choose(parse("1:h265 2:aac"), Want{Accepts: a}, ts); p.Refused == "" {
		t.Error("a target that was asked is given what it does not take")
	}
	if why := Usable([]media.Codec{media.H265}, Want{Accepts: a}, ts); why != "" {
		t.Error(why)
	}
	if why := Usable([]media.Codec{media.VP8}, Want{Accepts: a}, ts); why == "" {
		t.Error("vp8 is usable")
	}
}

// TestWishes: what a target wants of its sound, beside what it takes.
func TestWishes(t *testing.T) {
	ts := Transforms{media.Opus: {media.AAC}}
	rtmp := pluginhost.Accepts{Codecs: []media.Codec{media.H264, media.AAC}, VideoTracks: 1, AudioTracks: 1}
	modern := pluginhost.Accepts{Codecs: []media.Codec{media.H264, media.Opus, media.AAC}, VideoTracks: 1, AudioTracks: 1}
	f := func(a pluginhost.Accepts, audio config.Audio, tracks, want string) {
		t.Helper()
		p := Choose(parse(tracks), WantOf(audio, a), ts)
		var s []string
		for _, tr := range p.Tracks {
			s = append(s, fmt.Sprintf("%d", tr.ID))
		}
		for _, n := range p.Needs {
			s = append(s, fmt.Sprintf("need %s of %d as %q", n.To, n.From, n.Setting.name()))
		}
		if p.Refused != "" {
			s = append(s, "refused")
		}
		if got := strings.Join(s, ", "); got != want {
			t.Errorf("%+v of %s: got %s, want %s (%s)", audio, tracks, got, want, p.Refused)
		}
	}
	f(modern, config.Audio{}, "1:h264 2:opus", "1, 2")
	f(modern, config.Audio{Codec: "aac"}, "1:h264 2:opus", `1, need aac of 2 as ""`)
	f(modern, config.Audio{Codec: "opus"}, "1:h264 2:opus", "1, 2")
	f(modern, config.Audio{Codec: "opus"}, "1:h264 2:aac", "1, refused")
	f(rtmp, config.Audio{Codec: "opus"}, "1:h264 2:opus", "1, refused")
	f(rtmp, config.Audio{BitsPerSecond: 96000, Channels: 1}, "1:h264 2:opus", `1, need aac of 2 as "96000/1/"`)
	f(rtmp, config.Audio{BitsPerSecond: 96000}, "1:h264 2:aac", "1, 2") // as it is
	f(pluginhost.Accepts{}, config.Audio{Codec: "aac"}, "1:vp9 2:opus", `1, need aac of 2 as ""`)
	f(pluginhost.Accepts{}, config.Audio{}, "1:vp9 2:opus", "1, 2")

	// Who needs sound gets silence where there is none, and until there is.
	silent := Transforms{"": {media.AAC}, media.Opus: {media.AAC}}
	g := func(a pluginhost.Accepts, audio config.Audio, needs bool, tracks, want string) {
		t.Helper()
		w := WantOf(audio, a)
		w.NeedsAudio = w.NeedsAudio || needs
		p := Choose(parse(tracks), w, silent)
		var s []string
		for _, tr := range p.Tracks {
			s = append(s, fmt.Sprint(tr.ID))
		}
		for _, n := range p.Needs {
			s = append(s, fmt.Sprintf("need %s of %d", n.To, n.From))
		}
		if p.Complete {
			s = append(s, "complete")
		}
		if got := strings.Join(s, ", "); got != want || p.Refused != "" {
			t.Errorf("%+v of %s: got %s, want %s (%s)", audio, tracks, got, want, p.Refused)
		}
	}
	g(rtmp, config.Audio{}, false, "1:h264", "1, complete")
	g(rtmp, config.Audio{}, true, "1:h264", "1, need aac of 1")
	g(rtmp, config.Audio{Codec: "aac"}, false, "1:h264", "1, need aac of 1")
	g(rtmp, config.Audio{}, true, "1:h264 4:aac<1", "1, 4, need aac of 1, complete")
	g(rtmp, config.Audio{}, false, "1:h264 4:aac<1", "1, complete")
	g(rtmp, config.Audio{}, true, "1:h264 2:opus", "1, need aac of 2")
	g(rtmp, config.Audio{}, true, "1:h264 2:opus 4:aac<1", "1, 4, need aac of 2, need aac of 1")
	g(rtmp, config.Audio{}, true, "1:h264 2:opus 3:aac<2 4:aac<1", "1, 3, need aac of 2, complete")
	g(rtmp, config.Audio{}, true, "1:h264 2:aac 4:aac<1", "1, 2, complete")
	g(rtmp, config.Audio{}, true, "2:opus 3:aac<2", "3, need aac of 2, complete")
	g(modern, config.Audio{Codec: "opus"}, false, "1:h264", "1, complete") // nothing makes silence of opus
	g(pluginhost.Accepts{Codecs: rtmp.Codecs, VideoTracks: 1}, config.Audio{}, true, "1:h264", "1, complete")
	g(pluginhost.Accepts{}, config.Audio{Codec: "aac"}, false, "1:vp9", "1, need aac of 1")
	if p := Choose(parse("1:h264"), WantOf(config.Audio{Codec: "aac", Channels: 1, BitsPerSecond: 96000}, rtmp), silent); p.Needs[0].Setting != (Setting{Channels: 1}) {
		t.Errorf("%+v: silence is made in one way for all who want so many channels", p.Needs)
	}

	// Two targets that want it differently get a track each.
	tracks := parse("1:h264 2:opus 3:aac<2 4:aac<2")
	tracks[3].DerivedAs = Setting{BitsPerSecond: 64000}.name()
	for bps, want := range map[int]media.TrackID{0: 3, 64000: 4} {
		p := Choose(tracks, WantOf(config.Audio{BitsPerSecond: bps}, rtmp), ts)
		if len(p.Tracks) != 2 || p.Tracks[1].ID != want || !p.Complete {
			t.Errorf("%d bit/s: %+v, want track %d", bps, p, want)
		}
	}
}
