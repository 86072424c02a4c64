package h264

import "github.com/headgate/gateway/sdk/media/internal/nal"

// A Picture is one coded picture on its way into the normal form. Its owner may
// use it again for the next one: [Picture.Normalize] keeps the memory.
type Picture struct {
	// NALUs are what goes into the payload of the access unit.
	NALUs [][]byte
	// SPS and PPS are the parameter sets that came with the picture. They belong
	// in the decoder config ([ParameterSets.Update]).
	SPS, PPS [][]byte
	// Coded: there is at least one slice of the picture. Without one there is no
	// access unit to make.
	Coded bool
	// RandomAccess: decoding can start here: IDR, or a recovery point SEI that
	// asks for no further picture.
	RandomAccess bool
	// Disposable: no other picture refers to this one.
	Disposable bool
	// Damaged: a unit with the forbidden_zero_bit set was left out. Treat the
	// picture as one of which packets are lost.
	Damaged bool
}

// Normalize sets p to the normal form of the picture that nalus make up. Left
// out are access unit delimiters, filler, ends of sequence and stream, the
// layers and views that extend the base picture, empty units, and types that
// stand for nothing in a bitstream. The slices of p refer to nalus.
func (p *Picture) Normalize(nalus [][]byte) error {
	*p = Picture{NALUs: p.NALUs[:0], SPS: p.SPS[:0], PPS: p.PPS[:0]}
	referred, idr, recovery := false, false, false
	size := 0
	for _, n := range nalus {
		if len(n) == 0 {
			continue
		}
		if forbidden(n) {
			p.Damaged = true
			continue
		}
		switch t := TypeOf(n); t {
		case TypeNonIDR, TypeDataPartitionA, TypeDataPartitionB, TypeDataPartitionC, TypeIDR:
			p.Coded = true
			idr = idr || t == TypeIDR
			referred = referred || refIDC(n) != 0
		case TypeSEI:
			recovery = recovery || isRecoveryPoint(n)
		case TypeSPS:
			p.SPS = append(p.SPS, n)
			continue
		case TypePPS:
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
	p.RandomAccess = p.Coded && (idr || recovery)
	p.Disposable = p.Coded && !referred
	return nil
}

// isRecoveryPoint reports whether an SEI NAL unit holds a recovery point message
// with recovery_frame_cnt 0: this very picture is right even for who starts here.
func isRecoveryPoint(nalu []byte) bool {
	const recoveryPoint = 6
	r := nal.NewBits(nalu[1:])
	for r.Err == nil {
		kind, size := seiNumber(r), seiNumber(r)
		if r.Err != nil {
			return false
		}
		if kind == recoveryPoint {
			count := r.UE()
			return r.Err == nil && count == 0
		}
		for range size {
			if r.Byte(); r.Err != nil {
				return false
			}
		}
	}
	return false
}

// seiNumber reads a payload type or size: bytes of 255 are added up until another one comes.
func seiNumber(r *nal.Bits) int {
	n := 0
	for {
		c := r.Byte()
		n += int(c)
		if c != 0xff || r.Err != nil {
			return n
		}
	}
}
