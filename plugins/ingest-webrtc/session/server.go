// Package session is the WebRTC side of the ingest: one UDP port for all
// publishers, one peer connection per publisher, and the way of each packet from
// there through reorder, depack and clock to the publication.
//
// It alone knows pion. It does not know HTTP or who may publish: it asks its
// [Host] before it allocates anything for a publisher.
package session

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/headgate/gateway/plugins/ingest-webrtc/negotiate"
	"github.com/headgate/gateway/plugins/ingest-webrtc/relay"
	"github.com/headgate/gateway/plugins/ingest-webrtc/whip"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// A Host decides on offers: sdk.IngestHost, seen from here.
type Host interface {
	Offer(ctx context.Context, o sdk.Offer) (Publication, error)
}

// A Publication is where a session's media go: sdk.Publication, seen from here.
type Publication interface {
	SetTracks(tracks []media.Track)
	WriteAccessUnit(unit *media.AccessUnit)
	ReportStats(s sdk.IngestStats)
	ReportSilence(silent bool)
	Codecs() []media.Codec
	Targets() (targets []sdk.TargetState, known bool)
	Done() <-chan struct{}
	Err() error
	Close(lost error)
}

// A Config is what a Server is made with.
type Config struct {
	// UDP is the address of the one UDP port. An unspecified host stands for all
	// addresses of the machine, port 0 for a free one.
	UDP string
	// TCP is the address for ICE over TCP: that of UDP if empty, none if "off".
	TCP string
	// Interfaces and Networks say which addresses of the machine are used where the
	// host of UDP is unspecified: patterns of names, and networks (CIDR). What a
	// "!" stands before is left out.
	Interfaces, Networks []string
	// PublicIPs are announced where the machine stands behind a NAT that forwards
	// the port.
	PublicIPs []string
	// STUN are the servers (host:port) that are asked for the public address.
	STUN []string
	// TURN are the servers by which the gateway can be reached where nothing else
	// leads to it.
	TURN []ICEServer
	// Publishers are the servers that publishers are told to use.
	Publishers []ICEServer
	// Relay is the address of a TURN server of the gateway's own, for UDP and TCP;
	// none if empty.
	Relay string
	// MaxBPS is how many bits per second a publisher is asked not to exceed; 0 for
	// no limit. Who sends twice as much is sent away.
	MaxBPS uint64
	Log    *slog.Logger
}

// Limits of a Server.
const (
	maxSessions = 1000
	// maxPerAddress is how many sessions one address may have, and maxConnecting how
	// many of them without a connection at a time.
	maxPerAddress = 256
	maxConnecting = 64
	// maxPerStream is how many sessions may be for one stream: the one that feeds it,
	// and those who are about to take it over.
	maxPerStream = 8
	// certificateLife is how long one DTLS certificate is used for new sessions.
	certificateLife = 24 * time.Hour
)

// A Server holds the port and the sessions. Make it with [Listen]; Run ends it.
// It implements [whip.Sessions]; its methods are safe for concurrent use.
type Server struct {
	host  Host
	log   *slog.Logger
	port  *port
	reach *reach
	relay *relay.Server // nil if none

	publishers  []ICEServer // servers for publishers
	relaySecret secret.String
	maxBPS      uint64 // of a publisher; 0 for no limit

	running sync.WaitGroup  // one per session
	ctx     context.Context // of all sessions, done when Run ends
	cancel  context.CancelFunc

	mu          sync.Mutex // guards the fields below
	closed      bool
	taken       int            // places of sessions, also of those that are being made
	places      map[string]int // the same by remote host, and by stream behind a slash
	sessions    map[string]*session
	connecting  map[string]int // by remote host
	certificate *webrtc.Certificate
	certified   time.Time
}

