package h264

import (
	"fmt"

	"github.com/headgate/gateway/sdk/media/internal/nal"
)

// An SPS is a sequence parameter set, as far as the gateway needs it. The zero
// value is of no use: [ParseSPS] makes it.
type SPS struct {
	ProfileIDC uint8
	// ConstraintFlags is the byte between profile and level: constraint_set0_flag
	// is its highest bit.
	ConstraintFlags uint8
	LevelIDC        uint8 // ten times the level, 11 is also level 1b
	ID              uint8

	ChromaFormatIDC uint8 // 1 is 4:2:0
	BitDepthLuma    uint8
	BitDepthChroma  uint8

	// PicOrderCntType is 2 where pictures are shown in the order in which they
	// are decoded.
	PicOrderCntType uint8
	MaxNumRefFrames uint32
	FrameMbsOnly    bool

	width, height int

	// num_units_in_tick and time_scale; zero if absent.
	unitsInTick, timeScale uint32

	hasRestriction   bool
	maxReorderFrames uint32
}

// maxMacroblocks is the largest side of a picture that any level allows, in
// macroblocks: the square root of 8 * MaxFS of level 6.2.
const maxMacroblocks = 1055

// ParseSPS parses a NAL unit of type [TypeSPS].
func ParseSPS(nalu []byte) (SPS, error) {
	s, err := parseSPS(nalu)
	if err != nil {
		return SPS{}, fmt.Errorf("parsing SPS: %w", err)
	}
	return s, nil
}

func parseSPS(nalu []byte) (SPS, error) {
	var s SPS
	if TypeOf(nalu) != TypeSPS || forbidden(nalu) {
		return s, fmt.Errorf("not an SPS: NAL unit type %d", TypeOf(nalu))
	}
	r := nal.NewBits(nalu[1:])
	s.ProfileIDC = uint8(r.U(8))
	s.ConstraintFlags = uint8(r.U(8))
	s.LevelIDC = uint8(r.U(8))
	id := r.UE()
	if id > 31 {
		r.Fail("id over 31")
	}
	s.ID = uint8(id)
	s.ChromaFormatIDC, s.BitDepthLuma, s.BitDepthChroma = 1, 8, 8
	separatePlanes := false
	if hasChromaInfo(s.ProfileIDC) {
		separatePlanes = s.parseChroma(r)
	}
	if r.UE() > 12 {
		r.Fail("log2_max_frame_num over 16")
	}
	s.parsePicOrder(r)
	s.MaxNumRefFrames = r.UE()
	r.Flag() // gaps_in_frame_num_value_allowed_flag
	width, height := r.UE(), r.UE()
	s.FrameMbsOnly = r.Flag()
	if !s.FrameMbsOnly {
		r.Flag() // mb_adaptive_frame_field_flag
	}
	r.Flag() // direct_8x8_inference_flag
	if width >= maxMacroblocks || height >= maxMacroblocks {
		r.Fail("picture too large")
		width, height = 0, 0
	}
	s.width, s.height = 16*(int(width)+1), 16*(int(height)+1)
	if !s.FrameMbsOnly {
		s.height *= 2
	}
	if r.Flag() {
		s.parseCropping(r, separatePlanes)
	}
	if r.Flag() {
		s.parseVUI(r)
	}
	return s, r.Err
}

// hasChromaInfo reports whether an SPS of the profile says chroma format and bit
// depth (ISO/IEC 14496-10, 7.3.2.1.1).
func hasChromaInfo(profile uint8) bool {
	switch profile {
	case 100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135:
		return true
	default:
		return false
	}
}

func (s *SPS) parseChroma(r *nal.Bits) (separatePlanes bool) {
	chroma := r.UE()
	if chroma > 3 {
		r.Fail("chroma_format_idc over 3")
	}
	s.ChromaFormatIDC = uint8(chroma)
	if chroma == 3 {
		separatePlanes = r.Flag()
	}
	luma, col := r.UE(), r.UE()
	if luma > 6 || col > 6 {
		r.Fail("bit depth over 14")
	}
	s.BitDepthLuma, s.BitDepthChroma = uint8(8+luma), uint8(8+col)
	r.Flag() // qpprime_y_zero_transform_bypass_flag
	if r.Flag() {
		lists := 8
		if chroma == 3 {
			lists = 12
		}
		for i := range lists {
			if r.Flag() {
				skipScalingList(r, i)
			}
		}
	}
	return separatePlanes
}

func skipScalingList(r *nal.Bits, i int) {
	size := 16
	if i >= 6 {
		size = 64
	}
	last, next := int32(8), int32(8)
	for range size {
		if next != 0 {
			next = (last + r.SE()%256 + 256) % 256
		}
		if next != 0 {
			last = next
		}
	}
}

