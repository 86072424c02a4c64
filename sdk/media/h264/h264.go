// Package h264 knows the outside of H.264: how NAL units are framed, what the
// parameter sets say about size, profile, rate and order of pictures, the avcC
// decoder configuration, and how the NAL units of one picture become the normal
// form that the gateway carries.
//
// It knows nothing of pixels, of transports or of time, and it keeps no state
// between pictures apart from [ParameterSets], which its owner holds.
//
// Slices returned by its functions refer to the bytes that they were given,
// unless a function says that it appends or copies.
package h264

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// What one access unit may hold at most. Input beyond it is refused: it is
// damaged or hostile.
const (
	MaxNALUs           = 512
	MaxAccessUnitBytes = 8 << 20
)

// A NALUType is the nal_unit_type of ISO/IEC 14496-10, table 7-1.
type NALUType uint8

// The types that matter here. 24 and above never appear in a bitstream: RTP uses them.
const (
	TypeUnspecified    NALUType = 0
	TypeNonIDR         NALUType = 1
	TypeDataPartitionA NALUType = 2
	TypeDataPartitionB NALUType = 3
	TypeDataPartitionC NALUType = 4
	TypeIDR            NALUType = 5
	TypeSEI            NALUType = 6
	TypeSPS            NALUType = 7
	TypePPS            NALUType = 8
	TypeAUD            NALUType = 9
	TypeEndOfSequence  NALUType = 10
	TypeEndOfStream    NALUType = 11
	TypeFiller         NALUType = 12
	TypeSPSExtension   NALUType = 13
	TypePrefix         NALUType = 14
	TypeSubsetSPS      NALUType = 15
	TypeDPS            NALUType = 16
	TypeAuxiliarySlice NALUType = 19
	TypeSliceExtension NALUType = 20
	TypeDepthExtension NALUType = 21
	TypeSTAPA          NALUType = 24 // RTP only
	TypeFUA            NALUType = 28 // RTP only
)

// IsVCL reports whether NAL units of type t hold a part of the (primary) picture.
func (t NALUType) IsVCL() bool { return t >= TypeNonIDR && t <= TypeIDR }

// TypeOf returns the type of nalu; TypeUnspecified if it is empty.
func TypeOf(nalu []byte) NALUType {
	if len(nalu) == 0 {
		return TypeUnspecified
	}
	return NALUType(nalu[0] & 0x1f)
}

// refIDC returns nal_ref_idc: 0 says that no other picture refers to the unit.
func refIDC(nalu []byte) byte { return nalu[0] >> 5 & 3 }

// forbidden reports whether the forbidden_zero_bit is set: the sender or the
// network knows that the unit is damaged.
func forbidden(nalu []byte) bool { return nalu[0]&0x80 != 0 }

// Errors of the framing functions.
var (
	ErrNoStartCode = errors.New("no start code at the beginning")
	ErrTooMany     = fmt.Errorf("more than %d NAL units", MaxNALUs)
	ErrTooLarge    = fmt.Errorf("more than %d bytes", MaxAccessUnitBytes)
	ErrTruncated   = errors.New("data end within a NAL unit")
)

// SplitAnnexB appends to dst the NAL units of b, a byte stream with 3- or 4-byte
// start codes (ISO/IEC 14496-10, annex B). b begins with a start code, before
// which there may be zeros. Empty units and the zeros behind a unit are left out.
func SplitAnnexB(dst [][]byte, b []byte) ([][]byte, error) {
	if len(b) > MaxAccessUnitBytes {
		return dst, ErrTooLarge
	}
	startCode := []byte{0, 0, 1}
	i := bytes.Index(b, startCode)
	if i < 0 || len(bytes.TrimLeft(b[:i], "\x00")) > 0 {
		return dst, ErrNoStartCode
	}
	b = b[i+3:]
	for n := 0; ; {
		next := bytes.Index(b, startCode)
		nalu := b
		if next >= 0 {
			nalu = b[:next:next]
		}
		if nalu = bytes.TrimRight(nalu, "\x00"); len(nalu) > 0 {
			if n++; n > MaxNALUs {
				return dst, ErrTooMany
			}
			dst = append(dst, nalu[:len(nalu):len(nalu)])
		}
		if next < 0 {
			return dst, nil
		}
		b = b[next+3:]
	}
}

// SplitLengthPrefixed appends to dst the NAL units of b, each of which stands
// behind its length as four bytes, big-endian. Empty units are left out.
func SplitLengthPrefixed(dst [][]byte, b []byte) ([][]byte, error) {
	if len(b) > MaxAccessUnitBytes {
		return dst, ErrTooLarge
	}
	for n := 0; len(b) > 0; {
		if len(b) < 4 {
			return dst, ErrTruncated
		}
		size := binary.BigEndian.Uint32(b)
		b = b[4:]
		if uint64(size) > uint64(len(b)) {
			return dst, ErrTruncated
		}
		if size > 0 {
			if n++; n > MaxNALUs {
				return dst, ErrTooMany
			}
			dst = append(dst, b[:size:size])
		}
		b = b[size:]
	}
	return dst, nil
}

// AppendLengthPrefixed appends nalus to dst, each behind its length as four
// bytes, big-endian. A unit must be shorter than 4 GiB.
func AppendLengthPrefixed(dst []byte, nalus ...[]byte) []byte {
	size := 0
	for _, n := range nalus {
		size += 4 + len(n)
	}
	dst = grow(dst, size)
	for _, n := range nalus {
		if uint64(len(n)) > math.MaxUint32 {
			panic("h264: NAL unit of 4 GiB")
		}
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(n)))
		dst = append(dst, n...)
	}
	return dst
}

// AppendAnnexB appends nalus to dst, each behind a start code of four bytes.
func AppendAnnexB(dst []byte, nalus ...[]byte) []byte {
	size := 0
	for _, n := range nalus {
		size += 4 + len(n)
	}
	dst = grow(dst, size)
	for _, n := range nalus {
		dst = append(dst, 0, 0, 0, 1)
		dst = append(dst, n...)
	}
	return dst
}

// grow makes room for n more bytes with exact size where dst is new: payloads
// live long, and spare capacity would live with them.
func grow(dst []byte, n int) []byte {
	if cap(dst)-len(dst) >= n {
		return dst
	}
	grown := make([]byte, len(dst), len(dst)+n)
	copy(grown, dst)
	return grown
}