// Listen opens the port. Sessions begin with Publish; Run must be called, too.
func Listen(cfg Config, host Host) (*Server, error) {
	for _, list := range [][]ICEServer{cfg.TURN, cfg.Publishers} {
		for _, i := range list {
			if err := i.check(); err != nil {
				return nil, err
			}
		}
	}
	p, err := openPort(cfg)
	if err != nil {
		return nil, err
	}
	s := &Server{
		host: host, log: cfg.Log, port: p, publishers: cfg.Publishers,
		sessions: map[string]*session{}, connecting: map[string]int{}, places: map[string]int{}, maxBPS: cfg.MaxBPS,
	}
	if s.reach, err = newReach(p, cfg); err != nil {
		return nil, errors.Join(err, p.close())
	}
	if cfg.Relay != "" {
		if err := s.listenRelay(cfg.Relay); err != nil {
			return nil, errors.Join(err, p.close())
		}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// listenRelay opens the TURN server on the addresses of the port.
func (s *Server) listenRelay(addr string) error {
	at, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return fmt.Errorf("turn %s: %w", addr, err)
	}
	c := relay.Config{
		Secret: secret.New(newID()), Port: uint16(s.port.number()), Log: loggers{s.log},
		Bound: func(l net.Listener) net.Listener { return newBounded(l, maxTCPConns) },
		Peers: func() []relay.Peer {
			var out []relay.Peer
			for _, m := range s.reach.announced() {
				out = append(out, relay.Peer{Announced: m.public, Local: m.local})
			}
			return out
		},
	}
	if ip, ok := netip.AddrFromSlice(at.IP); ok && !ip.IsUnspecified() {
		c.Listen = []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), uint16(at.Port))}
	} else {
		for _, socket := range s.port.sockets {
			c.Listen = append(c.Listen, netip.AddrPortFrom(socket.ip, uint16(at.Port)))
		}
	}
	s.relaySecret = c.Secret
	s.relay, err = relay.Listen(c)
	return err
}

// iceServers are those for a new publisher.
func (s *Server) iceServers(id string) []whip.ICEServer {
	list := s.publishers
	if s.relay != nil {
		for _, u := range s.relay.URLs() {
			list = append(list[:len(list):len(list)], ICEServer{URL: u, Secret: s.relaySecret})
		}
	}
	out := make([]whip.ICEServer, len(list))
	for i, l := range list {
		out[i] = l.forPublisher(id)
	}
	return out
}

// Addr is the address of the UDP port; the first one if there are several.
func (s *Server) Addr() net.Addr { return s.port.sockets[0].conn.LocalAddr() }

// Run keeps up to date how publishers reach the port, until ctx ends; then it ends
// all sessions as lost and closes the port.
func (s *Server) Run(ctx context.Context) error {
	s.reach.run(ctx)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.running.Wait()
	err := s.port.close()
	if s.relay != nil {
		err = errors.Join(err, s.relay.Close())
	}
	return err
}

// Session implements [whip.Sessions].
func (s *Server) Session(id string) (whip.Session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess, ok := s.sessions[id]; ok && !sess.over() {
		return sess, true
	}
	return nil, false
}

// Publish implements [whip.Sessions].
func (s *Server) Publish(ctx context.Context, r whip.Request) (whip.Created, error) {
	offer, err := negotiate.Parse(r.Offer)
	if err != nil {
		return whip.Created{}, refusal(err)
	}
	sess := newSession(s, offer, r)
	if err := s.enter(sess); err != nil {
		return whip.Created{}, err
	}
	started := false
	defer func() {
		if !started {
			sess.closePeer()
			close(sess.done)
			s.leave(sess)
			s.running.Done()
		}
	}()
	pub, err := s.host.Offer(ctx, sdk.Offer{
		Name: r.Stream, Credentials: r.Token, Remote: r.Remote, Agent: r.Agent, Codecs: offer.Codecs,
		OnKeyframeRequest: func(media.TrackID) { sess.requestKeyframe() },
		OnTargetBitrate:   sess.setTargetBitrate,
	})
	var rejected *sdk.RejectedError
	switch {
	case errors.As(err, &rejected):
		return whip.Created{}, whip.Rejected(rejected)
	case err != nil:
		return whip.Created{}, fmt.Errorf("offering stream %s: %w", r.Stream, err)
	}
	sess.pub = pub
	if err := offer.Choose(pub.Codecs()); err != nil {
		pub.Close(err)
		return whip.Created{}, refusal(err)
	}
	s.reach.wait(ctx)
	answer, err := sess.connect(ctx)
	if err != nil {
		pub.Close(err)
		return whip.Created{}, err
	}
	started = true
	s.mu.Lock()
	s.sessions[sess.id] = sess
	s.mu.Unlock()
	go func() {
		defer s.running.Done()
		sess.run(s.ctx)
	}()
	return whip.Created{ID: sess.id, ETag: sess.ETag(), Answer: answer, ICEServers: s.iceServers(sess.id[:8])}, nil
}

