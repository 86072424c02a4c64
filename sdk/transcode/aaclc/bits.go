package aaclc

import "encoding/binary"

// A bitWriter appends bits to a byte slice, most significant bit first.
type bitWriter struct {
	buf []byte
	acc uint64 // the last n bits written, right-aligned; older bits above them
	n   uint   // bits in acc that are not in buf yet, below 32
}

// put appends the low n bits of v, n <= 32. Higher bits of v must be zero.
func (w *bitWriter) put(v uint32, n uint) {
	w.acc = w.acc<<n | uint64(v)
	w.n += n
	if w.n >= 32 {
		w.n -= 32
		w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(w.acc>>w.n))
	}
}

// align pads with zero bits to a byte and returns what was written.
func (w *bitWriter) align() []byte {
	if w.n%8 != 0 {
		w.put(0, 8-w.n%8)
	}
	for w.n > 0 {
		w.n -= 8
		w.buf = append(w.buf, byte(w.acc>>w.n))
	}
	return w.buf
}
