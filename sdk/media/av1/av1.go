// Package av1 knows the outside of AV1 (the bitstream and decoding process
// specification of the Alliance for Open Media): how OBUs are framed, what the
// sequence header says about profile, size and colour, the av1C decoder
// configuration, and which temporal units decoding can start with.
//
// It knows nothing of pixels, of transports or of time, and it keeps no state.
// Slices returned by its functions refer to the bytes that they were given, unless
// a function says that it appends.
package av1

import (
	"errors"
	"fmt"
	"math"
)

// What one temporal unit may hold at most. Input beyond it is refused: it is damaged
// or hostile.
const (
	MaxOBUs             = 256
	MaxTemporalUnitSize = 8 << 20
)

// ErrTruncated says that data end within a field or an OBU.
var ErrTruncated = errors.New("data end within an OBU")

// An OBUType is the obu_type of section 6.2.2.
type OBUType uint8

// The types that matter here.
const (
	TypeSequenceHeader    OBUType = 1
	TypeTemporalDelimiter OBUType = 2
	TypeFrameHeader       OBUType = 3
	TypeTileGroup         OBUType = 4
	TypeMetadata          OBUType = 5
	TypeFrame             OBUType = 6
	TypeRedundantHeader   OBUType = 7
	TypeTileList          OBUType = 8
	TypePadding           OBUType = 15
)

// An OBU is one open bitstream unit.
type OBU struct {
	Type OBUType
	// Extension is the second byte of the header; HasExtension says whether there is one.
	Extension    byte
	HasExtension bool
	Payload      []byte // without header and size
}

const (
	forbiddenBit, extensionBit, sizeBit = 0x80, 0x04, 0x02
	typeShift, typeMask                 = 3, 0x0f
)

// ParseOBU parses the first OBU of b and returns what follows it. One without a
// size field takes all of b.
func ParseOBU(b []byte) (o OBU, rest []byte, err error) {
	if len(b) == 0 {
		return o, nil, ErrTruncated
	}
	header := b[0]
	if header&forbiddenBit != 0 {
		return o, nil, errors.New("forbidden bit is set")
	}
	o.Type = OBUType(header >> typeShift & typeMask)
	b = b[1:]
	if header&extensionBit != 0 {
		if len(b) == 0 {
			return o, nil, ErrTruncated
		}
		o.Extension, o.HasExtension = b[0], true
		b = b[1:]
	}
	if header&sizeBit == 0 {
		o.Payload = b
		return o, nil, nil
	}
	size, n, err := ReadLEB128(b)
	if err != nil {
		return o, nil, err
	}
	if b = b[n:]; size > uint64(len(b)) {
		return o, nil, ErrTruncated
	}
	o.Payload = b[:size]
	return o, b[size:], nil
}

// Append appends the OBU with a size field.
func (o OBU) Append(dst []byte) []byte {
	header := byte(o.Type)<<typeShift | sizeBit
	if o.HasExtension {
		dst = append(dst, header|extensionBit, o.Extension)
	} else {
		dst = append(dst, header)
	}
	return append(AppendLEB128(dst, uint64(len(o.Payload))), o.Payload...)
}

// Split appends the OBUs of a temporal unit, all of which have a size field.
func Split(dst []OBU, unit []byte) ([]OBU, error) {
	if len(unit) > MaxTemporalUnitSize {
		return dst, errors.New("temporal unit too large")
	}
	for len(unit) > 0 {
		if len(dst) == MaxOBUs {
			return dst, errors.New("too many OBUs")
		}
		if unit[0]&sizeBit == 0 {
			return dst, errors.New("an OBU without a size field")
		}
		o, rest, err := ParseOBU(unit)
		if err != nil {
			return dst, err
		}
		dst, unit = append(dst, o), rest
	}
	return dst, nil
}

