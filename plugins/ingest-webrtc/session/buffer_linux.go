package session

import (
	"net"
	"syscall"
	"unsafe"
)

// receiveBuffer returns how many bytes of data the kernel holds for c; ok is
// false if it does not say. Linux grants twice what is asked, for its own
// bookkeeping, and reports that.
func receiveBuffer(c *net.UDPConn) (size int, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	if err := raw.Control(func(fd uintptr) {
		size, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF)
		ok = err == nil
	}); err != nil {
		return 0, false
	}
	return size / 2, ok
}

// From linux/socket.h and linux/sock_diag.h.
const (
	soMeminfo      = 55
	skMeminfoDrops = 8
)

// dropped returns how many packets for c the kernel has thrown away because they
// were not read in time, since the socket was opened. It wraps at 32 bits.
func dropped(c *net.UDPConn) (n uint32, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	var info [skMeminfoDrops + 1]uint32
	if err := raw.Control(func(fd uintptr) {
		size := uint32(unsafe.Sizeof(info))
		_, _, e := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.SOL_SOCKET, soMeminfo,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		ok = e == 0 && size == uint32(unsafe.Sizeof(info))
	}); err != nil {
		return 0, false
	}
	return info[skMeminfoDrops], ok
}
