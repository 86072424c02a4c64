// Package mux shares one UDP socket among the sessions of ICE (RFC 8445): a
// connectivity check goes to the session that it names, other packets to the session
// that has answered their address. What a session does not read in
// time is dropped and counted: no queue grows beyond its bound, however busy the
// machine is. It also asks STUN servers which address the socket has for them.
//
// It knows nothing of candidates, nor of what packets carry.
package mux

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v4"
)

// datagramBytes is the size of the largest packet that is read; a longer one is cut
// and of no use.
const datagramBytes = 2048

// A Socket is what is shared.
type Socket interface {
	net.PacketConn
	ReadFromAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToAddrPort(b []byte, to netip.AddrPort) (int, error)
}

// A Mux reads one socket for all sessions. Its methods are safe for concurrent use.
type Mux struct {
	socket Socket
	log    *slog.Logger

	mu       sync.Mutex // guards the fields below; taken before that of a channel
	closed   bool
	byUfrag  map[string]*channel
	byPeer   map[netip.AddrPort]*channel
	requests map[transaction]*request
}

type transaction = [stun.TransactionIDSize]byte

// New returns a Mux of socket. Run must be called, too.
func New(socket Socket, log *slog.Logger) *Mux {
	return &Mux{
		socket: socket, log: log,
		byUfrag: map[string]*channel{}, byPeer: map[netip.AddrPort]*channel{}, requests: map[transaction]*request{},
	}
}

// Run reads the socket until it is closed.
func (m *Mux) Run() {
	const pause = 100 * time.Millisecond // after what goes wrong: it may again
	buf := make([]byte, datagramBytes)
	for {
		n, from, err := m.socket.ReadFromAddrPort(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			m.log.Warn("reading packets of publishers", "error", err)
			time.Sleep(pause)
		default:
			m.take(buf[:n], from)
		}
	}
}

// take hands a packet to whom it is for.
func (m *Mux) take(b []byte, from netip.AddrPort) {
	if c := m.receiver(b, canonical(from)); c != nil {
		c.push(b, from)
	}
}

func (m *Mux) receiver(b []byte, from netip.AddrPort) *channel {
	m.mu.Lock()
	defer m.mu.Unlock()
	if stun.IsMessage(b) && len(m.requests) > 0 && m.answered(b, from) {
		return nil
	}
	// A check comes first: a publisher may use the port of his session before.
	if c := m.byUfrag[string(checkedUfrag(b))]; c != nil {
		return c
	}
	return m.byPeer[from]
}

// checkedUfrag returns what the user name of a connectivity check begins with: that
// is whom it is for (RFC 8445, 7.2.2). Nil if b is none.
func checkedUfrag(b []byte) []byte {
	if !stun.IsMessage(b) {
		return nil
	}
	msg := stun.Message{Raw: b}
	if msg.Decode() != nil {
		return nil
	}
	name, err := msg.Get(stun.AttrUsername)
	if err != nil {
		return nil
	}
	ufrag, _, _ := bytes.Cut(name, []byte{':'})
	return ufrag
}

// canonical returns a as it is compared.
func canonical(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// Conn returns a connection of the session whose ICE user fragment is ufrag. All that
// are asked for share what comes; what is dropped is added to dropped. The session's
// part of the mux is given back when the last of them is closed.
func (m *Mux) Conn(ufrag string, dropped *atomic.Uint64) (*Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, net.ErrClosed
	}
	c := m.byUfrag[ufrag]
	if c == nil {
		c = newChannel(m, ufrag, dropped)
		m.byUfrag[ufrag] = c
	}
	return c.open(), nil
}

// Remove ends the way of further packets to the session whose ICE user fragment is
// ufrag.
func (m *Mux) Remove(ufrag string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.byUfrag[ufrag]; c != nil {
		m.forget(c)
	}
}

// forget is called with m.mu held.
func (m *Mux) forget(c *channel) {
	if m.byUfrag[c.ufrag] == c {
		delete(m.byUfrag, c.ufrag)
	}
	for _, peer := range c.peers {
		if m.byPeer[peer] == c {
			delete(m.byPeer, peer)
		}
	}
	c.peers = nil
}

// maxPeers is how many addresses of one session are kept: more than a publisher has
// candidates. The first ones make room for others.
const maxPeers = 256

// answers notes that a session has sent to peer: what comes from there is for it.
func (m *Mux) answers(c *channel, peer netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byPeer[peer] == c {
		return
	}
	m.byPeer[peer] = c
	c.peers = append(c.peers, peer)
	if len(c.peers) > maxPeers {
		if m.byPeer[c.peers[0]] == c {
			delete(m.byPeer, c.peers[0])
		}
		c.peers = c.peers[1:]
	}
}

// Close closes the socket, and the connections of sessions that have not been removed.
func (m *Mux) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for _, c := range m.byUfrag {
		c.end()
	}
	clear(m.byUfrag)
	clear(m.byPeer)
	return m.socket.Close()
}
