package h265

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// An SPS is what a sequence parameter set says that matters outside a decoder.
type SPS struct {
	ID uint32
	// ProfileTierLevel is the general part as it stands in the set and in hvcC: 12
	// bytes.
	ProfileTierLevel [12]byte
	SubLayers        uint8 // temporal sub-layers, from 1
	TemporalNesting  bool
	ChromaFormatIDC  uint32
	BitDepthLuma     uint32
	BitDepthChroma   uint32
	// MaxNumReorder is how many pictures may precede another in decoding order and
	// follow it in output order: 0 says that PTS is DTS.
	MaxNumReorder uint32

	width, height int
}

// Width returns the width of the picture as displayed, in pixels.
func (s SPS) Width() int { return s.width }

// Height returns the height of the picture as displayed, in pixels.
func (s SPS) Height() int { return s.height }

// ParseSPS parses a sequence parameter set with its NAL unit header.
func ParseSPS(nalu []byte) (SPS, error) {
	s, err := parseSPS(nalu)
	if err != nil {
		return SPS{}, fmt.Errorf("parsing SPS: %w", err)
	}
	return s, nil
}

func parseSPS(nalu []byte) (s SPS, err error) {
	if TypeOf(nalu) != TypeSPS {
		return s, errors.New("another type of NAL unit")
	}
	r := &bits{b: nalu[2:]}
	r.skip(4) // id of the VPS
	above := int(r.u(3))
	if above > 6 {
		return s, errors.New("more than 7 sub-layers")
	}
	s.SubLayers = uint8(above + 1)
	s.TemporalNesting = r.flag()
	for i := range s.ProfileTierLevel {
		s.ProfileTierLevel[i] = byte(r.u(8))
	}
	skipSubLayers(r, above)
	s.ID = r.ue()
	s.ChromaFormatIDC = r.ue()
	if s.ChromaFormatIDC > 3 || s.ID > 15 {
		return s, errors.New("a value out of range")
	}
	separate := s.ChromaFormatIDC == 3 && r.flag()
	w, h := r.ue(), r.ue()
	var left, right, top, bottom uint32
	if r.flag() {
		left, right, top, bottom = r.ue(), r.ue(), r.ue(), r.ue()
	}
	s.BitDepthLuma, s.BitDepthChroma = r.ue()+8, r.ue()+8
	r.ue() // log2_max_pic_order_cnt_lsb_minus4
	from := above
	if r.flag() {
		from = 0
	}
	for range above - from + 1 {
		r.ue()
		s.MaxNumReorder = r.ue() // of the highest sub-layer in the end
		r.ue()
	}
	if r.err != nil {
		return s, r.err
	}
	if s.BitDepthLuma > 16 || s.BitDepthChroma > 16 || w > 1<<15 || h > 1<<15 || max(left, right, top, bottom) > 1<<15 || s.MaxNumReorder > 16 {
		return s, errors.New("a value out of range")
	}
	unitX, unitY := uint32(1), uint32(1)
	if !separate {
		if s.ChromaFormatIDC == 1 || s.ChromaFormatIDC == 2 {
			unitX = 2
		}
		if s.ChromaFormatIDC == 1 {
			unitY = 2
		}
	}
	s.width = int(w) - int(unitX*(left+right))
	s.height = int(h) - int(unitY*(top+bottom))
	if s.width <= 0 || s.height <= 0 {
		return s, errors.New("no size")
	}
	return s, nil
}

// skipSubLayers reads over what profile_tier_level says of the sub-layers below
// the highest.
func skipSubLayers(r *bits, n int) {
	var profile, level [8]bool
	for i := range n {
		profile[i], level[i] = r.flag(), r.flag()
	}
	if n > 0 {
		r.skip(2 * (8 - n))
	}
	for i := range n {
		if profile[i] {
			r.skip(88)
		}
		if level[i] {
			r.skip(8)
		}
	}
}

