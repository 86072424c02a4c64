package wire

import (
	"bytes"
	"slices"
	"time"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/headgate/gateway/sdk/media"
)

// Codec returns the codec of an Attach stream. On the wire it is protobuf, and for
// every message of gateway.proto it behaves as gRPC's own does. For media there
// are four more types to hand to SendMsg and RecvMsg, which skip the structs that
// protobuf would make of each unit: [HostUnits] and [HostInbound] for what the
// gateway says, [PluginUnits] and [PluginInbound] for what a plugin says. Either
// side may use it, or not, without the other noticing.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2(proto.Name)} }

// codec is a [Codec]; what it does not know goes to std.
type codec struct{ std encoding.CodecV2 }

// Name implements [encoding.CodecV2].
func (codec) Name() string { return proto.Name }

// Marshal implements [encoding.CodecV2].
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *HostUnits:
		return m.marshal(hostMedia), nil
	case *PluginUnits:
		return m.marshal(pluginMedia), nil
	default:
		return c.std.Marshal(v)
	}
}

// Unmarshal implements [encoding.CodecV2]. It keeps nothing of data.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *HostInbound:
		if m.Msg = nil; m.parse(data, hostMedia) {
			return nil
		}
		m.Msg = &HostMsg{}
		if err := c.std.Unmarshal(data, m.Msg); err != nil {
			return err
		}
		if am := m.Msg.GetMedia(); am != nil {
			m.Msg = nil
			m.take(am)
		}
		return nil
	case *PluginInbound:
		if m.Msg = nil; m.parse(data, pluginMedia) {
			return nil
		}
		m.Msg = &PluginMsg{}
		if err := c.std.Unmarshal(data, m.Msg); err != nil {
			return err
		}
		if am := m.Msg.GetMedia(); am != nil {
			m.Msg = nil
			m.take(am)
		}
		return nil
	default:
		return c.std.Unmarshal(data, v)
	}
}

// The field numbers and tags of gateway.proto that the codec writes and reads by hand.
const (
	hostMedia   protowire.Number = 7 // HostMsg.media
	pluginMedia protowire.Number = 6 // PluginMsg.media

	tagUnits          = 1<<3 | uint64(protowire.BytesType) // AccessUnits.units
	tagSessions       = 1<<3 | uint64(protowire.VarintType)
	tagSessionsPacked = 1<<3 | uint64(protowire.BytesType)
	tagTrack          = 2<<3 | uint64(protowire.VarintType)
	tagFlags          = 3<<3 | uint64(protowire.VarintType)
	tagSeq            = 4<<3 | uint64(protowire.VarintType)
	tagDTS            = 5<<3 | uint64(protowire.VarintType)
	tagPTS            = 6<<3 | uint64(protowire.VarintType)
	tagDuration       = 7<<3 | uint64(protowire.VarintType)
	tagAge            = 8<<3 | uint64(protowire.VarintType)
	tagCaptured       = 9<<3 | uint64(protowire.VarintType)
	tagPayload        = 15<<3 | uint64(protowire.BytesType)
)

// Units is a run of units on its way out, as one message.
type Units struct {
	Steps []Step // of units alone
	Now   time.Time
}

// HostUnits is HostMsg{media}, as the gateway sends it.
type HostUnits struct{ Units }

// PluginUnits is PluginMsg{media}, as a plugin sends it.
type PluginUnits struct{ Units }

const (
	// inlineBytes is the largest payload that is copied next to its header; a
	// larger one is sent from where it lies.
	inlineBytes = 2 << 10
	// outerBytes is room for the tags and lengths around all units,
	// headerBytes for the fields of one unit but its sessions and payload.
	outerBytes  = 2 * (1 + 10)
	headerBytes = 2*(1+10) + 9*(1+10)
)

