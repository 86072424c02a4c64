// Package opus knows the outside of Opus: what the first bytes of a packet say
// (RFC 6716, section 3) and the identification header OpusHead (RFC 7845,
// section 5.1).
//
// It knows nothing of coded sound; decoders are elsewhere.
package opus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// SampleRateHz is the clock of Opus: RTP timestamps, pre-skip and durations count in it.
const SampleRateHz = 48000

// MaxPacketDuration is the longest that one packet may play.
const MaxPacketDuration = 120 * time.Millisecond

// Errors of the packet functions.
var (
	ErrEmpty = errors.New("empty opus packet")
	ErrShort = errors.New("opus packet ends within its header")
	ErrLong  = errors.New("opus packet of more than 120 ms")
)

// FrameDuration returns how long one frame of the packet plays, as its TOC byte says.
func FrameDuration(packet []byte) (time.Duration, error) {
	if len(packet) == 0 {
		return 0, ErrEmpty
	}
	const ms = time.Millisecond
	config := packet[0] >> 3
	switch {
	case config < 12: // SILK
		return [4]time.Duration{10 * ms, 20 * ms, 40 * ms, 60 * ms}[config%4], nil
	case config < 16: // hybrid
		return [2]time.Duration{10 * ms, 20 * ms}[config%2], nil
	default: // CELT
		return [4]time.Duration{ms * 5 / 2, 5 * ms, 10 * ms, 20 * ms}[config%4], nil
	}
}

// PacketFrames returns the number of frames in the packet.
func PacketFrames(packet []byte) (int, error) {
	if len(packet) == 0 {
		return 0, ErrEmpty
	}
	switch packet[0] & 3 {
	case 0:
		return 1, nil
	case 1, 2:
		return 2, nil
	}
	if len(packet) < 2 {
		return 0, ErrShort
	}
	n := int(packet[1] & 0x3f)
	if n == 0 {
		return 0, errors.New("opus packet of no frames")
	}
	return n, nil
}

// PacketDuration returns how long the packet plays.
func PacketDuration(packet []byte) (time.Duration, error) {
	n, err := PacketFrames(packet)
	if err != nil {
		return 0, err
	}
	d, err := FrameDuration(packet)
	if err != nil {
		return 0, err
	}
	if d *= time.Duration(n); d > MaxPacketDuration {
		return 0, ErrLong
	}
	return d, nil
}

// PacketChannels returns the number of channels that the packet codes: 1 or 2; 0
// if it is empty. It changes within a stream: a decoder plays what it was set up for.
func PacketChannels(packet []byte) int {
	if len(packet) == 0 {
		return 0
	}
	return 1 + int(packet[0]>>2&1)
}

// A Head is an identification header.
type Head struct {
	Channels int
	// PreSkip is how many samples of 48 kHz to drop from the decoder's output at
	// the start of a recording. It means nothing in a live stream.
	PreSkip uint16
	// InputSampleRateHz is what the sound was before coding; 0 if unknown. Opus
	// itself always decodes at 48 kHz.
	InputSampleRateHz uint32
	// OutputGain is in 1/256 dB.
	OutputGain int16
	// MappingFamily 0 is mono or stereo. Other families have Streams, of which
	// CoupledStreams are stereo, and one byte of Mapping for each channel.
	MappingFamily           uint8
	Streams, CoupledStreams int
	Mapping                 []byte
}

const headMagic = "OpusHead"

// ParseHead parses an OpusHead. Mapping refers to the bytes of b.
func ParseHead(b []byte) (Head, error) {
	h, err := parseHead(b)
	if err != nil {
		return Head{}, fmt.Errorf("parsing OpusHead: %w", err)
	}
	return h, nil
}

func parseHead(b []byte) (Head, error) {
	var h Head
	if len(b) < 19 {
		return h, errors.New("shorter than 19 bytes")
	}
	if string(b[:8]) != headMagic {
		return h, errors.New("no magic signature")
	}
	if b[8]&0xf0 != 0 { // minor versions are compatible
		return h, fmt.Errorf("version %d", b[8])
	}
	h.Channels = int(b[9])
	h.PreSkip = binary.LittleEndian.Uint16(b[10:])
	h.InputSampleRateHz = binary.LittleEndian.Uint32(b[12:])
	h.OutputGain = int16(binary.LittleEndian.Uint16(b[16:]))
	h.MappingFamily = b[18]
	if h.MappingFamily == 0 {
		h.Streams, h.CoupledStreams = 1, h.Channels-1
		return h, h.check()
	}
	if len(b) < 21+h.Channels {
		return h, errors.New("data end within the channel mapping")
	}
	h.Streams, h.CoupledStreams = int(b[19]), int(b[20])
	h.Mapping = b[21 : 21+h.Channels : 21+h.Channels]
	return h, h.check()
}

func (h Head) check() error {
	switch {
	case h.Channels < 1 || h.Channels > 255 || h.MappingFamily == 0 && h.Channels > 2:
		return fmt.Errorf("%d channels in mapping family %d", h.Channels, h.MappingFamily)
	case h.MappingFamily == 0:
		return nil
	case h.Streams < 1 || h.CoupledStreams < 0 || h.CoupledStreams > h.Streams || h.Streams+h.CoupledStreams > 255:
		return fmt.Errorf("%d streams, %d of them coupled", h.Streams, h.CoupledStreams)
	case len(h.Mapping) != h.Channels:
		return fmt.Errorf("%d channels mapped, want %d", len(h.Mapping), h.Channels)
	}
	for _, m := range h.Mapping {
		if silent := m == 255; !silent && int(m) >= h.Streams+h.CoupledStreams {
			return fmt.Errorf("a channel is mapped to %d of %d", m, h.Streams+h.CoupledStreams)
		}
	}
	return nil
}

// Marshal returns h as an OpusHead.
func (h Head) Marshal() ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("making OpusHead: %w", err)
	}
	b := append([]byte(headMagic), 1, byte(h.Channels))
	b = binary.LittleEndian.AppendUint16(b, h.PreSkip)
	b = binary.LittleEndian.AppendUint32(b, h.InputSampleRateHz)
	b = binary.LittleEndian.AppendUint16(b, uint16(h.OutputGain))
	b = append(b, h.MappingFamily)
	if h.MappingFamily != 0 {
		b = append(b, byte(h.Streams), byte(h.CoupledStreams))
		b = append(b, h.Mapping...)
	}
	return b, nil
}