// refusal is the problem document of an offer that cannot be used.
func refusal(err error) error {
	var r *negotiate.Refusal
	if !errors.As(err, &r) {
		return err
	}
	status := http.StatusUnprocessableEntity
	if r.Reason == negotiate.Malformed {
		status = http.StatusBadRequest
	}
	return &whip.Problem{Status: status, Type: string(r.Reason), Detail: r.Detail}
}

// enter takes a place for a new session within the limits.
func (s *Server) enter(sess *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return &whip.Problem{Status: http.StatusServiceUnavailable, Type: "stopping", Detail: "the gateway is stopping", RetryAfter: 2 * time.Second}
	case s.taken >= maxSessions:
		return &whip.Problem{Status: http.StatusServiceUnavailable, Type: "busy", Detail: "the gateway has as many publishers as it takes", RetryAfter: 10 * time.Second}
	case s.connecting[sess.remoteHost] >= maxConnecting:
		return &whip.Problem{Status: http.StatusTooManyRequests, Type: "too-many-requests", Detail: "too many publishers of your address are still connecting", RetryAfter: connectTimeout}
	case s.places[sess.remoteHost] >= maxPerAddress:
		return &whip.Problem{Status: http.StatusTooManyRequests, Type: "too-many-requests", Detail: "your address has as many publishers as it may", RetryAfter: 10 * time.Second}
	case s.places["/"+sess.stream] >= maxPerStream:
		return &whip.Problem{Status: http.StatusTooManyRequests, Type: "too-many-requests", Detail: "others are taking this stream over right now", RetryAfter: 2 * time.Second}
	}
	s.running.Add(1)
	s.taken++
	s.places[sess.remoteHost]++
	s.places["/"+sess.stream]++
	s.connecting[sess.remoteHost]++
	return nil
}

// connected gives back the place among those still connecting; once per session.
func (s *Server) connected(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connectedLocked(sess)
}

func (s *Server) connectedLocked(sess *session) {
	if sess.countedConnected {
		return
	}
	sess.countedConnected = true
	if s.connecting[sess.remoteHost]--; s.connecting[sess.remoteHost] == 0 {
		delete(s.connecting, sess.remoteHost)
	}
}

func (s *Server) leave(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connectedLocked(sess)
	s.taken--
	for _, place := range []string{sess.remoteHost, "/" + sess.stream} {
		if s.places[place]--; s.places[place] == 0 {
			delete(s.places, place)
		}
	}
	delete(s.sessions, sess.id)
}

// dtlsCertificate returns the certificate of new sessions.
func (s *Server) dtlsCertificate() (webrtc.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.certificate != nil && time.Since(s.certified) < certificateLife {
		return *s.certificate, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return webrtc.Certificate{}, fmt.Errorf("making DTLS key: %w", err)
	}
	c, err := webrtc.GenerateCertificate(key)
	if err != nil {
		return webrtc.Certificate{}, fmt.Errorf("making DTLS certificate: %w", err)
	}
	s.certificate, s.certified = c, time.Now()
	return *c, nil
}

// newID returns 128 random bits.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