// marshal returns the message in which field is the media, for gRPC.
func (m *Units) marshal(field protowire.Number) mem.BufferSlice {
	pieces, _ := m.appendPieces(nil, nil, field)
	out := make(mem.BufferSlice, len(pieces))
	for i, piece := range pieces {
		out[i] = mem.SliceBuffer(piece)
	}
	return out
}

// appendPieces appends the message in which field is the media to out, in pieces: large
// payloads, and what lies between them. That is in one piece of memory, which is arena if
// that is large enough, and is returned.
func (m *Units) appendPieces(out [][]byte, arena []byte, field protowire.Number) (pieces [][]byte, used []byte) {
	room, large := outerBytes, 0
	for i := range m.Steps {
		s := &m.Steps[i]
		room += headerBytes + varint32Bytes*len(s.Sessions)
		if n := len(s.Unit.Payload); n <= inlineBytes {
			room += n
		} else {
			large++
		}
	}
	if cap(arena) < room {
		arena = make([]byte, 0, room)
	}
	arena = arena[:outerBytes]
	first := len(out)
	out = slices.Grow(out, 2*large+1)
	size := 0
	start := 0 // of what is not in out yet
	var scratch [256]byte
	for i := range m.Steps {
		s := &m.Steps[i]
		h := appendHeader(scratch[:0], s, m.Now)
		n := len(s.Unit.Payload)
		before := len(arena)
		arena = protowire.AppendVarint(arena, tagUnits)
		arena = protowire.AppendVarint(arena, uint64(len(h)+n))
		arena = append(arena, h...)
		size += len(arena) - before + n
		if n <= inlineBytes {
			arena = append(arena, s.Unit.Payload...)
			continue
		}
		out = append(out, arena[start:], s.Unit.Payload)
		start = len(arena)
	}
	if start < len(arena) {
		out = append(out, arena[start:])
	}
	// The tag and length of the media stand right before the first unit.
	head := protowire.AppendTag(scratch[:0], field, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(size))
	at := outerBytes - len(head)
	copy(arena[at:], head)
	out[first] = out[first][at:]
	return out, arena
}

const varint32Bytes = 5

// appendHeader appends the unit's fields up to the length of its payload.
func appendHeader(b []byte, s *Step, now time.Time) []byte {
	u := s.Unit
	switch len(s.Sessions) {
	case 0:
	case 1:
		b = protowire.AppendVarint(b, tagSessionsPacked)
		b = protowire.AppendVarint(b, uint64(protowire.SizeVarint(uint64(s.Sessions[0]))))
		b = protowire.AppendVarint(b, uint64(s.Sessions[0]))
	default:
		n := 0
		for _, id := range s.Sessions {
			n += protowire.SizeVarint(uint64(id))
		}
		b = protowire.AppendVarint(b, tagSessionsPacked)
		b = protowire.AppendVarint(b, uint64(n))
		for _, id := range s.Sessions {
			b = protowire.AppendVarint(b, uint64(id))
		}
	}
	b = appendField(b, tagTrack, uint64(u.Track))
	b = appendField(b, tagFlags, uint64(flags(u, s.Discontinuity)))
	b = appendField(b, tagSeq, uint64(u.Seq))
	b = appendField(b, tagDTS, protowire.EncodeZigZag(int64(u.DTS)))
	b = appendField(b, tagPTS, protowire.EncodeZigZag(int64(u.PTS)))
	b = appendField(b, tagDuration, uint64(max(u.Duration, 0)))
	b = appendField(b, tagAge, age(u, now))
	b = appendField(b, tagCaptured, uint64(captured(u)))
	if n := len(u.Payload); n > 0 {
		b = protowire.AppendVarint(b, tagPayload)
		b = protowire.AppendVarint(b, uint64(n))
	}
	return b
}

// appendField appends a field of one number, unless that is zero.
func appendField(b []byte, tag, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendVarint(b, tag), v)
}

