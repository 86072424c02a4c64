// Package relay is a TURN server (RFC 8656) in front of the gateway's own media
// port: for publishers whose network lets TURN through, or nothing but TCP, and no
// other way to the media.
//
// It relays to the media port alone, so that it is of no use to anybody else. It
// knows nothing of WebRTC or of who may publish: who has credentials has been let
// in already.
package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"

	"github.com/headgate/gateway/sdk/secret"
)

const (
	realm = "headgate"
	// maxPerUser bounds the allocations of one publisher: a browser makes one for
	// each of its addresses, transport and restart of ICE.
	maxPerUser = 16
	maxTotal   = 2000

	// portAttempts is how often a free port is looked for that is free for UDP and TCP
	// at all addresses.
	portAttempts = 20
)

// A Peer is an address of the media port: as publishers know it, and as it is on
// this machine.
type Peer struct{ Announced, Local netip.Addr }

// A Config is what a Server is made with.
type Config struct {
	// Listen are the addresses on which the server is reached, by UDP and by TCP.
	// Port 0 of the first is a free one, which all others have then.
	Listen []netip.AddrPort
	// Secret is what credentials are made of (the REST API of TURN servers).
	Secret secret.String
	// Peers are the media port's addresses; Port is its number.
	Peers func() []Peer
	Port  uint16
	// Bound wraps a TCP listener so that it does not take too many connections.
	Bound func(net.Listener) net.Listener
	Log   logging.LoggerFactory
}

// A Server relays from when [Listen] returns until Close. Safe for concurrent use.
type Server struct {
	cfg    Config
	turn   *turn.Server
	number uint16

	mu    sync.Mutex // guards the field below
	users map[string]int
}

// Listen starts a server.
func Listen(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, users: map[string]int{}}
	c := turn.ServerConfig{
		Realm: realm, LoggerFactory: cfg.Log,
		AuthHandler: turn.LongTermTURNRESTAuthHandler(cfg.Secret.Reveal(), cfg.Log.NewLogger("turn")),
	}
	for attempt := 1; ; attempt++ {
		err := s.open(&c)
		if err == nil {
			break
		}
		err = fmt.Errorf("TURN: %w", errors.Join(err, closeAll(&c)))
		// What is free for UDP need not be for TCP, nor at the next address.
		if cfg.Listen[0].Port() != 0 || !errors.Is(err, syscall.EADDRINUSE) || attempt == portAttempts {
			return nil, err
		}
	}
	var err error
	if s.turn, err = turn.NewServer(c); err != nil {
		return nil, fmt.Errorf("starting TURN server: %w", errors.Join(err, closeAll(&c)))
	}
	return s, nil
}

// open opens the sockets into c.
func (s *Server) open(c *turn.ServerConfig) error {
	s.number = 0
	for _, at := range s.cfg.Listen {
		if s.number != 0 {
			at = netip.AddrPortFrom(at.Addr(), s.number)
		}
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		c.PacketConnConfigs = append(c.PacketConnConfigs, turn.PacketConnConfig{
			PacketConn: udp, RelayAddressGenerator: s, PermissionHandler: s.permits,
		})
		at = udp.LocalAddr().(*net.UDPAddr).AddrPort()
		s.number = at.Port()
		tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		c.ListenerConfigs = append(c.ListenerConfigs, turn.ListenerConfig{
			Listener: s.cfg.Bound(tcp), RelayAddressGenerator: s, PermissionHandler: s.permits,
		})
	}
	return nil
}

// closeAll closes the sockets of c and forgets them.
func closeAll(c *turn.ServerConfig) error {
	var errs []error
	for _, p := range c.PacketConnConfigs {
		errs = append(errs, p.PacketConn.Close())
	}
	for _, l := range c.ListenerConfigs {
		errs = append(errs, l.Listener.Close())
	}
	c.PacketConnConfigs, c.ListenerConfigs = nil, nil
	return errors.Join(errs...)
}

// URLs are those of the server at the addresses that publishers know.
func (s *Server) URLs() []string {
	var out []string
	seen := map[netip.Addr]bool{}
	for _, p := range s.cfg.Peers() {
		if seen[p.Announced] {
			continue
		}
		seen[p.Announced] = true
		at := "turn:" + net.JoinHostPort(p.Announced.String(), strconv.Itoa(int(s.number)))
		out = append(out, at+"?transport=udp", at+"?transport=tcp")
	}
	return out
}

