package rtmp

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/headgate/gateway/sdk/secret"
)

// A Conn is a connection that publishes one stream.
//
// WriteTag, Close and the goroutine that reads share one mutex for everything
// that is written. Closed, Err, Stats and Capabilities may be called at any time.
type Conn struct {
	target   Target
	sock     *socket
	stream   net.Conn // sock, or TLS over it
	reader   *chunkReader
	caps     Capabilities
	streamID uint32

	mu     sync.Mutex // guards every write
	writer *chunkWriter
	broken bool // a message was cut off: nothing sensible can follow

	peerAcked atomic.Uint32
	reconnect chan ReconnectRequest // the newest
	done      chan struct{}         // closed when the reading goroutine is through
	failed    chan struct{}         // closed after failure is set
	failOnce  sync.Once
	failure   error
}

// locked writes with the mutex held. An error leaves the connection broken: a
// message may have been cut off.
func (c *Conn) locked(write func(*chunkWriter) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		return net.ErrClosed
	}
	err := write(c.writer)
	if err != nil {
		c.broken = true
	}
	return err
}

// await reads until a command that matches.
func (c *Conn) await(match func(command) bool) (command, error) {
	for {
		m, err := c.reader.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errServerClosed
			}
			return command{}, err
		}
		if cmd, ok := c.handle(m); ok && match(cmd) {
			return cmd, nil
		}
	}
}

// handle answers what needs an answer and returns commands. A message that
// cannot be understood is passed over: the chunk stream is in step all the same.
func (c *Conn) handle(m Message) (command, bool) {
	switch m.Type {
	case TypeUserControl:
		if len(m.Body) >= 6 && binary.BigEndian.Uint16(m.Body) == eventPingRequest {
			value := binary.BigEndian.Uint32(m.Body[2:])
			_ = c.locked(func(w *chunkWriter) error { return w.userControl(eventPingResponse, value) }) // the next write fails too
		}
	case TypeAcknowledgement:
		if len(m.Body) == 4 {
			c.peerAcked.Store(binary.BigEndian.Uint32(m.Body))
		}
	case TypeSetPeerBandwidth:
		_ = c.locked(func(w *chunkWriter) error { return w.control(TypeWindowAckSize, windowAckBytes) }) // as above
	case TypeCommand, TypeCommandAMF3:
		if cmd, err := parseCommand(m.Type, m.Body); err == nil {
			return cmd, true
		}
	}
	return command{}, false
}

// readLoop reads until the connection ends. It is the one goroutine that a Conn
// owns; Close waits for it.
func (c *Conn) readLoop() {
	defer close(c.done)
	for {
		m, err := c.reader.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errServerClosed
			}
			c.fail(&StageError{Stage: StageLive, Host: c.target.Address(), Err: err})
			c.sock.abort() // a write that waits for this peer waits in vain
			return
		}
		if cmd, ok := c.handle(m); ok {
			c.heard(cmd)
		}
	}
}

// heard takes in a command of a server that publishes us.
func (c *Conn) heard(cmd command) {
	_, code, description := cmd.status()
	switch {
	case code == "NetConnection.Connect.ReconnectRequest":
		c.ask(ReconnectRequest{Description: c.target.redact(description), TCURL: reconnectURL(cmd)})
	case isRefusal(cmd), cmd.name == "close", code == "NetConnection.Connect.Closed":
		c.fail(c.refusal(StageLive, cmd))
	}
}

// A ReconnectRequest is the server's wish that the client connects anew and leaves
// this connection when it has, as Enhanced RTMP has it.
type ReconnectRequest struct {
	Description string
	// TCURL is where to; empty means the same place.
	TCURL secret.String
}

// ask passes a request on. One that nobody has looked at yet is replaced.
func (c *Conn) ask(r ReconnectRequest) {
	select {
	case <-c.reconnect:
	default:
	}
	c.reconnect <- r // the reading goroutine is the only one that sends
}

