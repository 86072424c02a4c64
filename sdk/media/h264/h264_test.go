package h264

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/abema/go-mp4"
	oracle "github.com/bluenviron/mediacommon/v2/pkg/codecs/h264"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What x264 writes for the profiles and options named, by ffmpeg 5.1.
const (
	spsBaseline720 = "6742c01fd9005005bb0110000003001000000303c0f1832480"
	spsMain        = "674d401eeca0501ed808800000030080000019078b16cb"
	spsHigh1080    = "6764002aacd940780227e5c04400000fa4000753003c60c658"
	spsInterlaced  = "67640028acd94078044fde0220000003002000000643e2c5b2c0"
	spsHigh10      = "676e001ea6cd940a02ff930110000003001000000303c0f162d960"
	spsHigh422     = "677a001eb6cd940a42fe227c0440000003004000000f03c58b6580"
	spsHigh444     = "67f4001e919b281405ff138088000003000800000301e078b16cb0"
	spsScaling     = "6764001eacd940a02ff970110000030001000003003c0f162d96"
	spsHRD         = "6764001eacd940a02ff970110000030001000003003c604000f424001e84e4c30078b16cb0"
	spsIntra       = "6764101facb81405ff2e0220000003002000000c8080"

	ppsBaseline = "68cb83cb20"
	ppsHigh     = "68ebe3cb22c0"
)

func realSPS() []string {
	return []string{spsBaseline720, spsMain, spsHigh1080, spsInterlaced, spsHigh10, spsHigh422, spsHigh444, spsScaling, spsHRD, spsIntra}
}

