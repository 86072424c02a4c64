package ingestrtsp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/liberrors"
	"github.com/pion/rtcp"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/secret"
)

const (
	// setupLimit is how long a source may take from the first packet of the connection
	// to PLAY, whatever it does meanwhile.
	setupLimit = 20 * time.Second
	// udpPatience is how long media may take to come by UDP before TCP is tried.
	udpPatience = 2 * time.Second
	// blockedFor is how long UDP is not tried again for a source from which nothing
	// came by it.
	blockedFor = 10 * time.Minute
	// maxConnections is how often a source may be connected to until it plays: it may
	// redirect, and once more for TCP.
	maxConnections = 8
	// udpBufferBytes is asked of the kernel for each socket: a keyframe comes at once.
	udpBufferBytes = 2 << 20

	userAgent = "headgate"
)

// errNothing: what the source offers is not carried.
var errNothing = sdk.Permanent(&sdk.Error{
	Cause: sdk.CauseRemote, Class: "protocol",
	Err: errors.New("the source offers nothing that the gateway carries: want H.264, H.265, AAC, Opus or G.711"),
})

// Pull implements [sdk.Puller].
func (in *ingest) Pull(ctx context.Context, raw secret.String, pub *sdk.Publication) error {
	var o Options
	if err := pub.Options(&o); err != nil {
		return sdk.Permanent(&sdk.Error{Cause: sdk.CauseConfig, Err: err})
	}
	src, err := parseSource(raw, o.Transport)
	if err != nil {
		return sdk.Permanent(&sdk.Error{Cause: sdk.CauseConfig, Class: "address", Err: err})
	}
	p := &pull{source: src, options: o, pub: pub, log: sdk.Logger().With("stream", pub.Stream(), "source", src.address()), switched: func() { in.block(src) }}
	p.auto = src.transport == transportAuto
	p.udp = src.transport == transportUDP || p.auto && !in.isBlocked(src)
	err = p.run(ctx)
	var odd *udpError
	if errors.As(err, &odd) && p.auto {
		// It does not say so in the way in which the library would turn to TCP by itself.
		p.log.Info("the source does not send by UDP as it should; TCP is tried", "why", odd.err)
		in.block(src)
		p.udp = false
		err = p.run(ctx)
	}
	if err != nil && ctx.Err() == nil {
		return explain(err, src.url.User != nil)
	}
	return nil
}

// block remembers that nothing comes from a source by UDP.
func (in *ingest) block(s source) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.blocked == nil {
		in.blocked = make(map[string]time.Time)
	}
	for address, at := range in.blocked {
		if time.Since(at) > blockedFor {
			delete(in.blocked, address)
		}
	}
	in.blocked[s.address()] = time.Now()
}

func (in *ingest) isBlocked(s source) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	at, ok := in.blocked[s.address()]
	return ok && time.Since(at) <= blockedFor
}

// A udpError is a failure that may be due to UDP.
type udpError struct{ err error }

func (e *udpError) Error() string { return e.err.Error() }
func (e *udpError) Unwrap() error { return e.err }

// A pull fetches one source once.
type pull struct {
	source   source
	options  Options
	pub      *sdk.Publication
	auto     bool // udp, and TCP if that does not work
	udp      bool
	switched func() // called when the library turned to TCP
	log      *slog.Logger

	connections int                         // so far; the library makes one after the other
	local       atomic.Pointer[net.TCPAddr] // this end of the connection
	tcp         atomic.Bool                 // media come by TCP
	// unanswered ends a connection on which nothing has been heard so far.
	unanswered atomic.Pointer[time.Timer]
	late       atomic.Bool // it did

	session atomic.Pointer[session] // what packets are for; nil before there is one
	ended   chan error              // takes the first end without blocking
}

// run fetches until ctx or the publication ends, or the source does.
func (p *pull) run(ctx context.Context) error {
	p.connections, p.ended = 0, make(chan error, 1)
	c, err := p.client()
	if err != nil {
		return err
	}
	if err := c.Start2(); err != nil {
		return err
	}
	var watch sync.WaitGroup
	defer watch.Wait()
	defer p.answered()
	defer c.Close()
	// Whatever it does, it comes to PLAY in time or not at all.
	starting, started := context.WithTimeout(ctx, setupLimit)
	defer started()
	stop := context.AfterFunc(starting, c.Close)
	s, err := p.play(c)
	if !stop() && err == nil || err != nil && (errors.Is(starting.Err(), context.DeadlineExceeded) || p.late.Load()) {
		err = liberrors.ErrClientRequestTimedOut{}
	}
	if err != nil {
		return err
	}
	defer s.close()
	watch.Go(func() { p.end(c.Wait()) })
	s.start(p.pub)
	p.log.Info("the source plays", "transport", p.transport())
	patience := p.options.Timeout
	if p.udp && p.auto {
		patience += udpPatience // until TCP is tried
	}
	return watchSession(ctx, s, p.pub, p.transport, patience, p.ended)
}

var errEnds = errors.New("the plugin ends")

// watchSession reports on a session until ctx or the publication ends, or the session
// does. One of which no media have come for timeout has ended: the library hears the
// reports, too, and a camera sends them whether it has a picture or not.
func watchSession(ctx context.Context, s *session, pub *sdk.Publication, transport func() string, timeout time.Duration, ended <-chan error) error {
	tick := time.NewTicker(silentAfter / 2)
	defer tick.Stop()
	silent := false
	reported := time.Now()
	for {
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			return errEnds
		case <-pub.Done():
			return nil
		case <-tick.C:
		}
		if s.quiet() >= timeout {
			return errStalled
		}
		if is := s.silent(); is != silent {
			silent = is
			pub.ReportSilence(silent)
		}
		if time.Since(reported) >= time.Second {
			reported = time.Now()
			pub.ReportStats(s.stats(transport()))
		}
	}
}

