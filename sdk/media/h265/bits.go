package h265

import "errors"

var errBits = errors.New("data end within a field")

// bits reads the payload of a NAL unit bit by bit and leaves out the emulation
// prevention bytes (00 00 03) on the way. The first error sticks; what is read
// after it is zero.
type bits struct {
	b     []byte
	zeros int
	cur   byte
	left  uint // bits of cur not yet read
	err   error
}

func (r *bits) bit() uint32 {
	if r.left == 0 {
		if len(r.b) > 0 && r.zeros >= 2 && r.b[0] == 3 {
			r.b, r.zeros = r.b[1:], 0
		}
		if len(r.b) == 0 {
			r.err = errBits
			return 0
		}
		r.cur, r.left = r.b[0], 8
		r.b = r.b[1:]
		if r.cur == 0 {
			r.zeros++
		} else {
			r.zeros = 0
		}
	}
	r.left--
	return uint32(r.cur>>r.left) & 1
}

func (r *bits) flag() bool { return r.bit() == 1 }

// u reads n <= 32 bits.
func (r *bits) u(n int) uint32 {
	v := uint32(0)
	for range n {
		v = v<<1 | r.bit()
	}
	return v
}

func (r *bits) skip(n int) {
	for range n {
		r.bit()
	}
}

// ue reads an unsigned Exp-Golomb code of at most 32 bits of value.
func (r *bits) ue() uint32 {
	n := 0
	for !r.flag() {
		if n++; n > 31 || r.err != nil {
			if r.err == nil {
				r.err = errors.New("a code of more than 32 bits")
			}
			return 0
		}
	}
	return 1<<n - 1 + r.u(n)
}
