package aac

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	oracle "github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg4audio"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseConfig(t *testing.T) {
	check := func(in string, want Config, rateHz, channels int) {
		t.Helper()
		got, err := ParseConfig(unhex(t, in))
		if err != nil || got != want {
			t.Errorf("%s: %+v %v, want %+v", in, got, err, want)
		}
		if got.OutputSampleRateHz() != rateHz || got.OutputChannels() != channels {
			t.Errorf("%s: plays %d Hz, %d channels, want %d, %d", in, got.OutputSampleRateHz(), got.OutputChannels(), rateHz, channels)
		}
	}
	lc := func(hz, ch int) Config { return Config{ObjectType: LC, SampleRateHz: hz, Channels: ch} }
	check("1190", lc(48000, 2), 48000, 2)
	check("1210", lc(44100, 2), 44100, 2)
	check("1188", lc(48000, 1), 48000, 1)
	check("11b8", lc(48000, 8), 48000, 8)
	check("11b0", lc(48000, 6), 48000, 6)
	check("1780"+"22"+"2110", lc(0x4442, 2), 0x4442, 2) // an explicit rate
	check("1194", Config{ObjectType: LC, SampleRateHz: 48000, Channels: 2, ShortFrames: true}, 48000, 2)
	check("1180", lc(48000, 0), 48000, 0) // a program config element would follow
	check("0990", Config{ObjectType: Main, SampleRateHz: 48000, Channels: 2}, 48000, 2)
	// HE-AAC: hierarchical, then as decoders that know no SBR read it; PS likewise.
	check("2b118800", Config{ObjectType: LC, SampleRateHz: 24000, Channels: 2, Extension: SBR, ExtensionSampleRateHz: 48000}, 48000, 2)
	check("131056e598", Config{ObjectType: LC, SampleRateHz: 24000, Channels: 2, Extension: SBR, ExtensionSampleRateHz: 48000}, 48000, 2)
	check("131056e500", lc(24000, 2), 24000, 2) // signalled as absent
	check("eb098800", Config{ObjectType: LC, SampleRateHz: 24000, Channels: 1, Extension: PS, ExtensionSampleRateHz: 48000}, 48000, 2)
	check("130856e59d4880", Config{ObjectType: LC, SampleRateHz: 24000, Channels: 1, Extension: PS, ExtensionSampleRateHz: 48000}, 48000, 2)
	check("1190ffff", lc(48000, 2), 48000, 2) // junk behind it
}

func TestConfigsThatAreNone(t *testing.T) {
	bad := func(in string) {
		t.Helper()
		if c, err := ParseConfig(unhex(t, in)); err == nil {
			t.Errorf("%s: no error, %+v", in, c)
		}
	}
	bad("")
	bad("11")
	bad("1680") // frequency index 13
	bad("17800000")
	bad("1780000010") // a rate of 0
	bad("11c0")       // channel configuration 8
	bad("1191")       // extensionFlag
	bad("f95e8000")   // object type 42
	bad("3190")       // object type 6
}

func randomConfig(r *rand.Rand) Config {
	rate := func() int {
		if r.IntN(4) == 0 {
			return 1 + r.IntN(1<<24-1)
		}
		return sampleRates()[r.IntN(rateCount)]
	}
	c := Config{ObjectType: ObjectType(1 + r.IntN(4)), SampleRateHz: rate(), Channels: 1 + r.IntN(8), ShortFrames: r.IntN(2) == 0}
	if r.IntN(2) == 0 {
		c.Extension, c.ExtensionSampleRateHz = []ObjectType{SBR, PS}[r.IntN(2)], rate()
	}
	return c
}

func TestConfigComesBack(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 5000 {
		want := randomConfig(r)
		b, err := want.Marshal()
		if err != nil {
			t.Fatalf("%+v: %v", want, err)
		}
		got, err := ParseConfig(b)
		if err != nil || got != want {
			t.Fatalf("%x: %+v %v, want %+v", b, got, err, want)
		}
		compare(t, b)
	}
	b, err := Config{ObjectType: LC, SampleRateHz: 48000, Channels: 2}.Marshal()
	if err != nil || !bytes.Equal(b, []byte{0x11, 0x90}) {
		t.Errorf("%x %v, want 1190", b, err)
	}
}

func TestConfigsThatCannotBeWritten(t *testing.T) {
	bad := func(c Config) {
		t.Helper()
		if b, err := c.Marshal(); err == nil {
			t.Errorf("%+v: no error, %x", c, b)
		}
		if b, err := AppendADTSHeader(nil, c, 10); err == nil {
			t.Errorf("%+v: no error, %x", c, b)
		}
	}
	bad(Config{})
	bad(Config{ObjectType: LC, SampleRateHz: 48000})
	bad(Config{ObjectType: LC, SampleRateHz: 48000, Channels: 9})
	bad(Config{ObjectType: LC, SampleRateHz: 1 << 24, Channels: 2})
	bad(Config{ObjectType: 5, SampleRateHz: 48000, Channels: 2})
	bad(Config{ObjectType: LC, SampleRateHz: 48000, Channels: 2, Extension: LC, ExtensionSampleRateHz: 48000})
	bad(Config{ObjectType: LC, SampleRateHz: 48000, Channels: 2, Extension: SBR})
}

