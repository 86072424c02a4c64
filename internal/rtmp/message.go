package rtmp

import (
	"errors"
	"fmt"
	"math"

	"github.com/bluenviron/gortmplib/pkg/amf0"
)

// A MessageType is the type of an RTMP message.
type MessageType uint8

// The types of messages.
const (
	TypeSetChunkSize     MessageType = 1
	TypeAbort            MessageType = 2
	TypeAcknowledgement  MessageType = 3
	TypeUserControl      MessageType = 4
	TypeWindowAckSize    MessageType = 5
	TypeSetPeerBandwidth MessageType = 6
	TypeAudio            MessageType = 8
	TypeVideo            MessageType = 9
	TypeDataAMF3         MessageType = 15
	TypeCommandAMF3      MessageType = 17
	TypeData             MessageType = 18
	TypeCommand          MessageType = 20
)

// Events of user control messages.
const (
	eventStreamBegin  = 0
	eventPingRequest  = 6
	eventPingResponse = 7
)

// Chunk streams on which we send.
const (
	chunkStreamControl = 2
	chunkStreamCommand = 3
	chunkStreamData    = 4
	chunkStreamAudio   = 5
	chunkStreamVideo   = 6
)

// A Message is one RTMP message as it was received. Its Body belongs to the
// receiver.
type Message struct {
	Type MessageType
	// TimestampMS is in milliseconds, modulo 2^32.
	TimestampMS uint32
	StreamID    uint32
	ChunkStream uint32
	Body        []byte
}

// maxAMFBytes bounds command and data messages. It is what keeps the recursive
// decoder of AMF values harmless: nesting costs at least one byte per level.
const maxAMFBytes = 64 << 10

// A command is a decoded command message.
type command struct {
	name string
	id   float64
	args []any // what follows the transaction id
}

var errBadCommand = errors.New("command message is malformed")

// parseCommand decodes the body of a command message of type typ.
func parseCommand(typ MessageType, body []byte) (command, error) {
	values, err := parseAMF(typ, body)
	if err != nil {
		return command{}, fmt.Errorf("decoding a command: %w", err)
	}
	if len(values) < 2 {
		return command{}, errBadCommand
	}
	name, ok := values[0].(string)
	if !ok {
		return command{}, errBadCommand
	}
	id, ok := values[1].(float64)
	if !ok {
		return command{}, errBadCommand
	}
	return command{name: name, id: id, args: values[2:]}, nil
}

// parseAMF decodes the values of a command or data message. An AMF3 message
// holds AMF0 values behind one byte for as long as nobody switches within it,
// which nobody does.
func parseAMF(typ MessageType, body []byte) (amf0.Data, error) {
	if len(body) > maxAMFBytes {
		return nil, errors.New("message is too long")
	}
	if (typ == TypeCommandAMF3 || typ == TypeDataAMF3) && len(body) > 0 && body[0] == 0 {
		body = body[1:]
	}
	return amf0.Unmarshal(body)
}

// marshalAMF encodes values of the types that package amf0 knows; any other
// type is a mistake of the caller.
func marshalAMF(values ...any) []byte {
	body, err := amf0.Data(values).Marshal()
	if err != nil {
		panic("rtmp: " + err.Error())
	}
	return body
}

// object returns v as an object, if it is one.
func object(v any) (amf0.Object, bool) {
	switch o := v.(type) {
	case amf0.Object:
		return o, true
	case amf0.ECMAArray:
		return amf0.Object(o), true
	default:
		return nil, false
	}
}

// text returns argument i as a string, "" if it is none.
func (c command) text(i int) string {
	if i < len(c.args) {
		s, _ := c.args[i].(string)
		return s
	}
	return ""
}

// status returns the level, code and description that a reply or onStatus
// carries.
func (c command) status() (level, code, description string) {
	for _, a := range c.args {
		o, ok := object(a)
		if !ok {
			continue
		}
		if s, ok := o.GetString("code"); ok {
			code = s
			level, _ = o.GetString("level")
			description, _ = o.GetString("description")
		}
	}
	return level, code, description
}

// number returns argument i as a whole number that fits 32 bits.
func (c command) number(i int) (uint32, bool) {
	if i >= len(c.args) {
		return 0, false
	}
	f, ok := c.args[i].(float64)
	if !ok || f < 0 || f > math.MaxUint32 || f != math.Trunc(f) {
		return 0, false
	}
	return uint32(f), true
}