// A DecoderConfig is what a decoder needs before the first picture: the content of
// an HEVCDecoderConfigurationRecord (hvcC, ISO/IEC 14496-15, 8.3.3.1). The length
// of a NAL unit within a sample is always four bytes.
type DecoderConfig struct {
	VPS, SPS, PPS [][]byte
}

// maxSetBytes bounds one parameter set, maxSets how many of a type there may be.
const (
	maxSetBytes = 4096
	maxSets     = 64
)

// ParseDecoderConfig parses hvcC. The parameter sets refer to its bytes.
func ParseDecoderConfig(hvcC []byte) (DecoderConfig, error) {
	c, err := parseDecoderConfig(hvcC)
	if err != nil {
		return DecoderConfig{}, fmt.Errorf("parsing hvcC: %w", err)
	}
	return c, nil
}

func parseDecoderConfig(b []byte) (c DecoderConfig, err error) {
	if len(b) < 23 {
		return c, errors.New("too short")
	}
	if b[0] != 1 {
		return c, fmt.Errorf("version %d", b[0])
	}
	if b[21]&3 != 3 {
		return c, fmt.Errorf("lengths of %d bytes: want 4", b[21]&3+1)
	}
	arrays := int(b[22])
	b = b[23:]
	for range arrays {
		if len(b) < 3 {
			return c, errors.New("data end within an array")
		}
		kind, count := NALUType(b[0]&0x3f), int(binary.BigEndian.Uint16(b[1:]))
		b = b[3:]
		for range count {
			if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
				return c, errors.New("data end within a parameter set")
			}
			n := int(binary.BigEndian.Uint16(b))
			set := b[2 : 2+n : 2+n]
			b = b[2+n:]
			if kind > TypePPS || kind < TypeVPS {
				continue // SEI may stand here
			}
			if TypeOf(set) != kind {
				return c, errors.New("a set of another type than its array")
			}
			into := c.of(kind)
			if *into = append(*into, set); len(*into) > maxSets || n > maxSetBytes {
				return c, errors.New("too many or too large parameter sets")
			}
		}
	}
	if len(c.SPS) == 0 || len(c.PPS) == 0 || len(c.VPS) == 0 {
		return c, errors.New("a VPS, an SPS or a PPS is missing")
	}
	return c, nil
}

func (c *DecoderConfig) of(kind NALUType) *[][]byte {
	switch kind {
	case TypeVPS:
		return &c.VPS
	case TypeSPS:
		return &c.SPS
	default:
		return &c.PPS
	}
}

// Marshal returns c as hvcC. Profile, level and format are those of the first SPS.
func (c DecoderConfig) Marshal() ([]byte, error) {
	if len(c.VPS) == 0 || len(c.SPS) == 0 || len(c.PPS) == 0 {
		return nil, errors.New("making hvcC: a VPS, an SPS or a PPS is missing")
	}
	s, err := ParseSPS(c.SPS[0])
	if err != nil {
		return nil, fmt.Errorf("making hvcC: %w", err)
	}
	nested := byte(0)
	if s.TemporalNesting {
		nested = 1
	}
	b := []byte{1}
	b = append(b, s.ProfileTierLevel[:]...)
	b = append(b,
		0xf0, 0, // no spatial segmentation known
		0xfc, // nor how to decode in parallel
		0xfc|byte(s.ChromaFormatIDC),
		0xf8|byte(s.BitDepthLuma-8),
		0xf8|byte(s.BitDepthChroma-8),
		0, 0, // frame rate not stated
		s.SubLayers<<3|nested<<2|3,
		3,
	)
	for kind := TypeVPS; kind <= TypePPS; kind++ {
		sets := *c.of(kind)
		if len(sets) > maxSets {
			return nil, errors.New("making hvcC: too many parameter sets")
		}
		b = append(b, 0x80|byte(kind), 0, byte(len(sets)))
		for _, set := range sets {
			if TypeOf(set) != kind || len(set) > maxSetBytes {
				return nil, errors.New("making hvcC: a parameter set of another type, or too large")
			}
			b = binary.BigEndian.AppendUint16(b, uint16(len(set)))
			b = append(b, set...)
		}
	}
	return b, nil
}

