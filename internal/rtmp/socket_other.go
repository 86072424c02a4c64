//go:build !linux

package rtmp

import "syscall"

// tuneSocket leaves the socket as it is: the options are Linux's.
func tuneSocket(syscall.RawConn) {}

// stats knows what we wrote and no more.
func (s *socket) stats() SocketStats { return SocketStats{Written: s.written.Load()} }