// compare compares with mediacommon where both parse. That one does not know the
// object types other than LC, the channel configurations above 7, or signalling
// behind the config.
func compare(t *testing.T, b []byte) {
	t.Helper()
	got, err := ParseConfig(b)
	if err != nil {
		return
	}
	var want oracle.AudioSpecificConfig
	if want.Unmarshal(b) != nil {
		return
	}
	channels := int(want.ChannelConfig)
	if channels == 7 {
		channels = 8
	}
	if int(got.ObjectType) != int(want.Type) || got.SampleRateHz != want.SampleRate || got.Channels != channels || got.ShortFrames != want.FrameLengthFlag {
		t.Fatalf("%x: %+v, want %+v", b, got, want)
	}
	if want.ExtensionType != 0 && (int(got.Extension) != int(want.ExtensionType) || got.ExtensionSampleRateHz != want.ExtensionSampleRate) {
		t.Fatalf("%x: %+v, want %+v", b, got, want)
	}
}

func TestADTSComesBack(t *testing.T) {
	configuration := func(c Config) uint8 { return uint8(c.channelConfiguration()) }
	check := func(c Config, unit []byte) {
		t.Helper()
		b, err := AppendADTSHeader([]byte{0xee}, c, len(unit))
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			return
		}
		b = append(b[1:], unit...)
		h, err := ParseADTSHeader(b)
		if err != nil || h.Config != c || h.HeaderBytes != ADTSHeaderBytes || h.FrameBytes != len(b) || h.Blocks != 1 {
			t.Errorf("%x: %+v %v, want %+v", b[:7], h, err, c)
		}
		const most = 5120 // that mediacommon reads
		if c.ObjectType != LC || len(unit) > most {
			return
		}
		var packets oracle.ADTSPackets
		if err := packets.Unmarshal(b); err != nil || len(packets) != 1 || packets[0].SampleRate != c.SampleRateHz ||
			packets[0].ChannelConfig != configuration(c) || !bytes.Equal(packets[0].AU, unit) {
			t.Errorf("%x: mediacommon reads %+v %v", b[:7], packets, err)
		}
	}
	for _, hz := range sampleRates() {
		for _, channels := range []int{1, 2, 6, 8} {
			check(Config{ObjectType: LC, SampleRateHz: hz, Channels: channels}, make([]byte, 1+hz%1500))
		}
	}
	check(Config{ObjectType: LTP, SampleRateHz: 48000, Channels: 2}, make([]byte, 5))
	check(Config{ObjectType: LC, SampleRateHz: 48000, Channels: 2}, make([]byte, maxADTSFrameBytes-ADTSHeaderBytes))
}

func TestADTSErrors(t *testing.T) {
	lc := Config{ObjectType: LC, SampleRateHz: 48000, Channels: 2}
	bad := func(c Config, size int) {
		t.Helper()
		if b, err := AppendADTSHeader(nil, c, size); err == nil {
			t.Errorf("%+v, %d bytes: no error, %x", c, size, b)
		}
	}
	bad(lc, maxADTSFrameBytes)
	bad(lc, -1)
	bad(Config{ObjectType: LC, SampleRateHz: 48001, Channels: 2}, 10)
	bad(Config{ObjectType: LC, SampleRateHz: 48000, Channels: 7}, 10)
	bad(Config{ObjectType: LC, SampleRateHz: 48000, Channels: 2, ShortFrames: true}, 10)
	parse := func(in string) {
		t.Helper()
		if h, err := ParseADTSHeader(unhex(t, in)); err == nil {
			t.Errorf("%s: no error, %+v", in, h)
		}
	}
	parse("")
	parse("fff14c80021f")
	parse("fef14c80021ffc")
	parse("fff74c80021ffc")                               // layer
	parse("fff17c80021ffc")                               // frequency index 15
	parse("fff14c80001ffc")                               // shorter than its header
	h, err := ParseADTSHeader(unhex(t, "fff04c80021ffe")) // CRC, three blocks
	if err != nil || h.HeaderBytes != 13 || h.Blocks != 3 {
		t.Errorf("%+v %v", h, err)
	}
}

func FuzzConfig(f *testing.F) {
	for _, s := range []string{"1190", "1210", "2b118800", "131056e598", "130856e59d4880", "1780222110", "eb098800", "1180"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			return
		}
		compare(t, b)
		out, err := c.Marshal()
		if err != nil {
			if c.Channels != 0 {
				t.Fatalf("%x: %+v: %v", b, c, err)
			}
			return
		}
		again, err := ParseConfig(out)
		if err != nil || again != c {
			t.Fatalf("%x: %+v then %+v, %v", b, c, again, err)
		}
	})
}

func FuzzADTSHeader(f *testing.F) {
	f.Add(unhex(f, "fff14c80021ffc00"))
	f.Add(unhex(f, "fff04c80021ffe0000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseADTSHeader(b)
		if err != nil {
			return
		}
		if h.HeaderBytes < ADTSHeaderBytes || h.FrameBytes < h.HeaderBytes || h.Config.Channels > 8 || h.Config.SampleRateHz == 0 {
			t.Fatalf("%x: %+v", b, h)
		}
		if h.Config.Channels == 0 || h.HeaderBytes != ADTSHeaderBytes {
			return
		}
		out, err := AppendADTSHeader(nil, h.Config, h.FrameBytes-h.HeaderBytes)
		if err != nil {
			t.Fatalf("%x: %+v: %v", b, h, err)
		}
		again, err := ParseADTSHeader(out)
		if h.Blocks = 1; err != nil || again != h {
			t.Fatalf("%x: %+v then %+v, %v", b, h, again, err)
		}
	})
}
