// Package aac knows the outside of AAC: the AudioSpecificConfig that describes a
// track, and the ADTS header that carries a frame where there is no such
// description.
//
// It knows nothing of coded sound; encoders and decoders are elsewhere.
package aac

import (
	"errors"
	"fmt"
)

// SamplesPerUnit is how many samples of each channel one access unit codes.
const SamplesPerUnit = 1024

// An ObjectType is an audio object type of ISO/IEC 14496-3, table 1.17.
type ObjectType uint8

// The object types that AAC tracks have.
const (
	Main ObjectType = 1
	LC   ObjectType = 2
	SSR  ObjectType = 3
	LTP  ObjectType = 4
	SBR  ObjectType = 5  // spectral band replication: HE-AAC
	PS   ObjectType = 29 // parametric stereo: HE-AAC v2
)

// A Config is an AudioSpecificConfig.
type Config struct {
	// ObjectType is that of the core coder: Main, LC, SSR or LTP.
	ObjectType ObjectType
	// SampleRateHz is the rate of the core coder.
	SampleRateHz int
	// Channels of the core coder, 1 to 8; 0 if a program config element says
	// them, which is not parsed.
	Channels int
	// Extension is SBR or PS where the config signals it, otherwise 0, and
	// ExtensionSampleRateHz the rate that it yields. A decoder without it plays
	// the core.
	Extension             ObjectType
	ExtensionSampleRateHz int
	// ShortFrames: 960 samples in each access unit instead of 1024.
	ShortFrames bool
}

// OutputSampleRateHz returns the rate at which a decoder that knows every
// signalled extension plays.
func (c Config) OutputSampleRateHz() int {
	if c.ExtensionSampleRateHz != 0 {
		return c.ExtensionSampleRateHz
	}
	return c.SampleRateHz
}

// OutputChannels returns the number of channels that a decoder that knows every
// signalled extension plays: parametric stereo makes two of one.
func (c Config) OutputChannels() int {
	if c.Extension == PS && c.Channels == 1 {
		return 2
	}
	return c.Channels
}

var errShort = errors.New("data end within a field")

// sampleRates is samplingFrequencyIndex of ISO/IEC 14496-3, table 1.18.
func sampleRates() [rateCount]int {
	return [rateCount]int{96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350}
}

const rateCount = 13

// The index that says that the rate follows as 24 bits.
const explicitRate = 15

func rateIndex(hz int) uint32 {
	for i, r := range sampleRates() {
		if r == hz {
			return uint32(i)
		}
	}
	return explicitRate
}

// channelsOf is channelConfiguration of ISO/IEC 14496-3, table 1.19.
func channelsOf(configuration uint32) (int, error) {
	switch {
	case configuration <= 6:
		return int(configuration), nil
	case configuration == 7, configuration == 12, configuration == 14:
		return 8, nil
	case configuration == 11:
		return 7, nil
	default:
		return 0, fmt.Errorf("channel configuration %d is reserved or not supported", configuration)
	}
}

// ParseConfig parses an AudioSpecificConfig. What follows it is ignored.
func ParseConfig(b []byte) (Config, error) {
	c, err := parseConfig(&reader{b: b})
	if err != nil {
		return Config{}, fmt.Errorf("parsing AudioSpecificConfig: %w", err)
	}
	return c, nil
}

func parseConfig(r *reader) (Config, error) {
	var c Config
	c.ObjectType = readObjectType(r)
	c.SampleRateHz = readRate(r)
	channels, err := channelsOf(r.u(4))
	if err != nil {
		return c, err
	}
	c.Channels = channels
	if c.ObjectType == SBR || c.ObjectType == PS {
		c.Extension = c.ObjectType
		c.ExtensionSampleRateHz = readRate(r)
		c.ObjectType = readObjectType(r)
	}
	if r.err == nil && (c.ObjectType < Main || c.ObjectType > LTP) {
		return c, fmt.Errorf("object type %d is not supported", c.ObjectType)
	}
	// GASpecificConfig
	c.ShortFrames = r.flag()
	if r.flag() { // dependsOnCoreCoder
		r.u(14)
	}
	if r.flag() && r.err == nil { // extensionFlag: for scalable and error resilient types only
		return c, errors.New("extensionFlag is set")
	}
	if r.err == nil && c.Channels != 0 && c.Extension == 0 {
		// Beyond the config: where nothing, or nothing valid, is there, the core stands alone.
		c.Extension, c.ExtensionSampleRateHz = readSyncExtension(r)
		return c, nil
	}
	return c, r.err
}

