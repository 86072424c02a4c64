package rtmp

import (
	"errors"
	"time"

	"github.com/headgate/gateway/sdk/media"
)

// A PacketKind is what a [Packet] is for.
type PacketKind uint8

// The kinds of packet.
const (
	PacketOther  PacketKind = iota // a command, metadata of colours, or unknown
	PacketHeader                   // a decoder config
	PacketFrame                    // a picture or a frame of sound
	PacketEnd                      // of the sequence
)

// A Packet is what an audio or video message carries of one track.
type Packet struct {
	// Track is the number of the track; 0 unless the message is of several.
	Track uint8
	// Codec is empty if the gateway does not know it; Name says it then, as FourCC
	// or "flv NUMBER".
	Codec media.Codec
	Name  string
	// Enhanced says that the packet came in the form of Enhanced RTMP.
	Enhanced bool
	Kind     PacketKind
	// Keyframe is set on pictures of which decoding can start.
	Keyframe bool
	// CompositionMS is how much later than decoded a picture is shown.
	CompositionMS int32
	// Offset is what belongs on top of the message's timestamp: less than 1 ms.
	Offset time.Duration
	// Payload is the config or the frame, in the normal form of [media.AccessUnit]
	// apart from what an ingest has to check. It is part of the message's body.
	Payload []byte
}

// Packet types of FLV and Enhanced RTMP.
const (
	packetSequenceStart = 0
	packetCodedFrames   = 1
	packetSequenceEnd   = 2
	packetFramesX       = 3
	packetMetadata      = 4
	packetModEx         = 7
)

// Kinds of message of several tracks.
const (
	multitrackOne        = 0
	multitrackManyCodecs = 2
)

const (
	frameKey     = 1
	frameCommand = 5
)

var (
	errShortPacket = errors.New("audio or video message is too short")
	errManyPackets = errors.New("message has too many tracks")
)

// maxPackets bounds the tracks of one message.
const maxPackets = 32

// Packets takes an audio or video message apart and appends what it carries to list:
// mostly one packet, several if the message is of several tracks. An error concerns
// this message alone.
func Packets(list []Packet, m Message) ([]Packet, error) {
	b := m.Body
	switch {
	case len(b) == 0:
		return list, errShortPacket
	case m.Type == TypeVideo && b[0]&0x80 != 0:
		return extended(list, b, true)
	case m.Type == TypeVideo:
		return legacyVideo(list, b)
	case m.Type == TypeAudio && b[0]>>4 == soundExHeader:
		return extended(list, b, false)
	case m.Type == TypeAudio:
		return legacyAudio(list, b)
	default:
		return list, nil
	}
}

func legacyVideo(list []Packet, b []byte) ([]Packet, error) {
	id := b[0] & 0x0F
	p := Packet{Name: flvCodecName("video", id), Keyframe: b[0]>>4 == frameKey}
	switch p.Name {
	case "h264":
		p.Codec = media.H264
	case "h265":
		p.Codec = media.H265
	default: // older codecs have no packet types
		p.Kind, p.Payload = PacketFrame, b[1:]
		return append(list, p), nil
	}
	if b[0]>>4 == frameCommand {
		return append(list, p), nil
	}
	if len(b) < 5 {
		return list, errShortPacket
	}
	p.Payload = b[5:]
	switch b[1] {
	case packetSequenceStart:
		p.Kind = PacketHeader
	case packetCodedFrames:
		p.Kind = PacketFrame
		p.CompositionMS = int24(b[2:])
	case packetSequenceEnd:
		p.Kind = PacketEnd
	}
	return append(list, p), nil
}

func legacyAudio(list []Packet, b []byte) ([]Packet, error) {
	p := Packet{Name: flvCodecName("audio", b[0]>>4), Kind: PacketFrame, Payload: b[1:]}
	switch p.Name {
	case "aac":
		if len(b) < 2 {
			return list, errShortPacket
		}
		p.Codec, p.Payload = media.AAC, b[2:]
		if b[1] == packetSequenceStart {
			p.Kind = PacketHeader
		}
	case "mp3":
		p.Codec = media.MP3
	case "pcma":
		p.Codec = media.PCMA
	case "pcmu":
		p.Codec = media.PCMU
	}
	return append(list, p), nil
}

