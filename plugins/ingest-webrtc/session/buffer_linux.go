package session

import (
	"net"
	"syscall"
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