// ReadLEB128 reads a number of at most 32 bits in up to 8 bytes (section 4.10.5)
// and returns how many bytes it takes.
func ReadLEB128(b []byte) (v uint64, n int, err error) {
	for n < 8 {
		if n == len(b) {
			return 0, 0, ErrTruncated
		}
		v |= uint64(b[n]&0x7f) << (7 * n)
		n++
		if b[n-1]&0x80 == 0 {
			if v > 1<<32-1 {
				break
			}
			return v, n, nil
		}
	}
	return 0, 0, errors.New("LEB128 number too large")
}

// AppendLEB128 appends v in as few bytes as it takes.
func AppendLEB128(dst []byte, v uint64) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

// A Unit is what a temporal unit is like.
type Unit struct {
	// SequenceHeader is the last one in it; nil if there is none.
	SequenceHeader []byte // payload of the OBU
	// Coded: there is a frame in it.
	Coded bool
	// KeyFrame: its first frame is a key frame that is shown. With a sequence
	// header decoding can start here.
	KeyFrame bool
}

// Inspect looks at the OBUs of a temporal unit.
func Inspect(obus []OBU) Unit {
	var u Unit
	for _, o := range obus {
		switch o.Type {
		case TypeSequenceHeader:
			u.SequenceHeader = o.Payload
		case TypeFrame, TypeFrameHeader:
			if !u.Coded {
				u.KeyFrame = isKeyFrame(o.Payload)
			}
			u.Coded = true
		case TypeTileGroup:
			u.Coded = true
		default:
		}
	}
	return u
}

// isKeyFrame looks at the beginning of a frame header (section 5.9.2).
func isKeyFrame(payload []byte) bool {
	if len(payload) == 0 {
		return false
	}
	const showExisting, typeBits, show = 0x80, 0x60, 0x10
	return payload[0]&showExisting == 0 && payload[0]&typeBits == 0 && payload[0]&show != 0
}

// A SequenceHeader is what it says that matters outside a decoder.
type SequenceHeader struct {
	Profile                    uint8
	Level                      uint8 // seq_level_idx of the first operating point
	Tier                       uint8
	Width, Height              int
	FrameRate                  float64 // 0 if it does not say
	BitDepth                   int
	Monochrome                 bool
	SubsamplingX, SubsamplingY bool
	ChromaSamplePosition       uint8
}

// ParseSequenceHeader parses the payload of a sequence header OBU (section 5.5).
func ParseSequenceHeader(payload []byte) (SequenceHeader, error) {
	r := &bits{b: payload}
	h := parseSequenceHeader(r)
	if r.err != nil {
		return SequenceHeader{}, fmt.Errorf("parsing sequence header: %w", r.err)
	}
	return h, nil
}

func parseSequenceHeader(r *bits) SequenceHeader {
	var h SequenceHeader
	h.Profile = uint8(r.u(3))
	if h.Profile > 2 {
		r.fail("reserved profile")
	}
	r.u(1) // still_picture
	reduced := r.flag()
	if reduced {
		h.Level = uint8(r.u(5))
	} else {
		operatingPoints(r, &h)
	}
	widthBits, heightBits := int(r.u(4))+1, int(r.u(4))+1
	h.Width, h.Height = int(r.u(widthBits))+1, int(r.u(heightBits))+1
	if !reduced && r.flag() { // frame ids
		r.u(7)
	}
	r.u(3) // superblock size, filter intra, intra edge filter
	if !reduced {
		tools(r)
	}
	r.u(3) // superres, cdef, restoration
	color(r, &h)
	r.u(1) // film grain
	return h
}

func operatingPoints(r *bits, h *SequenceHeader) {
	delayBits, model := 0, false
	if r.flag() { // timing info
		ticks, scale := r.u(32), r.u(32)
		if r.flag() { // equal picture interval
			if per := uint64(r.uvlc()) + 1; ticks > 0 && scale > 0 {
				h.FrameRate = float64(scale) / (float64(ticks) * float64(per))
			}
		}
		if model = r.flag(); model {
			delayBits = int(r.u(5)) + 1
			r.u(32)
			r.u(10)
		}
	}
	displayDelay := r.flag()
	for i := range int(r.u(5)) + 1 {
		r.u(12)
		level, tier := r.u(5), uint32(0)
		if level > 7 {
			tier = r.u(1)
		}
		if i == 0 {
			h.Level, h.Tier = uint8(level), uint8(tier)
		}
		if model && r.flag() {
			r.u(delayBits)
			r.u(delayBits)
			r.u(1)
		}
		if displayDelay && r.flag() {
			r.u(4)
		}
	}
}

