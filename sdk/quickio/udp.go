package quickio

import (
	"net"
	"net/netip"
)

// A UDPConn is a UDP socket with quick reads and writes by [netip.AddrPort]; its
// other methods are the ordinary ones. Make it with [NewUDPConn].
type UDPConn struct {
	*net.UDPConn
	quick *datagrams // nil: there is no quick way
}

// NewUDPConn returns c with quick reads and writes.
func NewUDPConn(c *net.UDPConn) *UDPConn { return &UDPConn{c, newDatagrams(c)} }

// ReadFromAddrPort reads one datagram into b and returns where it came from. What
// does not fit into b is lost.
func (c *UDPConn) ReadFromAddrPort(b []byte) (int, netip.AddrPort, error) {
	if c.quick == nil {
		return c.ReadFromUDPAddrPort(b)
	}
	return c.quick.read(b)
}

// WriteToAddrPort sends b as one datagram.
func (c *UDPConn) WriteToAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if c.quick == nil || to.Addr().Zone() != "" {
		return c.WriteToUDPAddrPort(b, to)
	}
	return c.quick.write(b, to)
}
