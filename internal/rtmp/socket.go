package rtmp

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/gateway/sdk/quickio"
)

// A socket is a TCP connection that bounds how long a write may make no progress
// and knows how old the bytes are that the kernel has not sent yet.
//
// Write belongs to one goroutine at a time; stats and abort to any.
type socket struct {
	*net.TCPConn
	out     *quickio.Writer
	timeout time.Duration // a write during which no byte moves for so long has failed
	aborted atomic.Bool
	written atomic.Uint64

	mu    sync.Mutex // guards the fields below
	marks []mark     // of bytes handed to the kernel, by rising offset
}

// A mark says when the bytes before offset, and after the mark before it, were
// handed to the kernel.
type mark struct {
	offset uint64
	at     time.Time
}

func newSocket(c *net.TCPConn, timeout time.Duration) *socket {
	return &socket{TCPConn: c, out: quickio.NewWriter(c), timeout: timeout}
}

// Marks closer than markSpacing are one, and there are at most maxMarks: ten
// seconds' worth.
const (
	markSpacing = 20 * time.Millisecond
	maxMarks    = 512
)

// Write implements [net.Conn] and so serves TLS too: a tls.Conn is broken once a
// write to it has timed out, so what is slow but moves must be waited for here.
func (s *socket) Write(b []byte) (int, error) {
	s.note(len(b))
	var p progress
	total := 0
	for {
		s.arm()
		n, err := s.out.Write(b[total:])
		total += n
		s.written.Add(uint64(n))
		if err == nil || !s.moving(&p, n, err) {
			return total, err
		}
	}
}

// writeBuffers is Write for pieces, by writev. It consumes v.
func (s *socket) writeBuffers(v *net.Buffers) error {
	n := 0
	for _, b := range *v {
		n += len(b)
	}
	s.note(n)
	var p progress
	for {
		s.arm()
		n, err := s.out.WriteBuffers(v)
		s.written.Add(uint64(n))
		if err == nil || !s.moving(&p, int(n), err) {
			return err
		}
	}
}

// A progress is what was known of a write when it last woke up.
type progress struct {
	known bool
	acked uint64
}

// arm gives the next system call half of the timeout: two of them without
// progress are one too many.
func (s *socket) arm() {
	_ = s.SetWriteDeadline(time.Now().Add(s.timeout / 2)) // fails on a closed socket, as the write will
	if s.aborted.Load() {
		_ = s.SetWriteDeadline(time.Unix(1, 0))
	}
}

// moving reports whether a write that ended with err may go on. The kernel takes
// new bytes in large steps: when it took none, what counts is whether the peer
// has acknowledged any.
func (s *socket) moving(p *progress, n int, err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) || s.aborted.Load() {
		return false
	}
	if n > 0 {
		*p = progress{}
		return true
	}
	acked := s.stats().Acked
	if p.known && acked == p.acked {
		return false
	}
	*p = progress{true, acked}
	return true
}

// abort makes the write under way, and all to come, fail at once.
func (s *socket) abort() {
	s.aborted.Store(true)
	_ = s.SetWriteDeadline(time.Unix(1, 0))
}

// note marks n bytes that are about to be written.
func (s *socket) note(n int) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	end := s.written.Load() + uint64(n)
	if last := len(s.marks) - 1; last >= 0 && (now.Sub(s.marks[last].at) < markSpacing || len(s.marks) == maxMarks) {
		s.marks[last].offset = end
		return
	}
	s.marks = append(s.marks, mark{end, now})
}

// age returns how long ago the first byte after offset sent was handed over, and
// forgets what is before it.
func (s *socket) age(sent uint64, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := 0
	for i < len(s.marks) && s.marks[i].offset <= sent {
		i++
	}
	s.marks = append(s.marks[:0], s.marks[i:]...)
	if len(s.marks) == 0 {
		return 0
	}
	return now.Sub(s.marks[0].at)
}

// SocketStats are what the kernel knows of a connection. Zero is unknown.
type SocketStats struct {
	// Written counts the bytes handed to the kernel, Acked those that the peer's
	// kernel has acknowledged, both with all framing and TLS.
	Written, Acked uint64
	// Unsent counts the bytes that wait in our kernel for the peer or the network
	// to take them; UnsentAge is how long the oldest of them has waited.
	Unsent    uint64
	UnsentAge time.Duration
	RTT       time.Duration
	// DeliveryBPS is the rate in bits per second at which the peer takes bytes. It
	// is known only while bytes wait for the peer: otherwise it shows our rate,
	// not the peer's.
	DeliveryBPS uint64
}
