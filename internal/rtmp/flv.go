package rtmp

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Codec ids of FLV.
const (
	flvAVC = 7
	flvAAC = 10
)

// tagHead is the longest head of a tag: the two bytes of a multitrack message, the
// FourCC, the track and a composition time.
const tagHead = 10

// A Tag is the body of one audio, video or data message: what FLV calls the data
// of a tag. It has no timestamp, is immutable, and may be written to any number
// of connections at once: the sinks of one stream share it.
type Tag struct {
	typ     MessageType
	head    [tagHead]byte
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