// An InUnit is a unit that arrived, and the sessions that it is for or from.
type InUnit struct {
	// Sessions is valid until the next message is received into the same place.
	Sessions []uint32
	// Unit is the receiver's own, with a payload of just its size.
	Unit *media.AccessUnit
}

// inbound is the media of one message, as it is received. One goroutine uses it, for
// one message after the other.
type inbound struct {
	// MaxAge is how long before its arrival a unit may have been received.
	MaxAge time.Duration
	// Units are those of the message; empty if it is another one.
	Units []InUnit

	sessions []uint32 // what Units refer to
	cursor   cursor   // kept for its memory
}

// HostInbound is a message of the gateway as a plugin receives it: Msg, or Units if
// that is nil.
type HostInbound struct {
	inbound
	Msg *HostMsg
}

// PluginInbound is a message of a plugin as the gateway receives it: Msg, or Units
// if that is nil.
type PluginInbound struct {
	inbound
	Msg *PluginMsg
}

func (in *inbound) reset() {
	clear(in.Units)
	in.Units, in.sessions = in.Units[:0], in.sessions[:0]
}

// take takes over the units of a message in its usual form.
func (in *inbound) take(m *AccessUnits) {
	in.reset()
	now := time.Now()
	for _, u := range m.GetUnits() {
		in.Units = append(in.Units, InUnit{Sessions: u.GetSessions(), Unit: ToUnit(u, now, in.MaxAge)})
	}
}

// parse reads a message that consists of the field media alone, written as one would
// expect it. It reports false for any other, well-formed or not: what that is,
// protobuf decides.
func (in *inbound) parse(data mem.BufferSlice, field protowire.Number) bool {
	in.reset()
	c := &in.cursor
	*c = cursor{rest: data, left: data.Len(), pieces: c.pieces}
	defer c.reset()
	tag, ok := c.varint()
	if !ok || tag != uint64(field)<<3|uint64(protowire.BytesType) {
		return false
	}
	if n, ok := c.varint(); !ok || n != uint64(c.left) {
		return false
	}
	now := time.Now()
	for c.left > 0 {
		tag, ok := c.varint()
		if !ok {
			return false
		}
		if tag != tagUnits {
			if !c.skip(tag) {
				return false
			}
			continue
		}
		n, ok := c.varint()
		if !ok || n > uint64(c.left) || !in.unit(c, c.left-int(n), now) {
			return false
		}
	}
	return true
}

// unit reads one unit, which ends where so much is left.
func (in *inbound) unit(c *cursor, end int, now time.Time) bool {
	u := &media.AccessUnit{}
	var flags Flag
	var age uint64
	first := len(in.sessions)
	for c.left > end {
		tag, ok := c.varint()
		if !ok {
			return false
		}
		if tag == tagPayload {
			n, ok := c.varint()
			if !ok || c.left < end || n > uint64(c.left-end) {
				return false
			}
			u.Payload = c.copy(int(n))
			continue
		}
		if tag == tagSessionsPacked {
			n, ok := c.varint()
			if !ok || c.left < end || n > uint64(c.left-end) {
				return false
			}
			for stop := c.left - int(n); c.left > stop; {
				id, ok := c.varint()
				if !ok || c.left < stop {
					return false
				}
				in.sessions = append(in.sessions, uint32(id))
			}
			continue
		}
		if tag&7 != uint64(protowire.VarintType) || tag>>3 == 0 || tag>>3 > uint64(protowire.MaxValidNumber) {
			if !c.skip(tag) || c.left < end {
				return false
			}
			continue
		}
		v, ok := c.varint()
		if !ok || c.left < end {
			return false
		}
		switch tag {
		case tagSessions:
			in.sessions = append(in.sessions, uint32(v))
		case tagTrack:
			u.Track = media.TrackID(v)
		case tagFlags:
			flags = Flag(v)
		case tagSeq:
			u.Seq = uint32(v)
		case tagDTS:
			u.DTS = time.Duration(protowire.DecodeZigZag(v))
		case tagPTS:
			u.PTS = time.Duration(protowire.DecodeZigZag(v))
		case tagDuration:
			u.Duration = Duration(v)
		case tagAge:
			age = v
		case tagCaptured:
			u.Captured = time.Time{}
			if v != 0 {
				u.Captured = time.Unix(0, int64(v))
			}
		}
	}
	if c.left != end {
		return false
	}
	setFlags(u, flags)
	u.Received = now.Add(-min(Duration(age), in.MaxAge))
	if u.Payload == nil {
		u.Payload = []byte{}
	}
	in.Units = append(in.Units, InUnit{Sessions: in.sessions[first:len(in.sessions):len(in.sessions)], Unit: u})
	return true
}

