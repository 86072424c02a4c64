package rtmp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bluenviron/gortmplib/pkg/handshake"
)

// A serverConn is one connection. run's goroutine owns all of it but what mu
// guards.
type serverConn struct {
	server  *Server
	raw     net.Conn
	conn    net.Conn // raw or TLS over it
	secured bool
	openBy  time.Time // when it must publish
	opened  func()    // called when it does

	reader    *chunkReader
	dismissed atomic.Pointer[dismissal] // nil unless it is sent away

	mu     sync.Mutex // guards every write
	writer *chunkWriter
	broken bool // a write failed

	app, agent  string
	connected   bool
	streams     uint32 // created so far
	streamID    uint32 // of the publication
	publication *publication
	goodbye     bool // the client ended the publication
}

// What the first byte of a client says.
const (
	rtmpVersion  = 3
	tlsHandshake = 22
)

var (
	// errEnough ends a connection that has nothing left to do.
	errEnough = errors.New("connection is done")
	errTLS    = errors.New("the client speaks rtmps where rtmp is awaited")
)

// run serves the connection until it ends; nil if the client said goodbye.
func (c *serverConn) run() error {
	br := bufio.NewReaderSize(c, 16<<10)
	version, err := br.Peek(1)
	if err != nil {
		return unexpected(err)
	}
	switch version[0] {
	case rtmpVersion:
	case tlsHandshake:
		return errTLS
	default:
		return protocolErrorf("handshake asks for version %d", version[0])
	}
	bw := bufio.NewWriter(c)
	if _, _, err := handshake.DoServer(&handshakeConn{br, bw}, false); err != nil {
		return fmt.Errorf("rtmp handshake: %w", unexpected(err))
	}
	if err := bw.Flush(); err != nil {
		return err
	}
	c.writer = newChunkWriter(c, nil)
	// Media of who may not publish would be nothing but memory.
	c.reader = newChunkReader(br, maxAMFBytes)
	c.reader.onAck = func(total uint32) error {
		// A client that has left already does not take it, and what it sent before counts.
		_ = c.locked(func(w *chunkWriter) error { return w.control(TypeAcknowledgement, total) })
		return nil
	}

	done := make(chan struct{})
	var pinger sync.WaitGroup
	pinger.Go(func() { c.ping(done) })
	defer pinger.Wait()
	defer close(done)

	for {
		m, err := c.reader.next()
		d := c.dismissed.Load()
		if err == nil && d == nil {
			err = c.handle(m)
		}
		switch {
		case err == nil:
		case d != nil:
			return d.why
		case c.goodbye, c.publication == nil && (errors.Is(err, errEnough) || errors.Is(err, io.EOF)):
			return nil
		default:
			return err
		}
	}
}

// ping asks the client for a sign of life every now and then.
func (c *serverConn) ping(done <-chan struct{}) {
	ticker := time.NewTicker(orDefault(c.server.PingInterval, defaultPingInterval))
	defer ticker.Stop()
	for n := uint32(1); ; n++ {
		select {
		case <-done:
			return
		case <-ticker.C:
			// If it does not get through, the reading side finds out.
			_ = c.locked(func(w *chunkWriter) error { return w.userControl(eventPingRequest, n) })
		}
	}
}

// Read gives every read its deadline. Until it publishes a client has one for
// all of them, so that it cannot live on a byte now and then.
func (c *serverConn) Read(b []byte) (int, error) {
	deadline := c.openBy
	if c.publication != nil {
		deadline = time.Now().Add(orDefault(c.server.IdleTimeout, defaultIdleTimeout))
	}
	_ = c.raw.SetReadDeadline(deadline) // a closed connection fails in Read
	if d := c.dismissed.Load(); d != nil {
		_ = c.raw.SetReadDeadline(d.until)
	}
	return c.conn.Read(b)
}

func (c *serverConn) Write(b []byte) (int, error) {
	_ = c.raw.SetWriteDeadline(time.Now().Add(serverWriteTimeout)) // as above
	return c.conn.Write(b)
}

// locked writes with the mutex held. After an error nothing is written any more: a
// message may have been cut off. What the client sends is read on.
func (c *serverConn) locked(write func(*chunkWriter) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		return net.ErrClosed
	}
	err := write(c.writer)
	c.broken = err != nil
	return err
}

func (c *serverConn) handle(m Message) error {
	switch m.Type {
	case TypeUserControl:
		if len(m.Body) < 6 {
			return nil
		}
		value := binary.BigEndian.Uint32(m.Body[2:])
		switch binary.BigEndian.Uint16(m.Body) {
		case eventPingRequest:
			_ = c.locked(func(w *chunkWriter) error { return w.userControl(eventPingResponse, value) }) // as with acknowledgements
		case eventPingResponse:
			if c.publication != nil {
				c.publication.meter.pong()
			}
		}
	case TypeCommand, TypeCommandAMF3:
		cmd, err := parseCommand(m.Type, m.Body)
		if err != nil {
			return nil //nolint:nilerr // the chunk stream is in step; unknown dialects are passed over
		}
		return c.command(cmd, m)
	case TypeAudio, TypeVideo, TypeData, TypeDataAMF3:
		if c.publication != nil && m.StreamID == c.streamID {
			c.publication.meter.faults(c.reader.extendedFaults)
			c.server.message(c.publication, m)
		}
	}
	return nil
}

// A dismissal is that a client is sent away.
type dismissal struct {
	why   *StatusError
	until time.Time // for the client to read it
}

// dismiss says why the publication ends; the reading goroutine ends it, soon after.
func (c *serverConn) dismiss(why *StatusError) {
	d := &dismissal{why, time.Now().Add(leaveTime)}
	if !c.dismissed.CompareAndSwap(nil, d) {
		return
	}
	_ = c.raw.SetReadDeadline(d.until) // Read, if it sets another at this moment, looks again
	if c.status(c.streamID, "error", why.Code, why.Description) == nil {
		c.closeWrite()
	}
}

func (c *serverConn) remote() string { return c.raw.RemoteAddr().String() }

// closeWrite says that nothing follows.
func (c *serverConn) closeWrite() {
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok { // TCP or TLS
		_ = half.CloseWrite()
	}
}

// linger leaves the client the time to read what it was told and to hang up: a close
// with unread bytes resets.
func (c *serverConn) linger() {
	_ = c.raw.SetReadDeadline(time.Now().Add(leaveTime))
	_, _ = io.Copy(io.Discard, c.conn)
}
