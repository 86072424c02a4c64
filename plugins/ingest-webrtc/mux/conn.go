package mux

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// maxQueuedBytes is what of one session may wait to be read: a second of 4 Mb/s. The
// reader does nothing but pass it on; what is longer behind is of no use to live
// media, and the publisher is asked for it again.
const maxQueuedBytes = 512 << 10

// keptBytes is how large a buffer may be that is kept for the next packets.
const keptBytes = 16 << 10

// A channel is what comes for one session.
type channel struct {
	mux     *Mux
	ufrag   string
	dropped *atomic.Uint64
	peers   []netip.AddrPort // guarded by the mux's mutex

	mu    sync.Mutex // guards the fields below
	ready sync.Cond  // something waits to be read, or a connection is closed
	conns int        // open
	ended bool
	in    queue // what is written to
	out   queue // what is read from, before in
}

func newChannel(m *Mux, ufrag string, dropped *atomic.Uint64) *channel {
	c := &channel{mux: m, ufrag: ufrag, dropped: dropped}
	c.ready.L = &c.mu
	return c
}

// A queue is packets that wait, their bytes one behind the other.
type queue struct {
	bytes   []byte
	packets []packet
	read    int // bytes and packets that were taken out
	taken   int
}

type packet struct {
	size int
	from netip.AddrPort
}

func (q *queue) empty() bool { return q.taken == len(q.packets) }

func (q *queue) waiting() int { return len(q.bytes) - q.read }

func (q *queue) push(b []byte, from netip.AddrPort) {
	q.bytes = append(q.bytes, b...)
	q.packets = append(q.packets, packet{len(b), from})
}

// pop copies the first packet to b; what does not fit is lost.
func (q *queue) pop(b []byte) (int, netip.AddrPort) {
	p := q.packets[q.taken]
	n := copy(b, q.bytes[q.read:q.read+p.size])
	q.taken++
	q.read += p.size
	return n, p.from
}

// reset makes an empty queue ready to be filled.
func (q *queue) reset() {
	if cap(q.bytes) > keptBytes {
		*q = queue{}
		return
	}
	*q = queue{bytes: q.bytes[:0], packets: q.packets[:0]}
}

// push takes in a packet, or drops it if too much waits already.
func (c *channel) push(b []byte, from netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
	case c.in.waiting()+c.out.waiting()+len(b) > maxQueuedBytes:
		c.dropped.Add(1)
	default:
		c.in.push(b, from)
		c.ready.Signal()
	}
}

// open returns one more connection.
func (c *channel) open() *Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns++
	return &Conn{channel: c}
}

// end ends all connections.
func (c *channel) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.in, c.out = queue{}, queue{}
	c.ready.Broadcast()
}

// A Conn is a session's part of the socket. It implements [net.PacketConn]; its
// deadlines do nothing, Close ends calls that wait. Its methods are safe for concurrent
// use.
type Conn struct {
	channel *channel
	closed  bool // guarded by channel.mu
}

// ReadFromAddrPort waits for a packet, copies it to b and returns where it came from.
func (c *Conn) ReadFromAddrPort(b []byte) (int, netip.AddrPort, error) {
	ch := c.channel
	ch.mu.Lock()
	defer ch.mu.Unlock()
	for {
		switch {
		case c.closed || ch.ended:
			ch.ready.Signal() // who woke this one meant anyone
			return 0, netip.AddrPort{}, net.ErrClosed
		case !ch.out.empty():
			n, from := ch.out.pop(b)
			return n, from, nil
		case !ch.in.empty():
			ch.out.reset()
			ch.in, ch.out = ch.out, ch.in
		default:
			ch.ready.Wait()
		}
	}
}

// ReadFrom implements [net.PacketConn].
func (c *Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromAddrPort(b)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteToAddrPort sends b as one packet. What comes from there from now on is for the
// session.
func (c *Conn) WriteToAddrPort(b []byte, to netip.AddrPort) (int, error) {
	c.channel.mu.Lock()
	over := c.closed || c.channel.ended
	c.channel.mu.Unlock()
	if over {
		return 0, io.ErrClosedPipe
	}
	c.channel.mux.answers(c.channel, canonical(to))
	return c.channel.mux.socket.WriteToAddrPort(b, to)
}

// WriteTo implements [net.PacketConn].
func (c *Conn) WriteTo(b []byte, to net.Addr) (int, error) {
	a, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, &net.AddrError{Err: "no address of UDP", Addr: to.String()}
	}
	return c.WriteToAddrPort(b, a.AddrPort())
}

// Close implements [net.PacketConn].
func (c *Conn) Close() error {
	ch := c.channel
	ch.mu.Lock()
	last := false
	if !c.closed {
		c.closed = true
		ch.conns--
		last = ch.conns == 0
		ch.ready.Broadcast()
	}
	ch.mu.Unlock()
	if last {
		ch.mux.release(ch)
	}
	return nil
}

// release forgets c unless a connection was opened meanwhile.
func (m *Mux) release(c *channel) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.mu.Lock()
	unused := c.conns == 0
	c.mu.Unlock()
	if unused {
		c.end()
		m.forget(c)
	}
}

// LocalAddr implements [net.PacketConn].
func (c *Conn) LocalAddr() net.Addr { return c.channel.mux.socket.LocalAddr() }

// SetDeadline implements [net.PacketConn].
func (*Conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements [net.PacketConn].
func (*Conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements [net.PacketConn].
func (*Conn) SetWriteDeadline(time.Time) error { return nil }
