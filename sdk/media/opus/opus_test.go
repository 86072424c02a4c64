package opus

import (
	"encoding/hex"
	"reflect"
	"testing"
	"time"

	oracle "github.com/bluenviron/mediacommon/v2/pkg/codecs/opus"
)

func TestPacketDuration(t *testing.T) {
	check := func(packet []byte, want time.Duration, frames, channels int) {
		t.Helper()
		d, err := PacketDuration(packet)
		if err != nil || d != want {
			t.Errorf("%x: %v %v, want %v", packet, d, err, want)
		}
		n, err := PacketFrames(packet)
		if err != nil || n != frames || PacketChannels(packet) != channels {
			t.Errorf("%x: %d frames, %d channels, %v, want %d, %d", packet, n, PacketChannels(packet), err, frames, channels)
		}
	}
	const ms = time.Millisecond
	check([]byte{0x00}, 10*ms, 1, 1)          // SILK NB
	check([]byte{0x18, 1}, 60*ms, 1, 1)       // SILK NB, 60 ms
	check([]byte{0x4c, 1}, 20*ms, 1, 2)       // SILK WB, stereo
	check([]byte{0x60, 1}, 10*ms, 1, 1)       // hybrid SWB
	check([]byte{0x7c, 1}, 20*ms, 1, 2)       // hybrid FB, stereo
	check([]byte{0xe4, 1}, 5*ms/2, 1, 2)      // CELT FB, 2.5 ms
	check([]byte{0xfc, 1}, 20*ms, 1, 2)       // CELT FB, 20 ms: what browsers send
	check([]byte{0xfd, 1, 1}, 40*ms, 2, 2)    // two frames
	check([]byte{0xfe, 1, 1}, 40*ms, 2, 2)    // two frames of unequal size
	check([]byte{0xff, 0x06}, 120*ms, 6, 2)   // six frames
	check([]byte{0xe7, 0x30}, 120*ms, 48, 2)  // 48 frames
	check([]byte{0x19, 1}, 120*ms, 2, 1)      // two of 60 ms
	check([]byte{0xff, 0xc3, 5}, 60*ms, 3, 2) // padding and VBR bits
	bad := func(packet []byte, want error) {
		t.Helper()
		if d, err := PacketDuration(packet); err == nil || want != nil && err != want { //nolint:errorlint // never wrapped
			t.Errorf("%x: %v %v, want %v", packet, d, err, want)
		}
	}
	bad(nil, ErrEmpty)
	bad([]byte{0xff}, ErrShort)
	bad([]byte{0xff, 0}, nil)
	bad([]byte{0xff, 7}, ErrLong)
	bad([]byte{0x1b, 3}, ErrLong)
	if PacketChannels(nil) != 0 {
		t.Error("channels of nothing")
	}
}

// Every first two bytes, against mediacommon, which has no limit.
func TestPacketDurationAgreesWithMediacommon(t *testing.T) {
	for v := range 1 << 16 {
		packet := []byte{byte(v >> 8), byte(v)}
		d, err := PacketDuration(packet)
		want := time.Duration(oracle.PacketDuration2(packet)) * time.Second / SampleRateHz
		if valid := want > 0 && want <= MaxPacketDuration; valid != (err == nil) || valid && d != want {
			t.Fatalf("%x: %v %v, want %v", packet, d, err, want)
		}
	}
}

func TestHead(t *testing.T) {
	check := func(in string, want Head) {
		t.Helper()
		b := append([]byte("OpusHead"), unhex(t, in)...)
		got, err := ParseHead(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v %v, want %+v", in, got, err, want)
		}
		out, err := got.Marshal()
		if err != nil || !reflect.DeepEqual(out, b) {
			t.Errorf("%s: written as %x %v", in, out, err)
		}
	}
	check("0102380180bb0000000000", Head{Channels: 2, PreSkip: 312, InputSampleRateHz: 48000, Streams: 1, CoupledStreams: 1})
	check("0101000044ac000000ff00", Head{Channels: 1, InputSampleRateHz: 44100, OutputGain: -256, Streams: 1})
	check("0106000080bb00000000010402000401020305",
		Head{Channels: 6, InputSampleRateHz: 48000, MappingFamily: 1, Streams: 4, CoupledStreams: 2, Mapping: []byte{0, 4, 1, 2, 3, 5}})
	bad := func(b string) {
		t.Helper()
		if h, err := ParseHead([]byte(b)); err == nil {
			t.Errorf("%x: no error, %+v", b, h)
		}
	}
	bad("")
	bad("OpusTags\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00")
	bad("OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00")
	bad("OpusHead\x10\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00")
	bad("OpusHead\x01\x00\x38\x01\x80\xbb\x00\x00\x00\x00\x00")
	bad("OpusHead\x01\x03\x38\x01\x80\xbb\x00\x00\x00\x00\x00")
	bad("OpusHead\x01\x06\x38\x01\x80\xbb\x00\x00\x00\x00\x01\x04\x02\x00")
	bad("OpusHead\x01\x01\x38\x01\x80\xbb\x00\x00\x00\x00\x01\x01\x02\x00")
	bad("OpusHead\x01\x01\x38\x01\x80\xbb\x00\x00\x00\x00\x01\x01\x00\x01")
	if b, err := (Head{Channels: 2, MappingFamily: 1, Streams: 1, CoupledStreams: 1}).Marshal(); err == nil {
		t.Errorf("no mapping: %x", b)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzPacket(f *testing.F) {
	f.Add([]byte{0xfc, 1, 2, 3})
	f.Add([]byte{0xff, 0xc3, 5})
	f.Add([]byte{0x1b, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := PacketDuration(b)
		if err != nil {
			return
		}
		if d <= 0 || d > MaxPacketDuration || d != time.Duration(oracle.PacketDuration2(b))*time.Second/SampleRateHz {
			t.Fatalf("%x: %v", b, d)
		}
		n, err := PacketFrames(b)
		frame, err2 := FrameDuration(b)
		if err != nil || err2 != nil || time.Duration(n)*frame != d || PacketChannels(b) < 1 {
			t.Fatalf("%x: %d frames of %v, %v %v", b, n, frame, err, err2)
		}
	})
}

func FuzzHead(f *testing.F) {
	f.Add([]byte("OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00"))
	f.Add([]byte("OpusHead\x01\x06\x00\x00\x80\xbb\x00\x00\x00\x00\x01\x04\x02\x00\x04\x01\x02\x03\x05"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHead(b)
		if err != nil {
			return
		}
		// mediacommon reads the numbers in the wrong byte order: only these compare.
		var want oracle.IDHeader
		if b[8] == 1 {
			if err := want.Unmarshal(b); err != nil || int(want.ChannelCount) != h.Channels || want.ChannelMappingFamily != h.MappingFamily {
				t.Fatalf("%x: %+v, want %+v, %v", b, h, want, err)
			}
		}
		out, err := h.Marshal()
		if err != nil {
			t.Fatalf("%x: %+v: %v", b, h, err)
		}
		again, err := ParseHead(out)
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("%x: %+v then %+v, %v", b, h, again, err)
		}
	})
}
