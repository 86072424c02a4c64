package rtmp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// ChunkSize is the size of the chunks that we send: a picture of the usual live
// rates is one chunk, and so two pieces for writev instead of nine at the 4096
// bytes of OBS. Measured for a picture of 12.5 KB without a kernel: 0.09 us
// against 0.27, and the server has fewer headers to parse. Servers are used to
// it: MediaMTX publishes with the same. FFmpeg leaves it at 128.
const ChunkSize = 65536

// Limits of what one connection can make us hold.
const (
	defaultChunkSize  = 128
	maxChunkStreams   = 64
	maxControlBytes   = 64
	defaultMaxMessage = 8 << 20
	firstAllocation   = 64 << 10
	extendedTimestamp = 0xFFFFFF
)

// A protocolError says that the peer broke the protocol beyond recovery.
type protocolError struct{ text string }

func (e *protocolError) Error() string { return e.text }

func protocolErrorf(format string, args ...any) error {
	return &protocolError{fmt.Sprintf(format, args...)}
}

// A chunkStream is what a reader remembers of one chunk stream.
type chunkStream struct {
	timestamp uint32
	delta     uint32
	length    int
	typ       MessageType
	streamID  uint32
	extended  bool   // chunks of type 3 repeat an extended timestamp
	extValue  uint32 // that timestamp or delta
	body      []byte // the message so far; nil between two messages
	started   bool
}

// A chunkReader reads messages. Its error is final. Not safe for concurrent use.
type chunkReader struct {
	br         *bufio.Reader
	size       int
	maxMessage int
	streams    map[uint32]*chunkStream
	partial    int // declared bytes of unfinished messages

	read    uint64 // bytes of chunks so far
	window  uint32 // acknowledge after so many; 0 until the peer asks
	acked   uint64
	onAck   func(total uint32) error
	scratch [11]byte

	// extendedFaults counts type 3 chunks whose extended timestamp was missing or
	// wrong.
	extendedFaults uint64
}

func newChunkReader(br *bufio.Reader, maxMessage int) *chunkReader {
	return &chunkReader{br: br, size: defaultChunkSize, maxMessage: maxMessage, streams: make(map[uint32]*chunkStream)}
}

// next returns the next message. Messages of the chunk layer itself (chunk size,
// abort, window) are obeyed and returned too.
func (r *chunkReader) next() (Message, error) {
	for {
		m, done, err := r.chunk()
		if err != nil {
			return Message{}, err
		}
		if err := r.acknowledge(); err != nil {
			return Message{}, err
		}
		if !done {
			continue
		}
		if err := r.obey(m); err != nil {
			return Message{}, err
		}
		return m, nil
	}
}

func (r *chunkReader) acknowledge() error {
	if r.window == 0 || r.onAck == nil || r.read-r.acked < uint64(r.window) {
		return nil
	}
	r.acked = r.read
	return r.onAck(uint32(r.read))
}

func (r *chunkReader) obey(m Message) error {
	switch m.Type {
	case TypeSetChunkSize:
		if len(m.Body) != 4 {
			return protocolErrorf("set chunk size has %d bytes", len(m.Body))
		}
		v := binary.BigEndian.Uint32(m.Body)
		if v == 0 || v > 1<<31-1 {
			return protocolErrorf("chunk size %d is not allowed", v)
		}
		r.size = int(min(v, 1<<24))
	case TypeAbort:
		if len(m.Body) != 4 {
			return protocolErrorf("abort has %d bytes", len(m.Body))
		}
		if s := r.streams[binary.BigEndian.Uint32(m.Body)]; s != nil && s.body != nil {
			r.partial -= s.length
			s.body = nil
		}
	case TypeWindowAckSize:
		if len(m.Body) != 4 {
			return protocolErrorf("window size has %d bytes", len(m.Body))
		}
		// A tiny window would have us send an acknowledgement per chunk.
		if v := binary.BigEndian.Uint32(m.Body); v > 0 {
			r.window = max(v, 4096)
		}
	}
	return nil
}

// chunk reads one chunk. done says that it completed m.
func (r *chunkReader) chunk() (m Message, done bool, err error) {
	first, err := r.br.ReadByte()
	if err != nil {
		return Message{}, false, err
	}
	r.read++
	format := first >> 6
	id := uint32(first & 0x3F)
	switch id {
	case 0:
		b, err := r.bytes(1)
		if err != nil {
			return Message{}, false, err
		}
		id = 64 + uint32(b[0])
	case 1:
		b, err := r.bytes(2)
		if err != nil {
			return Message{}, false, err
		}
		id = 64 + uint32(b[0]) + uint32(b[1])<<8
	}
	s := r.streams[id]
	if s == nil {
		if len(r.streams) >= maxChunkStreams {
			return Message{}, false, protocolErrorf("more than %d chunk streams", maxChunkStreams)
		}
		s = &chunkStream{}
		r.streams[id] = s
	}
	if err := r.header(s, format, id); err != nil {
		return Message{}, false, err
	}
	if s.body == nil {
		if err := r.begin(s); err != nil {
			return Message{}, false, err
		}
	}
	if err := r.payload(s, min(r.size, s.length-len(s.body))); err != nil {
		return Message{}, false, err
	}
	if len(s.body) < s.length {
		return Message{}, false, nil
	}
	m = Message{Type: s.typ, TimestampMS: s.timestamp, StreamID: s.streamID, ChunkStream: id, Body: s.body}
	r.partial -= s.length
	s.body = nil
	return m, true, nil
}

