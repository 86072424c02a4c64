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

// A socket is a TCP connection that notices when its peer takes nothing any more,
// and knows how old the bytes are that wait in the kernel.
//
// Write and Read belong to one goroutine each; stats, abort and interrupt to any.
type socket struct {
	*net.TCPConn
	out         *quickio.Writer
	timeout     time.Duration // bytes of which the peer acknowledges none for so long are stalled
	aborted     atomic.Bool
	interrupted atomic.Bool
	written     atomic.Uint64

	// Of the reading goroutine:
	acked uint64    // when last looked
	moved time.Time // when it rose, or nothing waited

	mu    sync.Mutex // guards the fields below
	marks []mark     // of bytes handed to the kernel, by rising offset
}

// errStalled says that the peer takes nothing.
var errStalled = errors.New("the server takes no data")

// stallCheck is how often the reading side looks whether the peer still takes what
// is sent.
const stallCheck = 250 * time.Millisecond

// Read implements [net.Conn]. While it waits it watches what was written: of a
// stalled peer it returns errStalled, on systems whose kernel tells.
func (s *socket) Read(b []byte) (int, error) {
	check := min(stallCheck, s.timeout/4)
	for {
		_ = s.SetReadDeadline(time.Now().Add(check)) // fails on a closed socket, as the read will
		if s.interrupted.Load() {
			_ = s.SetReadDeadline(time.Unix(1, 0))
		}
		n, err := s.TCPConn.Read(b)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || s.interrupted.Load() {
			return n, err
		}
		if s.stalled(s.timeout - check) {
			return 0, errStalled
		}
	}
}

// stalled reports whether bytes wait of which the peer has acknowledged none for so
// long.
func (s *socket) stalled(limit time.Duration) bool {
	st, now := s.stats(), time.Now()
	if !st.Kernel || st.Unacked == 0 || st.Acked != s.acked || s.moved.IsZero() {
		s.acked, s.moved = st.Acked, now
		return false
	}
	return now.Sub(s.moved) >= limit
}

// interrupt makes the read under way, and all to come, fail at once.
func (s *socket) interrupt() {
	s.interrupted.Store(true)
	_ = s.SetReadDeadline(time.Unix(1, 0))
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

// ages returns how long ago the first bytes after the offsets acked and sent were
// handed over, and forgets what is acknowledged.
func (s *socket) ages(acked, sent uint64, now time.Time) (unacked, unsent time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := 0
	for i < len(s.marks) && s.marks[i].offset <= acked {
		i++
	}
	s.marks = append(s.marks[:0], s.marks[i:]...)
	for i, m := range s.marks {
		if i == 0 {
			unacked = now.Sub(m.at)
		}
		if m.offset > sent {
			return unacked, now.Sub(m.at)
		}
	}
	return unacked, 0
}

// SocketStats are what is known of a connection. Without Kernel, which is so on
// systems other than Linux, that is Written alone, and zero is unknown.
type SocketStats struct {
	Kernel bool
	// Written counts the bytes handed to the kernel, Acked those that the peer's
	// kernel has acknowledged, both with all framing and TLS.
	Written, Acked uint64
	// Unsent counts the bytes that wait in our kernel for the peer or the network
	// to take them; UnsentAge is how long the oldest of them has waited.
	Unsent    uint64
	UnsentAge time.Duration
	// Unacked counts the bytes that the peer has not acknowledged, the unsent ones
	// among them; UnackedAge is how long ago the oldest of them was written.
	Unacked    uint64
	UnackedAge time.Duration
	// RTT is smoothed, MinRTT the least that was seen.
	RTT, MinRTT time.Duration
	// Retransmits counts segments that were sent again.
	Retransmits uint64
	// DeliveryBPS is the rate in bits per second at which the peer takes bytes. It
	// is known only while bytes wait for the peer: otherwise it shows our rate,
	// not the peer's.
	DeliveryBPS uint64
}
