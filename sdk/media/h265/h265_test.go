package h265

import (
	"bytes"
	"encoding/hex"
	"testing"

	oracle "github.com/bluenviron/mediacommon/v2/pkg/codecs/h265"

	"github.com/headgate/gateway/sdk/media/h264"
)

// Parameter sets of x265 3.5: 322x182, 4:2:0, 8 bits, three B-frames.
const (
	vpsX265 = "40010c01ffff016000000300900000030000" + "03003c959409"
	spsX265 = "420101016000000300900000030000" + "03003ca00a480b9c9596565924caf016808000000300800000" + "0c84"
	ppsX265 = "4401c172b46240"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func config(t testing.TB) DecoderConfig {
	return DecoderConfig{VPS: [][]byte{unhex(t, vpsX265)}, SPS: [][]byte{unhex(t, spsX265)}, PPS: [][]byte{unhex(t, ppsX265)}}
}

// TestSPS compares with an independent parser.
func TestSPS(t *testing.T) {
	nalu := unhex(t, spsX265)
	s, err := ParseSPS(nalu)
	if err != nil {
		t.Fatal(err)
	}
	var o oracle.SPS
	if err := o.Unmarshal(nalu); err != nil {
		t.Fatal(err)
	}
	if s.Width() != 322 || s.Height() != 182 || s.Width() != o.Width() || s.Height() != o.Height() {
		t.Errorf("%dx%d, the other parser has %dx%d", s.Width(), s.Height(), o.Width(), o.Height())
	}
	if n := o.MaxNumReorderPics[len(o.MaxNumReorderPics)-1]; s.MaxNumReorder != n || n == 0 {
		t.Errorf("reorder %d, the other parser has %d", s.MaxNumReorder, n)
	}
	if s.ChromaFormatIDC != 1 || s.BitDepthLuma != 8 || s.SubLayers != 1 || s.ProfileTierLevel[11] != 60 {
		t.Errorf("%+v", s)
	}
	for n := range nalu {
		if _, err := ParseSPS(nalu[:n]); err == nil && n < 27 {
			t.Errorf("no error for the first %d bytes", n)
		}
	}
}

func TestConfigRoundTrip(t *testing.T) {
	c := config(t)
	b, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if b[0] != 1 || b[1] != 1 || b[12] != 60 || b[16]&3 != 1 || b[21]&3 != 3 || b[22] != 3 {
		t.Errorf("hvcC % x", b[:23])
	}
	back, err := ParseDecoderConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.VPS[0], c.VPS[0]) || !bytes.Equal(back.SPS[0], c.SPS[0]) || !bytes.Equal(back.PPS[0], c.PPS[0]) {
		t.Errorf("%+v", back)
	}
	for n := range b {
		if _, err := ParseDecoderConfig(b[:n]); err == nil {
			t.Errorf("no error for the first %d bytes", n)
		}
	}
	if _, err := (DecoderConfig{SPS: c.SPS}).Marshal(); err == nil {
		t.Error("no error without VPS and PPS")
	}
}

func TestParameterSets(t *testing.T) {
	c := config(t)
	var p ParameterSets
	if changed, err := p.Update(nil, c.SPS, c.PPS); !changed || err != nil {
		t.Errorf("%v %v", changed, err)
	}
	if _, ok := p.Config(); ok {
		t.Error("a config without VPS")
	}
	if changed, err := p.Update(c.VPS, nil, nil); !changed || err != nil {
		t.Errorf("%v %v", changed, err)
	}
	got, ok := p.Config()
	if !ok || !bytes.Equal(got.SPS[0], c.SPS[0]) {
		t.Errorf("%+v %v", got, ok)
	}
	if changed, err := p.Update(c.VPS, c.SPS, c.PPS); changed || err != nil {
		t.Errorf("the same again: %v %v", changed, err)
	}
	if _, err := p.Update([][]byte{{1}}, [][]byte{{66, 1}}, [][]byte{{68, 1}}); err == nil {
		t.Error("no error for sets that are none")
	}
	if s, ok := p.SPS(); !ok || s.Width() != 322 {
		t.Errorf("%+v %v", s, ok)
	}
}

func TestNormalize(t *testing.T) {
	c := config(t)
	slice := func(kind NALUType, layer byte) []byte { return []byte{byte(kind) << 1, layer<<3 | 1, 0xaf} }
	var p Picture
	in := [][]byte{{byte(TypeAUD) << 1, 1, 0x50}, c.VPS[0], c.SPS[0], c.PPS[0], slice(TypePrefixSEI, 0), slice(TypeCRA, 0), slice(TypeCRA, 1), slice(TypeFiller, 0), {0x26}, nil}
	if err := p.Normalize(in); err != nil {
		t.Fatal(err)
	}
	if len(p.NALUs) != 2 || !p.Coded || !p.RandomAccess || p.Leading || p.Damaged || len(p.VPS) != 1 || len(p.SPS) != 1 || len(p.PPS) != 1 {
		t.Errorf("%+v", p)
	}
	if err := p.Normalize([][]byte{slice(TypeRASLN, 0), {0x80 | 2, 1, 0}}); err != nil {
		t.Fatal(err)
	}
	if !p.Leading || p.RandomAccess || !p.Damaged || len(p.VPS) != 0 {
		t.Errorf("%+v", p)
	}
	many := make([][]byte, MaxNALUs+1)
	for i := range many {
		many[i] = slice(TypeTrailN, 0)
	}
	if err := p.Normalize(many); err != ErrTooMany { //nolint:errorlint // it is returned as it is
		t.Errorf("%v", err)
	}
}

func FuzzConfig(f *testing.F) {
	b, err := config(f).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseDecoderConfig(b)
		if err != nil {
			return
		}
		out, err := c.Marshal()
		if err != nil {
			return // an SPS that is none
		}
		again, err := ParseDecoderConfig(out)
		if err != nil || len(again.SPS) != len(c.SPS) {
			t.Errorf("%v: % x", err, out)
		}
	})
}

func FuzzPicture(f *testing.F) {
	f.Add(h264.AppendAnnexB(nil, unhex(f, vpsX265), unhex(f, spsX265), unhex(f, ppsX265), []byte{0x26, 1, 0xaf}))
	f.Fuzz(func(_ *testing.T, b []byte) {
		nalus, err := h264.SplitAnnexB(nil, b)
		if err != nil {
			return
		}
		var p Picture
		var sets ParameterSets
		if p.Normalize(nalus) == nil {
			_, _ = sets.Update(p.VPS, p.SPS, p.PPS)
			sets.Config()
		}
	})
}
