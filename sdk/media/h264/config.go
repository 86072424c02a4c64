package h264

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/headgate/gateway/sdk/media/internal/nal"
)

// A DecoderConfig is what a decoder needs before the first picture: the content
// of an AVCDecoderConfigurationRecord (avcC, ISO/IEC 14496-15, 5.3.3.1). The
// length of a NAL unit within a sample is always four bytes.
type DecoderConfig struct {
	SPS, PPS [][]byte
}

// ParseDecoderConfig parses avcC. The parameter sets refer to its bytes.
func ParseDecoderConfig(avcC []byte) (DecoderConfig, error) {
	c, err := parseDecoderConfig(avcC)
	if err != nil {
		return DecoderConfig{}, fmt.Errorf("parsing avcC: %w", err)
	}
	return c, nil
}

func parseDecoderConfig(b []byte) (DecoderConfig, error) {
	var c DecoderConfig
	if len(b) < 7 {
		return c, errors.New("shorter than 7 bytes")
	}
	if b[0] != 1 {
		return c, fmt.Errorf("version %d, want 1", b[0])
	}
	if n := b[4]&3 + 1; n != 4 {
		return c, fmt.Errorf("lengths of %d bytes before the NAL units, want 4", n)
	}
	var err error
	if c.SPS, b, err = takeSets(TypeSPS, int(b[5]&0x1f), b[6:]); err != nil {
		return c, err
	}
	if len(b) == 0 {
		return c, errors.New("no count of PPS")
	}
	c.PPS, _, err = takeSets(TypePPS, int(b[0]), b[1:])
	return c, err
}

func takeSets(want NALUType, count int, b []byte) (sets [][]byte, rest []byte, err error) {
	for range count {
		if len(b) < 2 {
			return nil, nil, ErrTruncated
		}
		size := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; size > len(b) {
			return nil, nil, ErrTruncated
		}
		if got := TypeOf(b[:size]); got != want {
			return nil, nil, fmt.Errorf("NAL unit type %d, want %d", got, want)
		}
		sets = append(sets, b[:size:size])
		b = b[size:]
	}
	return sets, b, nil
}

// What the counts of avcC can say.
const maxSPS, maxPPS = 31, 255

// Marshal returns c as avcC. Profile, level and chroma format are those of the
// first SPS.
func (c DecoderConfig) Marshal() ([]byte, error) {
	b, err := c.marshal()
	if err != nil {
		return nil, fmt.Errorf("making avcC: %w", err)
	}
	return b, nil
}

func (c DecoderConfig) marshal() ([]byte, error) {
	if len(c.SPS) == 0 || len(c.SPS) > maxSPS || len(c.PPS) == 0 || len(c.PPS) > maxPPS {
		return nil, fmt.Errorf("%d SPS and %d PPS, want 1 to %d and 1 to %d", len(c.SPS), len(c.PPS), maxSPS, maxPPS)
	}
	sps, err := ParseSPS(c.SPS[0])
	if err != nil {
		return nil, err
	}
	// The three bytes of the record are those of the SPS, verbatim.
	b := []byte{1, sps.ProfileIDC, sps.ConstraintFlags, sps.LevelIDC, 0xfc | 3, 0xe0 | byte(len(c.SPS))}
	if b, err = appendSets(b, TypeSPS, c.SPS); err != nil {
		return nil, err
	}
	b = append(b, byte(len(c.PPS)))
	if b, err = appendSets(b, TypePPS, c.PPS); err != nil {
		return nil, err
	}
	switch sps.ProfileIDC {
	case 66, 77, 88:
	default:
		b = append(b, 0xfc|sps.ChromaFormatIDC, 0xf8|(sps.BitDepthLuma-8), 0xf8|(sps.BitDepthChroma-8), 0)
	}
	return b, nil
}

func appendSets(b []byte, want NALUType, sets [][]byte) ([]byte, error) {
	for _, s := range sets {
		if got := TypeOf(s); got != want {
			return nil, fmt.Errorf("NAL unit type %d, want %d", got, want)
		}
		if len(s) > math.MaxUint16 {
			return nil, fmt.Errorf("parameter set of %d bytes", len(s))
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	return b, nil
}

// maxSetBytes bounds one parameter set; real ones have less than 100 bytes.
const maxSetBytes = 4096

// ParameterSets holds the parameter sets of a running stream by their id, as an
// encoder sends and changes them in band. The zero value is empty. Not safe for
// concurrent use.
type ParameterSets struct {
	sps, pps nal.ParameterSets
	latest   SPS
}

// Update takes in parameter sets found in band, in their order, and reports
// whether that changed the decoder config. It copies what it keeps. A set that
// cannot be parsed is left out and named in err; the others still count.
func (p *ParameterSets) Update(sps, pps [][]byte) (changed bool, err error) {
	var errs []error
	for _, n := range sps {
		s, err := ParseSPS(n)
		if err == nil && len(n) > maxSetBytes {
			err = fmt.Errorf("SPS of %d bytes", len(n))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if p.sps.Put(nal.ParameterSet{ID: uint32(s.ID), NALU: n}) {
			p.latest, changed = s, true
		}
	}
	for _, n := range pps {
		id, of, err := parsePPSIDs(n)
		if err == nil && len(n) > maxSetBytes {
			err = fmt.Errorf("PPS of %d bytes", len(n))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if p.pps.Put(nal.ParameterSet{ID: id, Of: of, NALU: n}) {
			changed = true
		}
	}
	return changed, errors.Join(errs...)
}

// SPS returns the SPS that came or changed last; ok is false before the first.
func (p *ParameterSets) SPS() (s SPS, ok bool) { return p.latest, len(p.sps) > 0 }

// Config returns the decoder config: every SPS, the one that changed last first,
// and every PPS that refers to one of them. ok is false until there is a PPS for
// the SPS that changed last.
func (p *ParameterSets) Config() (c DecoderConfig, ok bool) {
	c.SPS = p.sps.NALUs(uint32(p.latest.ID))
	c.SPS = c.SPS[:min(len(c.SPS), maxSPS)]
	for _, s := range p.pps {
		if p.sps.Has(s.Of) && len(c.PPS) < maxPPS {
			c.PPS = append(c.PPS, s.NALU)
			ok = ok || s.Of == uint32(p.latest.ID)
		}
	}
	return c, ok
}

// parsePPSIDs returns the id of a PPS and that of the SPS it refers to.
func parsePPSIDs(nalu []byte) (id, sps uint32, err error) {
	if TypeOf(nalu) != TypePPS || forbidden(nalu) {
		return 0, 0, fmt.Errorf("parsing PPS: not a PPS: NAL unit type %d", TypeOf(nalu))
	}
	r := nal.NewBits(nalu[1:])
	id, sps = r.UE(), r.UE()
	if id > 255 || sps > 31 {
		r.Fail("id out of range")
	}
	if r.Err != nil {
		return 0, 0, fmt.Errorf("parsing PPS: %w", r.Err)
	}
	return id, sps, nil
}