func TestSPSOfRealEncoders(t *testing.T) {
	check := func(sps, want string) {
		t.Helper()
		s, err := ParseSPS(unhex(t, sps))
		if err != nil {
			t.Error(err)
			return
		}
		n, ok := s.MaxNumReorderFrames()
		got := fmt.Sprintf("profile %d level %d %dx%d %.2f/s chroma %d depth %d/%d poc %d reorder %d %v may %v",
			s.ProfileIDC, s.LevelIDC, s.Width(), s.Height(), s.FrameRate(), s.ChromaFormatIDC, s.BitDepthLuma, s.BitDepthChroma,
			s.PicOrderCntType, n, ok, s.MayReorder())
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	check(spsBaseline720, "profile 66 level 31 1280x720 30.00/s chroma 1 depth 8/8 poc 2 reorder 0 true may false")
	check(spsMain, "profile 77 level 30 640x480 25.00/s chroma 1 depth 8/8 poc 0 reorder 2 true may true")
	check(spsHigh1080, "profile 100 level 42 1920x1080 59.94/s chroma 1 depth 8/8 poc 0 reorder 2 true may true")
	check(spsInterlaced, "profile 100 level 40 1920x1080 25.00/s chroma 1 depth 8/8 poc 0 reorder 2 true may true")
	check(spsHigh10, "profile 110 level 30 640x362 30.00/s chroma 1 depth 10/10 poc 0 reorder 2 true may true")
	check(spsHigh422, "profile 122 level 30 642x362 30.00/s chroma 2 depth 10/10 poc 0 reorder 2 true may true")
	check(spsHigh444, "profile 244 level 30 640x360 30.00/s chroma 3 depth 8/8 poc 0 reorder 2 true may true")
	check(spsScaling, "profile 100 level 30 640x360 30.00/s chroma 1 depth 8/8 poc 0 reorder 2 true may true")
	check(spsHRD, "profile 100 level 30 640x360 30.00/s chroma 1 depth 8/8 poc 0 reorder 2 true may true")
	check(spsIntra, "profile 100 level 31 640x360 50.00/s chroma 1 depth 8/8 poc 2 reorder 0 false may false")
}

func TestSPSThatIsNone(t *testing.T) {
	bad := func(b []byte) {
		t.Helper()
		if s, err := ParseSPS(b); err == nil {
			t.Errorf("%x: no error, %+v", b, s)
		}
	}
	bad(nil)
	bad([]byte{0x67})
	bad(unhex(t, ppsHigh))
	bad(unhex(t, "e7"+spsMain[2:])) // forbidden_zero_bit
	for _, s := range realSPS() {
		b := unhex(t, s)
		for n := range len(b) - 6 { // the end is VUI, which a cut can leave well formed
			bad(b[:n+1])
		}
	}
}

// bitWriter writes what the parser reads.
type bitWriter struct {
	b    []byte
	left int
}

func (w *bitWriter) u(n int, v uint32) {
	for i := n - 1; i >= 0; i-- {
		if w.left == 0 {
			w.b, w.left = append(w.b, 0), 8
		}
		w.left--
		w.b[len(w.b)-1] |= byte(v>>i&1) << w.left
	}
}

func (w *bitWriter) flag(v bool) bool {
	if v {
		w.u(1, 1)
	} else {
		w.u(1, 0)
	}
	return v
}

func (w *bitWriter) ue(v uint32) {
	n := 0
	for (uint64(v)+1)>>(n+1) > 0 {
		n++
	}
	w.u(n, 0)
	w.u(n+1, v+1)
}

func (w *bitWriter) se(v int32) {
	if v > 0 {
		w.ue(uint32(2*v - 1))
	} else {
		w.ue(uint32(-2 * v))
	}
}

// nalu ends the payload and puts in emulation prevention.
func (w *bitWriter) nalu(header byte) []byte {
	w.u(1, 1)
	out, zeros := []byte{header}, 0
	for _, c := range w.b {
		if zeros == 2 && c <= 3 {
			out, zeros = append(out, 3), 0
		}
		if out = append(out, c); c == 0 {
			zeros++
		} else {
			zeros = 0
		}
	}
	return out
}

// randomSPS writes an SPS with everything that the syntax has.
func randomSPS(r *rand.Rand) ([]byte, SPS) {
	var s SPS
	var w bitWriter
	coin := func() bool { return r.IntN(2) == 0 }
	profiles := []uint8{66, 77, 88, 100, 110, 122, 244, 44, 118, 128}
	s.ProfileIDC, s.ConstraintFlags, s.LevelIDC = profiles[r.IntN(len(profiles))], uint8(r.IntN(64))<<2, uint8(r.IntN(62))
	s.ID = uint8(r.IntN(32))
	w.u(8, uint32(s.ProfileIDC))
	w.u(8, uint32(s.ConstraintFlags))
	w.u(8, uint32(s.LevelIDC))
	w.ue(uint32(s.ID))
	s.ChromaFormatIDC, s.BitDepthLuma, s.BitDepthChroma = 1, 8, 8
	separate := false
	if hasChromaInfo(s.ProfileIDC) {
		s.ChromaFormatIDC = uint8(r.IntN(4))
		w.ue(uint32(s.ChromaFormatIDC))
		if s.ChromaFormatIDC == 3 {
			separate = w.flag(coin())
		}
		s.BitDepthLuma, s.BitDepthChroma = uint8(8+r.IntN(7)), uint8(8+r.IntN(7))
		w.ue(uint32(s.BitDepthLuma - 8))
		w.ue(uint32(s.BitDepthChroma - 8))
		w.flag(coin())
		if w.flag(coin()) {
			lists := 8
			if s.ChromaFormatIDC == 3 {
				lists = 12
			}
			for i := range lists {
				if w.flag(coin()) {
					writeScalingList(&w, r, i)
				}
			}
		}
	}
	w.ue(uint32(r.IntN(13)))
	s.PicOrderCntType = uint8(r.IntN(3))
	w.ue(uint32(s.PicOrderCntType))
	switch s.PicOrderCntType {
	case 0:
		w.ue(uint32(r.IntN(13)))
	case 1:
		w.flag(coin())
		w.se(int32(r.IntN(1000) - 500))
		w.se(int32(r.IntN(1000) - 500))
		n := r.IntN(5)
		w.ue(uint32(n))
		for range n {
			w.se(int32(r.IntN(1000) - 500))
		}
	}
	s.MaxNumRefFrames = uint32(r.IntN(17))
	w.ue(s.MaxNumRefFrames)
	w.flag(coin())
	width, height := 2+r.IntN(300), 2+r.IntN(200)
	w.ue(uint32(width - 1))
	w.ue(uint32(height - 1))
	s.FrameMbsOnly = w.flag(coin())
	s.width, s.height = 16*width, 16*height
	if !s.FrameMbsOnly {
		s.height *= 2
		w.flag(coin())
	}
	w.flag(coin())
	if w.flag(coin()) {
		left, right, top, bottom := r.IntN(4), r.IntN(4), r.IntN(4), r.IntN(4)
		for _, v := range []int{left, right, top, bottom} {
			w.ue(uint32(v))
		}
		x, y := 1, 1
		if s.ChromaFormatIDC == 1 || s.ChromaFormatIDC == 2 {
			x = 2
		}
		if s.ChromaFormatIDC == 1 {
			y = 2
		}
		if !s.FrameMbsOnly {
			y *= 2
		}
		s.width -= x * (left + right)
		s.height -= y * (top + bottom)
	}
	_ = separate // crops like 4:4:4, which it is
	if w.flag(coin()) {
		writeVUI(&w, r, &s)
	}
	return w.nalu(0x67), s
}

func writeScalingList(w *bitWriter, r *rand.Rand, i int) {
	size, last, next := 16, int32(8), int32(8)
	if i >= 6 {
		size = 64
	}
	for range size {
		if next != 0 {
			want := int32(r.IntN(256))
			if r.IntN(8) == 0 {
				want = 0
			}
			delta := want - last
			if delta > 127 {
				delta -= 256
			} else if delta < -128 {
				delta += 256
			}
			w.se(delta)
			next = want
		}
		if next != 0 {
			last = next
		}
	}
}

func writeVUI(w *bitWriter, r *rand.Rand, s *SPS) {
	coin := func() bool { return r.IntN(2) == 0 }
	if w.flag(coin()) {
		if coin() {
			w.u(8, 255)
			w.u(32, r.Uint32())
		} else {
			w.u(8, 1)
		}
	}
	if w.flag(coin()) {
		w.flag(coin())
	}
	if w.flag(coin()) {
		w.u(4, 5)
		if w.flag(coin()) {
			w.u(24, 0x010101)
		}
	}
	if w.flag(coin()) {
		w.ue(uint32(r.IntN(6)))
		w.ue(uint32(r.IntN(6)))
	}
	if w.flag(coin()) {
		s.unitsInTick, s.timeScale = 1+r.Uint32N(2000), 1+r.Uint32N(200000)
		w.u(32, s.unitsInTick)
		w.u(32, s.timeScale)
		w.flag(coin())
	}
	hrd := func() bool {
		if !w.flag(coin()) {
			return false
		}
		n := r.IntN(4)
		w.ue(uint32(n))
		w.u(8, r.Uint32N(256))
		for range n + 1 {
			w.ue(r.Uint32N(1 << 20))
			w.ue(r.Uint32N(1 << 20))
			w.flag(coin())
		}
		w.u(20, r.Uint32N(1<<20))
		return true
	}
	nal, vcl := hrd(), hrd()
	if nal || vcl {
		w.flag(coin())
	}
	w.flag(coin())
	if s.hasRestriction = w.flag(coin()); s.hasRestriction {
		w.flag(coin())
		for range 4 {
			w.ue(uint32(r.IntN(17)))
		}
		s.maxReorderFrames = uint32(r.IntN(17))
		w.ue(s.maxReorderFrames)
		w.ue(uint32(r.IntN(17)))
	}
}

func TestSPSOfEveryShape(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 5000 {
		b, want := randomSPS(r)
		got, err := ParseSPS(b)
		if err != nil || got != want {
			t.Fatalf("SPS %d, %x: %v\ngot  %+v\nwant %+v", i, b, err, got, want)
		}
		compareSPS(t, b)
	}
}

// compareSPS compares with mediacommon where both parse, but for what that is
// known to do in another way: it does not crop monochrome or separate planes
// across, and it takes sizes that no level allows.
func compareSPS(t *testing.T, b []byte) {
	t.Helper()
	got, err := ParseSPS(b)
	if err != nil {
		return
	}
	var want oracle.SPS
	if err := want.Unmarshal(b); err != nil {
		return
	}
	if got.ProfileIDC != want.ProfileIdc || got.LevelIDC != want.LevelIdc || uint32(got.ID) != want.ID ||
		uint32(got.PicOrderCntType) != want.PicOrderCntType || got.MaxNumRefFrames != want.MaxNumRefFrames ||
		got.FrameMbsOnly != want.FrameMbsOnlyFlag {
		t.Fatalf("%x:\ngot  %+v\nwant %+v", b, got, want)
	}
	if plain := want.ChromaFormatIdc != 0 && !want.SeparateColourPlaneFlag; (plain || !hasChromaInfo(got.ProfileIDC)) && want.FrameCropping == nil || plain {
		if got.Width() != want.Width() || got.Height() != want.Height() {
			t.Fatalf("%x: %dx%d, want %dx%d", b, got.Width(), got.Height(), want.Width(), want.Height())
		}
	}
	if fps := got.FrameRate(); fps != 0 && fps != want.FPS() {
		t.Fatalf("%x: %v pictures per second, want %v", b, fps, want.FPS())
	}
	n, ok := got.MaxNumReorderFrames()
	wantOK := want.VUI != nil && want.VUI.BitstreamRestriction != nil
	if ok != wantOK || ok && uint32(n) != want.VUI.BitstreamRestriction.MaxNumReorderFrames {
		t.Fatalf("%x: reorder %d %v, want %+v", b, n, ok, want.VUI)
	}
}

func TestFrameRatesThatCannotBe(t *testing.T) {
	rate := func(units, scale uint32, want float64) {
		t.Helper()
		if got := (SPS{unitsInTick: units, timeScale: scale}).FrameRate(); got != want {
			t.Errorf("%d/%d: %v, want %v", scale, units, got, want)
		}
	}
	rate(1, 60, 30)
	rate(1001, 60000, 30000.0/1001)
	rate(0, 60, 0)
	rate(60, 0, 0)
	rate(1, 90000, 0)
	rate(1, 1000, 0)
	rate(1<<32-1, 1, 0)
}

func randomNALUs(r *rand.Rand) [][]byte {
	var list [][]byte
	for range 1 + r.IntN(8) {
		n := make([]byte, 1+r.IntN(40))
		for i := range n {
			n[i] = byte(1 + r.IntN(255)) // no start codes, no trailing zeros
		}
		list = append(list, n)
	}
	return list
}

func TestSplitUndoesJoin(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		want := randomNALUs(r)
		got, err := SplitAnnexB(nil, AppendAnnexB(nil, want...))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("Annex B: %x, %v, want %x", got, err, want)
		}
		got, err = SplitLengthPrefixed(nil, AppendLengthPrefixed(nil, want...))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("length prefixed: %x, %v, want %x", got, err, want)
		}
	}
}

