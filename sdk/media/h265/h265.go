// Package h265 knows the outside of H.265 (ISO/IEC 23008-2): the types of NAL units,
// what the parameter sets say about profile, size and order of pictures, the hvcC
// decoder configuration, and how the NAL units of one picture become the normal
// form that the gateway carries. How NAL units are framed is the same as in H.264:
// package h264 splits and joins them.
//
// It knows nothing of pixels, of transports or of time, and it keeps no state
// between pictures apart from [ParameterSets], which its owner holds.
//
// Slices returned by its functions refer to the bytes that they were given,
// unless a function says that it appends or copies.
package h265

import "errors"

// What one access unit may hold at most. Input beyond it is refused: it is
// damaged or hostile.
const (
	MaxNALUs           = 512
	MaxAccessUnitBytes = 8 << 20
)

// Faults of access units.
var (
	ErrTooMany  = errors.New("too many NAL units in an access unit")
	ErrTooLarge = errors.New("access unit too large")
)

// A NALUType is the nal_unit_type of ISO/IEC 23008-2, table 7-1.
type NALUType uint8

// The types that matter here. 48 and above never appear in a bitstream: RTP uses
// them.
const (
	TypeTrailN      NALUType = 0
	TypeRASLN       NALUType = 8
	TypeRASLR       NALUType = 9
	TypeBLAWLP      NALUType = 16
	TypeIDRWRADL    NALUType = 19
	TypeIDRNLP      NALUType = 20
	TypeCRA         NALUType = 21
	TypeVPS         NALUType = 32
	TypeSPS         NALUType = 33
	TypePPS         NALUType = 34
	TypeAUD         NALUType = 35
	TypeFiller      NALUType = 38
	TypePrefixSEI   NALUType = 39
	TypeSuffixSEI   NALUType = 40
	TypeUnspecified NALUType = 63

	firstReservedNonIRAP NALUType = 22
)

// IsVCL reports whether NAL units of type t hold a part of a picture.
func (t NALUType) IsVCL() bool { return t < TypeVPS }

// IsIRAP reports whether a picture of such units is an intra random access point:
// BLA, IDR or CRA.
func (t NALUType) IsIRAP() bool { return t >= TypeBLAWLP && t < firstReservedNonIRAP }

// TypeOf returns the type of nalu; TypeUnspecified if it lacks its header.
func TypeOf(nalu []byte) NALUType {
	if len(nalu) < 2 {
		return TypeUnspecified
	}
	return NALUType(nalu[0] >> 1 & 0x3f)
}

// layer returns the nuh_layer_id of a unit that has its header.
func layer(nalu []byte) byte { return nalu[0]&1<<5 | nalu[1]>>3 }

// A Picture is one coded picture on its way into the normal form. Its owner may
// use it again for the next one: [Picture.Normalize] keeps the memory.
type Picture struct {
	// NALUs are what goes into the payload of the access unit.
	NALUs [][]byte
	// VPS, SPS and PPS are the parameter sets that came with the picture. They
	// belong in the decoder config ([ParameterSets.Update]).
	VPS, SPS, PPS [][]byte
	// Coded: there is at least one slice of the picture. Without one there is no
	// access unit to make.
	Coded bool
	// RandomAccess: decoding can start here: BLA, IDR or CRA.
	RandomAccess bool
	// Leading: a RASL picture, which refers to what comes before the random access
	// point that it belongs to.
	Leading bool
	// Damaged: a unit with the forbidden_zero_bit set was left out. Treat the
	// picture as one of which packets are lost.
	Damaged bool
}

// Normalize sets p to the normal form of the picture that nalus make up. Left out
// are access unit delimiters, filler, ends of sequence and stream, the layers above
// the base layer, and types that stand for nothing in a bitstream. The slices of p
// refer to nalus.
func (p *Picture) Normalize(nalus [][]byte) error {
	*p = Picture{NALUs: p.NALUs[:0], VPS: p.VPS[:0], SPS: p.SPS[:0], PPS: p.PPS[:0]}
	size := 0
	for _, n := range nalus {
		if len(n) < 2 {
			continue
		}
		if n[0]&0x80 != 0 {
			p.Damaged = true
			continue
		}
		if layer(n) != 0 {
			continue
		}
		switch t := TypeOf(n); {
		case t.IsVCL():
			p.Coded = true
			p.RandomAccess = p.RandomAccess || t.IsIRAP()
			p.Leading = p.Leading || t == TypeRASLN || t == TypeRASLR
		case t == TypePrefixSEI, t == TypeSuffixSEI:
		case t == TypeVPS:
			p.VPS = append(p.VPS, n)
			continue
		case t == TypeSPS:
			p.SPS = append(p.SPS, n)
			continue
		case t == TypePPS:
			p.PPS = append(p.PPS, n)
			continue
		default:
			continue
		}
		if len(p.NALUs) == MaxNALUs {
			return ErrTooMany
		}
		if size += 4 + len(n); size > MaxAccessUnitBytes {
			return ErrTooLarge
		}
		p.NALUs = append(p.NALUs, n)
	}
	return nil
}
