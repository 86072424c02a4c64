package aac

import (
	"errors"
	"fmt"
)

// ADTSHeaderBytes is the length of the header that [AppendADTSHeader] writes.
const ADTSHeaderBytes = 7

// maxADTSFrameBytes is what the 13-bit length field holds, header included.
const maxADTSFrameBytes = 1<<13 - 1

// AppendADTSHeader appends to dst the ADTS header (ISO/IEC 14496-3, 1.A.2.2) for
// an access unit of unitBytes that c describes. ADTS knows no extension: SBR and
// PS are left to the decoder to find.
func AppendADTSHeader(dst []byte, c Config, unitBytes int) ([]byte, error) {
	if err := c.check(); err != nil {
		return dst, fmt.Errorf("making ADTS header: %w", err)
	}
	rate, channels, frame := rateIndex(c.SampleRateHz), c.channelConfiguration(), ADTSHeaderBytes+unitBytes
	switch {
	case rate == explicitRate:
		return dst, fmt.Errorf("making ADTS header: sample rate %d Hz has no index", c.SampleRateHz)
	case channels > 7:
		return dst, fmt.Errorf("making ADTS header: %d channels", c.Channels)
	case c.ShortFrames:
		return dst, errors.New("making ADTS header: frames of 960 samples")
	case unitBytes < 0 || frame > maxADTSFrameBytes:
		return dst, fmt.Errorf("making ADTS header: unit of %d bytes", unitBytes)
	}
	const fullness = 0x7ff // variable rate
	return append(dst,
		0xff, 0xf1, // syncword, MPEG-4, layer 0, no CRC
		byte(c.ObjectType-1)<<6|byte(rate)<<2|byte(channels>>2),
		byte(channels)<<6|byte(frame>>11),
		byte(frame>>3),
		byte(frame)<<5|fullness>>6,
		fullness&0x3f<<2,
	), nil
}

// An ADTSHeader is what stands before an AAC frame in ADTS.
type ADTSHeader struct {
	Config Config
	// HeaderBytes is where the frame's data begin, FrameBytes where the next
	// header is.
	HeaderBytes, FrameBytes int
	// Blocks is the number of raw data blocks in the frame: access units. With
	// more than one they cannot be told apart without decoding, unless there is
	// a CRC.
	Blocks int
}

// ParseADTSHeader parses the header that b begins with. It does not ask for the
// whole frame to be there.
func ParseADTSHeader(b []byte) (ADTSHeader, error) {
	h, err := parseADTSHeader(b)
	if err != nil {
		return ADTSHeader{}, fmt.Errorf("parsing ADTS header: %w", err)
	}
	return h, nil
}

func parseADTSHeader(b []byte) (ADTSHeader, error) {
	var h ADTSHeader
	if len(b) < ADTSHeaderBytes {
		return h, errShort
	}
	if b[0] != 0xff || b[1]&0xf6 != 0xf0 {
		return h, errors.New("no syncword")
	}
	rate := b[2] >> 2 & 15
	if rate >= rateCount {
		return h, fmt.Errorf("sampling frequency index %d", rate)
	}
	h.Config.ObjectType = ObjectType(b[2]>>6) + 1
	h.Config.SampleRateHz = sampleRates()[rate]
	channels, err := channelsOf(uint32(b[2]&1)<<2 | uint32(b[3])>>6)
	if err != nil {
		return h, err
	}
	h.Config.Channels = channels
	h.FrameBytes = int(b[3]&3)<<11 | int(b[4])<<3 | int(b[5])>>5
	h.Blocks = int(b[6]&3) + 1
	h.HeaderBytes = ADTSHeaderBytes
	if hasCRC := b[1]&1 == 0; hasCRC {
		h.HeaderBytes += 2 * h.Blocks // positions of the further blocks, then the CRC
	}
	if h.FrameBytes < h.HeaderBytes {
		return h, fmt.Errorf("frame of %d bytes", h.FrameBytes)
	}
	return h, nil
}