// header reads the rest of a chunk header into s.
func (r *chunkReader) header(s *chunkStream, format byte, id uint32) error {
	if format == 3 {
		return r.continuation(s, id)
	}
	if s.body != nil {
		return protocolErrorf("chunk stream %d begins a message inside another", id)
	}
	// librtmp begins the chunk stream of its pongs and acknowledgements with type 1. The
	// stream is 0 then, and the time counts from 0.
	if format > 1 && !s.started {
		return protocolErrorf("chunk stream %d begins with a chunk of type %d", id, format)
	}
	n := [...]int{11, 7, 3}[format]
	b, err := r.bytes(n)
	if err != nil {
		return err
	}
	field := uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2])
	if n >= 7 {
		s.length = int(b[3])<<16 | int(b[4])<<8 | int(b[5])
		s.typ = MessageType(b[6])
	}
	if n == 11 {
		s.streamID = binary.LittleEndian.Uint32(b[7:])
	}
	s.started = true
	if s.extended = field == extendedTimestamp; s.extended {
		if b, err = r.bytes(4); err != nil {
			return err
		}
		field = binary.BigEndian.Uint32(b)
		s.extValue = field
	}
	if format == 0 {
		s.timestamp, s.delta = field, 0
	} else {
		s.timestamp += field
		s.delta = field
	}
	return nil
}

// continuation deals with a chunk of type 3: the next piece of a message, or a
// new message like the one before it.
func (r *chunkReader) continuation(s *chunkStream, id uint32) error {
	if !s.started {
		return protocolErrorf("chunk stream %d begins with a chunk of type 3", id)
	}
	if s.body == nil {
		s.timestamp += s.delta
	}
	if !s.extended {
		return nil
	}
	// The extended timestamp is repeated here. Some senders write zeros, old ones
	// leave it out: then the four bytes are payload.
	b, err := r.br.Peek(4)
	if err != nil {
		return unexpected(err)
	}
	switch v := binary.BigEndian.Uint32(b); v {
	case s.extValue:
	case 0:
		r.extendedFaults++
	default:
		r.extendedFaults++
		return nil
	}
	_, err = r.bytes(4)
	return err
}

// begin checks the message that s announces and makes room for it.
func (r *chunkReader) begin(s *chunkStream) error {
	limit := r.maxMessage
	switch s.typ {
	case TypeAudio, TypeVideo:
	case TypeCommand, TypeCommandAMF3, TypeData, TypeDataAMF3:
		limit = min(limit, maxAMFBytes)
	case TypeSetChunkSize, TypeAbort, TypeAcknowledgement, TypeUserControl, TypeWindowAckSize, TypeSetPeerBandwidth:
		limit = maxControlBytes
	}
	if s.length > limit {
		return protocolErrorf("message of type %d announces %d bytes, more than %d", s.typ, s.length, limit)
	}
	if most := r.maxMessage + r.maxMessage/8; r.partial+s.length > most {
		return protocolErrorf("unfinished messages announce more than %d bytes", most)
	}
	r.partial += s.length
	// What is announced is not yet sent: the body grows with what arrives.
	s.body = make([]byte, 0, min(s.length, firstAllocation))
	return nil
}

// payload appends n bytes to the message of s.
func (r *chunkReader) payload(s *chunkStream, n int) error {
	for n > 0 {
		have := len(s.body)
		if have == cap(s.body) {
			grown := make([]byte, have, min(s.length, 4*have))
			copy(grown, s.body)
			s.body = grown
		}
		part := min(n, cap(s.body)-have)
		s.body = s.body[:have+part]
		if _, err := io.ReadFull(r.br, s.body[have:]); err != nil {
			return unexpected(err)
		}
		r.read += uint64(part)
		n -= part
	}
	return nil
}

// bytes reads n <= 11 bytes, valid until the next call.
func (r *chunkReader) bytes(n int) ([]byte, error) {
	b := r.scratch[:n]
	if _, err := io.ReadFull(r.br, b); err != nil {
		return nil, unexpected(err)
	}
	r.read += uint64(n)
	return b, nil
}

// unexpected turns an end between two bytes of one thing into what it is.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// smallMessage is the size up to which a message is copied into one buffer:
// cheaper than a writev of several pieces.
const smallMessage = 4096

