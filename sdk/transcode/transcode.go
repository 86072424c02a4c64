// Package transcode derives AAC-LC sound from Opus, G.711 and MPEG audio, as transforms that any
// egress plugin can declare: decoding, concealment of what was lost, following
// the publisher's clock, encoding, and timestamps without a tick of drift.
//
// It knows these codecs and the time of one track. It does not know who
// publishes, who listens, or why units are missing.
package transcode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/opus"
)

// What comes out is always this, unless a target asks for mono: players and CDNs
// take a change badly, and Opus always decodes to 48 kHz and two channels.
const (
	sampleRateHz = opus.SampleRateHz
	channels     = 2
)

// The bits per second of the AAC track. What targets ask for is moved into the
// range in which the encoder behaves.
const (
	defaultBitsPerSecond = 160_000
	minBitsPerSecond     = 64_000
	maxBitsPerSecond     = 256_000

	defaultMonoBitsPerSecond = 96_000
	minMonoBitsPerSecond     = 32_000
	maxMonoBitsPerSecond     = 160_000
)

// OpusToAAC returns the transform. It makes stereo of 48 kHz at 160 kb/s unless a
// target asks for another rate or for mono, with timestamps that follow those of
// the input to within 20 ms: see audio.go for how.
func OpusToAAC() sdk.Transform {
	return sdk.Transform{From: media.Opus, To: media.AAC, Open: open}
}

// G711ToAAC returns the transforms of G.711, A-law and mu-law, which telephones and
// cameras send: the sound is resampled to 48 kHz, and otherwise made as [OpusToAAC]
// makes it.
func G711ToAAC() []sdk.Transform {
	return []sdk.Transform{{From: media.PCMA, To: media.AAC, Open: open}, {From: media.PCMU, To: media.AAC, Open: open}}
}

// All returns every transform of this package: what a target needs that takes AAC.
func All() []sdk.Transform {
	return slices.Concat(G711ToAAC(), MPEGAudioToAAC(), []sdk.Transform{OpusToAAC(), Silence()})
}

func open(_ context.Context, in media.Track, s sdk.TransformSettings) (sdk.Transformer, error) {
	out, rate := channels, defaultBitsPerSecond
	least, most := minBitsPerSecond, maxBitsPerSecond
	switch s.Channels {
	case 0, channels:
	case 1:
		out, rate = 1, defaultMonoBitsPerSecond
		least, most = minMonoBitsPerSecond, maxMonoBitsPerSecond
	default:
		return nil, sdk.Permanent(&sdk.Error{
			Cause: sdk.CauseConfig,
			Err:   fmt.Errorf("%s to aac with %d channels: it makes 1 or 2", in.Codec, s.Channels),
		})
	}
	if s.Bitrate > 0 {
		rate = min(max(s.Bitrate, least), most)
	}
	enc, err := newAACEncoder(out, rate)
	if err != nil {
		return nil, sdk.Permanent(&sdk.Error{Cause: sdk.CausePlugin, Err: err})
	}
	return newTransformer(in, enc, out, rate, s.Quality == fastQuality)
}

// fastQuality is the quality that costs the least work.
const fastQuality = "fast"

// transformer implements [sdk.Transformer]. One goroutine calls it.
type transformer struct {
	audio  *follower
	units  *unitWriter
	effort effort
	in     media.Track // as first described
	track  media.Track
	out    int // channels
	rate   int
	spent  time.Duration // in Transform and Idle
}

// newTransformer makes a transformer of an encoder for out channels.
func newTransformer(in media.Track, enc AACEncoder, out, rate int, fast bool) (*transformer, error) {
	units, err := newUnitWriter(enc, out)
	if err != nil {
		return nil, err
	}
	kind, err := packetsOf(in)
	if err != nil {
		return nil, sdk.Permanent(&sdk.Error{Cause: sdk.CauseRemote, Err: err})
	}
	t := &transformer{in: in, audio: newFollower(units, kind), units: units, out: out, rate: rate, effort: effort{enc: enc, asked: fast}}
	t.effort.set(fast)
	if err := t.SetTrack(in); err != nil {
		return nil, err
	}
	return t, nil
}

