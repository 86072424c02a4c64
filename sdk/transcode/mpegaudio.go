package transcode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hajimehoshi/go-mp3"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/mpegaudio"
	"github.com/headgate/gateway/sdk/transcode/mp2"
)

// MPEGAudioToAAC returns the transforms of MPEG audio, layers II and III: what encoders
// send that are older than AAC, and ffmpeg where nobody names a codec. The sound is
// resampled to 48 kHz, and otherwise made as [OpusToAAC] makes it.
func MPEGAudioToAAC() []sdk.Transform {
	return []sdk.Transform{{From: media.MP2, To: media.AAC, Open: open}, {From: media.MP3, To: media.AAC, Open: open}}
}

// mpegSound decodes MPEG audio to what everything here is made of: 48 kHz, two channels.
// It implements the decoder that a follower asks. Rate and channels are what each frame
// says.
type mpegSound struct {
	codec  media.Codec
	rateHz int // of the frame before; 0 before the first
	layer2 mp2.Decoder
	layer3 layer3
	up     [channels]*upsampler
}

func mpegPackets(t media.Track) (codedSound, error) {
	m := &mpegSound{codec: t.Codec}
	return codedSound{dec: m, length: m.duration, repeats: func([]byte) (time.Duration, error) { return 0, errNoGuess }}, nil
}

// duration is how long a frame plays.
func (m *mpegSound) duration(frame []byte) (time.Duration, error) {
	h, err := m.parse(frame)
	if err != nil {
		return 0, err
	}
	return time.Duration(mpegaudio.Samples) * time.Second / time.Duration(h.SampleRateHz), nil
}

func (m *mpegSound) parse(frame []byte) (mpegaudio.Header, error) {
	h, err := mpegaudio.Parse(frame)
	switch {
	case err != nil:
		return h, err
	case h.Codec() != m.codec:
		return h, fmt.Errorf("a frame of %s", h.Codec())
	case len(frame) != h.Bytes:
		return h, fmt.Errorf("a frame of %d bytes in %d", h.Bytes, len(frame))
	}
	return h, nil
}

// Decode decodes a frame whose duration was asked. Without data there is nothing to guess
// from; a frame is missing then.
func (m *mpegSound) Decode(frame []byte, pcm []float32) (samples int, err error) {
	if len(frame) == 0 {
		m.layer2.Reset()
		m.layer3.kept = 0
		return 0, errNoGuess
	}
	h, err := m.parse(frame)
	if err != nil {
		return 0, err
	}
	if m.rateHz != h.SampleRateHz {
		for i := range m.up {
			if m.up[i], err = newUpsampler(h.SampleRateHz); err != nil {
				return 0, err
			}
		}
		m.rateHz = h.SampleRateHz
	}
	put := func(ch, i int, v float32) int {
		for _, v := range m.up[ch].push(v) {
			pcm[channels*i+ch] = v
			i++
		}
		return i
	}
	if h.Layer == 3 {
		sound, err := m.layer3.decode(h, frame)
		if err != nil {
			return 0, err
		}
		for ch := range channels {
			samples = 0
			for i := ch; i < len(sound); i += channels {
				samples = put(ch, samples, sound[i])
			}
		}
		return samples, nil
	}
	sound, err := m.layer2.Decode(frame)
	if err != nil {
		return 0, err
	}
	for ch := range channels {
		samples = 0
		for _, v := range sound[min(ch, len(sound)-1)] { // both ears hear the one channel
			samples = put(ch, samples, v)
		}
	}
	return samples, nil
}

// DecodeWithFEC has nothing: a frame does not repeat the one before.
func (m *mpegSound) DecodeWithFEC([]byte, []float32, bool) (int, error) { return 0, errNoGuess }

// SetGain has nothing to set.
func (m *mpegSound) SetGain(int) error { return nil }

// Reset forgets what was decoded.
func (m *mpegSound) Reset() {
	m.layer2.Reset()
	m.layer3 = layer3{}
	for _, up := range m.up {
		if up != nil {
			up.reset()
		}
	}
}

// layer3 decodes frames of layer III by go-mp3, which reads them from a stream. Each
// frame is fed and its sound read before the next one is.
type layer3 struct {
	dec  *mp3.Decoder
	feed feed
	// kept is how much there is of the frames right before: the sound of a frame may
	// begin in them.
	kept   int
	silent []byte // a frame without sound
	pcm    []byte
	out    []float32
}

// keptAtMost is as far back as a frame can begin, by the nine bits that say so.
const keptAtMost = 511

// A feed is a frame that is read. Behind its end there is nothing yet.
type feed struct{ b []byte }

func (f *feed) Read(p []byte) (int, error) {
	if len(f.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.b)
	f.b = f.b[n:]
	return n, nil
}

var errNoSound = errors.New("the decoder made no sound of the frame")

// decode returns the sound of a frame, two channels interleaved. A frame whose sound
// begins in one that never came is silent; what it holds of the next one's is kept.
func (l *layer3) decode(h mpegaudio.Header, frame []byte) ([]float32, error) {
	begins, header := h.MainData(frame)
	l.feed.b = frame
	if begins > l.kept {
		l.silent = append(l.silent[:0], frame...)
		side := l.silent[h.SideInfo():header]
		clear(side)
		side[0], side[1] = 0xff, 0x80 // as far back as can be: there is none of it
		l.feed.b = l.silent
	}
	l.kept = min(l.kept+len(frame)-header, keptAtMost)
	if l.dec == nil {
		dec, err := mp3.NewDecoder(&l.feed)
		if err != nil {
			*l = layer3{}
			return nil, err
		}
		l.dec = dec
	}
	l.pcm = append(l.pcm[:0], make([]byte, 2*channels*mpegaudio.Samples)...)
	if _, err := io.ReadFull(l.dec, l.pcm); err != nil || len(l.feed.b) > 0 {
		*l = layer3{}
		return nil, errors.Join(errNoSound, err)
	}
	l.out = l.out[:0]
	for b := l.pcm; len(b) > 0; b = b[2:] {
		l.out = append(l.out, float32(int16(binary.LittleEndian.Uint16(b)))/32768)
	}
	return l.out, nil
}
