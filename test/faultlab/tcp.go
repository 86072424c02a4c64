package faultlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A TCP relays connections to a target and reads what comes at a pace of its own:
// the peer that cannot keep up. Its receive buffer is small and fixed, so that what
// it has not read waits at the sender and not in its kernel. What the target says
// goes back unhindered.
type TCP struct {
	listener net.Listener
	target   string
	rate     atomic.Int64 // bytes per second; 0 for no limit
	stalled  atomic.Int64 // nanoseconds, see Stalled
	wg       sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	conns  map[net.Conn]bool
	closed bool
	marks  []Mark
}

// A Mark is how far a relayed connection was at a moment: how many bytes had been
// read, and how many had arrived in the kernel, which is what the sender sees
// acknowledged.
type Mark struct {
	At            time.Time
	Read, Arrived int64
}

// Marks are those of the newest connection, one for each read.
func (p *TCP) Marks() []Mark {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.marks)
}

func (p *TCP) mark(m Mark) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.marks = append(p.marks, m)
}

// ethernet is what fits one packet there.
const ethernet = 1448

// NewTCP listens on the loopback. buffer is the size of the receive buffer that is
// asked for.
func NewTCP(target string, bytesPerSecond, buffer int) (*TCP, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			// Connections inherit both. The loopback's own segments of 64 KB would not fit
			// the buffer, and wait for timers instead.
			err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, buffer),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, ethernet))
		}), err)
	}}
	l, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the relay: %w", err)
	}
	p := &TCP{listener: l, target: target, conns: make(map[net.Conn]bool)}
	p.SetRate(bytesPerSecond)
	p.wg.Go(p.accept)
	return p, nil
}

// Stalled is the longest time for which the machine kept it from reading at its pace
// what was there.
func (p *TCP) Stalled() time.Duration { return time.Duration(p.stalled.Load()) }

// Addr is where it listens.
func (p *TCP) Addr() string { return p.listener.Addr().String() }

// SetRate changes the pace; 0 lifts it.
func (p *TCP) SetRate(bytesPerSecond int) { p.rate.Store(int64(bytesPerSecond)) }

// Close ends the relay and its connections.
func (p *TCP) Close() error {
	err := p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
	return err
}

// keep reports whether c may be used, and closes it with the relay.
func (p *TCP) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *TCP) drop(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *TCP) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		if !p.keep(c) {
			return
		}
		p.wg.Go(func() { p.relay(c) })
	}
}

func (p *TCP) relay(from net.Conn) {
	defer p.drop(from)
	to, err := net.Dial("tcp", p.target)
	if err != nil || !p.keep(to) {
		return
	}
	defer p.drop(to)
	var back sync.WaitGroup
	p.mu.Lock()
	p.marks = nil
	p.mu.Unlock()
	back.Go(func() {
		_, _ = io.Copy(from, to)
		_ = from.(*net.TCPConn).CloseWrite()
	})
	p.pace(to, from)
	_ = to.(*net.TCPConn).CloseWrite()
	back.Wait()
}

// pace copies at the rate, in steps of a hundredth of a second. What a busy machine made
// it miss of a second it makes up for, while something waits to be read.
func (p *TCP) pace(to, from net.Conn) {
	const steps = 100
	buf := make([]byte, 64<<10)
	tick := time.NewTicker(time.Second / steps)
	defer tick.Stop()
	waiting := func() (n int) {
		raw, err := from.(*net.TCPConn).SyscallConn()
		if err == nil {
			_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
		}
		return n
	}
	var read int64
	var due float64 // bytes
	counted := time.Now()
	for {
		b := buf
		rate, idle := float64(p.rate.Load()), false
		if rate > 0 {
			<-tick.C
			now := time.Now()
			passed := now.Sub(counted)
			due, counted = min(due+rate*passed.Seconds(), rate), now
			if idle = waiting() == 0; idle {
				due = min(due, rate/steps)
			} else {
				p.stalled.Store(max(p.stalled.Load(), int64(passed-time.Second/steps)))
			}
			b = buf[:min(len(buf), max(1, int(due)))]
		}
		n, err := from.Read(b)
		due -= float64(n)
		if idle || rate == 0 {
			due, counted = 0, time.Now()
		}
		if n > 0 {
			read += int64(n)
			p.mark(Mark{time.Now(), read, read + int64(waiting())})
			if _, werr := to.Write(b[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
