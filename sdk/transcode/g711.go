package transcode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	g711codec "github.com/bluenviron/mediacommon/v2/pkg/codecs/g711"

	"github.com/headgate/gateway/sdk/media"
)

// g711 decodes G.711 (ITU-T) to what everything here is made of: 48 kHz, two
// channels. It implements the decoder that a follower asks.
type g711 struct {
	table    [256]float32
	rateHz   int
	channels int // that are coded, 1 or 2
	up       [channels]*upsampler
}

// newG711 makes a decoder for a track of PCMA or PCMU.
func newG711(t media.Track) (*g711, error) {
	g := &g711{rateHz: t.SampleRateHz, channels: t.Channels}
	if g.rateHz == 0 {
		g.rateHz = 8000
	}
	if g.channels == 0 {
		g.channels = 1
	}
	if g.channels > channels {
		return nil, fmt.Errorf("transcoding G.711 with %d channels: want mono or stereo", g.channels)
	}
	for i, v := range expanded(t.Codec) {
		g.table[i] = float32(v) / 32768
	}
	for i := range g.channels {
		up, err := newUpsampler(g.rateHz)
		if err != nil {
			return nil, err
		}
		g.up[i] = up
	}
	return g, nil
}

// expanded are the 16 bits that each byte stands for.
func expanded(c media.Codec) (table [256]int16) {
	every := make([]byte, len(table))
	for i := range every {
		every[i] = byte(i)
	}
	var samples []byte // big-endian
	if c == media.PCMU {
		var lpcm g711codec.Mulaw
		lpcm.Unmarshal(every)
		samples = lpcm
	} else {
		var lpcm g711codec.Alaw
		lpcm.Unmarshal(every)
		samples = lpcm
	}
	for i := range table {
		table[i] = int16(binary.BigEndian.Uint16(samples[2*i:]))
	}
	return table
}

func g711Packets(t media.Track) (codedSound, error) {
	g, err := newG711(t)
	if err != nil {
		return codedSound{}, err
	}
	return codedSound{dec: g, length: g.duration, repeats: func([]byte) (time.Duration, error) { return 0, errNoGuess }}, nil
}

// duration is how long a payload plays.
func (g *g711) duration(payload []byte) (time.Duration, error) {
	n := len(payload) / g.channels
	if n == 0 || len(payload)%g.channels != 0 {
		return 0, errors.New("no whole samples")
	}
	d := time.Duration(n) * time.Second / time.Duration(g.rateHz)
	if timeToSamples(d) > maxPacketSamples {
		return 0, errors.New("more than 120 ms in one unit")
	}
	return d, nil
}

// errNoGuess: silence is as good as what could be made up of telephone sound.
var errNoGuess = errors.New("nothing to guess from")

// Decode decodes a payload whose duration was asked. Without data there is nothing.
func (g *g711) Decode(payload []byte, pcm []float32) (samples int, err error) {
	if len(payload) == 0 {
		return 0, errNoGuess
	}
	for ch := range channels {
		from := min(ch, g.channels-1)
		if from < ch {
			for i := range samples { // both ears hear the one channel
				pcm[channels*i+ch] = pcm[channels*i]
			}
			break
		}
		samples = 0
		for i := from; i < len(payload); i += g.channels {
			for _, v := range g.up[ch].push(g.table[payload[i]]) {
				pcm[channels*samples+ch] = v
				samples++
			}
		}
	}
	return samples, nil
}

// DecodeWithFEC has nothing: a packet does not repeat the one before.
func (g *g711) DecodeWithFEC([]byte, []float32, bool) (int, error) { return 0, errNoGuess }

// SetGain has nothing to set.
func (g *g711) SetGain(int) error { return nil }

// Reset forgets what was decoded.
func (g *g711) Reset() {
	for _, up := range g.up[:g.channels] {
		up.reset()
	}
}
