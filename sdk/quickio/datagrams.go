//go:build linux && !race && (amd64 || arm64 || arm)

package quickio

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"unsafe"
)

// datagrams reads and writes those of one UDP socket.
type datagrams struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	v6   bool // the socket's family

	reading sync.Mutex // guards in
	in      datagram
	writing sync.Mutex // guards out
	out     datagram
}

// newDatagrams returns nil if c is not a socket of IP.
func newDatagrams(c *net.UDPConn) *datagrams {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	d := &datagrams{conn: c, raw: raw}
	known := false
	if raw.Control(func(fd uintptr) {
		sa, err := syscall.Getsockname(int(fd))
		if err != nil {
			return
		}
		switch sa.(type) {
		case *syscall.SockaddrInet4:
			known = true
		case *syscall.SockaddrInet6:
			known, d.v6 = true, true
		}
	}) != nil || !known {
		return nil
	}
	d.in.init(func(m *datagram, fd uintptr) (uintptr, syscall.Errno) {
		m.size = syscall.SizeofSockaddrAny
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(m.what), uintptr(m.length), 0,
			uintptr(unsafe.Pointer(&m.addr)), uintptr(unsafe.Pointer(&m.size)))
		return n, errno
	})
	d.out.init(func(m *datagram, fd uintptr) (uintptr, syscall.Errno) {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(m.what), uintptr(m.length), 0,
			uintptr(unsafe.Pointer(&m.addr)), uintptr(m.size))
		return n, errno
	})
	return d
}

// A datagram is the system call that moves one, repeated by the poller when the
// socket is ready.
type datagram struct {
	what   unsafe.Pointer
	length int
	addr   syscall.RawSockaddrAny
	size   uint32 // of addr
	n      int    // what the call returned
	errno  syscall.Errno
	try    func(fd uintptr) bool // made once: it would be garbage of each call
}

func (m *datagram) init(call func(*datagram, uintptr) (uintptr, syscall.Errno)) {
	m.try = func(fd uintptr) bool {
		for {
			n, errno := call(m, fd)
			switch errno {
			case syscall.EINTR:
				continue
			case syscall.EAGAIN:
				return false
			}
			m.n, m.errno = int(n), errno
			return true
		}
	}
}

// do moves b once the socket is ready for it.
func (m *datagram) do(wait func(func(uintptr) bool) error, b []byte) error {
	m.what, m.length = unsafe.Pointer(unsafe.SliceData(b)), len(b)
	err := wait(m.try)
	m.what = nil
	if err == nil && m.errno != 0 {
		err = m.errno
	}
	return err
}

func (d *datagrams) read(b []byte) (int, netip.AddrPort, error) {
	d.reading.Lock()
	defer d.reading.Unlock()
	if err := d.in.do(d.raw.Read, b); err != nil {
		return 0, netip.AddrPort{}, explain(d.conn, "recvfrom", err)
	}
	return d.in.n, d.in.from(), nil
}

func (d *datagrams) write(b []byte, to netip.AddrPort) (int, error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	if !d.out.to(to, d.v6) {
		return 0, &net.OpError{Op: "sendto", Net: "udp", Source: d.conn.LocalAddr(), Addr: net.UDPAddrFromAddrPort(to), Err: os.NewSyscallError("sendto", syscall.EAFNOSUPPORT)}
	}
	if err := d.out.do(d.raw.Write, b); err != nil {
		return 0, explain(d.conn, "sendto", err)
	}
	return d.out.n, nil
}

// from returns the address that the kernel wrote.
func (m *datagram) from() netip.AddrPort {
	switch m.addr.Addr.Family {
	case syscall.AF_INET:
		a := (*syscall.RawSockaddrInet4)(unsafe.Pointer(&m.addr))
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), port(&a.Port))
	case syscall.AF_INET6:
		a := (*syscall.RawSockaddrInet6)(unsafe.Pointer(&m.addr))
		ip := netip.AddrFrom16(a.Addr)
		if a.Scope_id != 0 {
			ip = ip.WithZone(zone(a.Scope_id))
		}
		return netip.AddrPortFrom(ip, port(&a.Port))
	default:
		return netip.AddrPort{}
	}
}

// zone returns the name of an interface.
func zone(index uint32) string {
	if i, err := net.InterfaceByIndex(int(index)); err == nil {
		return i.Name
	}
	return strconv.FormatUint(uint64(index), 10)
}

// to writes an address for the kernel. It reports false if a socket of this family
// does not reach it.
func (m *datagram) to(to netip.AddrPort, v6 bool) bool {
	m.addr = syscall.RawSockaddrAny{}
	ip := to.Addr()
	if v6 {
		a := (*syscall.RawSockaddrInet6)(unsafe.Pointer(&m.addr))
		a.Family, a.Addr, m.size = syscall.AF_INET6, ip.As16(), syscall.SizeofSockaddrInet6
		setPort(&a.Port, to.Port())
		return ip.IsValid()
	}
	if ip = ip.Unmap(); !ip.Is4() {
		return false
	}
	a := (*syscall.RawSockaddrInet4)(unsafe.Pointer(&m.addr))
	a.Family, a.Addr, m.size = syscall.AF_INET, ip.As4(), syscall.SizeofSockaddrInet4
	setPort(&a.Port, to.Port())
	return true
}

// The kernel keeps a port in network order.

func port(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }

func setPort(p *uint16, n uint16) { binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(p))[:], n) }
