// Package transcode derives AAC-LC sound from Opus, as a transform that any
// egress plugin can declare: decoding, concealment of what was lost, following
// the publisher's clock, encoding, and timestamps without a tick of drift.
//
// It knows the two codecs and the time of one track. It does not know who
// publishes, who listens, or why units are missing.
package transcode

import (
	"context"
	"errors"
	"fmt"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/opus"
)

// What comes out is always this: players and CDNs take a change badly, and Opus
// always decodes to 48 kHz. Mono is made stereo.
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
)

// OpusToAAC returns the transform. It makes stereo of 48 kHz at 160 kb/s unless a
// target asks for another rate, with timestamps that follow those of the input
// to within 20 ms: see audio.go for how.
func OpusToAAC() sdk.Transform {
	return sdk.Transform{From: media.Opus, To: media.AAC, Open: open}
}

func open(_ context.Context, in media.Track, s sdk.TransformSettings) (sdk.Transformer, error) {
	if s.Channels != 0 && s.Channels != channels {
		return nil, sdk.Permanent(&sdk.Error{
			Cause: sdk.CauseConfig,
			Err:   fmt.Errorf("opus to aac with %d channels: it makes stereo only", s.Channels),
		})
	}
	rate := defaultBitsPerSecond
	if s.Bitrate > 0 {
		rate = min(max(s.Bitrate, minBitsPerSecond), maxBitsPerSecond)
	}
	enc, err := newAACEncoder(channels, rate)
	if err != nil {
		return nil, sdk.Permanent(&sdk.Error{Cause: sdk.CausePlugin, Err: err})
	}
	return newTransformer(in, enc, rate)
}

// transformer implements [sdk.Transformer]. One goroutine calls it.
type transformer struct {
	audio *follower
	units *unitWriter
	track media.Track
	rate  int
}

func newTransformer(in media.Track, enc AACEncoder, rate int) (*transformer, error) {
	units, err := newUnitWriter(enc)
	if err != nil {
		return nil, err
	}
	audio, err := newFollower(units)
	if err != nil {
		return nil, err
	}
	t := &transformer{audio: audio, units: units, rate: rate}
	if err := t.SetTrack(in); err != nil {
		return nil, err
	}
	return t, nil
}

// Track implements [sdk.Transformer].
func (t *transformer) Track() media.Track { return t.track }

// SetTrack implements [sdk.Transformer]. Of the input only the output gain
// matters: packets say themselves how many channels they have.
func (t *transformer) SetTrack(in media.Track) error {
	if in.Codec != media.Opus {
		return fmt.Errorf("transcoding %s: want opus", in.Codec)
	}
	gain := 0
	if len(in.DecoderConfig) > 0 {
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
		SampleRateHz: sampleRateHz, Channels: channels,
		BitrateBitsPerSecond: t.rate,
		Language:             in.Language, DerivedFrom: in.ID,
	}
	return nil
}

// Transform implements [sdk.Transformer]. An error concerns this packet; its
// time is filled all the same.
func (t *transformer) Transform(unit *media.AccessUnit, emit func(*media.AccessUnit)) error {
	if len(unit.Payload) == 0 {
		return errors.New("transcoding: empty opus packet")
	}
	t.units.emit, t.units.cause = emit, unit
	err := t.audio.take(unit)
	t.units.emit, t.units.cause = nil, nil
	if err != nil {
		return fmt.Errorf("transcoding opus: %w", err)
	}
	return nil
}

// Close implements [sdk.Transformer]. The last two frames of sound stay inside:
// there is nobody left to take them.
func (t *transformer) Close() {
	if t.units.guard.errors > 0 {
		sdk.Logger().Warn("the AAC encoder failed on some frames, which became silence", "frames", t.units.guard.errors)
	}
}
