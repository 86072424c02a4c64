//go:build !linux

package rtmp

import (
	"net"
	"syscall"
	"time"
)

// tuneSocket leaves the socket as it is: the options are Linux's.
func tuneSocket(syscall.RawConn) {}

// stats knows what we wrote and no more.
func (s *socket) stats() SocketStats { return SocketStats{Written: s.written.Load()} }

// roundTrip is not known here.
func roundTrip(net.Conn) time.Duration { return 0 }
