package av1_test

import (
	"bytes"
	"testing"

	mc "github.com/bluenviron/mediacommon/v2/pkg/codecs/av1"

	"github.com/headgate/gateway/sdk/media/av1"
)

// Sequence headers that encoders sent: payloads, without the OBU header.
var headers = map[string][]byte{
	"libaom 640x360":    {0x00, 0x00, 0x00, 0x02, 0xaf, 0xff, 0x9b, 0x5f, 0x30, 0x08},
	"chromium 1920x804": {0x00, 0x00, 0x00, 0x42, 0xa7, 0xbf, 0xe4, 0x60, 0x0d, 0x00, 0x40},
}

// The headers say what an independent parser says of them.
func checkHeader(t *testing.T, payload []byte) {
	t.Helper()
	h, err := av1.ParseSequenceHeader(payload)
	var o mc.SequenceHeader
	theirs := o.Unmarshal(append([]byte{byte(av1.TypeSequenceHeader) << 3}, payload...))
	if theirs != nil {
		return // it wants more than is needed here
	}
	if o.TimingInfo != nil && o.TimingInfo.EqualPictureInterval {
		return // it reads a number with 32 zeros before it otherwise than clause 4.10.3 has it
	}
	if err != nil {
		// The other parser lets reserved profiles pass, and reads less far: what is
		// missing then is missing at the end.
		const reservedProfile = 3
		if o.SeqProfile >= reservedProfile {
			return
		}
		if _, err := av1.ParseSequenceHeader(append(bytes.Clone(payload), make([]byte, 32)...)); err != nil {
			t.Errorf("%x: %v", payload, err)
		}
		return
	}
	if h.Width != o.Width() || h.Height != o.Height() || h.Profile != o.SeqProfile || h.Level != o.SeqLevelIdx[0] ||
		h.Monochrome != o.ColorConfig.MonoChrome || h.BitDepth != o.ColorConfig.BitDepth ||
		h.SubsamplingX != o.ColorConfig.SubsamplingX || h.SubsamplingY != o.ColorConfig.SubsamplingY {
		t.Errorf("%x: %+v, want %+v", payload, h, o)
	}
}

func TestSequenceHeader(t *testing.T) {
	for name, payload := range headers {
		h, err := av1.ParseSequenceHeader(payload)
		if err != nil || h.Width < 16 || h.Height < 16 {
			t.Errorf("%s: %+v %v", name, h, err)
		}
		checkHeader(t, payload)
		for cut := range payload[:len(payload)-2] {
			if _, err := av1.ParseSequenceHeader(payload[:cut]); err == nil && cut < 6 {
				t.Errorf("%s: %d bytes are enough", name, cut)
			}
		}
		c, _, err := av1.DecoderConfig(payload)
		if err != nil || c[0] != 0x81 || c[1] != h.Profile<<5|h.Level {
			t.Errorf("%s: av1C %x %v", name, c, err)
		}
		obus, err := av1.Split(nil, c[4:])
		if err != nil || len(obus) != 1 || !bytes.Equal(obus[0].Payload, payload) {
			t.Errorf("%s: the header in av1C is %v %v", name, obus, err)
		}
	}
}

func TestOBUs(t *testing.T) {
	want := []av1.OBU{
		{Type: av1.TypeSequenceHeader, Payload: headers["libaom 640x360"]},
		{Type: av1.TypeFrame, HasExtension: true, Extension: 0x08, Payload: bytes.Repeat([]byte{0x10, 7}, 300)},
		{Type: av1.TypePadding, Payload: []byte{}},
	}
	var b []byte
	for _, o := range want {
		b = o.Append(b)
	}
	got, err := av1.Split(nil, b)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%v %v", got, err)
	}
	for i := range want {
		if got[i].Type != want[i].Type || got[i].HasExtension != want[i].HasExtension || got[i].Extension != want[i].Extension ||
			!bytes.Equal(got[i].Payload, want[i].Payload) {
			t.Errorf("OBU %d: %+v", i, got[i])
		}
	}
	var theirs mc.Bitstream // which knows no extension
	if err := theirs.Unmarshal(want[2].Append(want[0].Append(nil))); err != nil || len(theirs) != 2 {
		t.Errorf("an independent parser finds %d OBUs, %v", len(theirs), err)
	}
	if u := av1.Inspect(got); !u.Coded || !u.KeyFrame || u.SequenceHeader == nil {
		t.Errorf("%+v", u)
	}
	if u := av1.Inspect([]av1.OBU{{Type: av1.TypeFrame, Payload: []byte{0x30}}}); u.KeyFrame || !u.Coded {
		t.Errorf("an inter frame: %+v", u)
	}
	for cut := range b {
		if o, err := av1.Split(nil, b[:cut]); err == nil && len(o) == len(want) {
			t.Errorf("%d bytes are enough", cut)
		}
	}
	if _, err := av1.Split(nil, []byte{0x80}); err == nil {
		t.Error("the forbidden bit passes")
	}
}

func TestLEB128(t *testing.T) {
	for _, v := range []uint64{0, 1, 127, 128, 16383, 16384, 1<<32 - 1} {
		b := av1.AppendLEB128(nil, v)
		if got, n, err := av1.ReadLEB128(append(b, 9)); got != v || n != len(b) || err != nil {
			t.Errorf("%d: %d %d %v", v, got, n, err)
		}
	}
	for _, b := range [][]byte{{}, {0x80}, bytes.Repeat([]byte{0xff}, 9), {0xff, 0xff, 0xff, 0xff, 0x7f}} {
		if v, _, err := av1.ReadLEB128(b); err == nil {
			t.Errorf("%x is %d", b, v)
		}
	}
}

func FuzzSequenceHeader(f *testing.F) {
	for _, h := range headers {
		f.Add(h)
	}
	f.Fuzz(func(t *testing.T, payload []byte) { checkHeader(t, payload) })
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte{0x0a, 1, 9, 0x32, 2, 1, 2})
	f.Fuzz(func(t *testing.T, unit []byte) {
		obus, err := av1.Split(nil, unit)
		if err != nil {
			return
		}
		var again []byte
		for _, o := range obus {
			again = o.Append(again)
		}
		same, err := av1.Split(nil, again)
		if err != nil || len(same) != len(obus) {
			t.Fatalf("%x: %d OBUs, then %d, %v", unit, len(obus), len(same), err)
		}
		av1.Inspect(obus)
	})
}
