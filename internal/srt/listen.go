package srt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	gosrt "github.com/datarhei/gosrt"

	"github.com/headgate/gateway/sdk/secret"
)

// A Server listens for callers. Make it with [Listen].
type Server struct {
	listener gosrt.Listener
	calls    sync.WaitGroup
}

// Errors of [Listen] that say what to change.
var (
	ErrInUse     = errors.New("the port is in use")
	ErrNotOurs   = errors.New("this machine has no such address")
	ErrForbidden = errors.New("the port needs privileges: take one above 1023")
)

// Listen opens the port of a. Its stream id and passphrase are the callers' and not
// used here.
func Listen(a Address) (*Server, error) {
	if a.Mode != Listener {
		return nil, errors.New("the address is one to call")
	}
	host, port, err := net.SplitHostPort(a.HostPort)
	if err != nil {
		return nil, err
	}
	if host != "" && net.ParseIP(host) == nil {
		addrs, err := net.LookupHost(host)
		if err != nil {
			return nil, err
		}
		host = addrs[0]
	}
	at := net.JoinHostPort(host, port)
	// The library shares a port with whoever does the same: look first.
	first, err := net.ListenPacket("udp", at)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listening on udp port %s: %w", port, ErrInUse)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listening on %s: %w", at, ErrNotOurs)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listening on udp port %s: %w", port, ErrForbidden)
	case err != nil:
		return nil, err
	}
	at = first.LocalAddr().String() // with the port that the kernel chose, if it did
	_ = first.Close()
	if host == "" {
		_, port, _ = net.SplitHostPort(at)
		at = ":" + port
	}
	config := a.config()
	config.StreamId, config.Passphrase = "", ""
	l, err := gosrt.Listen("srt", at, config)
	if err != nil {
		return nil, err
	}
	return &Server{listener: l}, nil
}

// Addr is where it listens, host:port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// A Call is a caller who waits for an answer.
type Call struct{ request gosrt.ConnRequest }

// StreamID is what the caller calls for.
func (c Call) StreamID() secret.String { return secret.New(c.request.StreamId()) }

// Remote is the caller's address.
func (c Call) Remote() string { return c.request.RemoteAddr().String() }

// Reject says no with a code.
func (c Call) Reject(code uint32) { c.request.Reject(gosrt.RejectionReason(code)) }

// Verify checks that the caller encrypts with passphrase; empty: that it does not
// encrypt. Another caller is rejected, and the error says why.
func (c Call) Verify(passphrase secret.String) error {
	switch {
	case passphrase.Empty() && c.request.IsEncrypted():
		c.Reject(Unsecure)
		return errors.New("the caller has a passphrase, and none is set here: let it call without, or set the same")
	case !passphrase.Empty() && !c.request.IsEncrypted():
		c.Reject(Unsecure)
		return errors.New("the caller has no passphrase, and must have the one that is set here")
	case !passphrase.Empty():
		if err := c.request.SetPassphrase(passphrase.Reveal()); err != nil {
			c.Reject(BadSecret)
			return errors.New("the caller has another passphrase than the one that is set here")
		}
	}
	return nil
}

// Accept says yes to a caller that was verified.
func (c Call) Accept() (*Conn, error) {
	conn, err := c.request.Accept()
	if err != nil {
		return nil, fmt.Errorf("answering a caller: %w", err)
	}
	return newConn(conn, false, nil), nil
}

// Run calls answer for each caller, in a goroutine of its own, until ctx ends; it
// returns when they are all through. It closes the server.
func (s *Server) Run(ctx context.Context, answer func(Call)) error {
	stop := context.AfterFunc(ctx, s.listener.Close)
	defer s.calls.Wait()
	defer s.listener.Close()
	defer stop()
	for {
		request, err := s.listener.Accept2()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, gosrt.ErrListenerClosed) {
				return nil
			}
			return fmt.Errorf("waiting for callers: %w", err)
		}
		s.calls.Go(func() { answer(Call{request}) })
	}
}
