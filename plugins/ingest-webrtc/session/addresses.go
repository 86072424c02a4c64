package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pion/webrtc/v4"
)

const (
	// discoverEvery is how often the public address is asked for, and
	// discoverAgain the same after it could not be found.
	discoverEvery = time.Minute
	discoverAgain = 5 * time.Second
	// probeTimeout is how long a STUN or TURN server may take to answer.
	probeTimeout = 1500 * time.Millisecond
)

// localIPs are the addresses on which the port is opened: that of addr, or, where
// it stands for all, those of the machine that others can reach and that cfg lets
// pass; loopback if the machine has no other.
func localIPs(addr *net.UDPAddr, cfg Config) ([]netip.Addr, error) {
	if ip, ok := netip.AddrFromSlice(addr.IP); ok && !ip.IsUnspecified() {
		return []netip.Addr{ip.Unmap().WithZone(addr.Zone)}, nil
	}
	keep, err := filter(cfg.Interfaces, cfg.Networks)
	if err != nil {
		return nil, err
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	only4 := addr.IP.To4() != nil
	var out []netip.Addr
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("listing addresses of %s: %w", i.Name, err)
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			ip := p.Addr().Unmap()
			if ip.IsLoopback() || ip.IsLinkLocalUnicast() || only4 && !ip.Is4() || !keep(i.Name, ip) {
				continue
			}
			out = append(out, ip)
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case len(cfg.Interfaces)+len(cfg.Networks) > 0:
		return nil, errors.New("interfaces and networks leave no address of this machine")
	default:
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}
}

// filter returns what interfaces and networks let pass: what no pattern with "!"
// excludes and, where there are patterns without, one of them includes.
func filter(interfaces, networks []string) (func(name string, ip netip.Addr) bool, error) {
	for _, pattern := range interfaces {
		if _, err := path.Match(strings.TrimPrefix(pattern, "!"), ""); err != nil {
			return nil, fmt.Errorf("interfaces: %q is not a pattern such as eth* or !docker*", pattern)
		}
	}
	for _, n := range networks {
		if _, err := netip.ParsePrefix(strings.TrimPrefix(n, "!")); err != nil {
			return nil, fmt.Errorf("networks: %q is not a network such as 10.0.0.0/8 or !172.16.0.0/12", n)
		}
	}
	return func(name string, ip netip.Addr) bool {
		return passes(interfaces, func(pattern string) bool {
			ok, _ := path.Match(pattern, name) // checked above
			return ok
		}) && passes(networks, func(n string) bool { return netip.MustParsePrefix(n).Contains(ip) })
	}, nil
}

func passes(patterns []string, match func(string) bool) bool {
	included, includes := false, false
	for _, p := range patterns {
		rest, excludes := strings.CutPrefix(p, "!")
		switch {
		case excludes && match(rest):
			return false
		case !excludes:
			includes = true
			included = included || match(p)
		}
	}
	return included || !includes
}

// A mapping is a public address and the one of the machine that stands behind it.
type mapping struct{ public, local netip.Addr }

// staticMappings finds the machine's address behind each of the public ones: that
// from which packets leave towards it.
func (p *port) staticMappings(public []string) ([]mapping, error) {
	out := make([]mapping, 0, len(public))
	for _, text := range public {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("public_ips: %q is not an IP address", text)
		}
		s := p.towards(netip.AddrPortFrom(ip, 9))
		if s == nil {
			return nil, fmt.Errorf("public_ips: the port is open on no address from which %s could be reached", text)
		}
		out = append(out, mapping{ip, s.ip})
	}
	return out, nil
}

// towards returns the socket from whose address packets to the given one leave;
// where that cannot be told, the first one of the same family; nil if there is none.
func (p *port) towards(to netip.AddrPort) *socket {
	// This sends nothing: it asks the kernel for the route.
	if c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to)); err == nil {
		from := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		_ = c.Close() // nothing was sent on it
		for _, s := range p.sockets {
			if s.ip == from {
				return s
			}
		}
	}
	for _, s := range p.sockets {
		if s.ip.Is4() == to.Addr().Unmap().Is4() {
			return s
		}
	}
	return nil
}