func TestAppendsToWhatIsThere(t *testing.T) {
	if got := AppendLengthPrefixed([]byte{9}, []byte{1, 2}, nil); !bytes.Equal(got, []byte{9, 0, 0, 0, 2, 1, 2, 0, 0, 0, 0}) {
		t.Errorf("%x", got)
	}
	if got := AppendAnnexB([]byte{9}, []byte{1, 2}); !bytes.Equal(got, []byte{9, 0, 0, 0, 1, 1, 2}) {
		t.Errorf("%x", got)
	}
	if got := AppendLengthPrefixed(nil, make([]byte, 1000)); cap(got) > 1024 {
		t.Errorf("capacity %d for 1004 bytes", cap(got))
	}
}

func TestSplitAnnexB(t *testing.T) {
	good := func(in string, want ...string) {
		t.Helper()
		nalus, err := SplitAnnexB(nil, unhex(t, in))
		var got []string
		for _, n := range nalus {
			got = append(got, hex.EncodeToString(n))
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v %v, want %v", in, got, err, want)
		}
	}
	good("0000016501", "6501")
	good("000000016501", "6501")
	good("00000000000000016501", "6501")
	good("00000165010000016102", "6501", "6102")
	good("000001650100000000016102", "6501", "6102")
	good("000001000001610200", "6102")
	good("000001")
	good("0000016500000361", "6500000361")
	bad := func(in string, want error) {
		t.Helper()
		if _, err := SplitAnnexB(nil, unhex(t, in)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", in, err, want)
		}
	}
	bad("", ErrNoStartCode)
	bad("6501", ErrNoStartCode)
	bad("01000001", ErrNoStartCode)
	bad("0000", ErrNoStartCode)
}

