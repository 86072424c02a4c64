package depack

import (
	"bytes"

	"github.com/headgate/gateway/sdk/media/vp9"
)

// vp9Scheme puts the packets of VP9 frames together (RFC 9628). Of several spatial
// layers the lowest is taken.
type vp9Scheme struct {
	frame         []byte
	begun, ended  bool
	predicted     bool
	width, height int // as last told
}

// NewVP9 returns an assembly of VP9 that calls emit for each frame.
func NewVP9(emit func(Unit)) *Assembly { return newAssembly(emit, &vp9Scheme{}) }

// A vp9Packet is the payload descriptor of one packet.
type vp9Packet struct {
	predicted, begins, ends bool
	spatial                 byte
	frame                   []byte
}

// parseVP9 reads the payload descriptor.
func parseVP9(b []byte) (p vp9Packet, ok bool) {
	const pictureID, predicted, layers, flexible, begins, ends, structure = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02
	r := reader{b: b}
	flags := r.next()
	p.predicted, p.begins, p.ends = flags&predicted != 0, flags&begins != 0, flags&ends != 0
	if flags&pictureID != 0 && r.next()&0x80 != 0 {
		r.next()
	}
	if flags&layers != 0 {
		p.spatial = r.next() >> 1 & 7
		if flags&flexible == 0 {
			r.next() // TL0PICIDX
		}
	}
	if flags&flexible != 0 && p.predicted {
		for range 3 {
			if r.next()&1 == 0 {
				break
			}
		}
	}
	if flags&structure != 0 {
		r.structure()
	}
	p.frame = r.b
	return p, !r.short && len(p.frame) > 0
}

// A reader takes bytes off its front; beyond the end, zeros.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) next() byte {
	if len(r.b) == 0 {
		r.short = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) skip(n int) {
	for range n {
		r.next()
	}
}

// structure skips a scalability structure.
func (r *reader) structure() {
	const sizes, group = 0x10, 0x08
	flags := r.next()
	if flags&sizes != 0 {
		r.skip(4 * (int(flags>>5) + 1))
	}
	if flags&group != 0 {
		for range r.next() {
			r.skip(int(r.next() >> 2 & 3))
		}
	}
}

func (s *vp9Scheme) starts(b []byte, _ bool) bool {
	p, ok := parseVP9(b)
	return ok && p.begins && p.spatial == 0
}

func (*vp9Scheme) continues([]byte) bool { return false }

func (s *vp9Scheme) reset() { s.frame, s.begun, s.ended = s.frame[:0], false, false }

func (s *vp9Scheme) take(b []byte) bool {
	p, ok := parseVP9(b)
	switch {
	case !ok:
		return false
	case p.spatial > 0:
		return true // a layer that is not taken
	case p.begins == s.begun || s.ended || len(s.frame)+len(p.frame) > vp9.MaxFrameBytes:
		return false
	}
	if p.begins {
		s.begun, s.predicted = true, p.predicted
	}
	s.ended = p.ends
	s.frame = append(s.frame, p.frame...)
	return true
}

func (s *vp9Scheme) finish() picture {
	h, err := vp9.ParseHeader(s.frame)
	if !s.ended || err != nil {
		return picture{damaged: true}
	}
	p := picture{payload: bytes.Clone(s.frame), coded: true, ready: true, randomAccess: h.KeyFrame && !s.predicted}
	if p.randomAccess && (h.Width != s.width || h.Height != s.height) {
		s.width, s.height = h.Width, h.Height
		p.config = &Config{Width: h.Width, Height: h.Height}
	}
	return p
}
