// Package faultlab makes networks bad on purpose, for tests. A [TCP] relay reads as
// slowly as a peer that cannot keep up. A [UDP] proxy stands between two peers on
// loopback and delays, loses, reorders and repeats their datagrams. What it does
// with the n-th datagram of a direction depends on the seed alone, so that a test
// that failed can be run again.
//
// It knows bytes, datagrams and time, and nothing of what is in them.
package faultlab

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// An Impairment is what happens to the datagrams of one direction. The zero value
// passes them on as they are.
type Impairment struct {
	// Delay is added to every datagram; Jitter, between none and all of it, on top.
	// Neither of them changes the order.
	Delay, Jitter time.Duration
	// Loss is the share of datagrams that are lost, from 0 to 1.
	Loss float64
	// Burst is the mean number of datagrams lost in a row; up to 1, losses are
	// independent of each other (Gilbert's model).
	Burst float64
	// Reorder is the share of datagrams that are held back by ReorderBy, so that
	// later ones overtake them. ReorderBy is 10 ms if zero.
	Reorder   float64
	ReorderBy time.Duration
	// Duplicate is the share of datagrams that arrive twice.
	Duplicate float64
	// BitsPerSecond is what the line carries; what comes faster waits in a queue
	// of QueueBytes (64 KiB if zero), and is lost if that is full. Zero: no limit.
	BitsPerSecond int
	QueueBytes    int
	// Drop loses the datagrams for which it returns true, before anything else. It
	// is called from one goroutine and must not keep b.
	Drop func(b []byte) bool
}

// Counts are the datagrams of one direction.
type Counts struct {
	Received, Sent, Lost, Reordered, Duplicated uint64
}

// A UDP is a proxy for datagrams. Each client has a socket of its own towards the
// target, so that the target can tell them apart. Make it with [NewUDP].
type UDP struct {
	front  *net.UDPConn
	target netip.AddrPort

	wg   sync.WaitGroup
	wake chan struct{}
	done chan struct{}

	mu      sync.Mutex // guards the fields below
	closed  bool
	clients map[netip.AddrPort]*net.UDPConn
	dirs    [2]direction
	waiting schedule
	order   uint64
}

// The directions of a proxy.
const (
	up   = iota // from clients to the target
	down        // back
)

type direction struct {
	impairment Impairment
	random     *rand.Rand
	losing     bool      // within a burst
	last       time.Time // when the datagram before it leaves: the order is kept
	free       time.Time // when the line has carried all that waits
	counts     Counts
}

// maxClients bounds the sockets of a proxy.
const maxClients = 256

// NewUDP opens a proxy on a free port of loopback that passes datagrams on to
// target and back. toTarget and back are what happens to them; seed chooses chance.
// Close it.
func NewUDP(target string, toTarget, back Impairment, seed uint64) (*UDP, error) {
	to, err := netip.ParseAddrPort(target)
	if err != nil {
		return nil, fmt.Errorf("target of the proxy: %w", err)
	}
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	enlarge(front)
	p := newUDP(front, toTarget, back, seed)
	p.target = to
	p.wg.Go(p.deliver)
	p.wg.Go(p.receive)
	return p, nil
}

// newUDP makes a proxy that does not run yet.
func newUDP(front *net.UDPConn, toTarget, back Impairment, seed uint64) *UDP {
	p := &UDP{front: front, wake: make(chan struct{}, 1), done: make(chan struct{}), clients: make(map[netip.AddrPort]*net.UDPConn)}
	p.dirs[up] = direction{impairment: toTarget, random: rand.New(rand.NewPCG(seed, up))}
	p.dirs[down] = direction{impairment: back, random: rand.New(rand.NewPCG(seed, down))}
	return p
}

// enlarge asks for room for a burst; what the kernel grants is enough.
func enlarge(c *net.UDPConn) { _ = c.SetReadBuffer(4 << 20) }

// Addr is where clients send to.
func (p *UDP) Addr() *net.UDPAddr { return p.front.LocalAddr().(*net.UDPAddr) }

// Set changes what happens to datagrams from now on. Those on their way stay so.
func (p *UDP) Set(toTarget, back Impairment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dirs[up].impairment, p.dirs[down].impairment = toTarget, back
}

// Counts are the datagrams so far, to the target and back.
func (p *UDP) Counts() (toTarget, back Counts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dirs[up].counts, p.dirs[down].counts
}

// Close ends the proxy; what is on its way is lost.
func (p *UDP) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	close(p.done)
	err := p.front.Close()
	for _, c := range p.clients {
		err = errors.Join(err, c.Close())
	}
	p.mu.Unlock()
	p.wg.Wait()
	return err
}

// Client is the address by which the target knows a client, who need not have sent
// anything yet: what the target sends there goes to him. It is invalid if the proxy has
// ended, or has too many clients.
func (p *UDP) Client(addr netip.AddrPort) netip.AddrPort {
	c := p.client(addr)
	if c == nil {
		return netip.AddrPort{}
	}
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// receive takes the datagrams of the clients.
func (p *UDP) receive() {
	b := make([]byte, 64<<10)
	for {
		n, from, err := p.front.ReadFromUDPAddrPort(b)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			continue // an earlier datagram did not reach a client that is gone
		}
		if to := p.client(from); to != nil {
			p.take(up, b[:n], func(b []byte) { _, _ = to.Write(b) })
		}
	}
}

