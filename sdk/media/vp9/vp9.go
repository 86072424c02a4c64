// Package vp9 knows the outside of VP9 (bitstream specification 0.7, section 6.2):
// what the uncompressed header of a frame says. It knows nothing of pixels, of
// transports or of time, and it keeps no state.
package vp9

import "errors"

// MaxFrameBytes is the largest frame that is taken. What is larger is damaged or hostile.
const MaxFrameBytes = 8 << 20

// A Header is what the uncompressed header of a frame says that matters outside a
// decoder.
type Header struct {
	Profile      uint8
	ShowExisting bool // no frame: one that was sent before is shown
	KeyFrame     bool
	Show         bool
	// BitDepth, Width and Height are those of a key frame, else zero.
	BitDepth      int
	Width, Height int
}

var errTruncated = errors.New("frame ends within its header")

// ParseHeader parses the beginning of a frame.
func ParseHeader(frame []byte) (Header, error) {
	r := &bits{b: frame}
	var h Header
	if r.u(2) != 2 {
		return h, r.or("no frame marker")
	}
	low, high := r.u(1), r.u(1)
	h.Profile = uint8(high<<1 | low)
	if h.Profile == 3 && r.u(1) != 0 {
		return h, r.or("reserved profile")
	}
	if h.ShowExisting = r.u(1) == 1; h.ShowExisting {
		r.u(3)
		return h, r.or("")
	}
	h.KeyFrame = r.u(1) == 0
	h.Show = r.u(1) == 1
	r.u(1)
	if !h.KeyFrame {
		return h, r.or("")
	}
	if r.u(24) != 0x498342 {
		return h, r.or("no sync code")
	}
	h.BitDepth = 8
	if h.Profile >= 2 {
		h.BitDepth = 10 + 2*int(r.u(1))
	}
	const rgb = 7
	odd := h.Profile == 1 || h.Profile == 3
	switch space := r.u(3); {
	case space != rgb:
		r.u(1)
		if odd {
			r.u(3)
		}
	case odd:
		r.u(1)
	default:
		return h, r.or("RGB needs profile 1 or 3")
	}
	h.Width, h.Height = int(r.u(16))+1, int(r.u(16))+1
	return h, r.or("")
}

// bits reads bit by bit; beyond the end, zeros.
type bits struct {
	b     []byte
	at    int
	short bool
}

func (r *bits) u(n int) uint32 {
	var v uint32
	for range n {
		v <<= 1
		if r.at>>3 >= len(r.b) {
			r.short = true
			continue
		}
		v |= uint32(r.b[r.at>>3] >> (7 - r.at&7) & 1)
		r.at++
	}
	return v
}

// or is the error of what was read: that it was too short, else why, if that says anything.
func (r *bits) or(why string) error {
	switch {
	case r.short:
		return errTruncated
	case why != "":
		return errors.New(why)
	}
	return nil
}
