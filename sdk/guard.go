package sdk

import (
	"fmt"
	"net/netip"
	"syscall"
)

// A RefusedAddressError says that a restricted target leads to an address that
// must not be connected to.
type RefusedAddressError struct{ Addr netip.Addr }

func (e *RefusedAddressError) Error() string {
	return fmt.Sprintf("the target leads to %s, and a target given by the API may not lead to link-local or cloud metadata addresses", e.Addr)
}

// Control is for [net.Dialer.Control] of whatever connects for the target. The
// dialer calls it with each address right before it connects, behind the name
// look-up, so that a name cannot lead elsewhere in between. It answers
// *[RefusedAddressError] where the target is restricted and the address is one
// that only this machine reaches: see [Target.Restricted].
func (t Target) Control(_, address string, _ syscall.RawConn) error {
	if !t.Restricted {
		return nil
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("checking the address to connect to: %w", err)
	}
	if localOnly(at.Addr()) {
		return Permanent(&Error{Cause: CauseConfig, Err: &RefusedAddressError{at.Addr().Unmap().WithZone("")}})
	}
	return nil
}

// metadata are addresses at which clouds answer a machine with its own secrets,
// beside 169.254.169.254 and its like, which are link-local.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("fd00:ec2::254/128"),  // Amazon: instance metadata
	netip.MustParsePrefix("fd00:ec2::23/128"),   // Amazon: credentials of pods
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure: the host's wire server
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle, before 169.254
	netip.MustParsePrefix("0.0.0.0/8"),          // "this network": means this machine
}

// Addresses of IPv6 that carry one of IPv4, and where in them.
var carriers = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64, RFC 6052
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12},
	{netip.MustParsePrefix("2002::/16"), 2}, // 6to4, RFC 3056
	{netip.MustParsePrefix("::/96"), 12},    // "IPv4-compatible", RFC 4291
}

// localOnly reports whether a restricted target may not connect to a.
func localOnly(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.IsLoopback() {
		return false
	}
	if a.IsUnspecified() || a.IsLinkLocalUnicast() || a.IsMulticast() {
		return true
	}
	for _, p := range metadata {
		if p.Contains(a) {
			return true
		}
	}
	for _, c := range carriers {
		if c.prefix.Contains(a) {
			b := a.As16()
			return localOnly(netip.AddrFrom4([4]byte(b[c.at:])))
		}
	}
	return false
}