// Close ends the server and all that it relays.
func (s *Server) Close() error { return s.turn.Close() }

// permits implements [turn.PermissionHandler].
func (s *Server) permits(_ net.Addr, ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	a = a.Unmap()
	return ok && slices.ContainsFunc(s.cfg.Peers(), func(p Peer) bool { return p.Announced == a })
}

// Validate implements [turn.RelayAddressGenerator].
func (s *Server) Validate() error { return nil }

var (
	errQuota = errors.New("this publisher has as many allocations as one may have")
	errTCP   = errors.New("TCP is not relayed")
)

// AllocatePacketConn implements [turn.RelayAddressGenerator].
func (s *Server) AllocatePacketConn(c turn.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	if !s.enter(c.UserID) {
		return nil, nil, errQuota
	}
	leave := sync.OnceFunc(func() { s.leave(c.UserID) })
	for _, p := range s.cfg.Peers() {
		if p.Local.Is4() != (c.Network == "udp4") {
			continue
		}
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: p.Local.AsSlice()})
		if err != nil {
			leave()
			return nil, nil, err
		}
		r := &relayed{UDPConn: conn, server: s, leave: leave, shown: map[netip.Addr]netip.Addr{}}
		return r, conn.LocalAddr(), nil
	}
	leave()
	return nil, nil, fmt.Errorf("the media port has no address of %s", c.Network)
}

// AllocateListener implements [turn.RelayAddressGenerator].
func (s *Server) AllocateListener(turn.AllocateListenerConfig) (net.Listener, net.Addr, error) {
	return nil, nil, errTCP
}

// AllocateConn implements [turn.RelayAddressGenerator].
func (s *Server) AllocateConn(turn.AllocateConnConfig) (net.Conn, error) { return nil, errTCP }

func (s *Server) enter(user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for _, n := range s.users {
		total += n
	}
	if s.users[user] >= maxPerUser || total >= maxTotal {
		return false
	}
	s.users[user]++
	return true
}

func (s *Server) leave(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[user]--; s.users[user] == 0 {
		delete(s.users, user)
	}
}

// A relayed socket exchanges packets with the media port only. The publisher knows
// that by its public address, which from here may lead nowhere: packets go the
// short way, and come back as if from there.
type relayed struct {
	*net.UDPConn
	server *Server
	leave  func()

	mu    sync.Mutex // guards the field below
	shown map[netip.Addr]netip.Addr
}

// WriteTo implements [net.PacketConn]. What is not for the media port is lost, as
// on any network.
func (r *relayed) WriteTo(b []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok || u.Port != int(r.server.cfg.Port) {
		return len(b), nil
	}
	announced := u.AddrPort().Addr().Unmap()
	for _, p := range r.server.cfg.Peers() {
		if p.Announced != announced {
			continue
		}
		r.mu.Lock()
		r.shown[p.Local] = announced
		r.mu.Unlock()
		return r.WriteToUDPAddrPort(b, netip.AddrPortFrom(p.Local, r.server.cfg.Port))
	}
	return len(b), nil
}

// ReadFrom implements [net.PacketConn].
func (r *relayed) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := r.ReadFromUDPAddrPort(b)
		if err != nil {
			return n, nil, err
		}
		if from.Port() != r.server.cfg.Port {
			continue
		}
		if announced, ok := r.announced(from.Addr().Unmap()); ok {
			return n, net.UDPAddrFromAddrPort(netip.AddrPortFrom(announced, from.Port())), nil
		}
	}
}

// announced is the address by which the publisher knows the local one.
func (r *relayed) announced(local netip.Addr) (netip.Addr, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a, ok := r.shown[local]; ok {
		return a, true
	}
	for _, p := range r.server.cfg.Peers() {
		if p.Local == local {
			return p.Announced, true
		}
	}
	return netip.Addr{}, false
}

// Close implements [net.PacketConn].
func (r *relayed) Close() error {
	r.leave()
	return r.UDPConn.Close()
}
