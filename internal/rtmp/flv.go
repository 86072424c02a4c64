package rtmp

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/bluenviron/gortmplib/pkg/amf0"
)

// Codec ids of FLV.
const (
	flvAVC = 7
	flvAAC = 10
)

// A Tag is the body of one audio, video or data message: what FLV calls the data
// of a tag. It has no timestamp, is immutable, and may be written to any number
// of connections at once: the sinks of one stream share it.
type Tag struct {
	typ     MessageType
	head    [5]byte
	headLen uint8
	payload []byte
}

// Type is that of the message.
func (t *Tag) Type() MessageType { return t.typ }

// Len is the length of the body in bytes.
func (t *Tag) Len() int { return int(t.headLen) + len(t.payload) }

// AppendTo appends the body to b.
func (t *Tag) AppendTo(b []byte) []byte {
	return append(append(b, t.head[:t.headLen]...), t.payload...)
}

// H264Tag returns a picture: payload is its NAL units behind 4-byte lengths, and
// is not copied. compositionMS is how much later than decoded it is shown.
func H264Tag(payload []byte, keyframe bool, compositionMS int32) *Tag {
	t := &Tag{typ: TypeVideo, headLen: 5, payload: payload}
	t.head = [5]byte{2<<4 | flvAVC, 1, byte(compositionMS >> 16), byte(compositionMS >> 8), byte(compositionMS)}
	if keyframe {
		t.head[0] = 1<<4 | flvAVC
	}
	return t
}

// H264HeaderTag returns the sequence header that holds avcC.
func H264HeaderTag(avcC []byte) *Tag {
	return &Tag{typ: TypeVideo, headLen: 5, head: [5]byte{1<<4 | flvAVC}, payload: avcC}
}

// AACTag returns one raw AAC frame, which is not copied. The first byte says
// 44.1 kHz stereo whatever the stream is, as FLV wants for AAC.
func AACTag(payload []byte) *Tag {
	return &Tag{typ: TypeAudio, headLen: 2, head: [5]byte{0xAF, 1}, payload: payload}
}

// AACHeaderTag returns the sequence header that holds an AudioSpecificConfig.
func AACHeaderTag(config []byte) *Tag {
	return &Tag{typ: TypeAudio, headLen: 2, head: [5]byte{0xAF, 0}, payload: config}
}

// Metadata is what onMetaData tells. Zero values are unknown.
type Metadata struct {
	Video, Audio       bool // which of them there are: H.264 and AAC
	Width, Height      int
	FrameRate          float64
	VideoBitsPerSecond int
	SampleRateHz       int
	Channels           int
	AudioBitsPerSecond int
	Encoder            string
}

// Tag returns the data message that carries m.
func (m Metadata) Tag() *Tag {
	var a amf0.ECMAArray
	add := func(key string, v any) { a = append(a, amf0.ObjectEntry{Key: key, Value: v}) }
	number := func(key string, v float64) {
		if v > 0 {
			add(key, v)
		}
	}
	add("duration", 0.0)
	add("fileSize", 0.0)
	if m.Video {
		number("width", float64(m.Width))
		number("height", float64(m.Height))
		number("framerate", m.FrameRate)
		add("videocodecid", float64(flvAVC))
		add("videodatarate", float64(m.VideoBitsPerSecond)/1000)
	}
	if m.Audio {
		add("audiocodecid", float64(flvAAC))
		number("audiosamplerate", float64(m.SampleRateHz))
		add("audiosamplesize", 16.0)
		number("audiochannels", float64(m.Channels))
		add("stereo", m.Channels != 1)
		add("audiodatarate", float64(m.AudioBitsPerSecond)/1000)
	}
	add("encoder", m.Encoder)
	return &Tag{typ: TypeData, payload: marshalAMF("@setDataFrame", "onMetaData", a)}
}

// An FLVWriter writes messages to an FLV file. Not safe for concurrent use.
type FLVWriter struct {
	w   io.Writer
	buf []byte
}

// NewFLVWriter writes the header of a file with the given kinds to w, which
// should be buffered.
func NewFLVWriter(w io.Writer, video, audio bool) (*FLVWriter, error) {
	flags := byte(0)
	if video {
		flags |= 1
	}
	if audio {
		flags |= 4
	}
	if _, err := w.Write([]byte{'F', 'L', 'V', 1, flags, 0, 0, 0, 9, 0, 0, 0, 0}); err != nil {
		return nil, fmt.Errorf("writing the FLV header: %w", err)
	}
	return &FLVWriter{w: w}, nil
}

// WriteMessage appends an audio, video or data message; others are left out.
func (f *FLVWriter) WriteMessage(m Message) error {
	body := m.Body
	switch m.Type {
	case TypeAudio, TypeVideo:
	case TypeData:
		// A file holds onMetaData alone, without the command to the server.
		prefix := marshalAMF("@setDataFrame")
		if len(body) > len(prefix) && string(body[:len(prefix)]) == string(prefix) {
			body = body[len(prefix):]
		}
	default:
		return nil
	}
	n, ts := len(body), m.TimestampMS
	if n > 1<<24-1 {
		return fmt.Errorf("message of %d bytes does not fit FLV", n)
	}
	b := f.buf[:0]
	b = append(b, byte(m.Type), byte(n>>16), byte(n>>8), byte(n), byte(ts>>16), byte(ts>>8), byte(ts), byte(ts>>24), 0, 0, 0)
	b = append(b, body...)
	f.buf = binary.BigEndian.AppendUint32(b, uint32(n)+11)
	if _, err := f.w.Write(f.buf); err != nil {
		return fmt.Errorf("writing FLV: %w", err)
	}
	return nil
}
