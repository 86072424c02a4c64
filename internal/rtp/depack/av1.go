package depack

import (
	"bytes"

	"github.com/headgate/gateway/sdk/media/av1"
)

// av1Scheme puts OBUs together (RTP Payload Format For AV1, version 1.0).
type av1Scheme struct {
	elements []byte // the OBU elements of the open temporal unit, one behind the other
	ends     []int
	more     bool // the last of them has not ended
	obus     []av1.OBU

	sequence []byte // payload of the sequence header in force
	pending  bool   // it changed since the last Config
}

// NewAV1 returns an assembly of AV1 that calls emit for each temporal unit.
func NewAV1(emit func(Unit)) *Assembly { return newAssembly(emit, &av1Scheme{}) }

// Fields of the aggregation header.
const (
	av1Continues  = 0x80 // the first element continues one of the packet before
	av1More       = 0x40 // the last element goes on in the next packet
	av1CountShift = 4
	av1CountMask  = 0x03
	av1NewVideo   = 0x08 // the first packet of a coded video sequence
)

func (s *av1Scheme) starts(b []byte, _ bool) bool {
	return b[0]&av1NewVideo != 0 && b[0]&av1Continues == 0
}

func (*av1Scheme) continues([]byte) bool { return false }

func (s *av1Scheme) reset() { s.elements, s.ends, s.more = s.elements[:0], s.ends[:0], false }

func (s *av1Scheme) take(b []byte) bool {
	header := b[0]
	b = b[1:]
	if continues := header&av1Continues != 0; continues != s.more || len(b) == 0 {
		return false
	}
	count := int(header >> av1CountShift & av1CountMask)
	for i := 1; len(b) > 0; i++ {
		element := b
		if count == 0 || i < count {
			size, n, err := av1.ReadLEB128(b)
			if err != nil || size > uint64(len(b)-n) {
				return false
			}
			element = b[n : n+int(size)]
			b = b[n+int(size):]
		} else {
			b = nil
		}
		if !s.add(element) {
			return false
		}
		if count != 0 && i == count && len(b) > 0 {
			return false
		}
	}
	s.more = header&av1More != 0
	return true
}

// add appends an element, to the last one if that goes on.
func (s *av1Scheme) add(element []byte) bool {
	if len(s.elements)+len(element) > av1.MaxTemporalUnitSize || len(s.ends) == av1.MaxOBUs {
		return false
	}
	s.elements = append(s.elements, element...)
	if s.more {
		s.more = false
		s.ends[len(s.ends)-1] = len(s.elements)
		return true
	}
	s.ends = append(s.ends, len(s.elements))
	return true
}

func (s *av1Scheme) finish() picture {
	if s.more {
		return picture{damaged: true}
	}
	s.obus = s.obus[:0]
	from, size := 0, 0
	for _, end := range s.ends {
		element := s.elements[from:end]
		from = end
		if len(element) == 0 {
			continue
		}
		o, rest, err := av1.ParseOBU(element)
		if err != nil || len(rest) > 0 {
			return picture{damaged: true}
		}
		switch o.Type {
		case av1.TypeTemporalDelimiter, av1.TypeTileList, av1.TypePadding:
			continue
		default:
		}
		s.obus = append(s.obus, o)
		size += len(o.Payload) + 10
	}
	unit := av1.Inspect(s.obus)
	p := picture{coded: unit.Coded}
	if unit.SequenceHeader != nil && !bytes.Equal(unit.SequenceHeader, s.sequence) {
		s.sequence, s.pending = bytes.Clone(unit.SequenceHeader), true
	}
	if !p.coded {
		return p
	}
	p.randomAccess = unit.KeyFrame && unit.SequenceHeader != nil
	p.ready = s.sequence != nil
	if s.pending && p.randomAccess {
		av1C, h, err := av1.DecoderConfig(s.sequence)
		if err != nil {
			return picture{damaged: true}
		}
		p.config = &Config{DecoderConfig: av1C, Width: h.Width, Height: h.Height, FrameRate: h.FrameRate}
		s.pending = false
	}
	p.payload = make([]byte, 0, size)
	for _, o := range s.obus {
		p.payload = o.Append(p.payload)
	}
	return p
}