// tlsPiece is how much of a message is handed to TLS at once: four records.
const tlsPiece = 64 << 10

// A vectorWriter writes pieces at once, consuming them. It must reach a bare
// *net.TCPConn: any wrapper would turn the writev into one system call per piece.
type vectorWriter interface {
	writeBuffers(v *net.Buffers) error
}

// A chunkWriter writes messages as chunks. Not safe for concurrent use.
type chunkWriter struct {
	// w takes whole messages; vector, if set, takes the big ones in pieces, by
	// writev, uncopied.
	w      io.Writer
	vector vectorWriter
	size   int

	header []byte      // all header bytes of one message; never grows while pieces point into it
	pieces net.Buffers // of one message
	work   net.Buffers // what WriteTo consumes
	flat   []byte
}

func newChunkWriter(w io.Writer, vector vectorWriter) *chunkWriter {
	return &chunkWriter{w: w, vector: vector, size: defaultChunkSize}
}

// write sends one message whose body is head followed by payload. Neither is
// changed or kept.
func (c *chunkWriter) write(chunkStream byte, typ MessageType, streamID, timestampMS uint32, head, payload []byte) error {
	length := len(head) + len(payload)
	if length > 1<<24-1 {
		return fmt.Errorf("message of %d bytes does not fit RTMP", length)
	}
	chunks := max(1, (length+c.size-1)/c.size)
	if need := 16 + len(head) + (chunks-1)*5; cap(c.header) < need {
		c.header = make([]byte, 0, 2*need)
	}
	extended := timestampMS >= extendedTimestamp
	h := c.start(chunkStream, typ, streamID, timestampMS, length)
	if length <= min(smallMessage, c.size) {
		c.flat = append(append(append(c.flat[:0], h...), head...), payload...)
		_, err := c.w.Write(c.flat)
		return err
	}

	// head always fits the first chunk: it is at most 16 bytes.
	h = append(h, head...)
	c.pieces = append(c.pieces[:0], h)
	mark, room := len(h), c.size-len(head)
	for {
		n := min(room, len(payload))
		c.pieces = append(c.pieces, payload[:n])
		if payload = payload[n:]; len(payload) == 0 {
			break
		}
		h = append(h, 0xC0|chunkStream)
		if extended {
			h = binary.BigEndian.AppendUint32(h, timestampMS)
		}
		c.pieces = append(c.pieces, h[mark:])
		mark, room = len(h), c.size
	}
	if c.vector != nil {
		c.work = c.pieces
		return c.vector.writeBuffers(&c.work)
	}
	return c.writeFlat()
}

// start encodes a chunk header of type 0 into the arena.
func (c *chunkWriter) start(chunkStream byte, typ MessageType, streamID, timestampMS uint32, length int) []byte {
	field := min(timestampMS, extendedTimestamp)
	h := c.header[:0]
	h = append(h, chunkStream, byte(field>>16), byte(field>>8), byte(field),
		byte(length>>16), byte(length>>8), byte(length), byte(typ))
	h = binary.LittleEndian.AppendUint32(h, streamID)
	if field == extendedTimestamp {
		h = binary.BigEndian.AppendUint32(h, timestampMS)
	}
	return h
}

// writeFlat copies the pieces together and writes them: through TLS every Write
// is at least one record.
func (c *chunkWriter) writeFlat() error {
	c.flat = c.flat[:0]
	for _, p := range c.pieces {
		for len(p) > 0 {
			n := min(len(p), tlsPiece-len(c.flat))
			c.flat = append(c.flat, p[:n]...)
			p = p[n:]
			if len(c.flat) == tlsPiece {
				if _, err := c.w.Write(c.flat); err != nil {
					return err
				}
				c.flat = c.flat[:0]
			}
		}
	}
	if len(c.flat) == 0 {
		return nil
	}
	_, err := c.w.Write(c.flat)
	return err
}

// setChunkSize announces size and uses it from then on.
func (c *chunkWriter) setChunkSize(size int) error {
	err := c.write(chunkStreamControl, TypeSetChunkSize, 0, 0, nil, binary.BigEndian.AppendUint32(nil, uint32(size)))
	c.size = size
	return err
}

// control sends a control message whose body is values, 32 bits each.
func (c *chunkWriter) control(typ MessageType, values ...uint32) error {
	var b []byte
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return c.write(chunkStreamControl, typ, 0, 0, nil, b)
}

// userControl sends a user control event.
func (c *chunkWriter) userControl(event uint16, value uint32) error {
	b := binary.BigEndian.AppendUint16(nil, event)
	return c.write(chunkStreamControl, TypeUserControl, 0, 0, nil, binary.BigEndian.AppendUint32(b, value))
}

// command sends a command message.
func (c *chunkWriter) command(chunkStream byte, streamID uint32, name string, id float64, args ...any) error {
	return c.write(chunkStream, TypeCommand, streamID, 0, nil, marshalAMF(append([]any{name, id}, args...)...))
}
