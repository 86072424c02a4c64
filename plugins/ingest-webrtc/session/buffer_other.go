//go:build !linux

package session

import "net"

// receiveBuffer cannot tell here.
func receiveBuffer(*net.UDPConn) (size int, ok bool) { return 0, false }