// readSyncExtension reads the signalling of SBR and PS that decoders which know
// neither skip over (ISO/IEC 14496-3, 1.6.6.1).
func readSyncExtension(r *reader) (ObjectType, int) {
	const sbr, ps = 0x2b7, 0x548
	if r.u(11) != sbr || readObjectType(r) != SBR || !r.flag() {
		return 0, 0
	}
	hz := readRate(r)
	if r.err != nil {
		return 0, 0
	}
	if r.u(11) == ps && r.flag() && r.err == nil {
		return PS, hz
	}
	return SBR, hz
}

func readObjectType(r *reader) ObjectType {
	t := r.u(5)
	if t == 31 {
		t = 32 + r.u(6)
	}
	return ObjectType(t)
}

func readRate(r *reader) int {
	i := r.u(4)
	hz := 0
	switch {
	case i == explicitRate:
		hz = int(r.u(24))
	case i < rateCount:
		hz = sampleRates()[i]
	}
	if hz == 0 && r.err == nil {
		r.err = fmt.Errorf("sampling frequency index %d without a rate", i)
	}
	return hz
}

// Marshal returns c as an AudioSpecificConfig; extensions are signalled in the
// hierarchical way.
func (c Config) Marshal() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("making AudioSpecificConfig: %w", err)
	}
	var w writer
	if c.Extension != 0 {
		w.u(5, uint32(c.Extension))
	} else {
		w.u(5, uint32(c.ObjectType))
	}
	w.rate(c.SampleRateHz)
	w.u(4, c.channelConfiguration())
	if c.Extension != 0 {
		w.rate(c.ExtensionSampleRateHz)
		w.u(5, uint32(c.ObjectType))
	}
	short := uint32(0)
	if c.ShortFrames {
		short = 1
	}
	w.u(1, short)
	w.u(2, 0) // dependsOnCoreCoder, extensionFlag
	return w.b, nil
}

func (c Config) check() error {
	const max24 = 1<<24 - 1
	switch {
	case c.ObjectType < Main || c.ObjectType > LTP:
		return fmt.Errorf("object type %d is not supported", c.ObjectType)
	case c.Channels < 1 || c.Channels > 8:
		return fmt.Errorf("%d channels, want 1 to 8", c.Channels)
	case c.SampleRateHz < 1 || c.SampleRateHz > max24:
		return fmt.Errorf("sample rate %d Hz", c.SampleRateHz)
	case c.Extension != 0 && c.Extension != SBR && c.Extension != PS:
		return fmt.Errorf("extension object type %d", c.Extension)
	case c.Extension != 0 && (c.ExtensionSampleRateHz < 1 || c.ExtensionSampleRateHz > max24):
		return fmt.Errorf("extension sample rate %d Hz", c.ExtensionSampleRateHz)
	default:
		return nil
	}
}

func (c Config) channelConfiguration() uint32 {
	switch c.Channels {
	case 7:
		return 11
	case 8:
		return 7
	default:
		return uint32(c.Channels)
	}
}

// reader reads bits; after the first error all it reads is zero.
type reader struct {
	b   []byte
	pos int // in bits
	err error
}

func (r *reader) u(n int) uint32 {
	if r.err != nil || r.pos+n > 8*len(r.b) {
		if r.err == nil {
			r.err = errShort
		}
		return 0
	}
	var v uint32
	for range n {
		v = v<<1 | uint32(r.b[r.pos/8]>>(7-r.pos%8))&1
		r.pos++
	}
	return v
}

func (r *reader) flag() bool { return r.u(1) == 1 }

// writer appends bits; what is missing in the last byte is zero.
type writer struct {
	b    []byte
	left int // free bits in the last byte
}

func (w *writer) u(n int, v uint32) {
	for i := n - 1; i >= 0; i-- {
		if w.left == 0 {
			w.b, w.left = append(w.b, 0), 8
		}
		w.left--
		w.b[len(w.b)-1] |= byte(v>>i&1) << w.left
	}
}

func (w *writer) rate(hz int) {
	i := rateIndex(hz)
	w.u(4, i)
	if i == explicitRate {
		w.u(24, uint32(hz))
	}
}
