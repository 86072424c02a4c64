// Package nal is what H.264 and H.265 have in common below their syntax: the bits of
// a NAL unit's payload, and parameter sets that are replaced by their id. It knows
// neither of the two.
package nal

import (
	"bytes"
	"errors"
	"slices"
)

var errBits = errors.New("data end within a field")

// Bits reads the payload of a NAL unit bit by bit and leaves out the emulation
// prevention bytes (00 00 03) on the way: nothing is copied. Not safe for concurrent
// use.
type Bits struct {
	// Err is the first error; what is read after it is zero.
	Err error

	b     []byte
	zeros int // zero bytes just before b
	cur   byte
	left  uint // bits of cur not yet read
}

// NewBits reads payload, which is what follows the header of the NAL unit.
func NewBits(payload []byte) *Bits { return &Bits{b: payload} }

// Byte returns the next byte of the payload. It must be called on a byte boundary.
func (r *Bits) Byte() byte {
	if r.zeros >= 2 && len(r.b) > 0 && r.b[0] == 3 {
		r.b = r.b[1:]
		r.zeros = 0
	}
	if len(r.b) == 0 {
		if r.Err == nil {
			r.Err = errBits
		}
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	if c == 0 {
		r.zeros++
	} else {
		r.zeros = 0
	}
	return c
}

func (r *Bits) bit() uint32 {
	if r.left == 0 {
		r.cur, r.left = r.Byte(), 8
	}
	r.left--
	return uint32(r.cur>>r.left) & 1
}

// Flag reads one bit.
func (r *Bits) Flag() bool { return r.bit() == 1 }

// U reads n <= 32 bits.
func (r *Bits) U(n int) uint32 {
	var v uint32
	for range n {
		v = v<<1 | r.bit()
	}
	return v
}

// Skip reads over n bits.
func (r *Bits) Skip(n int) {
	for range n {
		r.bit()
	}
}

// UE reads an unsigned Exp-Golomb code of at most 32 bits of value.
func (r *Bits) UE() uint32 {
	n := 0
	for r.Err == nil && r.bit() == 0 {
		if n++; n > 31 {
			r.Fail("Exp-Golomb code too long")
		}
	}
	if r.Err != nil {
		return 0
	}
	return 1<<n - 1 + r.U(n)
}

// SE reads a signed Exp-Golomb code.
func (r *Bits) SE() int32 {
	v := r.UE()
	if v&1 == 1 {
		return int32(v/2 + 1)
	}
	return -int32(v / 2)
}

// Fail says what is wrong with what was read, unless something was before.
func (r *Bits) Fail(why string) {
	if r.Err == nil {
		r.Err = errors.New(why)
	}
}

// A ParameterSet is one of a running stream.
type ParameterSet struct {
	ID, Of uint32 // Of is the id of the SPS that a PPS refers to
	NALU   []byte
}

// ParameterSets are those of one type, by their id.
type ParameterSets []ParameterSet

// Put stores a copy of s in the place of its id and reports whether that changed
// anything.
func (sets *ParameterSets) Put(s ParameterSet) bool {
	i, found := slices.BinarySearchFunc(*sets, s.ID, func(e ParameterSet, id uint32) int { return int(e.ID) - int(id) })
	if found && bytes.Equal((*sets)[i].NALU, s.NALU) {
		return false
	}
	s.NALU = bytes.Clone(s.NALU)
	if found {
		(*sets)[i] = s
	} else {
		*sets = slices.Insert(*sets, i, s)
	}
	return true
}

// Has reports whether there is one of that id.
func (sets ParameterSets) Has(id uint32) bool {
	return slices.ContainsFunc(sets, func(s ParameterSet) bool { return s.ID == id })
}

// NALUs returns the sets by their ids, that of the id first before them.
func (sets ParameterSets) NALUs(first uint32) (nalus [][]byte) {
	for _, s := range sets {
		if s.ID == first {
			nalus = slices.Insert(nalus, 0, s.NALU)
		} else {
			nalus = append(nalus, s.NALU)
		}
	}
	return nalus
}