// rewrite are the rules by which pion announces the public addresses: in place of
// a loopback address, which nobody else can use, and beside any other, for
// publishers on this side of the NAT.
func rewrite(mappings []mapping) []webrtc.ICEAddressRewriteRule {
	var rules []webrtc.ICEAddressRewriteRule
	for _, m := range mappings {
		if m.public == m.local {
			continue
		}
		at := slices.IndexFunc(rules, func(r webrtc.ICEAddressRewriteRule) bool { return r.Local == m.local.String() })
		if at >= 0 {
			rules[at].External = append(rules[at].External, m.public.String())
			continue
		}
		mode := webrtc.ICEAddressRewriteAppend
		if m.local.IsLoopback() {
			mode = webrtc.ICEAddressRewriteReplace
		}
		rules = append(rules, webrtc.ICEAddressRewriteRule{
			External: []string{m.public.String()}, Local: m.local.String(), AsCandidateType: webrtc.ICECandidateTypeHost, Mode: mode,
		})
	}
	return rules
}

// discover asks the STUN servers, from the port itself, which addresses publishers
// see: the first answer of each family counts.
func (p *port) discover(ctx context.Context, servers []string) ([]mapping, error) {
	var out []mapping
	var errs []error
	for _, network := range []string{"udp4", "udp6"} {
		if !slices.ContainsFunc(p.sockets, func(s *socket) bool { return s.ip.Is4() == (network == "udp4") }) {
			continue
		}
		m, err := p.discoverFamily(ctx, network, servers)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, m)
	}
	if len(out) > 0 {
		return out, nil // one family is enough: many machines have no IPv6 beyond their own network
	}
	return nil, errors.Join(errs...)
}

func (p *port) discoverFamily(ctx context.Context, network string, servers []string) (mapping, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	type result struct {
		m   mapping
		err error
	}
	results := make(chan result, len(servers))
	for _, server := range servers {
		go func() { // ends with ctx, and before this function does
			m, err := p.askSTUN(ctx, network, server)
			results <- result{m, err}
		}()
	}
	var errs []error
	var found *mapping
	for range servers {
		r := <-results
		switch {
		case found != nil:
		case r.err != nil:
			errs = append(errs, r.err)
		default:
			found = &r.m
			cancel()
		}
	}
	if found != nil {
		return *found, nil
	}
	return mapping{}, errors.Join(errs...)
}

func (p *port) askSTUN(ctx context.Context, network, server string) (mapping, error) {
	fail := func(err error) (mapping, error) { return mapping{}, fmt.Errorf("%s over %s: %w", server, network, err) }
	to, err := resolve(ctx, network, strings.TrimPrefix(server, "stun:"))
	if err != nil {
		return fail(err)
	}
	s := p.towards(to)
	if s == nil {
		return fail(errors.New("no address to ask from"))
	}
	seen, err := s.mux.SeenAs(ctx, to)
	if err != nil {
		return fail(err)
	}
	return mapping{seen, s.ip}, nil
}

const stunPort = "3478"

func resolve(ctx context.Context, network, hostPort string) (netip.AddrPort, error) {
	host, number, err := net.SplitHostPort(hostPort)
	if err != nil {
		host, number = strings.Trim(hostPort, "[]"), stunPort
	}
	n, err := net.DefaultResolver.LookupPort(ctx, network, number)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip"+network[len(network)-1:], host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(ips[0].Unmap(), uint16(n)), nil
}

// usable reports whether a publisher's candidate may be tried: the gateway sends
// packets there. Addresses that lead into the gateway's own machine, to its cloud's
// metadata or to many are none of a publisher; those of a private network can be.
func (p *port) usable(ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return false
	}
	a = a.Unmap()
	switch {
	case a.IsLoopback():
		return p.loopback
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return false
	default:
		return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLinkLocalUnicast()
	}
}