// A cursor reads a message from its front. Behind the end it reads zeros and says
// so.
type cursor struct {
	b     []byte
	short bool
}

func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.short, c.b = true, nil
		return make([]byte, min(n, 8))
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

func (c *cursor) byte() byte { return c.take(1)[0] }

func int24(b []byte) int32 { return int32(uint32(b[0])<<24|uint32(b[1])<<16|uint32(b[2])<<8) >> 8 }

// extended reads a message of Enhanced RTMP.
func extended(list []Packet, b []byte, video bool) ([]Packet, error) {
	c := &cursor{b: b[1:]}
	packet := b[0] & 0x0F
	var p Packet
	p.Enhanced = true
	if video {
		p.Keyframe = b[0]>>4&7 == frameKey
	}
	for packet == packetModEx {
		size := int(c.byte()) + 1
		if size == 256 {
			size = int(c.byte())<<8 + int(c.byte()) + 1
		}
		data := c.take(size)
		next := c.byte()
		const nanoseconds = 0
		if next>>4 == nanoseconds && size >= 3 && !c.short {
			p.Offset = min(time.Duration(uint32(data[0])<<16|uint32(data[1])<<8|uint32(data[2])), time.Millisecond-1)
		}
		packet = next & 0x0F
		if c.short {
			return list, errShortPacket
		}
	}
	if video && b[0]>>4&7 == frameCommand && packet != packetMetadata {
		return append(list, p), nil
	}
	marker := byte(audioMultitrack)
	if video {
		marker = videoMultitrack
	}
	if packet != marker {
		p.Name = string(c.take(4))
		if c.short {
			return list, errShortPacket
		}
		return p.finish(list, packet, c.b, video)
	}
	kind := c.byte()
	packet = kind & 0x0F
	kind >>= 4
	fourCC := ""
	if kind != multitrackManyCodecs {
		fourCC = string(c.take(4))
	}
	for n := 0; len(c.b) > 0; n++ {
		if n == maxPackets {
			return list, errManyPackets
		}
		q := p
		q.Name = fourCC
		if kind == multitrackManyCodecs {
			q.Name = string(c.take(4))
		}
		q.Track = c.byte()
		body := c.b
		if kind != multitrackOne {
			size := c.take(3)
			body = c.take(int(size[0])<<16 | int(size[1])<<8 | int(size[2]))
		} else {
			c.b = nil
		}
		if c.short {
			return list, errShortPacket
		}
		var err error
		if list, err = q.finish(list, packet, body, video); err != nil {
			return list, err
		}
	}
	if c.short {
		return list, errShortPacket
	}
	return list, nil
}

// finish appends p, whose Name is a FourCC.
func (p Packet) finish(list []Packet, packet byte, body []byte, video bool) ([]Packet, error) {
	p.Name = codecName(p.Name)
	switch c := media.Codec(p.Name); c.Kind() {
	case media.Video:
		if video {
			p.Codec = c
		}
	case media.Audio:
		if !video {
			p.Codec = c
		}
	case media.UnknownKind:
	}
	p.Payload = body
	switch packet {
	case packetSequenceStart:
		p.Kind = PacketHeader
	case packetCodedFrames:
		p.Kind = PacketFrame
		if p.Codec == media.H264 || p.Codec == media.H265 {
			if len(body) < 3 {
				return list, errShortPacket
			}
			p.CompositionMS, p.Payload = int24(body), body[3:]
		}
	case packetSequenceEnd:
		p.Kind = PacketEnd
	case packetFramesX:
		if video {
			p.Kind = PacketFrame
		}
	}
	return append(list, p), nil
}
