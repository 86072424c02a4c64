package rtmp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Limits of a server.
const (
	defaultMaxConns     = 1000
	defaultIdleTimeout  = 30 * time.Second
	defaultPingInterval = 10 * time.Second
	openingTimeout      = 10 * time.Second // from accept to publish
	serverWriteTimeout  = 5 * time.Second
	leaveTime           = time.Second // to read why
	maxStreamsPerConn   = 8
	maxEnded            = 64
	recordBuffer        = 64 << 10
)

// A Server receives what RTMP clients publish: the ingest, and the far end of the
// demo, of `gateway sink rtmp` and of tests. It looks at everything that arrives and keeps
// figures of it ([Server.Stats]); it plays nothing back. It is safe to expose to
// hostile clients: time, connections and memory per connection are bounded.
//
// Fields are set before Run and not changed afterwards. The functions are called
// from the connections' goroutines, concurrently for different publications.
type Server struct {
	// Addr is what Run listens on, host:port; 1935 is the usual port.
	Addr string
	// Listener is served instead, if set. Run closes it.
	Listener net.Listener
	// TLS makes it rtmps.
	TLS *tls.Config

	// Check decides whether p may publish; nil accepts everyone. A *[StatusError]
	// is sent as it is, any other error as NetStream.Publish.Unauthorized. It may take
	// its time, and may set p.App to what logs shall call the publication, and
	// p.Session. Before it said yes a client gets room for commands alone.
	Check func(p *Publish) error
	// Unique refuses who publishes under an app and key that are in use, with
	// NetStream.Publish.BadName, as many servers do.
	Unique bool
	// OnPublish is called when p was accepted, OnMessage with every audio, video
	// and data message and when its last byte was read, OnEnd when the publication
	// is over: with nil when the client said so. All may be nil. Those of one
	// publication are called by one goroutine. The body of the
	// message is the callee's to keep, not to change.
	OnPublish func(p *Publish)
	OnMessage func(p *Publish, m Message, arrived time.Time)
	OnEnd     func(p *Publish, err error)

	// RecordDir is where each publication is recorded to, as an FLV file; empty
	// records nothing.
	RecordDir string
	// Announce is what the answer to connect says of Enhanced RTMP; nil is a server
	// of before it.
	Announce *Capabilities

	// MaxConns bounds the connections, MaxMessageBytes one message; 0 means 1000
	// and 8 MiB. MaxOpening bounds the connections of one address that do not publish
	// yet; 0 sets no limit of its own.
	MaxConns        int
	MaxOpening      int
	MaxMessageBytes int
	// IdleTimeout ends a connection from which no byte came for so long, PingInterval
	// is how often a client is asked for one; 0 means 30 s and 10 s.
	IdleTimeout  time.Duration
	PingInterval time.Duration
	// Log may be nil.
	Log *slog.Logger

	mu      sync.Mutex // guards the fields below
	lastID  uint64
	active  map[uint64]*publication
	ended   []StreamStats  // the newest last
	opening map[string]int // connections that do not publish yet, by address
}

// Run serves until ctx ends. It returns nil then, when all connections are
// closed and their goroutines are through.
func (s *Server) Run(ctx context.Context) error {
	listener := s.Listener
	if listener == nil {
		var err error
		if listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", s.Addr); err != nil {
			return fmt.Errorf("listening for rtmp: %w", err)
		}
	}
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()

	slots := make(chan struct{}, orDefault(s.MaxConns, defaultMaxConns))
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if isTemporary(err) {
				s.log().Warn("accepting an rtmp connection", "error", err)
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
				}
				continue
			}
			_ = listener.Close()
			return fmt.Errorf("accepting rtmp connections: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default:
			s.log().Warn("refusing an rtmp connection: too many", "remote", conn.RemoteAddr().String())
			_ = conn.Close()
			continue
		}
		opened, ok := s.open(conn.RemoteAddr())
		if !ok {
			<-slots
			s.log().Warn("refusing an rtmp connection: too many of this address that do not publish", "remote", conn.RemoteAddr().String())
			_ = conn.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			defer opened()
			s.serve(ctx, conn, opened)
		})
	}
}

// open counts a connection among those of its address that do not publish yet, until
// opened is called. It reports false if there are too many.
func (s *Server) open(remote net.Addr) (opened func(), ok bool) {
	host := remote.String()
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.MaxOpening > 0 && s.opening[host] >= s.MaxOpening {
		return nil, false
	}
	if s.opening == nil {
		s.opening = make(map[string]int)
	}
	s.opening[host]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.opening[host]--; s.opening[host] == 0 {
			delete(s.opening, host)
		}
	}), true
}

// isTemporary: out of file descriptors, or the client was gone before we came.
func isTemporary(err error) bool {
	var ne interface{ Temporary() bool }
	return errors.As(err, &ne) && ne.Temporary()
}

// serve runs one connection. It calls opened when a publication began.
func (s *Server) serve(ctx context.Context, raw net.Conn, opened func()) {
	c := &serverConn{server: s, raw: raw, conn: raw, opened: opened, openBy: time.Now().Add(openingTimeout)}
	defer func() { _ = c.conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	if s.TLS != nil {
		secured := tls.Server(raw, s.TLS)
		c.conn, c.secured = secured, true
		_ = raw.SetDeadline(c.openBy)
		if err := secured.HandshakeContext(ctx); err != nil {
			s.unsecured(c, err)
			return
		}
		_ = raw.SetDeadline(time.Time{})
	}
	err := c.run()
	if p := c.publication; p != nil {
		if ctx.Err() != nil {
			err = errors.New("the server stopped")
		}
		s.end(p, err)
	} else if err != nil && ctx.Err() == nil {
		level := slog.LevelDebug
		if errors.Is(err, errTLS) {
			level = slog.LevelWarn
		}
		s.log().Log(ctx, level, "rtmp connection ended before it published", "remote", c.remote(), "error", err)
	}
	if c.goodbye {
		// Clients hang up themselves; some take a connection that ends before for a fault.
		c.linger()
	}
}

// unsecured logs why a client could not be talked to over TLS: what is likely to be a
// publisher's mistake, or ours, so that it is seen.
func (s *Server) unsecured(c *serverConn, err error) {
	alert, header := new(net.OpError), tls.RecordHeaderError{}
	switch {
	case errors.As(err, &alert) && alert.Op == "remote error": // an alert, nearly always about our certificate
		s.log().Warn("a client does not take the certificate", "remote", c.remote(), "why", alert.Err)
	case errors.As(err, &header) && header.RecordHeader[0] == rtmpVersion:
		s.log().Warn("a client speaks rtmp where rtmps is awaited", "remote", c.remote())
	default:
		s.log().Debug("rtmps connection", "remote", c.remote(), "error", err)
	}
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

func orDefault[T int | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}