// A cursor reads a message that lies in several pieces.
type cursor struct {
	rest mem.BufferSlice // behind piece
	buf  []byte          // what is left of the piece that is being read
	left int             // bytes, in all

	pieces [][]byte // used by copy
}

// reset lets go of the message.
func (c *cursor) reset() {
	clear(c.pieces[:cap(c.pieces)])
	*c = cursor{pieces: c.pieces[:0]}
}

// fill makes buf not empty, unless nothing is left.
func (c *cursor) fill() {
	for len(c.buf) == 0 && len(c.rest) > 0 {
		c.buf, c.rest = c.rest[0].ReadOnlyData(), c.rest[1:]
	}
}

// varint reads a number. It reports false if there is none.
func (c *cursor) varint() (uint64, bool) {
	if len(c.buf) > 0 && c.buf[0] < 0x80 {
		v := c.buf[0]
		c.buf = c.buf[1:]
		c.left--
		return uint64(v), true
	}
	if v, n := protowire.ConsumeVarint(c.buf); n > 0 {
		c.buf = c.buf[n:]
		c.left -= n
		return v, true
	}
	// It is broken, or goes on in the next piece.
	var whole [10]byte
	for i := range whole {
		c.fill()
		if len(c.buf) == 0 {
			return 0, false
		}
		whole[i] = c.buf[0]
		c.buf = c.buf[1:]
		c.left--
		if whole[i] < 0x80 {
			v, n := protowire.ConsumeVarint(whole[:i+1])
			return v, n > 0
		}
	}
	return 0, false
}

// copy returns the next n bytes, of which the caller knows that they are there.
func (c *cursor) copy(n int) []byte {
	c.fill()
	if n <= len(c.buf) {
		piece := c.buf[:n]
		b := make([]byte, len(piece)) // in this form it is not cleared first
		copy(b, piece)
		c.buf = c.buf[n:]
		c.left -= n
		return b
	}
	c.left -= n
	c.pieces = c.pieces[:0]
	for n > 0 {
		c.fill()
		piece := c.buf[:min(n, len(c.buf))]
		c.pieces = append(c.pieces, piece)
		c.buf = c.buf[len(piece):]
		n -= len(piece)
	}
	return bytes.Join(c.pieces, nil) // nor in this one
}

// skip passes over the value of a field that is not known.
func (c *cursor) skip(tag uint64) bool {
	if tag>>3 == 0 || tag>>3 > uint64(protowire.MaxValidNumber) {
		return false
	}
	var n uint64
	switch protowire.Type(tag & 7) {
	case protowire.VarintType:
		_, ok := c.varint()
		return ok
	case protowire.Fixed32Type:
		n = 4
	case protowire.Fixed64Type:
		n = 8
	case protowire.BytesType:
		var ok bool
		if n, ok = c.varint(); !ok {
			return false
		}
	default: // groups: protobuf knows them
		return false
	}
	if n > uint64(c.left) {
		return false
	}
	c.left -= int(n)
	for n > 0 {
		c.fill()
		k := min(n, uint64(len(c.buf)))
		c.buf = c.buf[k:]
		n -= k
	}
	return true
}
