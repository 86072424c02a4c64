//go:build !linux || race || !(amd64 || arm64 || arm)

package quickio

import (
	"net"
	"net/netip"
)

func wrap(c net.Conn) net.Conn { return c }

func newWriter(c net.Conn) vectorWriter { return plain{c} }

type datagrams struct{}

func newDatagrams(*net.UDPConn) *datagrams { return nil }

func (*datagrams) read([]byte) (int, netip.AddrPort, error) { panic("unreachable") }

func (*datagrams) write([]byte, netip.AddrPort) (int, error) { panic("unreachable") }