func tools(r *bits) {
	r.u(4) // interintra, masked, warped, dual filter
	orderHint := r.flag()
	if orderHint {
		r.u(2)
	}
	screen := true
	if !r.flag() { // not chosen per frame
		screen = r.flag()
	}
	if screen && !r.flag() { // integer motion vectors: not chosen per frame
		r.u(1)
	}
	if orderHint {
		r.u(3)
	}
}

func color(r *bits, h *SequenceHeader) {
	h.BitDepth = 8
	if high := r.flag(); high && h.Profile == 2 && r.flag() {
		h.BitDepth = 12
	} else if high {
		h.BitDepth = 10
	}
	if h.Profile != 1 {
		h.Monochrome = r.flag()
	}
	const unspecified = 2
	primaries, transfer, matrix := uint32(unspecified), uint32(unspecified), uint32(unspecified)
	if r.flag() {
		primaries, transfer, matrix = r.u(8), r.u(8), r.u(8)
	}
	const bt709, srgb, identity = 1, 13, 0
	switch {
	case h.Monochrome:
		r.u(1)
		h.SubsamplingX, h.SubsamplingY = true, true
		return
	case primaries == bt709 && transfer == srgb && matrix == identity:
	default:
		r.u(1)
		switch {
		case h.Profile == 0:
			h.SubsamplingX, h.SubsamplingY = true, true
		case h.Profile == 1:
		case h.BitDepth == 12:
			if h.SubsamplingX = r.flag(); h.SubsamplingX {
				h.SubsamplingY = r.flag()
			}
		default:
			h.SubsamplingX = true
		}
		if h.SubsamplingX && h.SubsamplingY {
			h.ChromaSamplePosition = uint8(r.u(2))
		}
	}
	r.u(1)
}

// DecoderConfig returns av1C (AV1 Codec ISO Media File Format Binding, 2.3) for a
// sequence header, given the payload of its OBU.
func DecoderConfig(payload []byte) ([]byte, SequenceHeader, error) {
	h, err := ParseSequenceHeader(payload)
	if err != nil {
		return nil, h, err
	}
	flag := func(b bool, shift int) byte {
		if b {
			return 1 << shift
		}
		return 0
	}
	out := []byte{
		0x81, // marker and version 1
		h.Profile<<5 | h.Level,
		h.Tier<<7 | flag(h.BitDepth > 8, 6) | flag(h.BitDepth == 12, 5) | flag(h.Monochrome, 4) |
			flag(h.SubsamplingX, 3) | flag(h.SubsamplingY, 2) | h.ChromaSamplePosition,
		0,
	}
	return OBU{Type: TypeSequenceHeader, Payload: payload}.Append(out), h, nil
}

// bits reads bit by bit. The first error sticks; what is read after it is zero.
type bits struct {
	b   []byte
	at  int // bits read
	err error
}

func (r *bits) u(n int) uint32 {
	var v uint32
	for range n {
		if r.at>>3 >= len(r.b) {
			r.fail(ErrTruncated.Error())
			return 0
		}
		v = v<<1 | uint32(r.b[r.at>>3]>>(7-r.at&7)&1)
		r.at++
	}
	return v
}

func (r *bits) flag() bool { return r.u(1) == 1 }

// uvlc reads a number as section 4.10.3 has it.
func (r *bits) uvlc() uint32 {
	n := 0
	for r.err == nil && !r.flag() {
		n++
	}
	switch {
	case r.err != nil:
		return 0
	case n >= 32:
		return math.MaxUint32
	}
	return r.u(n) + 1<<n - 1
}

func (r *bits) fail(why string) {
	if r.err == nil {
		r.err = errors.New(why)
	}
}