func TestSplitLengthPrefixedErrors(t *testing.T) {
	bad := func(in string) {
		t.Helper()
		if _, err := SplitLengthPrefixed(nil, unhex(t, in)); !errors.Is(err, ErrTruncated) {
			t.Errorf("%s: %v, want %v", in, err, ErrTruncated)
		}
	}
	bad("00")
	bad("0000000265")
	bad("ffffffff65")
	bad("000000016500")
	if n, err := SplitLengthPrefixed(nil, unhex(t, "00000000000000016500000000")); err != nil || len(n) != 1 {
		t.Errorf("empty units: %x, %v, want one", n, err)
	}
}

func TestLimits(t *testing.T) {
	check := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	many := slices.Repeat([][]byte{{0x41}}, MaxNALUs+1)
	_, err := SplitAnnexB(nil, AppendAnnexB(nil, many...))
	check("many, Annex B", err, ErrTooMany)
	_, err = SplitLengthPrefixed(nil, AppendLengthPrefixed(nil, many...))
	check("many, length prefixed", err, ErrTooMany)
	check("many, picture", new(Picture).Normalize(many), ErrTooMany)
	check("as many as may be", new(Picture).Normalize(many[1:]), nil)
	large := make([]byte, MaxAccessUnitBytes+1)
	_, err = SplitAnnexB(nil, large)
	check("large, Annex B", err, ErrTooLarge)
	_, err = SplitLengthPrefixed(nil, large)
	check("large, length prefixed", err, ErrTooLarge)
	large[0] = 0x41
	check("large, picture", new(Picture).Normalize([][]byte{large}), ErrTooLarge)
}

