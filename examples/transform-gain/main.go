// Command transform-gain is a complete third-party transform plugin. It makes A-law
// sound of mu-law sound, 6 dB louder, for targets that take the one and not the other.
package main

import (
	"context"
	"errors"
	"math"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
)

func main() { sdk.Serve(plugin()) }

func plugin() sdk.Plugin {
	return sdk.Plugin{Name: "transform-gain", Version: "1.0.0", Transforms: []sdk.Transform{{
		From: media.PCMU, To: media.PCMA,
		Open: func(_ context.Context, in media.Track, _ sdk.TransformSettings) (sdk.Transformer, error) {
			return &gain{in: in, table: table(6)}, nil
		},
	}}}
}

// A gain is one derived track.
type gain struct {
	in    media.Track
	table [256]byte // what each byte of mu-law becomes
}

// Track describes what comes out: the same sound in another codec.
func (g *gain) Track() media.Track {
	return media.Track{Codec: media.PCMA, SampleRateHz: g.in.SampleRateHz, Channels: g.in.Channels, Language: g.in.Language}
}

func (g *gain) SetTrack(in media.Track) error { g.in = in; return nil }
func (g *gain) Close()                        {}

// Transform makes a new payload: that of u is shared and must not be changed.
func (g *gain) Transform(u *media.AccessUnit, emit func(*media.AccessUnit)) error {
	if len(u.Payload) == 0 {
		return errors.New("the unit is empty")
	}
	out := u.Clone()
	out.Payload = make([]byte, len(u.Payload))
	for i, b := range u.Payload {
		out.Payload[i] = g.table[b]
	}
	emit(out)
	return nil
}

// table returns the A-law byte of each mu-law byte, louder by so many decibels.
func table(decibels float64) (t [256]byte) {
	factor := math.Pow(10, decibels/20)
	for b := range t {
		v := float64(fromMuLaw(byte(b))) * factor
		t[b] = toALaw(int(max(math.MinInt16, min(v, math.MaxInt16))))
	}
	return t
}

// fromMuLaw returns the sample, of 16 bits, that a byte of G.711 mu-law stands for.
func fromMuLaw(b byte) int {
	b = ^b
	v := (int(b&0x0f)<<3+0x84)<<(b>>4&7) - 0x84
	if b&0x80 != 0 {
		return -v
	}
	return v
}

// toALaw returns the byte of G.711 A-law nearest to a sample of 16 bits.
func toALaw(v int) byte {
	sign := byte(0x80)
	if v < 0 {
		sign, v = 0, -v-1
	}
	v >>= 4 // to 12 bits
	exponent := 0
	for v >= 0x20 {
		v >>= 1
		exponent++
	}
	b := byte(v)
	if exponent > 0 || v >= 0x10 {
		b = byte(exponent+1)<<4 | byte(v&0x0f)
	}
	return (sign | b) ^ 0x55
}
