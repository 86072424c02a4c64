package session

import (
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/pion/ice/v4"
	"github.com/pion/webrtc/v4"
)

// receiveBufferBytes is what the kernel is asked to hold for the port: a key
// picture of many publishers comes at once.
const receiveBufferBytes = 4 << 20

// A port is the UDP port of all sessions: one socket, or one per address of the
// machine, so that replies leave from the address that was asked.
type port struct {
	conns    []*net.UDPConn
	mux      ice.UDPMux
	loopback bool
	rewrite  []webrtc.ICEAddressRewriteRule
	log      *slog.Logger
}

func openPort(cfg Config) (*port, error) {
	addr, err := net.ResolveUDPAddr("udp", cfg.UDP)
	if err != nil {
		return nil, fmt.Errorf("udp %s: %w", cfg.UDP, err)
	}
	p := &port{log: cfg.Log}
	if len(cfg.PublicIPs) > 0 {
		for _, ip := range cfg.PublicIPs {
			if net.ParseIP(ip) == nil {
				return nil, fmt.Errorf("public_ips: %q is not an IP address", ip)
			}
		}
		p.rewrite = []webrtc.ICEAddressRewriteRule{{External: cfg.PublicIPs, AsCandidateType: webrtc.ICECandidateTypeHost}}
	}
	ips := []net.IP{addr.IP}
	if addr.IP == nil || addr.IP.IsUnspecified() {
		if ips, err = machineIPs(addr.IP); err != nil {
			return nil, fmt.Errorf("listing addresses: %w", err)
		}
	}
	number := addr.Port
	for _, ip := range ips {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip, Port: number, Zone: addr.Zone})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listening: %w", err), p.closeConns())
		}
		number = conn.LocalAddr().(*net.UDPAddr).Port
		p.conns = append(p.conns, conn)
		p.loopback = p.loopback || ip.IsLoopback()
	}
	p.enlargeBuffers()
	muxes := make([]ice.UDPMux, len(p.conns))
	for i, c := range p.conns {
		muxes[i] = ice.NewUDPMuxDefault(ice.UDPMuxParams{UDPConn: c, Logger: newLogger(cfg.Log, "ice")})
	}
	p.mux = muxes[0]
	if len(muxes) > 1 {
		p.mux = ice.NewMultiUDPMuxDefault(muxes...)
	}
	return p, nil
}

// machineIPs are the addresses of the machine that others can reach; loopback if
// there is none. For the IPv4 wildcard they are the IPv4 ones.
func machineIPs(wildcard net.IP) ([]net.IP, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []net.IP
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || n.IP.IsLoopback() || n.IP.IsLinkLocalUnicast() {
			continue
		}
		if len(wildcard) > 0 && wildcard.To4() != nil && n.IP.To4() == nil {
			continue
		}
		out = append(out, n.IP)
	}
	if len(out) == 0 {
		out = append(out, net.IPv4(127, 0, 0, 1))
	}
	return out, nil
}

// enlargeBuffers asks for large receive buffers and says so if the kernel does
// not grant them: what does not fit is lost.
func (p *port) enlargeBuffers() {
	for _, c := range p.conns {
		if err := c.SetReadBuffer(receiveBufferBytes); err != nil {
			p.log.Warn("UDP receive buffer cannot be set", "address", c.LocalAddr().String(), "error", err)
			continue
		}
		if got, ok := receiveBuffer(c); ok && got < receiveBufferBytes {
			p.log.Warn("UDP receive buffer is small: with many publishers packets will be lost; raise net.core.rmem_max",
				"address", c.LocalAddr().String(), "bytes", got, "wanted_bytes", receiveBufferBytes)
		}
	}
}

func (p *port) close() error {
	err := p.mux.Close()
	if e := p.closeConns(); e != nil && !errors.Is(e, net.ErrClosed) {
		err = errors.Join(err, e)
	}
	return err
}

func (p *port) closeConns() error {
	var errs []error
	for _, c := range p.conns {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