func TestNormalForm(t *testing.T) {
	var p Picture
	check := func(what string, in []string, want string) {
		t.Helper()
		var nalus [][]byte
		for _, s := range in {
			nalus = append(nalus, unhex(t, s))
		}
		if err := p.Normalize(nalus); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		got := fmt.Sprintf("%x sps %d pps %d", p.NALUs, len(p.SPS), len(p.PPS))
		for _, f := range []struct {
			on   bool
			name string
		}{{p.Coded, "coded"}, {p.RandomAccess, "random-access"}, {p.Disposable, "disposable"}, {p.Damaged, "damaged"}} {
			if f.on {
				got += " " + f.name
			}
		}
		if got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", what, got, want)
		}
	}
	const recovery, recoveryLater, userData = "0606018480", "06060144c080", "060504aabbccdd80"
	check("IDR with everything", []string{"09f0", spsMain, ppsHigh, userData, "65aa", "65bb", "0cffff80", "0a", "0b"},
		"[060504aabbccdd80 65aa 65bb] sps 1 pps 1 coded random-access")
	check("plain", []string{"41aa"}, "[41aa] sps 0 pps 0 coded")
	check("not referred to", []string{"09f0", "01aa", "01bb"}, "[01aa 01bb] sps 0 pps 0 coded disposable")
	check("partly referred to", []string{"01aa", "41bb"}, "[01aa 41bb] sps 0 pps 0 coded")
	check("recovery point", []string{recovery, "41aa"}, "[0606018480 41aa] sps 0 pps 0 coded random-access")
	check("recovery point behind user data", []string{"060504aabbccdd06018480", "41aa"},
		"[060504aabbccdd06018480 41aa] sps 0 pps 0 coded random-access")
	check("recovery later", []string{recoveryLater, "41aa"}, "[06060144c080 41aa] sps 0 pps 0 coded")
	check("recovery point alone", []string{recovery}, "[0606018480] sps 0 pps 0")
	check("parameter sets alone", []string{spsMain, ppsHigh}, "[] sps 1 pps 1")
	check("empty units", []string{"", "65aa", ""}, "[65aa] sps 0 pps 0 coded random-access")
	check("damaged", []string{"c1aa", "41bb"}, "[41bb] sps 0 pps 0 coded damaged")
	check("layers", []string{"6eaa", "65aa", "74bb", "6fcc", "73dd", "75ee", "6dff"}, "[65aa] sps 0 pps 0 coded random-access")
	check("RTP's own types", []string{"78aa", "7cbb", "60cc", "41aa"}, "[41aa] sps 0 pps 0 coded")
	check("nothing", nil, "[] sps 0 pps 0")
}

