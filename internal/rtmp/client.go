package rtmp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// Times and sizes of a publishing connection.
const (
	defaultDialTimeout  = 10 * time.Second
	defaultStallTimeout = 3 * time.Second
	goodbyeTimeout      = time.Second
	windowAckBytes      = 2_500_000
	maxClientMessage    = 1 << 20 // servers send publishers nothing big
)

// A ClientConfig says where and how to publish.
type ClientConfig struct {
	Target Target
	// RootCAs verify an rtmps server; nil means those of the system.
	RootCAs *x509.CertPool
	// Fingerprint, if set, is that of the one certificate that an rtmps server may
	// show; nothing else of it is verified then.
	Fingerprint Fingerprint
	// Certificate is shown to an rtmps server that asks for one; nil for none.
	Certificate *tls.Certificate
	// Bind is the local address to connect from; the zero value leaves the choice to
	// the system.
	Bind netip.Addr
	// Proxy is what the connection is made through; nil for none.
	Proxy *Proxy
	// DialTimeout bounds [Dial] beside its context; 0 means 10 s.
	DialTimeout time.Duration
	// StallTimeout is how long the peer may acknowledge none of the bytes that wait
	// for it; 0 means 3 s. A peer that is slow but takes bytes is not cut off.
	StallTimeout time.Duration
	// lookup resolves names; nil for the system's resolver.
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	// Control is called with each address right before it is connected to, and may
	// refuse it; as in [net.Dialer]. Nil refuses none.
	Control func(network, address string, c syscall.RawConn) error
}

// Dial connects to the target and returns when the server has accepted the
// publication. Errors are *[StatusError] when the server said no, and
// *[StageError] otherwise. ctx bounds Dial alone.
func Dial(ctx context.Context, cfg ClientConfig) (*Conn, error) {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = defaultDialTimeout
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = defaultStallTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()

	// Each round of authentication is a connection of its own.
	query := ""
	for range 3 {
		c, err := dialOnce(ctx, cfg, query)
		if err == nil {
			return c, nil
		}
		var refused *connectRefusedError
		if !errors.As(err, &refused) {
			return nil, err
		}
		if query, err = refused.next(cfg.Target); err != nil {
			return nil, err
		}
	}
	return nil, &StatusError{Stage: StageConnect, Description: "authmod: the server asks for user and password again and again"}
}

// connectRefusedError is a refused connect, unredacted: it may hold a challenge.
type connectRefusedError struct{ code, description string }

func (e *connectRefusedError) Error() string { return "connect refused" }

// next returns the query that answers the challenge, or the error if there is
// none or no answer to it.
func (e *connectRefusedError) next(t Target) (string, error) {
	status := &StatusError{Stage: StageConnect, Code: t.redact(e.code), Description: t.redact(e.description)}
	challenge, ok := parseAuthChallenge(e.description)
	if !ok {
		return "", status
	}
	switch {
	case t.User == "":
		status.Description = "authmod: the server asks for user and password; write them into the URL: rtmp://user:password@host"
		return "", status
	case challenge.failed:
		status.Description = "authfailed: the server refuses the user or the password"
		return "", status
	}
	app, _, _ := strings.Cut(t.App.Reveal(), "?")
	query, ok := challenge.answer(t.User, t.Password.Reveal(), app)
	if !ok {
		status.Description = "authmod: the server asks for an authentication that is neither adobe nor llnw"
		return "", status
	}
	return query, nil
}

func dialOnce(ctx context.Context, cfg ClientConfig, authQuery string) (*Conn, error) {
	t := cfg.Target
	fail := func(stage Stage, err error) error {
		if errors.Is(err, errServerClosed) {
			err = errGuess{err, stage}
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
			if errors.Is(err, context.DeadlineExceeded) {
				err = errNoAnswer{err}
			}
		}
		if cfg.Proxy != nil && (stage == StageDNS || stage == StageTCP || stage == StageProxy) {
			err = fmt.Errorf("proxy %s: %w", cfg.Proxy, err)
		}
		return &StageError{Stage: stage, Host: t.Address(), Err: err}
	}

	to := t.Address()
	if cfg.Proxy != nil {
		to = cfg.Proxy.address
	}
	raw, stage, err := cfg.connect(ctx, to)
	if err != nil {
		return nil, fail(stage, err)
	}
	c := &Conn{
		target:    t,
		sock:      newSocket(raw, cfg.StallTimeout),
		done:      make(chan struct{}),
		failed:    make(chan struct{}),
		reconnect: make(chan ReconnectRequest, 1),
	}
	stop := context.AfterFunc(ctx, func() { _ = c.sock.Close() })
	c.stream = c.sock
	if cfg.Proxy != nil {
		if err := cfg.Proxy.connect(ctx, c.sock, t.Address()); err != nil {
			stop()
			_ = c.sock.Close()
			return nil, fail(StageProxy, err)
		}
	}
	if t.TLS {
		secured := tls.Client(c.sock, cfg.tlsConfig())
		if err := secured.HandshakeContext(ctx); err != nil {
			stop()
			_ = c.sock.Close()
			return nil, fail(StageTLS, err)
		}
		c.stream = secured
	}
	stage, err = c.open(authQuery)
	if stage == StageHandshake && t.TLS && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
		// What the server thinks of how it is secured may wait behind a reset.
		if _, alert := c.stream.Read(make([]byte, 1)); isTLSAlert(alert) {
			err = alert
		}
	}
	if !stop() {
		// ctx ended, and with it the connection.
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.sock.Close()
		var refused *connectRefusedError
		var status *StatusError
		if ctx.Err() == nil && (errors.As(err, &refused) || errors.As(err, &status)) {
			return nil, err
		}
		return nil, fail(stage, err)
	}
	go c.readLoop()
	return c, nil
}

// errServerClosed is an end of the connection that the server brought about
// without a word.
var errServerClosed = errors.New("the server closed the connection")

// errGuess adds what a close at a stage mostly means.
type errGuess struct {
	error
	stage Stage
}

func (e errGuess) Error() string {
	switch e.stage {
	case StageConnect:
		return e.error.Error() + "; it may not know the app"
	case StageCreateStream, StagePublish:
		return e.error.Error() + "; it may refuse the stream key"
	default:
		return e.error.Error()
	}
}

func (e errGuess) Unwrap() error { return e.error }

// errNoAnswer words a deadline for people.
type errNoAnswer struct{ error }

func (e errNoAnswer) Error() string { return "no answer in time" }
func (e errNoAnswer) Unwrap() error { return e.error }
