package ingestrtsp

import (
	"strings"
	"time"

	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"

	"github.com/headgate/gateway/internal/rtp/depack"
	"github.com/headgate/gateway/internal/rtp/reorder"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/aac"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/media/h265"
	"github.com/headgate/gateway/sdk/media/opus"
)

const videoRateHz = 90000

// describe takes the track of one media section: the first of its formats that is
// carried. What is not is left out, with a warning.
func (s *session) describe(m *description.Media) {
	if m.IsBackChannel {
		s.leaveOut("back channel")
		return
	}
	taken := false
	for i, f := range m.Formats {
		if taken {
			s.leaveOut("second format of one track")
			continue
		}
		t := &track{session: s, media: m, track: media.Track{ID: media.TrackID(len(s.tracks) + 1)}}
		if why := t.read(f); why != "" {
			s.leaveOut(why)
			continue
		}
		t.buffer = reorder.New(false, t.frames.Push)
		m.Formats[i] = &tap{Format: f, take: t.take}
		s.tracks = append(s.tracks, t)
		taken = true
	}
}

func (s *session) leaveOut(kind string) {
	s.leftOut[kind]++
	s.log.Warn("a track is left out: the gateway does not carry it", "kind", kind)
}

// read makes t the track of f; if it is not carried it says what it is.
func (t *track) read(f format.Format) (leftOut string) {
	switch f := f.(type) {
	case *format.H264:
		if f.PacketizationMode > 1 {
			return "H.264 with interleaved packets"
		}
		sps, pps := f.SafeParams()
		t.h264(sps, pps)
	case *format.H265:
		if f.MaxDONDiff != 0 {
			return "H.265 with interleaved packets"
		}
		vps, sps, pps := f.SafeParams()
		t.h265(vps, sps, pps)
	case *format.MPEG4Audio:
		config, err := f.Config.Marshal()
		if err != nil || !t.aac(config) {
			return "AAC of a kind that is not known"
		}
		t.frames = &aacFrames{sound: sound{emit: t.emit}, make: func() (aacDecoder, error) { return f.CreateDecoder() }, ticks: t.samplesPerUnit(config)}
	case *format.MPEG4AudioLATM:
		if f.CPresent {
			return "LATM with its configuration in band"
		}
		c := f.StreamMuxConfig
		if len(c.Programs) != 1 || len(c.Programs[0].Layers) != 1 || c.NumSubFrames != 0 || c.OtherDataPresent || c.CRCCheckPresent ||
			c.Programs[0].Layers[0].FrameLengthType != 0 {
			return "LATM with more than one layer"
		}
		config, err := c.Programs[0].Layers[0].AudioSpecificConfig.Marshal()
		if err != nil || !t.aac(config) {
			return "AAC of a kind that is not known"
		}
		t.frames = &aacFrames{sound: sound{emit: t.emit}, make: func() (aacDecoder, error) {
			d, err := f.CreateDecoder()
			return latmDecoder{d}, err
		}, ticks: t.samplesPerUnit(config)}
	case *format.Opus:
		if f.ChannelCount > 2 {
			return "Opus of more than two channels"
		}
		t.opus(f.ChannelCount)
	case *format.G711:
		if f.ChannelCount > 2 {
			return "G.711 of more than two channels"
		}
		t.g711(f)
	default:
		return nameOf(f)
	}
	return ""
}

// nameOf is what a format calls itself, for people.
func nameOf(f format.Format) string {
	name := f.Codec()
	if g, ok := f.(*format.Generic); ok {
		name, _, _ = strings.Cut(g.RTPMap(), "/")
	}
	// It was written by the source: a word, or none.
	if name == "" || len(name) > 40 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "unknown"
	}
	return name
}

func (t *track) h264(sps, pps []byte) {
	t.track.Codec = media.H264
	t.time = t.session.clock.AddTrack(videoRateHz, false)
	var known [][]byte
	for _, n := range [][]byte{sps, pps} {
		if len(n) > 0 {
			known = append(known, n)
		}
	}
	t.frames = depack.NewH264(t.emit, known...)
	// Described at once where the description has the sets: targets need not wait for
	// the first picture then.
	var sets h264.ParameterSets
	var picture h264.Picture
	if picture.Normalize(known) != nil {
		return
	}
	if _, err := sets.Update(picture.SPS, picture.PPS); err != nil {
		return
	}
	if c, ok := sets.Config(); ok {
		if b, err := c.Marshal(); err == nil {
			sps, _ := sets.SPS()
			t.track.DecoderConfig, t.track.Width, t.track.Height, t.track.FrameRate = b, sps.Width(), sps.Height(), sps.FrameRate()
		}
	}
}

func (t *track) h265(vps, sps, pps []byte) {
	t.track.Codec = media.H265
	t.time = t.session.clock.AddTrack(videoRateHz, false)
	var known [][]byte
	for _, n := range [][]byte{vps, sps, pps} {
		if len(n) > 0 {
			known = append(known, n)
		}
	}
	t.frames = depack.NewH265(t.emit, known...)
	var sets h265.ParameterSets
	var picture h265.Picture
	if picture.Normalize(known) != nil {
		return
	}
	if _, err := sets.Update(picture.VPS, picture.SPS, picture.PPS); err != nil {
		return
	}
	if c, ok := sets.Config(); ok {
		if b, err := c.Marshal(); err == nil {
			sps, _ := sets.SPS()
			t.track.DecoderConfig, t.track.Width, t.track.Height = b, sps.Width(), sps.Height()
		}
	}
}

// aac describes the track; false if config is not understood.
func (t *track) aac(config []byte) bool {
	c, err := aac.ParseConfig(config)
	if err != nil {
		return false
	}
	t.track.Codec, t.track.DecoderConfig = media.AAC, config
	t.track.SampleRateHz, t.track.Channels = c.OutputSampleRateHz(), c.OutputChannels()
	t.time = t.session.clock.AddTrack(c.OutputSampleRateHz(), true)
	return true
}

// samplesPerUnit is how long a unit is in ticks of the track's RTP clock, which is the
// rate that is played.
func (t *track) samplesPerUnit(config []byte) ticks {
	c, _ := aac.ParseConfig(config)
	n := aac.SamplesPerUnit
	if c.ShortFrames {
		n = 960
	}
	return ticks{n * c.OutputSampleRateHz() / c.SampleRateHz, c.OutputSampleRateHz()}
}

func (t *track) opus(channels int) {
	t.track.Codec, t.track.SampleRateHz, t.track.Channels = media.Opus, opus.SampleRateHz, channels
	if head, err := (opus.Head{Channels: channels, PreSkip: 312, InputSampleRateHz: opus.SampleRateHz}).Marshal(); err == nil {
		t.track.DecoderConfig = head
	}
	t.time = t.session.clock.AddTrack(opus.SampleRateHz, true)
	t.frames = depack.NewOpus(t.emit)
}

func (t *track) g711(f *format.G711) {
	t.track.Codec = media.PCMA
	if f.MULaw {
		t.track.Codec = media.PCMU
	}
	t.track.SampleRateHz, t.track.Channels = f.SampleRate, f.ChannelCount
	t.time = t.session.clock.AddTrack(f.SampleRate, true)
	t.frames = &g711Frames{sound: sound{emit: t.emit}, rateHz: f.SampleRate, channels: f.ChannelCount}
}

// ticks is a duration on an RTP clock.
type ticks struct{ n, rateHz int }

func (d ticks) duration() time.Duration {
	return time.Duration(d.n) * time.Second / time.Duration(d.rateHz)
}