// The normal form of the normal form is itself.
func TestNormalFormIsStable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 3))
	for range 1000 {
		var p, q Picture
		if err := p.Normalize(randomNALUs(r)); err != nil {
			t.Fatal(err)
		}
		if err := q.Normalize(p.NALUs); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%x", p.NALUs) != fmt.Sprintf("%x", q.NALUs) || p.Coded != q.Coded || p.RandomAccess != q.RandomAccess || p.Disposable != q.Disposable {
			t.Fatalf("%+v then %+v", p, q)
		}
	}
}

func TestDecoderConfig(t *testing.T) {
	for _, sps := range realSPS() {
		want := DecoderConfig{SPS: [][]byte{unhex(t, sps)}, PPS: [][]byte{unhex(t, ppsBaseline), unhex(t, ppsHigh)}}
		b, err := want.Marshal()
		if err != nil {
			t.Errorf("%s: %v", sps, err)
			continue
		}
		got, err := ParseDecoderConfig(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v %v, want %+v", sps, got, err, want)
		}
		compareAVCC(t, b, want)
	}
}

// compareAVCC compares what we wrote with another reader.
func compareAVCC(t *testing.T, b []byte, want DecoderConfig) {
	t.Helper()
	var box mp4.AVCDecoderConfiguration
	box.SetType(mp4.BoxTypeAvcC())
	n, err := mp4.Unmarshal(bytes.NewReader(b), uint64(len(b)), &box, mp4.Context{})
	if err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	sps, err := ParseSPS(want.SPS[0])
	if err != nil {
		t.Fatal(err)
	}
	// It knows the last four bytes by an older edition of the standard, for these profiles only.
	high := slices.Contains([]uint8{100, 110, 122}, sps.ProfileIDC)
	if whole := high || slices.Contains([]uint8{66, 77, 88}, sps.ProfileIDC); whole && n != uint64(len(b)) {
		t.Errorf("%x: read %d bytes", b, n)
	}
	if box.Profile != sps.ProfileIDC || box.ProfileCompatibility != sps.ConstraintFlags || box.Level != sps.LevelIDC || box.LengthSizeMinusOne != 3 {
		t.Errorf("%x: %+v", b, box)
	}
	if len(box.SequenceParameterSets) != len(want.SPS) || len(box.PictureParameterSets) != len(want.PPS) ||
		!bytes.Equal(box.SequenceParameterSets[0].NALUnit, want.SPS[0]) || !bytes.Equal(box.PictureParameterSets[0].NALUnit, want.PPS[0]) {
		t.Errorf("%x: %+v", b, box)
	}
	if high && (box.ChromaFormat != sps.ChromaFormatIDC || box.BitDepthLumaMinus8 != sps.BitDepthLuma-8) {
		t.Errorf("%x: chroma %d depth %d", b, box.ChromaFormat, box.BitDepthLumaMinus8)
	}
}

func TestAVCCBytes(t *testing.T) {
	check := func(sps, pps, want string) {
		t.Helper()
		b, err := DecoderConfig{SPS: [][]byte{unhex(t, sps)}, PPS: [][]byte{unhex(t, pps)}}.Marshal()
		if got := hex.EncodeToString(b); err != nil || got != want {
			t.Errorf("got  %s %v\nwant %s", got, err, want)
		}
	}
	check(spsBaseline720, ppsBaseline, "0142c01fffe10019"+spsBaseline720+"010005"+ppsBaseline)
	check(spsHigh1080, ppsHigh, "0164002affe10019"+spsHigh1080+"010006"+ppsHigh+"fdf8f800")
	check(spsHigh422, ppsHigh, "017a001effe1001b"+spsHigh422+"010006"+ppsHigh+"fefafa00")
}

