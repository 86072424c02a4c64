package h265

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/headgate/gateway/sdk/media/internal/nal"
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
	r := nal.NewBits(nalu[2:])
	r.Skip(4) // id of the VPS
	above := int(r.U(3))
	if above > 6 {
		return s, errors.New("more than 7 sub-layers")
	}
	s.SubLayers = uint8(above + 1)
	s.TemporalNesting = r.Flag()
	for i := range s.ProfileTierLevel {
		s.ProfileTierLevel[i] = byte(r.U(8))
	}
	skipSubLayers(r, above)
	s.ID = r.UE()
	s.ChromaFormatIDC = r.UE()
	if s.ChromaFormatIDC > 3 || s.ID > 15 {
		return s, errors.New("a value out of range")
	}
	separate := s.ChromaFormatIDC == 3 && r.Flag()
	w, h := r.UE(), r.UE()
	var left, right, top, bottom uint32
	if r.Flag() {
		left, right, top, bottom = r.UE(), r.UE(), r.UE(), r.UE()
	}
	s.BitDepthLuma, s.BitDepthChroma = r.UE()+8, r.UE()+8
	r.UE() // log2_max_pic_order_cnt_lsb_minus4
	from := above
	if r.Flag() {
		from = 0
	}
	for range above - from + 1 {
		r.UE()
		s.MaxNumReorder = r.UE() // of the highest sub-layer in the end
		r.UE()
	}
	if r.Err != nil {
		return s, r.Err
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
func skipSubLayers(r *nal.Bits, n int) {
	var profile, level [8]bool
	for i := range n {
		profile[i], level[i] = r.Flag(), r.Flag()
	}
	if n > 0 {
		r.Skip(2 * (8 - n))
	}
	for i := range n {
		if profile[i] {
			r.Skip(88)
		}
		if level[i] {
			r.Skip(8)
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
	vps, sps, pps nal.ParameterSets
	latest        SPS
	latestID      uint32
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
		changed = p.vps.Put(nal.ParameterSet{ID: uint32(n[2] >> 4), NALU: n}) || changed
	}
	for _, n := range sps {
		s, err := ParseSPS(n)
		if err == nil && len(n) > maxSetBytes {
			err = errors.New("parsing SPS: too long")
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if p.sps.Put(nal.ParameterSet{ID: s.ID, NALU: n}) {
			changed = true
			p.latest, p.latestID = s, s.ID
		}
	}
	for _, n := range pps {
		if TypeOf(n) != TypePPS || len(n) > maxSetBytes {
			errs = append(errs, errors.New("parsing PPS: too long"))
			continue
		}
		r := nal.NewBits(n[2:])
		id, refers := r.UE(), r.UE()
		if r.Err != nil || id > 63 || refers > 15 {
			errs = append(errs, errors.New("parsing PPS: a value out of range"))
			continue
		}
		changed = p.pps.Put(nal.ParameterSet{ID: id, Of: refers, NALU: n}) || changed
	}
	return changed, errors.Join(errs...)
}

// SPS returns the SPS that came or changed last; ok is false before the first.
func (p *ParameterSets) SPS() (s SPS, ok bool) { return p.latest, len(p.sps) > 0 }

// Config returns the decoder config: every VPS, every SPS, the one that changed
// last first, and every PPS that refers to one of them. ok is false until there is
// a VPS, and a PPS for the SPS that changed last.
func (p *ParameterSets) Config() (c DecoderConfig, ok bool) {
	for _, s := range p.vps {
		c.VPS = append(c.VPS, s.NALU)
	}
	c.SPS = p.sps.NALUs(p.latestID)
	for _, s := range p.pps {
		if p.sps.Has(s.Of) {
			c.PPS = append(c.PPS, s.NALU)
			ok = ok || s.Of == p.latestID
		}
	}
	return c, ok && len(c.VPS) > 0 && len(c.SPS) > 0
}
