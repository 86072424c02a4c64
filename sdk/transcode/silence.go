package transcode

import (
	"context"
	"fmt"
	"time"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/transcode/aaclc"
)

// Silence returns the transform that makes AAC-LC silence beside a picture, for
// targets that refuse a stream without sound: stereo of 48 kHz, or mono where a
// target asks for it. One unit is encoded, once, and sent again and again: it costs
// next to nothing.
func Silence() sdk.Transform { return sdk.Transform{To: media.AAC, Open: openSilence} }

// silence implements [sdk.Transformer] and [sdk.Idler]: units of silence up to the
// time of the newest picture and a little ahead of it, so that who puts sound and
// picture in order waits for nothing. While no picture comes it goes on by the clock,
// as the sound of a publisher who is muted does.
type silence struct {
	track media.Track
	unit  []byte

	running bool
	clock   clock
	next    int64         // sample that the next unit begins with
	came    time.Duration // the end of the newest picture
	seq     uint32
	made    int // units
	jump    bool
}

func openSilence(_ context.Context, in media.Track, set sdk.TransformSettings) (sdk.Transformer, error) {
	n := set.Channels
	if n == 0 {
		n = channels
	}
	unit, config, err := silentUnit(n)
	if err != nil {
		return nil, sdk.Permanent(&sdk.Error{Cause: sdk.CauseConfig, Err: err})
	}
	s := &silence{unit: unit, track: media.Track{
		Codec: media.AAC, DecoderConfig: config, SampleRateHz: sampleRateHz, Channels: n,
		BitrateBitsPerSecond: 8 * len(unit) * sampleRateHz / frameSamples,
	}}
	return s, s.SetTrack(in)
}

// silentUnit encodes silence at the lowest bitrate there is, and returns a unit that
// can follow itself, and the AudioSpecificConfig.
func silentUnit(channels int) (unit, config []byte, err error) {
	enc, err := aaclc.New(aaclc.Config{SampleRate: sampleRateHz, Channels: channels, Bitrate: 8000 * channels})
	if err != nil {
		return nil, nil, err
	}
	quiet := planes(channels)
	for range primeFrames + 2 { // the first ones have other windows, or bits to save
		if unit, err = enc.Encode(unit[:0], quiet); err != nil {
			return nil, nil, fmt.Errorf("encoding silence: %w", err)
		}
	}
	return unit, enc.Config(), nil
}

// Track implements [sdk.Transformer].
func (s *silence) Track() media.Track { return s.track }

// SetTrack implements [sdk.Transformer].
func (s *silence) SetTrack(in media.Track) error {
	s.track.DerivedFrom = in.ID
	return nil
}

// Transform implements [sdk.Transformer]; of the picture only the time counts.
func (s *silence) Transform(picture *media.AccessUnit, emit func(*media.AccessUnit)) error {
	if !s.running || picture.DTS-s.clock.at(s.next) > samplesToTime(anotherAfter) {
		s.jump = s.running
		s.running, s.clock, s.next = true, clock{picture.DTS}, 0
	}
	s.came = picture.DTS + picture.Duration
	s.fill(picture.DTS+samplesToTime(frameSamples), picture, emit)
	return nil
}

// Idle implements [sdk.Idler].
func (s *silence) Idle(quiet time.Duration, emit func(*media.AccessUnit)) error {
	if s.running {
		s.fill(s.came+quiet-idleBehind, &media.AccessUnit{}, emit)
	}
	return nil
}

// fill emits units that begin up to a time. cause is what they owe their times to.
func (s *silence) fill(until time.Duration, cause *media.AccessUnit, emit func(*media.AccessUnit)) {
	for at := s.clock.at(s.next); at <= until; at = s.clock.at(s.next) {
		u := &media.AccessUnit{
			Seq: s.seq, PTS: at, DTS: at, Duration: samplesToTime(frameSamples),
			RandomAccess: true, Discontinuity: s.jump, Received: cause.Received, Payload: s.unit,
		}
		if !cause.Captured.IsZero() {
			u.Captured = cause.Captured.Add(at - cause.PTS)
		}
		s.jump = false
		s.seq++
		s.made++
		s.next += frameSamples
		emit(u)
	}
}

// Figures implements [sdk.TransformReporter].
func (s *silence) Figures() map[string]float64 {
	return map[string]float64{"silent_seconds_total": samplesToTime(int64(s.made) * frameSamples).Seconds()}
}

// Close implements [sdk.Transformer].
func (s *silence) Close() {}
