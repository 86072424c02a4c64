// Package mpegaudio knows the outside of MPEG audio: the header that each frame of
// layers II and III begins with (ISO/IEC 11172-3, 2.4.1.3), and of layer II at the lower
// sample rates of MPEG-2 (13818-3).
//
// It knows nothing of coded sound; decoders are elsewhere.
package mpegaudio

import (
	"errors"
	"fmt"

	"github.com/headgate/gateway/sdk/media"
)

// HeaderBytes is the length of a header.
const HeaderBytes = 4

// A Header says what a frame is.
type Header struct {
	// Layer is 2 or 3.
	Layer int
	// LowRate: a frame of MPEG-2, with half the sample rate of MPEG-1 or less.
	LowRate              bool
	SampleRateHz         int
	BitrateBitsPerSecond int
	// Mode and Extension are the two bits of each field: how two channels are coded.
	Mode, Extension int
	// Protected: a checksum of two bytes follows the header.
	Protected bool
	// Bytes is the length of the frame with its header.
	Bytes int
}

// The modes.
const (
	Stereo = iota
	JointStereo
	DualChannel
	Mono
)

// Channels of the frame, 1 or 2.
func (h Header) Channels() int {
	if h.Mode == Mono {
		return 1
	}
	return 2
}

// Samples of each channel that a frame codes.
const Samples = 1152

// Codec is what the gateway calls frames of this kind.
func (h Header) Codec() media.Codec {
	if h.Layer == 2 {
		return media.MP2
	}
	return media.MP3
}

// MainData is where the sound of a frame of layer III begins: so many bytes before those
// of the frame that are behind its header and side information, which are header bytes
// (2.4.1.7). The frame is whole.
func (h Header) MainData(frame []byte) (begins, header int) {
	at, side := h.SideInfo(), 32
	if h.Mode == Mono {
		side = 17
	}
	if len(frame) < at+side {
		return 0, len(frame)
	}
	return int(frame[at])<<1 | int(frame[at+1]>>7), at + side
}

// SideInfo is where the side information of a frame of layer III begins.
func (h Header) SideInfo() int {
	if h.Protected {
		return HeaderBytes + 2
	}
	return HeaderBytes
}

// Bits per second by the index in the header, in thousands; 0 for what no frame has.
var (
	layer2 = [16]int{0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384}
	layer3 = [16]int{0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320}
	low    = [16]int{0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160} // layer II of MPEG-2
)

var rates = [4]int{44_100, 48_000, 32_000}

// Errors of [Parse].
var (
	errShort = errors.New("mpeg audio: shorter than a header")
	errSync  = errors.New("mpeg audio: no frame begins here")
)

// Parse reads the header at the beginning of b. What nobody streams is an error: layer I,
// frames without a bitrate, layer III at the rates of MPEG-2, and MPEG-2.5.
func Parse(b []byte) (Header, error) {
	if len(b) < HeaderBytes {
		return Header{}, errShort
	}
	if b[0] != 0xff || b[1]&0xe0 != 0xe0 {
		return Header{}, errSync
	}
	h := Header{
		Layer: 4 - int(b[1]>>1&3), Protected: b[1]&1 == 0,
		Mode: int(b[3] >> 6), Extension: int(b[3] >> 4 & 3),
	}
	if h.Layer == 4 {
		return Header{}, errSync
	}
	if h.Layer == 1 {
		return Header{}, errors.New("mpeg audio: layer I; want layer II or III")
	}
	kbps := layer2
	switch version := b[1] >> 3 & 3; {
	case version == 1:
		return Header{}, errSync
	case version == 0:
		return Header{}, errors.New("mpeg audio: version 2.5; want MPEG-1 or MPEG-2")
	case version == 2 && h.Layer == 3:
		return Header{}, errors.New("mpeg audio: layer III below 32000 Hz; want 32000, 44100 or 48000 Hz")
	case version == 2:
		h.LowRate, kbps = true, low
	case h.Layer == 3:
		kbps = layer3
	}
	h.BitrateBitsPerSecond = kbps[b[2]>>4] * 1000
	h.SampleRateHz = rates[b[2]>>2&3]
	if h.BitrateBitsPerSecond == 0 || h.SampleRateHz == 0 {
		return Header{}, fmt.Errorf("mpeg audio: bitrate %d, sample rate %d in the header", b[2]>>4, b[2]>>2&3)
	}
	if h.LowRate {
		h.SampleRateHz /= 2
	}
	h.Bytes = Samples/8*h.BitrateBitsPerSecond/h.SampleRateHz + int(b[2]>>1&1)
	return h, nil
}