func (s *SPS) parsePicOrder(r *nal.Bits) {
	kind := r.UE()
	switch kind {
	case 0:
		if r.UE() > 12 {
			r.Fail("log2_max_pic_order_cnt_lsb over 16")
		}
	case 1:
		r.Flag() // delta_pic_order_always_zero_flag
		r.SE()   // offset_for_non_ref_pic
		r.SE()   // offset_for_top_to_bottom_field
		n := r.UE()
		if n > 255 {
			r.Fail("num_ref_frames_in_pic_order_cnt_cycle over 255")
			n = 0
		}
		for range n {
			r.SE()
		}
	case 2:
	default:
		r.Fail("pic_order_cnt_type over 2")
	}
	s.PicOrderCntType = uint8(kind)
}

func (s *SPS) parseCropping(r *nal.Bits, separatePlanes bool) {
	left, right, top, bottom := r.UE(), r.UE(), r.UE(), r.UE()
	unitX, unitY := uint64(1), uint64(1)
	if !separatePlanes && (s.ChromaFormatIDC == 1 || s.ChromaFormatIDC == 2) {
		unitX = 2
	}
	if !separatePlanes && s.ChromaFormatIDC == 1 {
		unitY = 2
	}
	if !s.FrameMbsOnly {
		unitY *= 2
	}
	x, y := unitX*(uint64(left)+uint64(right)), unitY*(uint64(top)+uint64(bottom))
	if x >= uint64(s.width) || y >= uint64(s.height) {
		r.Fail("nothing left of the picture after cropping")
		return
	}
	s.width -= int(x)
	s.height -= int(y)
}

func (s *SPS) parseVUI(r *nal.Bits) {
	const extendedSAR = 255
	if r.Flag() && r.U(8) == extendedSAR { // aspect_ratio_info_present_flag
		r.U(32)
	}
	if r.Flag() { // overscan_info_present_flag
		r.Flag()
	}
	if r.Flag() { // video_signal_type_present_flag
		r.U(4)
		if r.Flag() {
			r.U(24)
		}
	}
	if r.Flag() { // chroma_loc_info_present_flag
		r.UE()
		r.UE()
	}
	if r.Flag() { // timing_info_present_flag
		s.unitsInTick, s.timeScale = r.U(32), r.U(32)
		r.Flag() // fixed_frame_rate_flag
	}
	nal := r.Flag()
	if nal {
		skipHRD(r)
	}
	vcl := r.Flag()
	if vcl {
		skipHRD(r)
	}
	if nal || vcl {
		r.Flag() // low_delay_hrd_flag
	}
	r.Flag() // pic_struct_present_flag
	if r.Flag() {
		r.Flag() // motion_vectors_over_pic_boundaries_flag
		r.UE()   // max_bytes_per_pic_denom
		r.UE()   // max_bits_per_mb_denom
		r.UE()   // log2_max_mv_length_horizontal
		r.UE()   // log2_max_mv_length_vertical
		reorder := r.UE()
		r.UE() // max_dec_frame_buffering
		if reorder > 16 {
			r.Fail("max_num_reorder_frames over 16")
		}
		s.hasRestriction, s.maxReorderFrames = true, reorder
	}
}

func skipHRD(r *nal.Bits) {
	n := r.UE()
	if n > 31 {
		r.Fail("cpb_cnt over 32")
		return
	}
	r.U(8) // bit_rate_scale, cpb_size_scale
	for range n + 1 {
		r.UE()
		r.UE()
		r.Flag()
	}
	r.U(20)
}

// Width returns the width of a picture in pixels, cropped.
func (s SPS) Width() int { return s.width }

// Height returns the height of a picture (not of a field) in pixels, cropped.
func (s SPS) Height() int { return s.height }

// The frame rates that are believed. Encoders with a variable rate write their
// clock rate instead: 500 or 45000 per second.
const (
	minFrameRate = 1
	maxFrameRate = 300
)

// FrameRate returns pictures per second as the SPS says it; 0 if it says
// nothing, or nothing that can be true.
func (s SPS) FrameRate() float64 {
	if s.unitsInTick == 0 {
		return 0
	}
	rate := float64(s.timeScale) / (2 * float64(s.unitsInTick))
	if rate < minFrameRate || rate > maxFrameRate {
		return 0
	}
	return rate
}

// MaxNumReorderFrames returns how many pictures can precede another one in
// decoding order and follow it in output order; ok is false if the SPS does not say.
func (s SPS) MaxNumReorderFrames() (n int, ok bool) {
	return int(s.maxReorderFrames), s.hasRestriction
}

// MayReorder reports whether pictures may be shown in another order than they
// are decoded, so that DTS and PTS may differ.
func (s SPS) MayReorder() bool {
	const baseline = 66
	switch {
	case s.PicOrderCntType == 2, s.ProfileIDC == baseline:
		return false
	case s.hasRestriction:
		return s.maxReorderFrames > 0
	default:
		return !s.intraOnly()
	}
}

// intraOnly reports whether the profile is one of pictures that stand alone.
func (s SPS) intraOnly() bool {
	const set3 = 0x10
	switch s.ProfileIDC {
	case 44:
		return true
	case 100, 110, 122, 244:
		return s.ConstraintFlags&set3 != 0
	default:
		return false
	}
}
