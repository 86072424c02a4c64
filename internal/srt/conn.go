package srt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	gosrt "github.com/datarhei/gosrt"
)

// Errors of a connection.
var (
	// ErrFull: the library's queue has no room; the datagram was not taken, and the
	// connection is as good as before.
	ErrFull = errors.New("the send queue is full")
	// ErrClosed: the peer ended the connection, or was not heard for five seconds.
	ErrClosed = errors.New("the peer ended the connection, or is not heard any more")
)

// A RejectedError is a peer's no.
type RejectedError struct{ Code uint32 }

// Codes of rejections: the SRT access control guidelines, and the handshake's own.
const (
	BadSecret    = 1010
	Unsecure     = 1011
	BadRequest   = 1400
	Unauthorized = 1401
	Overload     = 1402
	Forbidden    = 1403
	NotFound     = 1404
	Conflict     = 1409
)

func (e *RejectedError) Error() string {
	why := ""
	switch e.Code {
	case 1002:
		why = ": the peer refuses, mostly for the stream id"
	case 1003:
		why = ": the peer has no room"
	case BadSecret:
		why = ": the passphrase is wrong"
	case Unsecure:
		why = ": one side has a passphrase and the other has none, or another one"
	case BadRequest:
		why = ": the stream id is no good"
	case Unauthorized:
		why = ": the stream id does not log in"
	case Overload:
		why = ": the peer is overloaded"
	case Forbidden:
		why = ": the stream id may not do this"
	case NotFound:
		why = ": the peer knows no such stream"
	case Conflict:
		why = ": the stream is in use"
	}
	return fmt.Sprintf("the peer rejected the connection (code %d)%s", e.Code, why)
}

// Permanent reports whether calling again soon is of no use.
func (e *RejectedError) Permanent() bool {
	switch e.Code {
	case BadSecret, Unsecure, BadRequest, Unauthorized, Forbidden:
		return true
	default:
		return false
	}
}

// A Conn is an SRT connection. Safe for concurrent use, by one reader and one
// writer.
type Conn struct {
	conn   gosrt.Conn
	caller bool
	relay  *relay // nil: none

	closing sync.Once
	closed  chan struct{}
	reading sync.Mutex // held by who reads

	mu   sync.Mutex // guards the fields below
	last gosrt.Statistics
}

const (
	// attempts of a caller's handshake, and how long one may take beyond what the
	// network takes: the library sends each of its datagrams once.
	handshakeAttempts = 4
	handshakeTimeout  = time.Second
	probeInterval     = 250 * time.Millisecond
)

// Dial calls a listener. control is called with each address before anything is
// sent to it, as [net.Dialer.Control] is.
func Dial(ctx context.Context, a Address, control func(network, address string, c syscall.RawConn) error) (*Conn, error) {
	if a.Mode != Caller {
		return nil, errors.New("the address is one to listen on")
	}
	there, err := probe(ctx, a.HostPort, control)
	if err != nil {
		return nil, err
	}
	config := a.config()
	config.ConnectionTimeout = handshakeTimeout + 4*there.rtt
	needsRelay := !a.Passphrase.Empty() && a.KeyBits > 128 && !there.namesKey
	for attempt := 1; ; attempt++ {
		var via *relay
		if needsRelay {
			if via, err = newRelay(ctx, there.address, a.KeyBits, control); err != nil {
				return nil, err
			}
		}
		conn, err := dial(ctx, there.address, config, via)
		if err == nil {
			return conn, nil
		}
		var rejected *RejectedError
		if errors.As(err, &rejected) || attempt == handshakeAttempts || ctx.Err() != nil {
			return nil, err
		}
	}
}

// dial lets the library call, over a relay unless that is nil, which it closes if it
// fails. It cannot be interrupted, but does not take long: who gives up leaves the end
// of the call to a goroutine.
func dial(ctx context.Context, remote string, config gosrt.Config, via *relay) (*Conn, error) {
	if via != nil {
		remote = via.self.String()
	}
	type result struct {
		conn gosrt.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := gosrt.Dial("srt", remote, config)
		if err != nil && via != nil {
			via.close()
		}
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, explainDial(r.err)
		}
		return newConn(r.conn, true, via), nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				newConn(r.conn, true, via).Close()
			}
		}()
		return nil, ctx.Err()
	}
}

var rejection = regexp.MustCompile(`REJECT \(([0-9a-v]+)\)`)

// explainDial words an error of the library. It names a rejection in digits of base
// 32.
func explainDial(err error) error {
	if m := rejection.FindStringSubmatch(err.Error()); m != nil {
		if code, perr := strconv.ParseUint(m[1], 32, 32); perr == nil {
			return &RejectedError{Code: uint32(code)}
		}
	}
	if strings.Contains(err.Error(), "connection timeout") {
		return fmt.Errorf("the peer answers, and then does not go on with the handshake: %w", context.DeadlineExceeded)
	}
	return fmt.Errorf("calling: %w", err)
}

// An answer is what a listener says to the first message of a handshake.
type answer struct {
	address  string
	rtt      time.Duration
	namesKey bool // it says how long the key has to be
}