func TestBadDecoderConfigs(t *testing.T) {
	bad := func(what string, b []byte) {
		t.Helper()
		if c, err := ParseDecoderConfig(b); err == nil {
			t.Errorf("%s: no error, %+v", what, c)
		}
	}
	good, err := DecoderConfig{SPS: [][]byte{unhex(t, spsMain)}, PPS: [][]byte{unhex(t, ppsHigh)}}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		bad(fmt.Sprintf("cut to %d", n), good[:n])
	}
	change := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	bad("version", change(0, 0))
	bad("2-byte lengths", change(4, 0xfd))
	bad("PPS for an SPS", change(8, 0x68))
	marshal := func(what string, c DecoderConfig) {
		t.Helper()
		if b, err := c.Marshal(); err == nil {
			t.Errorf("%s: no error, %x", what, b)
		}
	}
	sps, pps := unhex(t, spsMain), unhex(t, ppsHigh)
	marshal("nothing", DecoderConfig{})
	marshal("no PPS", DecoderConfig{SPS: [][]byte{sps}})
	marshal("exchanged", DecoderConfig{SPS: [][]byte{pps}, PPS: [][]byte{sps}})
	marshal("32 SPS", DecoderConfig{SPS: slices.Repeat([][]byte{sps}, 32), PPS: [][]byte{pps}})
	marshal("large PPS", DecoderConfig{SPS: [][]byte{sps}, PPS: [][]byte{append([]byte{0x68}, make([]byte, 1<<16)...)}})
}

func TestParameterSetsFollowTheEncoder(t *testing.T) {
	var p ParameterSets
	update := func(what string, sps, pps []string, changed bool) {
		t.Helper()
		var s, q [][]byte
		for _, v := range sps {
			s = append(s, unhex(t, v))
		}
		for _, v := range pps {
			q = append(q, unhex(t, v))
		}
		got, err := p.Update(s, q)
		if err != nil || got != changed {
			t.Errorf("%s: changed %v %v, want %v", what, got, err, changed)
		}
		for _, b := range append(s, q...) {
			clear(b) // what it keeps is its own
		}
	}
	config := func(what string, want string) {
		t.Helper()
		c, ok := p.Config()
		if got := fmt.Sprintf("%v %x %x", ok, c.SPS, c.PPS); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	config("empty", "false [] []")
	update("SPS alone", []string{spsMain}, nil, true)
	config("SPS alone", "false ["+spsMain+"] []")
	update("PPS comes", nil, []string{ppsHigh}, true)
	config("both", "true ["+spsMain+"] ["+ppsHigh+"]")
	update("the same again", []string{spsMain}, []string{ppsHigh}, false)
	update("another size", []string{spsBaseline720}, []string{ppsBaseline}, true)
	config("replaced", "true ["+spsBaseline720+"] ["+ppsBaseline+"]")
	if s, ok := p.SPS(); !ok || s.Width() != 1280 {
		t.Errorf("SPS %dx%d %v", s.Width(), s.Height(), ok)
	}
	var w bitWriter
	w.ue(1)
	w.ue(7) // of an SPS that is not there
	stray := w.nalu(0x68)
	if changed, err := p.Update([][]byte{{0x67, 1}}, [][]byte{stray, {0x68}}); !changed || err == nil {
		t.Errorf("damaged sets: changed %v, %v", changed, err)
	}
	config("a stray PPS", "true ["+spsBaseline720+"] ["+ppsBaseline+"]")
}

func TestRandomAccessAgreesWithMediacommon(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 4))
	for range 2000 {
		nalus := randomNALUs(r)
		for _, n := range nalus {
			if n[0] &= 0x7f; n[0]&31 == 6 {
				n[0]++ // SEI: mediacommon does not know recovery points
			}
		}
		var p Picture
		if err := p.Normalize(nalus); err != nil {
			t.Fatal(err)
		}
		if want := oracle.IsRandomAccess(nalus); p.RandomAccess != want {
			t.Fatalf("%x: %v, want %v", nalus, p.RandomAccess, want)
		}
	}
}

