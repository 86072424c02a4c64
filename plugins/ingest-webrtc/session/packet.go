package session

import "encoding/binary"

// A packet is an RTP packet (RFC 3550, 5.1) as far as it is looked at. Its bytes
// are those that were parsed.
type packet struct {
	marker      bool
	payloadType uint8
	seq         uint16
	time        uint32
	ssrc        uint32
	profile     uint16 // of the header extension
	extension   []byte
	payload     []byte
}

// Forms of a header extension (RFC 8285).
const (
	oneByteForm  = 0xbede
	twoByteForm  = 0x1000 // the low four bits are the application's
	twoByteMask  = 0xfff0
	oneByteEnd   = 15
	headerBytes  = 12
	versionShift = 6
)

// parse reads b into p; false if b is no RTP packet.
func (p *packet) parse(b []byte) bool {
	if len(b) < headerBytes || b[0]>>versionShift != 2 {
		return false
	}
	const padding, extension, marker = 0x20, 0x10, 0x80
	p.marker, p.payloadType = b[1]&marker != 0, b[1]&0x7f
	p.seq = binary.BigEndian.Uint16(b[2:])
	p.time = binary.BigEndian.Uint32(b[4:])
	p.ssrc = binary.BigEndian.Uint32(b[8:])
	rest := b[headerBytes:]
	csrc := 4 * int(b[0]&0x0f)
	if len(rest) < csrc {
		return false
	}
	rest = rest[csrc:]
	p.profile, p.extension = 0, nil
	if b[0]&extension != 0 {
		if len(rest) < 4 {
			return false
		}
		size := 4 * int(binary.BigEndian.Uint16(rest[2:]))
		p.profile = binary.BigEndian.Uint16(rest)
		if rest = rest[4:]; len(rest) < size {
			return false
		}
		p.extension, rest = rest[:size], rest[size:]
	}
	if b[0]&padding != 0 {
		if len(rest) == 0 || int(rest[len(rest)-1]) > len(rest) || rest[len(rest)-1] == 0 {
			return false
		}
		rest = rest[:len(rest)-int(rest[len(rest)-1])]
	}
	p.payload = rest
	return true
}

// element returns the data of one element of the header extension; nil if it is
// not there.
func (p *packet) element(id uint8) []byte {
	b := p.extension
	switch {
	case id == 0:
		return nil
	case p.profile == oneByteForm:
		for len(b) > 0 {
			have, size := b[0]>>4, int(b[0]&0x0f)+1
			if b = b[1:]; have == 0 {
				continue // padding
			}
			if have == oneByteEnd || len(b) < size {
				return nil
			}
			if have == id {
				return b[:size]
			}
			b = b[size:]
		}
	case p.profile&twoByteMask == twoByteForm:
		for len(b) > 0 {
			if b[0] == 0 {
				b = b[1:]
				continue
			}
			if len(b) < 2 || len(b)-2 < int(b[1]) {
				return nil
			}
			if b[0] == id {
				return b[2 : 2+int(b[1])]
			}
			b = b[2+int(b[1]):]
		}
	}
	return nil
}
