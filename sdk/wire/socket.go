package wire

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/headgate/gateway/sdk/quickio"
)

// CapabilitySocket is the capability of a gateway that can go on over a socket of the
// plugin's ([HelloAck] attach_socket) with what an Attach stream carries.
const CapabilitySocket = "attach_socket"

// A Stream carries the messages of an Attach, in order: the gRPC stream itself, or a
// [Socket]. One goroutine sends and one receives. SendMsg fails with [io.EOF] when the
// stream is broken, and RecvMsg says why.
type Stream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

// A Socket is a [Stream] over a connection within the machine. It takes and returns
// what a stream with [Codec] does, and its errors are gRPC statuses as well. Make it
// with [NewSocket].
//
// One call of the kernel writes a message from where its payloads lie, and one reads as
// much as is there: nothing is framed, copied and handed from goroutine to goroutine
// on the way, which is most of what gRPC costs.
type Socket struct {
	conn  net.Conn // quick
	out   *quickio.Writer
	codec encoding.CodecV2

	head   [lengthBytes]byte // the sending goroutine's, as are the next two
	vector net.Buffers
	arena  []byte // what is not payload; kept for its memory

	in       []byte // the receiving goroutine's, as are its bounds
	from, to int    // of what was read and not yet returned
}

// lengthBytes is the length before each message.
const lengthBytes = 4

// Sizes of what a socket reads into: little for a plugin at rest, and room for two
// batches. Larger messages get what they need while they last.
const (
	minReadBytes = 16 << 10
	maxReadBytes = 512 << 10
)

// NewSocket returns the stream over c. It closes c when it is closed.
func NewSocket(c net.Conn) *Socket {
	return &Socket{conn: quickio.Conn(c), out: quickio.NewWriter(c), codec: Codec(), in: make([]byte, minReadBytes)}
}

// Close ends the stream, also for who sends or receives just now. What was sent
// arrives nevertheless.
func (s *Socket) Close() error { return s.conn.Close() }

// CloseAfter ends the stream once d has passed, so that what is still on its way arrives.
func (s *Socket) CloseAfter(d time.Duration) { _ = s.conn.SetDeadline(time.Now().Add(d)) } // it is closed already then

// SendMsg implements [Stream]. It keeps nothing of m.
func (s *Socket) SendMsg(m any) error {
	s.vector = append(s.vector[:0], s.head[:])
	defer func() { clear(s.vector) }() // payloads
	switch m := m.(type) {
	case *HostUnits:
		s.vector, s.arena = m.appendPieces(s.vector, s.arena, hostMedia)
	case *PluginUnits:
		s.vector, s.arena = m.appendPieces(s.vector, s.arena, pluginMedia)
	default:
		data, err := s.codec.Marshal(m)
		if err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		defer data.Free()
		for _, b := range data {
			s.vector = append(s.vector, b.ReadOnlyData())
		}
	}
	n := -lengthBytes
	for _, piece := range s.vector {
		n += len(piece)
	}
	if n > maxFrameBytes {
		return status.Errorf(codes.ResourceExhausted, "a message of %d bytes", n)
	}
	binary.BigEndian.PutUint32(s.head[:], uint32(n))
	rest := s.vector
	if _, err := s.out.WriteBuffers(&rest); err != nil {
		return io.EOF
	}
	return nil
}

// RecvMsg implements [Stream]. It keeps nothing of what it read.
func (s *Socket) RecvMsg(m any) error {
	if err := s.await(lengthBytes); err != nil {
		if errors.Is(err, io.EOF) && s.from == s.to {
			return io.EOF
		}
		return broken(err)
	}
	n := binary.BigEndian.Uint32(s.in[s.from:])
	if n > maxFrameBytes {
		return status.Errorf(codes.ResourceExhausted, "a message of %d bytes", n)
	}
	s.from += lengthBytes
	if err := s.await(int(n)); err != nil {
		return broken(err)
	}
	data := mem.BufferSlice{mem.SliceBuffer(s.in[s.from : s.from+int(n)])}
	s.from += int(n)
	if err := s.codec.Unmarshal(data, m); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

// broken is the end of the connection as gRPC tells it.
func broken(err error) error { return status.Error(codes.Unavailable, err.Error()) }

// await reads until n bytes are there.
func (s *Socket) await(n int) error {
	if s.from == s.to {
		s.from, s.to = 0, 0
		if n <= maxReadBytes && len(s.in) > maxReadBytes {
			s.in = make([]byte, maxReadBytes)
		}
	}
	for s.to-s.from < n {
		if s.to == len(s.in) {
			s.makeRoom(n)
		}
		k, err := s.conn.Read(s.in[s.to:])
		s.to += k
		if err != nil && s.to-s.from < n {
			return err
		}
	}
	return nil
}

// makeRoom makes room behind what was read, of which n bytes are wanted. The buffer grows
// with what has arrived, not with what a length promises, and is none the larger for
// having held a large message.
func (s *Socket) makeRoom(n int) {
	into := s.in
	switch {
	case n > len(s.in), n > len(s.in)/2 && len(s.in) < maxReadBytes:
		into = make([]byte, 2*len(s.in))
	case n <= maxReadBytes && len(s.in) > maxReadBytes:
		into = make([]byte, max(maxReadBytes, 2*(s.to-s.from)))
	}
	s.to = copy(into, s.in[s.from:s.to])
	s.in, s.from = into, 0
}