// probe asks a listener whether it is there. It repeats the first message of the
// handshake, as the library does not.
func probe(ctx context.Context, hostPort string, control func(network, address string, c syscall.RawConn) error) (answer, error) {
	d := net.Dialer{Control: control}
	conn, err := d.DialContext(ctx, "udp", hostPort)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	hello := induction()
	buf := make([]byte, 1500)
	for {
		sent := time.Now()
		if _, err := conn.Write(hello); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			return answer{}, err
		}
		_ = conn.SetReadDeadline(sent.Add(probeInterval))
		if ctx.Err() != nil {
			return answer{}, noAnswer(ctx)
		}
		n, err := conn.Read(buf)
		switch {
		case err == nil && isHandshake(buf[:n]):
			return answer{conn.RemoteAddr().String(), time.Since(sent), keyField(buf) != 0}, nil
		case err == nil:
		case ctx.Err() != nil:
			return answer{}, noAnswer(ctx)
		case errors.Is(err, syscall.ECONNREFUSED):
			return answer{}, fmt.Errorf("nobody listens for srt there: %w", syscall.ECONNREFUSED)
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return answer{}, err
		}
	}
}

func noAnswer(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
	}
	return ctx.Err()
}

// induction returns the first message of a handshake (draft-sharabayko-srt, 4.3.1).
func induction() []byte {
	b := make([]byte, 64)
	b[0] = 0x80 // control packet, type handshake
	p := b[16:]
	binary.BigEndian.PutUint32(p[0:], 4) // version of the first message
	binary.BigEndian.PutUint16(p[6:], 2) // datagrams
	binary.BigEndian.PutUint32(p[12:], 1500)
	binary.BigEndian.PutUint32(p[16:], 8192)
	binary.BigEndian.PutUint32(p[20:], 1) // induction
	binary.BigEndian.PutUint32(p[24:], rand.Uint32()|1)
	return b
}

func isHandshake(b []byte) bool {
	return len(b) >= 64 && b[0] == 0x80 && b[1] == 0
}

func newConn(c gosrt.Conn, caller bool, via *relay) *Conn {
	return &Conn{conn: c, caller: caller, relay: via, closed: make(chan struct{})}
}

// Write hands one datagram of at most [PayloadBytes] over, and does not block:
// [ErrFull] and [ErrClosed] say what the library calls io.EOF.
func (c *Conn) Write(b []byte) error {
	if len(b) > PayloadBytes {
		return fmt.Errorf("a datagram of %d bytes, more than %d", len(b), PayloadBytes)
	}
	_, err := c.conn.Write(b)
	select {
	case <-c.closed:
		return ErrClosed // the library may have taken it all the same
	default:
	}
	if err != nil {
		return ErrFull
	}
	return nil
}

// Read reads one datagram, as much of it as b holds; [ErrClosed] when the
// connection is over. Somebody must read for [Conn.Done] to work.
func (c *Conn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	n, err := c.conn.Read(b)
	if err != nil {
		c.over()
		return 0, ErrClosed
	}
	return n, nil
}

// Discard reads until the connection is over.
func (c *Conn) Discard() {
	b := make([]byte, PayloadBytes)
	for {
		if _, err := c.Read(b); err != nil {
			return
		}
	}
}

// Done is closed when the connection is over.
func (c *Conn) Done() <-chan struct{} { return c.closed }

func (c *Conn) over() { c.closing.Do(func() { close(c.closed) }) }

// Close tells the peer and ends the connection. What is not sent is lost.
func (c *Conn) Close() {
	_ = c.conn.Close()
	c.over()
	if !c.caller {
		return
	}
	if c.relay != nil {
		defer c.relay.close()
	}
	// The library's receiving goroutine waits to say that it is over until somebody
	// asks. Who reads has been told by now.
	c.reading.Lock()
	defer c.reading.Unlock()
	b := make([]byte, 1)
	for range 200 {
		if _, err := c.conn.Read(b); errors.Is(err, gosrt.ErrClientClosed) || errors.Is(err, net.ErrClosed) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// Stats are the figures of a connection.
type Stats struct {
	RTT time.Duration
	// Packets of data sent, among them again; lost as the peer reported; dropped
	// because they were too late.
	Sent, Retransmitted, Lost, Dropped uint64
	// Buffered packets and bytes are not acknowledged yet.
	Buffered, BufferedBytes uint64
	// Of what comes in.
	Received, ReceivedBytes, ReceiveLost, ReceiveDropped, Undecrypted uint64
	// Latency as agreed with the peer.
	Latency time.Duration
}

// Stats returns the figures now.
func (c *Conn) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn.Stats(&c.last)
	a, i := c.last.Accumulated, c.last.Instantaneous
	return Stats{
		RTT:  time.Duration(i.MsRTT * float64(time.Millisecond)),
		Sent: a.PktSent, Retransmitted: a.PktRetrans, Lost: a.PktSendLoss, Dropped: a.PktSendDrop,
		Buffered: i.PktSendBuf, BufferedBytes: i.ByteSendBuf,
		Received: a.PktRecv, ReceivedBytes: a.ByteRecv, ReceiveLost: a.PktRecvLoss, ReceiveDropped: a.PktRecvDrop,
		Undecrypted: a.PktRecvUndecrypt,
		Latency:     time.Duration(max(i.MsSendTsbPdDelay, i.MsRecvTsbPdDelay)) * time.Millisecond,
	}
}
