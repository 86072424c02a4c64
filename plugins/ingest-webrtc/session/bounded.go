package session

import (
	"net"
	"sync"
)

// A bounded listener has at most so many connections open; further ones are
// closed as soon as they are accepted.
type bounded struct {
	net.Listener
	free chan struct{}
}

func newBounded(l net.Listener, most int) *bounded {
	return &bounded{Listener: l, free: make(chan struct{}, most)}
}

// Accept implements [net.Listener].
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case b.free <- struct{}{}:
			return &boundedConn{Conn: c, release: sync.OnceFunc(func() { <-b.free })}, nil
		default:
			_ = c.Close() // nothing was said on it
		}
	}
}

type boundedConn struct {
	net.Conn
	release func()
}

// Close implements [net.Conn].
func (c *boundedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