func (p *pull) transport() string {
	if p.tcp.Load() {
		return transportTCP
	}
	return transportUDP
}

// client makes the client. Every callback is set: the library would print otherwise.
func (p *pull) client() (*gortsplib.Client, error) {
	roots, err := p.options.roots()
	if err != nil {
		return nil, err
	}
	c := &gortsplib.Client{
		Scheme: p.source.url.Scheme, Host: p.source.url.Host,
		ReadTimeout: p.options.Timeout, WriteTimeout: p.options.Timeout, InitialUDPReadTimeout: udpPatience,
		TLSConfig: p.source.tls(roots), UserAgent: userAgent,
		DialContext: p.dial, ListenPacket: p.listenPacket,
		OnRequest:       func(*base.Request) {},
		OnResponse:      func(*base.Response) { p.answered() },
		OnServerRequest: func(*base.Request) {}, OnServerResponse: func(*base.Response) {},
		OnTransportSwitch: func(why error) {
			if errors.As(why, new(liberrors.ErrClientSwitchToTCP)) {
				p.log.Info("nothing comes by UDP; TCP is tried")
			} else {
				p.log.Info("the source does not send by UDP; TCP is tried")
			}
			p.tcp.Store(true)
			p.switched()
		},
		OnPacketsLost: func(uint64) {}, // counted by the session
		OnDecodeError: p.decodeError,
	}
	// Without a transport the library turns from UDP to TCP by itself.
	by := gortsplib.TransportTCP
	if p.udp {
		by = gortsplib.TransportUDP
	}
	if !p.udp || !p.auto {
		c.Transport = &by
	}
	p.tcp.Store(!p.udp)
	return c, nil
}

// decodeError hears of a packet that cannot be read. Datagrams that are larger than the
// library takes come whole by TCP.
func (p *pull) decodeError(err error) {
	if s := p.session.Load(); s != nil {
		s.unreadable(err)
	}
	if p.auto && errors.As(err, new(liberrors.ErrClientRTPPacketTooBigUDP)) {
		p.end(&udpError{err})
	}
}

// end says why the session ends, unless that is known.
func (p *pull) end(err error) {
	select {
	case p.ended <- err:
	default:
	}
}

// answered says that the source was heard, or is not to be heard any more.
func (p *pull) answered() {
	if t := p.unanswered.Swap(nil); t != nil {
		t.Stop()
	}
}

// dial connects. The library follows redirections and takes the credentials along:
// they are for one host.
func (p *pull) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if p.source.url.User != nil && !strings.EqualFold(address, p.source.address()) {
		return nil, &sdk.Error{
			Cause: sdk.CauseRemote, Class: "protocol",
			Err: errors.New("the source redirects to another host, for which the user and password are not meant: write the URL of that one"),
		}
	}
	if p.connections++; p.connections > maxConnections {
		return nil, &sdk.Error{Cause: sdk.CauseRemote, Class: "protocol", Err: errors.New("the source redirects again and again")}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if local, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		p.local.Store(local)
	}
	// The library sets no deadline for what it reads, and a handshake of TLS reads.
	p.unanswered.Store(time.AfterFunc(p.options.Timeout, func() {
		p.late.Store(true)
		_ = conn.Close()
	}))
	return conn, nil
}

// listenPacket opens a socket for media, on the address that the source knows us by.
func (p *pull) listenPacket(network, address string) (net.PacketConn, error) {
	if local := p.local.Load(); local != nil {
		if _, port, err := net.SplitHostPort(address); err == nil {
			host := local.IP.String()
			if local.Zone != "" {
				host += "%" + local.Zone
			}
			network, address = "udp", net.JoinHostPort(host, port)
		}
	}
	return listenPacket(network, address)
}

// listenPacket opens a socket with room for a keyframe, as far as the kernel grants it.
func listenPacket(network, address string) (net.PacketConn, error) {
	conn, err := net.ListenPacket(network, address)
	if err != nil {
		return nil, err
	}
	if u, ok := conn.(*net.UDPConn); ok {
		_ = u.SetReadBuffer(udpBufferBytes) // less will do
	}
	return conn, nil
}

// play asks for the stream; the session's packets come from then on.
func (p *pull) play(c *gortsplib.Client) (*session, error) {
	d, _, err := c.Describe(p.source.url)
	if err != nil {
		return nil, err
	}
	s := newSession(d, p.log)
	p.session.Store(s)
	if len(s.tracks) == 0 {
		return nil, errNothing
	}
	for _, m := range s.medias() {
		if _, err := c.Setup(d.BaseURL, m, 0, 0); err != nil {
			return nil, p.maybeUDP(err)
		}
		c.OnPacketRTCP(m, func(r rtcp.Packet) { s.report(m, r) })
	}
	if _, err := c.Play(nil); err != nil {
		return nil, p.maybeUDP(err)
	}
	if p.source.url.Scheme == "rtsps" && p.auto {
		p.tcp.Store(!s.medias()[0].Secure) // the library's choice: UDP with SRTP only
	}
	return s, nil
}

// maybeUDP marks a failure that TCP may not have.
func (p *pull) maybeUDP(err error) error {
	var status liberrors.ErrClientBadStatusCode
	if errors.As(err, &status) && (status.Code == base.StatusUnauthorized || status.Code == base.StatusForbidden || status.Code == base.StatusNotFound) {
		return err
	}
	if p.udp && !p.tcp.Load() {
		return &udpError{err}
	}
	return err
}
