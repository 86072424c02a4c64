//go:build !noaac

package transcode

import (
	"fmt"

	goaac "github.com/tphakala/go-aac"
)

// fastAboveBitsPerSecond is the rate above which the fast search is good enough;
// up to it that loses too much, and the slower one keeps the rate better.
const fastAboveBitsPerSecond = 128_000

// goAAC is an [AACEncoder] made of the LGPL package go-aac. Build with the tag
// noaac to leave it out.
type goAAC struct {
	enc *goaac.Encoder
	cfg goaac.EncoderConfig
}

func newAACEncoder(channels, bitsPerSecond int) (AACEncoder, error) {
	e := &goAAC{cfg: goaac.EncoderConfig{
		SampleRate: sampleRateHz,
		Channels:   channels,
		Bitrate:    bitsPerSecond,
		Coder:      goaac.CoderNMR,
	}}
	if bitsPerSecond > fastAboveBitsPerSecond {
		e.cfg.Coder = goaac.CoderFast
	}
	var err error
	if e.enc, err = goaac.NewEncoder(e.cfg); err != nil {
		return nil, fmt.Errorf("making an AAC encoder: %w", err)
	}
	return e, nil
}

func (e *goAAC) Config() []byte { return e.enc.AudioSpecificConfig() }
func (e *goAAC) Delay() int     { return e.enc.Delay() }
func (e *goAAC) Reset() error   { return e.enc.Reset(e.cfg) }

func (e *goAAC) Encode(dst []byte, planar [][]float32) ([]byte, error) {
	return e.enc.EncodeFrame(dst, planar)
}