// packetsOf says what the packets of a track are.
func packetsOf(in media.Track) (codedSound, error) {
	switch in.Codec {
	case media.Opus:
		return opusPackets()
	case media.PCMA, media.PCMU:
		return g711Packets(in)
	case media.MP2, media.MP3:
		return mpegPackets(in)
	default:
		return codedSound{}, fmt.Errorf("transcoding %s: want opus, pcma, pcmu, mp2 or mp3", in.Codec)
	}
}

// Track implements [sdk.Transformer].
func (t *transformer) Track() media.Track { return t.track }

// SetTrack implements [sdk.Transformer]. Of Opus only the output gain
// matters: packets say themselves how many channels they have, and so do frames of
// MPEG audio.
func (t *transformer) SetTrack(in media.Track) error {
	says := in.Codec != media.PCMA && in.Codec != media.PCMU // of itself what it is
	if in.Codec != t.in.Codec || !says && (in.SampleRateHz != t.in.SampleRateHz || in.Channels != t.in.Channels) {
		return fmt.Errorf("transcoding %s: it became %s of %d Hz with %d channels", t.in.Codec, in.Codec, in.SampleRateHz, in.Channels)
	}
	gain := 0
	if in.Codec == media.Opus && len(in.DecoderConfig) > 0 {
		head, err := opus.ParseHead(in.DecoderConfig)
		if err != nil {
			return err
		}
		if head.MappingFamily != 0 {
			return fmt.Errorf("transcoding opus with %d channels: want mono or stereo", head.Channels)
		}
		gain = int(head.OutputGain)
	}
	if err := t.audio.setGain(gain); err != nil {
		return err
	}
	t.track = media.Track{
		Codec: media.AAC, DecoderConfig: t.units.config,
		SampleRateHz: sampleRateHz, Channels: t.out,
		BitrateBitsPerSecond: t.rate,
		Language:             in.Language, DerivedFrom: in.ID,
	}
	return nil
}

// Transform implements [sdk.Transformer]. An error concerns this packet; its
// time is filled all the same.
func (t *transformer) Transform(unit *media.AccessUnit, emit func(*media.AccessUnit)) error {
	if len(unit.Payload) == 0 {
		return errors.New("transcoding: empty packet")
	}
	t.effort.watch(unit.Received, time.Now())
	return t.run(unit, emit, func() error { return t.audio.take(unit) })
}

// Idle implements [sdk.Idler]: it fills the time of a publisher who says nothing.
func (t *transformer) Idle(quiet time.Duration, emit func(*media.AccessUnit)) error {
	return t.run(&media.AccessUnit{PTS: t.audio.end}, emit, func() error { return t.audio.idle(quiet) })
}

// run has f emit units that are caused by cause.
func (t *transformer) run(cause *media.AccessUnit, emit func(*media.AccessUnit), f func() error) error {
	started := time.Now()
	t.units.emit, t.units.cause = emit, cause
	err := f()
	t.units.emit, t.units.cause = nil, nil
	t.spent += time.Since(started)
	if err != nil {
		return fmt.Errorf("transcoding %s: %w", t.in.Codec, err)
	}
	return nil
}

// Figures implements [sdk.TransformReporter]. Sound that was made up is counted in
// seconds of it; corrections of the clock in seconds added or left out.
func (t *transformer) Figures() map[string]float64 {
	s := &t.audio.stats
	seconds := func(samples int) float64 { return float64(samples) / sampleRateHz }
	fast := 0.0
	if t.effort.fast {
		fast = 1
	}
	return map[string]float64{
		"work_seconds_total":          t.spent.Seconds(),
		"concealed_seconds_total":     seconds(s.concealed),
		"comfort_noise_seconds_total": seconds(s.comfort),
		"silent_seconds_total":        seconds(s.silent),
		"overlapped_seconds_total":    seconds(s.skipped + t.units.late*frameSamples),
		"clock_added_seconds_total":   seconds(s.added),
		"clock_removed_seconds_total": seconds(s.removed),
		"restarts_total":              float64(s.restarts),
		"decoder_errors_total":        float64(s.errors),
		"encoder_errors_total":        float64(t.units.guard.errors),
		"codec_panics_total":          float64(t.audio.panics.count + t.units.guard.panics.count),
		"fast":                        fast,
	}
}

// Close implements [sdk.Transformer]. The last two frames of sound stay inside:
// there is nobody left to take them.
func (t *transformer) Close() {
	if t.units.guard.errors > 0 {
		sdk.Logger().Warn("the AAC encoder failed on some frames, which became silence", "frames", t.units.guard.errors)
	}
}
