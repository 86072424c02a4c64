//go:build !linux

package session

import "net"

// receiveBuffer says nothing where it cannot be asked for.
func receiveBuffer(*net.UDPConn) (int, bool) { return 0, false }

// dropped says nothing where it cannot be asked for.
func dropped(*net.UDPConn) (uint32, bool) { return 0, false }
