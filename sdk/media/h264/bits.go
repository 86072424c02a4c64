package h264

import "errors"

var errBits = errors.New("data end within a field")

// bits reads the payload of a NAL unit bit by bit and leaves out the emulation
// prevention bytes (00 00 03) on the way: nothing is copied. The first error
// sticks; what is read after it is zero.
type bits struct {
	b     []byte
	zeros int // zero bytes just before b, at most 2
	cur   byte
	left  uint // bits of cur not yet read
	err   error
}

// nextByte returns the next byte of the payload. It must be called on a byte boundary.
func (r *bits) nextByte() byte {
	if r.zeros >= 2 && len(r.b) > 0 && r.b[0] == 3 {
		r.b = r.b[1:]
		r.zeros = 0
	}
	if len(r.b) == 0 {
		if r.err == nil {
			r.err = errBits
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

func (r *bits) bit() uint32 {
	if r.left == 0 {
		r.cur, r.left = r.nextByte(), 8
	}
	r.left--
	return uint32(r.cur>>r.left) & 1
}

func (r *bits) flag() bool { return r.bit() == 1 }

// u reads n <= 32 bits.
func (r *bits) u(n int) uint32 {
	var v uint32
	for range n {
		v = v<<1 | r.bit()
	}
	return v
}

// ue reads an unsigned Exp-Golomb code of at most 32 bits of value.
func (r *bits) ue() uint32 {
	n := 0
	for r.err == nil && r.bit() == 0 {
		if n++; n > 31 {
			r.fail("Exp-Golomb code too long")
		}
	}
	if r.err != nil {
		return 0
	}
	return 1<<n - 1 + r.u(n)
}

// se reads a signed Exp-Golomb code.
func (r *bits) se() int32 {
	v := r.ue()
	if v&1 == 1 {
		return int32(v/2 + 1)
	}
	return -int32(v / 2)
}

func (r *bits) fail(why string) {
	if r.err == nil {
		r.err = errors.New(why)
	}
}
