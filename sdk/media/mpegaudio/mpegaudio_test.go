package mpegaudio

import (
	"testing"

	oracle "github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg1audio"
)

// Every header, against mediacommon.
func TestParseAgreesWithMediacommon(t *testing.T) {
	parsed := 0
	for v := range 1 << 21 {
		b := []byte{0xff, 0xe0 | byte(v>>16), byte(v >> 8), byte(v), 0}
		h, err := Parse(b)
		var want oracle.FrameHeader
		if err != nil {
			continue
		}
		parsed++
		if err := want.Unmarshal(b); err != nil {
			t.Fatalf("%x: %+v; mediacommon: %v", b, h, err)
		}
		if int(want.Layer) != h.Layer || want.MPEG2 != h.LowRate || want.SampleRate != h.SampleRateHz || want.Bitrate != h.BitrateBitsPerSecond ||
			want.FrameLen() != h.Bytes || want.SampleCount() != Samples || (want.ChannelMode == oracle.ChannelModeMono) != (h.Channels() == 1) {
			t.Fatalf("%x: %+v, %d bytes; want %+v, %d bytes", b, h, h.Bytes, want, want.FrameLen())
		}
	}
	// Layers at their rates, protection; bitrates, rates; the bits that say no more.
	if want := 3 * 2 * 14 * 3 * 2 * 2 * 256; parsed != want {
		t.Errorf("%d headers, want %d", parsed, want)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing": {}, "short": {0xff, 0xfb, 0x90}, "no sync": {0xff, 0x1b, 0x90, 0}, "reserved version": {0xff, 0xeb, 0x90, 0},
		"reserved layer": {0xff, 0xf9, 0x90, 0}, "layer I": {0xff, 0xff, 0x90, 0}, "version 2.5": {0xff, 0xe3, 0x90, 0}, "layer III of MPEG-2": {0xff, 0xf3, 0x90, 0},
		"free bitrate": {0xff, 0xfb, 0x00, 0}, "no bitrate": {0xff, 0xfb, 0xf0, 0}, "no rate": {0xff, 0xfb, 0x9c, 0},
	} {
		if h, err := Parse(b); err == nil {
			t.Errorf("%s: %+v", name, h)
		}
	}
	if h, err := Parse([]byte{0xff, 0xfb, 0x90, 0xc0}); err != nil || h.Codec() != "mp3" || h.Channels() != 1 || h.Protected {
		t.Errorf("%+v, %v", h, err)
	}
}