// client is the socket that stands for a client towards the target; nil if the
// proxy ends.
func (p *UDP) client(from netip.AddrPort) *net.UDPConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.clients[from]; c != nil || p.closed || len(p.clients) == maxClients {
		return c
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(p.target))
	if err != nil {
		return nil
	}
	enlarge(c)
	p.clients[from] = c
	p.wg.Go(func() { p.answer(c, from) })
	return c
}

// answer takes the datagrams of the target for one client.
func (p *UDP) answer(c *net.UDPConn, client netip.AddrPort) {
	b := make([]byte, 64<<10)
	for {
		n, err := c.Read(b)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // the target is not there; it may come back
			select {
			case <-p.done:
				return
			case <-time.After(time.Millisecond):
			}
			continue
		}
		p.take(down, b[:n], func(b []byte) { _, _ = p.front.WriteToUDPAddrPort(b, client) })
	}
}

// take decides about one datagram.
func (p *UDP) take(dir int, b []byte, send func([]byte)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := &p.dirs[dir]
	d.counts.Received++
	now := time.Now()
	i := &d.impairment
	// Chance is drawn for every datagram and everything that can happen to it: what
	// is set of one does not change the others.
	loss, jitter, reorder, duplicate := d.random.Float64(), d.random.Float64(), d.random.Float64(), d.random.Float64()
	if i.Drop != nil && i.Drop(b) || d.lose(loss) || !d.carry(now, len(b)) {
		d.counts.Lost++
		return
	}
	at := now.Add(i.Delay + time.Duration(jitter*float64(i.Jitter)))
	if i.BitsPerSecond > 0 {
		at = at.Add(d.free.Sub(now))
	}
	if at.Before(d.last) {
		at = d.last
	}
	if reorder < i.Reorder {
		by := i.ReorderBy
		if by == 0 {
			by = 10 * time.Millisecond
		}
		at = at.Add(by)
		d.counts.Reordered++
	} else {
		d.last = at
	}
	copied := append([]byte(nil), b...)
	p.put(datagram{at: at, b: copied, send: send, dir: dir})
	if duplicate < i.Duplicate {
		d.counts.Duplicated++
		p.put(datagram{at: at, b: copied, send: send, dir: dir})
	}
}

// lose draws whether a datagram is lost.
func (d *direction) lose(chance float64) bool {
	i := d.impairment
	if i.Burst <= 1 {
		return chance < i.Loss
	}
	// In the bad state everything is lost; it ends with probability 1/Burst, and
	// begins so often that the share of losses is what was asked for.
	if d.losing {
		d.losing = chance >= 1/i.Burst
	} else {
		d.losing = i.Loss < 1 && chance < i.Loss/(1-i.Loss)/i.Burst || i.Loss >= 1
	}
	return d.losing
}

// carry puts n bytes on the line; false if its queue is full.
func (d *direction) carry(now time.Time, n int) bool {
	i := d.impairment
	if i.BitsPerSecond <= 0 {
		return true
	}
	queue := i.QueueBytes
	if queue == 0 {
		queue = 64 << 10
	}
	if d.free.Before(now) {
		d.free = now
	}
	if d.free.Sub(now) > time.Duration(queue)*8*time.Second/time.Duration(i.BitsPerSecond) {
		return false
	}
	d.free = d.free.Add(time.Duration(n) * 8 * time.Second / time.Duration(i.BitsPerSecond))
	return true
}

func (p *UDP) put(g datagram) {
	p.order++
	g.order = p.order
	heap.Push(&p.waiting, g)
	if p.waiting[0].order == g.order {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// deliver sends each datagram when it is due.
func (p *UDP) deliver() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		p.mu.Lock()
		var due []datagram
		now := time.Now()
		for len(p.waiting) > 0 && !p.waiting[0].at.After(now) {
			g := heap.Pop(&p.waiting).(datagram)
			p.dirs[g.dir].counts.Sent++
			due = append(due, g)
		}
		next := time.Hour
		if len(p.waiting) > 0 {
			next = p.waiting[0].at.Sub(now)
		}
		p.mu.Unlock()
		for _, g := range due {
			g.send(g.b)
		}
		timer.Reset(next)
		select {
		case <-p.done:
			return
		case <-p.wake:
		case <-timer.C:
		}
	}
}

// A datagram waits for its time.
type datagram struct {
	at    time.Time
	order uint64 // among those of the same time
	b     []byte
	send  func([]byte)
	dir   int
}

// schedule is a heap of datagrams, the earliest first.
type schedule []datagram

func (s schedule) Len() int { return len(s) }
func (s schedule) Less(i, j int) bool {
	if s[i].at.Equal(s[j].at) {
		return s[i].order < s[j].order
	}
	return s[i].at.Before(s[j].at)
}
func (s schedule) Swap(i, j int) { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(x any)   { *s = append(*s, x.(datagram)) }
func (s *schedule) Pop() any {
	old := *s
	g := old[len(old)-1]
	old[len(old)-1] = datagram{}
	*s = old[:len(old)-1]
	return g
}