// ParameterSets holds the parameter sets of a running stream by their id, as an
// encoder sends and changes them in band. The zero value is empty. Not safe for
// concurrent use.
type ParameterSets struct {
	vps, sps, pps []parameterSet
	latest        SPS
	latestID      uint32
}

type parameterSet struct {
	id, refers uint32 // refers: to the SPS, of a PPS
	nalu       []byte
}

// Update takes in parameter sets found in band and reports whether that changed
// the decoder config. It copies what it keeps. A set that cannot be parsed is left
// out and named in err; the others still count.
func (p *ParameterSets) Update(vps, sps, pps [][]byte) (changed bool, err error) {
	var errs []error
	for _, n := range vps {
		if TypeOf(n) != TypeVPS || len(n) < 3 || len(n) > maxSetBytes {
			errs = append(errs, errors.New("parsing VPS: too short or too long"))
			continue
		}
		changed = put(&p.vps, parameterSet{id: uint32(n[2] >> 4), nalu: n}) || changed
	}
	for _, n := range sps {
		s, err := ParseSPS(n)
		if err != nil || len(n) > maxSetBytes {
			errs = append(errs, err)
			continue
		}
		if put(&p.sps, parameterSet{id: s.ID, nalu: n}) {
			changed = true
			p.latest, p.latestID = s, s.ID
		}
	}
	for _, n := range pps {
		if TypeOf(n) != TypePPS || len(n) > maxSetBytes {
			errs = append(errs, errors.New("parsing PPS: too long"))
			continue
		}
		r := &bits{b: n[2:]}
		id, refers := r.ue(), r.ue()
		if r.err != nil || id > 63 || refers > 15 {
			errs = append(errs, errors.New("parsing PPS: a value out of range"))
			continue
		}
		changed = put(&p.pps, parameterSet{id: id, refers: refers, nalu: n}) || changed
	}
	return changed, errors.Join(errs...)
}

// put stores s under its id, sorted, and reports whether that changed sets.
func put(sets *[]parameterSet, s parameterSet) bool {
	i, found := slices.BinarySearchFunc(*sets, s, func(a, b parameterSet) int { return int(a.id) - int(b.id) })
	if found && bytes.Equal((*sets)[i].nalu, s.nalu) {
		return false
	}
	s.nalu = bytes.Clone(s.nalu)
	if found {
		(*sets)[i] = s
	} else {
		*sets = slices.Insert(*sets, i, s)
	}
	return true
}

// SPS returns the SPS that came or changed last; ok is false before the first.
func (p *ParameterSets) SPS() (s SPS, ok bool) { return p.latest, len(p.sps) > 0 }

// Config returns the decoder config: every VPS, every SPS, the one that changed
// last first, and every PPS that refers to one of them. ok is false until there is
// a VPS, and a PPS for the SPS that changed last.
func (p *ParameterSets) Config() (c DecoderConfig, ok bool) {
	for _, s := range p.vps {
		c.VPS = append(c.VPS, s.nalu)
	}
	for _, s := range p.sps {
		if s.id == p.latestID {
			c.SPS = slices.Insert(c.SPS, 0, s.nalu)
		} else {
			c.SPS = append(c.SPS, s.nalu)
		}
	}
	for _, s := range p.pps {
		if !slices.ContainsFunc(p.sps, func(of parameterSet) bool { return of.id == s.refers }) {
			continue
		}
		c.PPS = append(c.PPS, s.nalu)
		ok = ok || s.refers == p.latestID
	}
	return c, ok && len(c.VPS) > 0 && len(c.SPS) > 0
}