// ReconnectRequests has a value when the server asked for it.
func (c *Conn) ReconnectRequests() <-chan ReconnectRequest { return c.reconnect }

func reconnectURL(cmd command) secret.String {
	for _, a := range cmd.args {
		if o, ok := object(a); ok {
			if s, ok := o.GetString("tcUrl"); ok {
				return secret.New(s)
			}
		}
	}
	return secret.String{}
}

func (c *Conn) fail(err error) {
	c.failOnce.Do(func() {
		c.failure = err
		close(c.failed)
	})
}

// Failed is closed when the connection has failed by itself; Err says why.
func (c *Conn) Failed() <-chan struct{} { return c.failed }

// Err says why Failed is closed; nil before.
func (c *Conn) Err() error {
	select {
	case <-c.failed:
		return c.failure
	default:
		return nil
	}
}

// Capabilities returns what the server announced.
func (c *Conn) Capabilities() Capabilities { return c.caps }

// WriteTag sends t, stamped with timestampMS. It blocks while the socket is full
// and fails when the peer takes nothing for the write timeout.
func (c *Conn) WriteTag(t *Tag, timestampMS uint32) error {
	chunkStream := byte(chunkStreamData)
	switch t.typ {
	case TypeAudio:
		chunkStream = chunkStreamAudio
	case TypeVideo:
		chunkStream = chunkStreamVideo
	}
	if err := c.Err(); err != nil {
		return err
	}
	err := c.locked(func(w *chunkWriter) error {
		return w.write(chunkStream, t.typ, c.streamID, timestampMS, t.head[:t.headLen], t.payload)
	})
	if err != nil {
		// What the server said last says more than a broken pipe does.
		if failure := c.Err(); failure != nil {
			return failure
		}
		if isTimeout(err) {
			err = errStalled
		}
		return &StageError{Stage: StageLive, Host: c.target.Address(), Err: err}
	}
	return nil
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// Abort makes writes fail at once, the one under way included. [Conn.Close] must
// follow.
func (c *Conn) Abort() { c.sock.abort() }

// ConnStats are the figures of a connection.
type ConnStats struct {
	SocketStats
	// PeerAcknowledged is what the server's last RTMP acknowledgement said:
	// received bytes modulo 2^32. 0 if it sent none.
	PeerAcknowledged uint32
}

// Stats asks the kernel how the connection does.
func (c *Conn) Stats() ConnStats {
	return ConnStats{SocketStats: c.sock.stats(), PeerAcknowledged: c.peerAcked.Load()}
}

// Close tells the server that the stream ends, waits for it to hang up, but a second
// at most, and closes the connection. The error says that this goodbye could not be
// sent; where the second runs out it was, and the server may not have read it.
func (c *Conn) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, goodbyeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		// The kernel must not go on with half a message.
		c.sock.abort()
		c.sock.interrupt()
	})
	defer stop()

	err := c.Err()
	if err == nil {
		err = c.locked(func(w *chunkWriter) error {
			key := c.target.Key.Reveal()
			return firstError(
				w.command(chunkStreamCommand, 0, "FCUnpublish", idFCUnpublish, nil, key),
				w.command(chunkStreamCommand, 0, "deleteStream", idDeleteStream, nil, float64(c.streamID)),
			)
		})
	}
	if err == nil {
		// Closing with unread bytes would reset the connection and could cost the
		// server the end of the stream: say goodbye and read on until it closes.
		if secured, ok := c.stream.(*tls.Conn); ok {
			_ = secured.CloseWrite()
		}
		_ = c.sock.CloseWrite()
		<-c.done
	} else {
		_ = c.sock.SetLinger(0)
	}
	_ = c.sock.Close()
	<-c.done
	if err != nil {
		return &StageError{Stage: StageLive, Host: c.target.Address(), Err: err}
	}
	return nil
}
