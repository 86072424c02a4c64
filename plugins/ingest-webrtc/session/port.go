package session

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pion/ice/v4"

	"github.com/headgate/gateway/plugins/ingest-webrtc/mux"
	"github.com/headgate/gateway/sdk/quickio"
)

const (
	// receiveBufferBytes is what the kernel is asked to hold for the port: a key
	// picture of many publishers comes at once.
	receiveBufferBytes = 4 << 20

	// tcpQueuePackets is how many packets of one TCP connection wait to be read.
	tcpQueuePackets = 64
	// tcpWriteBufferBytes is what waits to be written to one: reports only.
	tcpWriteBufferBytes = 256 << 10
	// tcpIdle is how long a TCP connection may be open without belonging to a session.
	tcpIdle = 5 * time.Second
	// maxTCPConns bounds the TCP connections.
	maxTCPConns = 2 * maxSessions

	// portAttempts is how often a free port is looked for that is free for UDP
	// and TCP.
	portAttempts = 20
)

// noTCP is the Config.TCP that means none.
const noTCP = "off"

// A port is the port of all sessions. For UDP it is one socket per address of the
// machine, so that replies leave from the address that was asked.
type port struct {
	sockets  []*socket
	tcp      net.Listener // nil if none
	tcpMux   ice.TCPMux
	loopback bool
	log      *slog.Logger
	logger   logger
	readers  sync.WaitGroup // one for each socket

	drops dropWatch
}

// A socket is the port on one address.
type socket struct {
	conn *net.UDPConn
	ip   netip.Addr
	mux  *mux.Mux
}

func openPort(cfg Config) (*port, error) {
	addr, err := net.ResolveUDPAddr("udp", cfg.UDP)
	if err != nil {
		return nil, fmt.Errorf("udp %s: %w", cfg.UDP, err)
	}
	ips, err := localIPs(addr, cfg)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		p := &port{log: cfg.Log, logger: newLogger(cfg.Log, "ice")}
		err := p.open(addr, ips, cfg.TCP)
		if err == nil {
			p.enlargeBuffers()
			p.serve()
			return p, nil
		}
		err = errors.Join(err, p.closeSockets())
		if addr.Port != 0 || !errors.Is(err, syscall.EADDRINUSE) || attempt == portAttempts {
			return nil, err
		}
	}
}

func (p *port) open(addr *net.UDPAddr, ips []netip.Addr, tcp string) error {
	number := addr.Port
	for _, ip := range ips {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip.AsSlice(), Port: number, Zone: ip.Zone()})
		if err != nil {
			return fmt.Errorf("udp: %w", err)
		}
		p.sockets = append(p.sockets, &socket{conn: conn, ip: ip.WithZone("")})
		number = conn.LocalAddr().(*net.UDPAddr).Port
		p.loopback = p.loopback || ip.IsLoopback()
	}
	switch tcp {
	case noTCP:
		return nil
	case "":
		host := ""
		if len(ips) == 1 {
			host = ips[0].String()
		} else if addr.IP.To4() != nil {
			host = addr.IP.String()
		}
		tcp = net.JoinHostPort(host, strconv.Itoa(number))
	}
	l, err := net.Listen("tcp", tcp)
	if err != nil {
		return fmt.Errorf("tcp %s (ICE over TCP; tcp: %s does without): %w", tcp, noTCP, err)
	}
	p.tcp = l
	return nil
}

// serve begins to read the port.
func (p *port) serve() {
	for _, s := range p.sockets {
		s.mux = mux.New(quickio.NewUDPConn(s.conn), p.log)
		p.readers.Go(s.mux.Run) // ends when the socket is closed
	}
	if p.tcp != nil {
		p.tcpMux = ice.NewTCPMuxDefault(ice.TCPMuxParams{
			Listener: newBounded(p.tcp, maxTCPConns), Logger: p.logger,
			ReadBufferSize: tcpQueuePackets, WriteBufferSize: tcpWriteBufferBytes,
			FirstStunBindTimeout: tcpIdle, AliveDurationForConnFromStun: tcpIdle,
		})
	}
}

// A udpPart is the part of one session in the UDP sockets of the port.
type udpPart struct {
	port    *port
	dropped *atomic.Uint64 // packets that were not read in time
}

// GetConn implements [ice.UDPMux].
func (u udpPart) GetConn(ufrag string, addr net.Addr) (net.PacketConn, error) {
	for _, s := range u.port.sockets {
		if s.conn.LocalAddr().String() == addr.String() {
			return s.mux.Conn(ufrag, u.dropped)
		}
	}
	return nil, fmt.Errorf("the port is not open on %v", addr)
}

// RemoveConnByUfrag implements [ice.UDPMux].
func (u udpPart) RemoveConnByUfrag(ufrag string) {
	for _, s := range u.port.sockets {
		s.mux.Remove(ufrag)
	}
}

// GetListenAddresses implements [ice.UDPMux].
func (u udpPart) GetListenAddresses() []net.Addr {
	var out []net.Addr
	for _, s := range u.port.sockets {
		out = append(out, s.conn.LocalAddr())
	}
	return out
}

// Close implements [ice.UDPMux]: the port is not the session's to close.
func (udpPart) Close() error { return nil }

// number is the number of the UDP port.
func (p *port) number() int { return p.sockets[0].conn.LocalAddr().(*net.UDPAddr).Port }

// has reports whether the port is open on ip.
func (p *port) has(ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	a = a.Unmap()
	return ok && slices.ContainsFunc(p.sockets, func(s *socket) bool { return s.ip == a })
}

// String says where the port is, for people.
func (p *port) String() string {
	s := "UDP port " + strconv.Itoa(p.number())
	if p.tcp != nil {
		s += " and TCP port " + strconv.Itoa(p.tcp.Addr().(*net.TCPAddr).Port)
	}
	return s
}

// enlargeBuffers asks for large receive buffers and says so if the kernel does
// not grant them: what does not fit is lost.
func (p *port) enlargeBuffers() {
	for _, s := range p.sockets {
		if err := s.conn.SetReadBuffer(receiveBufferBytes); err != nil {
			p.log.Warn("UDP receive buffer cannot be set", "address", s.conn.LocalAddr().String(), "error", err)
			continue
		}
		if got, ok := receiveBuffer(s.conn); ok && got < receiveBufferBytes {
			p.log.Warn("UDP receive buffer is small: with many publishers packets will be lost; raise net.core.rmem_max",
				"address", s.conn.LocalAddr().String(), "bytes", got, "wanted_bytes", receiveBufferBytes)
		}
	}
}

func (p *port) close() error {
	var errs []error
	if p.tcpMux != nil {
		errs = append(errs, p.tcpMux.Close())
	}
	for _, s := range p.sockets {
		errs = append(errs, s.mux.Close())
	}
	p.readers.Wait()
	errs = append(errs, p.closeSockets())
	return errors.Join(errs...)
}

func (p *port) closeSockets() error {
	var errs []error
	for _, s := range p.sockets {
		if err := s.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if p.tcp != nil {
		if err := p.tcp.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