func FuzzSPS(f *testing.F) {
	for _, s := range realSPS() {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSPS(b)
		if err != nil {
			return
		}
		if s.Width() <= 0 || s.Height() <= 0 || s.Width() > 16*maxMacroblocks || s.FrameRate() < 0 || s.FrameRate() > maxFrameRate {
			t.Fatalf("%dx%d %v", s.Width(), s.Height(), s.FrameRate())
		}
		compareSPS(t, b)
	})
}

func FuzzSplit(f *testing.F) {
	f.Add(unhex(f, "00000165010000016102"))
	f.Add(unhex(f, "0000000265010000000161"))
	f.Add(unhex(f, "00000001090000000167"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if nalus, err := SplitAnnexB(nil, b); err == nil {
			again, err := SplitAnnexB(nil, AppendAnnexB(nil, nalus...))
			if len(nalus) > 0 && (err != nil || !reflect.DeepEqual(again, nalus)) {
				t.Fatalf("%x: %x then %x, %v", b, nalus, again, err)
			}
			var want oracle.AnnexB
			if err := want.Unmarshal(b); err == nil && !sameUnits(nalus, want) {
				t.Fatalf("%x: %x, want %x", b, nalus, want)
			}
		}
		if nalus, err := SplitLengthPrefixed(nil, b); err == nil {
			again, err := SplitLengthPrefixed(nil, AppendLengthPrefixed(nil, nalus...))
			if err != nil || !reflect.DeepEqual(again, nalus) {
				t.Fatalf("%x: %x then %x, %v", b, nalus, again, err)
			}
			var want oracle.AVCC
			if err := want.Unmarshal(b); err == nil && !reflect.DeepEqual([][]byte(want), nalus) {
				t.Fatalf("%x: %x, want %x", b, nalus, want)
			}
		}
	})
}

// sameUnits compares with a splitter that leaves zeros at the end of units.
func sameUnits(got, want [][]byte) bool {
	var trimmed [][]byte
	for _, n := range want {
		if n = bytes.TrimRight(n, "\x00"); len(n) > 0 {
			trimmed = append(trimmed, n)
		}
	}
	return slices.EqualFunc(got, trimmed, bytes.Equal)
}

func FuzzDecoderConfig(f *testing.F) {
	for _, s := range realSPS() {
		b, err := DecoderConfig{SPS: [][]byte{unhex(f, s)}, PPS: [][]byte{unhex(f, ppsHigh)}}.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseDecoderConfig(b)
		if err != nil {
			return
		}
		out, err := c.Marshal()
		if err != nil {
			return // no SPS, or none that can be parsed
		}
		again, err := ParseDecoderConfig(out)
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("%x: %+v then %+v, %v", b, c, again, err)
		}
		compareAVCC(t, out, c)
	})
}

func FuzzNormalize(f *testing.F) {
	f.Add(unhex(f, "0000000209f00000000265aa"))
	f.Add(unhex(f, "00000005060601848000000002"+"41aa"))
	f.Fuzz(func(t *testing.T, b []byte) {
		nalus, err := SplitLengthPrefixed(nil, b)
		if err != nil {
			return
		}
		var p, q Picture
		var sets ParameterSets
		if err := p.Normalize(nalus); err != nil {
			return
		}
		if len(p.NALUs) > len(nalus) || p.Coded != slices.ContainsFunc(p.NALUs, func(n []byte) bool { return TypeOf(n).IsVCL() }) {
			t.Fatalf("%x: %+v", nalus, p)
		}
		if err := q.Normalize(p.NALUs); err != nil || !slices.EqualFunc(p.NALUs, q.NALUs, bytes.Equal) || p.RandomAccess != q.RandomAccess {
			t.Fatalf("%x: %+v then %+v, %v", nalus, p, q, err)
		}
		_, _ = sets.Update(p.SPS, p.PPS)
		if c, ok := sets.Config(); ok {
			if _, err := c.Marshal(); err != nil {
				t.Fatalf("%+v: %v", c, err)
			}
		}
	})
}

func BenchmarkSplitAnnexB(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 5))
	slice := make([]byte, 50000)
	for i := range slice {
		slice[i] = byte(r.IntN(256)) | 1
	}
	stream := AppendAnnexB(nil, slice, slice)
	var nalus [][]byte
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	for b.Loop() {
		nalus, _ = SplitAnnexB(nalus[:0], stream)
	}
}
