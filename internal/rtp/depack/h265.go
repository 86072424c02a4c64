package depack

import (
	"encoding/binary"

	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/media/h265"
)

// Payload structures of RFC 7798, 4.4, beside single NAL units.
const (
	aggregation265 h265.NALUType = 48
	fragmentation  h265.NALUType = 49
	headerBytes265               = 2
)

// h265Scheme puts NAL units together (RFC 7798, without decoding order numbers,
// which WebRTC does not use).
type h265Scheme struct {
	nalus    []byte // those of the open picture, one behind the other
	ends     []int
	fragment bool // the last of them has not ended
	scratch  [][]byte

	sets    h265.ParameterSets
	pending bool // the sets changed since the last Config
	ready   bool // they make up a config
	picture h265.Picture
}

// NewH265 returns an assembly of H.265 that calls emit for each unit. nalus are
// parameter sets known beforehand, from the session description.
func NewH265(emit func(Unit), nalus ...[]byte) *Assembly {
	s := &h265Scheme{}
	if s.picture.Normalize(nalus) == nil {
		s.update()
	}
	return newAssembly(emit, s)
}

func (s *h265Scheme) starts(b []byte, first bool) bool {
	switch t, next, ok := s.firstUnit(b); {
	case !ok:
		return false
	case t == h265.TypeVPS, t == h265.TypeAUD:
		return true
	case t < h265.TypeVPS:
		return first && next&firstSlice != 0
	default:
		return first && (t == h265.TypeSPS || t == h265.TypePPS || t == h265.TypePrefixSEI)
	}
}

func (s *h265Scheme) continues(b []byte) bool {
	t, next, ok := s.firstUnit(b)
	return ok && t < h265.TypeVPS && next&firstSlice == 0
}

// firstSlice is first_slice_segment_in_pic_flag in the byte behind the header of a slice.
const firstSlice = 0x80

// firstUnit is the type of the first NAL unit that begins in payload, and the byte that
// follows its header; not ok if there is none.
func (*h265Scheme) firstUnit(b []byte) (t h265.NALUType, next byte, ok bool) {
	const startBit, typeMask = 0x80, 0x3f
	if h265.TypeOf(b) == aggregation265 {
		b = b[min(len(b), headerBytes265+2):]
	}
	if len(b) <= headerBytes265 {
		return 0, 0, false
	}
	if t = h265.TypeOf(b); t != fragmentation {
		return t, b[headerBytes265], true
	}
	if len(b) <= headerBytes265+1 || b[headerBytes265]&startBit == 0 {
		return 0, 0, false
	}
	return h265.NALUType(b[headerBytes265] & typeMask), b[headerBytes265+1], true
}

func (s *h265Scheme) reset() { s.nalus, s.ends, s.fragment = s.nalus[:0], s.ends[:0], false }

func (s *h265Scheme) take(b []byte) bool {
	switch t := h265.TypeOf(b); {
	case len(b) < headerBytes265:
		return false
	case t == fragmentation:
		return s.takeFragment(b)
	case s.fragment:
		return false // the one before has no end
	case t == aggregation265:
		return s.takeAggregate(b[headerBytes265:])
	case t > aggregation265:
		return false // PACI and what is reserved
	default:
		return s.add(b)
	}
}

func (s *h265Scheme) takeAggregate(b []byte) bool {
	for len(b) > 0 {
		if len(b) < 2 {
			return false
		}
		size := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; size > len(b) || size < headerBytes265 || !s.add(b[:size]) {
			return false
		}
		b = b[size:]
	}
	return true
}

func (s *h265Scheme) takeFragment(b []byte) bool {
	const startBit, endBit, typeMask = 0x80, 0x40, 0x3f
	if len(b) <= headerBytes265+1 {
		return false
	}
	fu := b[headerBytes265]
	starts, ends := fu&startBit != 0, fu&endBit != 0
	if starts == s.fragment || starts && ends {
		return false
	}
	rest := b[headerBytes265+1:]
	if starts {
		if !s.add([]byte{b[0]&0x81 | fu&typeMask<<1, b[1]}) {
			return false
		}
		s.fragment = true
	} else if h265.TypeOf(s.nalus[s.lastStart():]) != h265.NALUType(fu&typeMask) {
		return false
	}
	if len(s.nalus)+len(rest) > h265.MaxAccessUnitBytes {
		return false
	}
	s.nalus = append(s.nalus, rest...)
	s.ends[len(s.ends)-1] = len(s.nalus)
	s.fragment = !ends
	return true
}

func (s *h265Scheme) lastStart() int {
	if len(s.ends) < 2 {
		return 0
	}
	return s.ends[len(s.ends)-2]
}

// add appends a NAL unit.
func (s *h265Scheme) add(n []byte) bool {
	if len(s.ends) == h265.MaxNALUs || len(s.nalus)+len(n) > h265.MaxAccessUnitBytes {
		return false
	}
	s.nalus = append(s.nalus, n...)
	s.ends = append(s.ends, len(s.nalus))
	return true
}

func (s *h265Scheme) finish() picture {
	s.scratch = s.scratch[:0]
	from := 0
	for _, end := range s.ends {
		s.scratch = append(s.scratch, s.nalus[from:end])
		from = end
	}
	if err := s.picture.Normalize(s.scratch); s.fragment || err != nil || s.picture.Damaged {
		return picture{damaged: true}
	}
	s.update()
	p := picture{coded: s.picture.Coded, randomAccess: s.picture.RandomAccess, leading: s.picture.Leading}
	if !p.coded {
		return p
	}
	if s.pending {
		_, s.ready = s.sets.Config()
	}
	p.ready = s.ready
	if s.ready && s.pending && p.randomAccess {
		sets, _ := s.sets.Config()
		hvcC, err := sets.Marshal()
		if err != nil {
			p.ready = false
			return p
		}
		sps, _ := s.sets.SPS()
		p.config = &Config{DecoderConfig: hvcC, Width: sps.Width(), Height: sps.Height(), Reorder: int(sps.MaxNumReorder)}
		s.pending = false
	}
	p.payload = h264.AppendLengthPrefixed(nil, s.picture.NALUs...)
	return p
}

// update takes in the parameter sets of the picture. One that cannot be parsed is
// left out: the picture that needs it then has no config.
func (s *h265Scheme) update() {
	changed, _ := s.sets.Update(s.picture.VPS, s.picture.SPS, s.picture.PPS)
	s.pending = s.pending || changed
}
