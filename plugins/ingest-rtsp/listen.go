package ingestrtsp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/bluenviron/gortsplib/v4/pkg/auth"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/headers"
	"github.com/bluenviron/gortsplib/v4/pkg/liberrors"
	"github.com/pion/rtcp"

	"github.com/headgate/gateway/internal/endpoint"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/secret"
)

const (
	// maxConns bounds the encoders at a time.
	maxConns = 500
	// recordWithin is how long a connection may take to RECORD.
	recordWithin = 15 * time.Second
	// decideWithin is how long the gateway may take to decide on an offer.
	decideWithin = 5 * time.Second
)

// listen serves encoders until ctx ends, on as many addresses as o names. By rtsps they
// are shown cert.
func listen(ctx context.Context, host *sdk.IngestHost, o Options, cert *endpoint.Certificate) error {
	var servers []*gortsplib.Server
	if o.Listen != "" {
		s := &gortsplib.Server{RTSPAddress: o.Listen, UDPRTPAddress: o.ListenUDP}
		if o.ListenUDP != "" {
			s.UDPRTCPAddress, _ = rtcpAddress(o.ListenUDP) // checked
		}
		servers = append(servers, s)
	}
	if o.ListenTLS != "" {
		servers = append(servers, &gortsplib.Server{RTSPAddress: o.ListenTLS, TLSConfig: cert.Config()})
	}
	h := &handler{
		ctx: ctx, offer: host.Offer, timeout: o.Timeout,
		waiting: make(map[*gortsplib.ServerConn]*time.Timer), encoders: make(map[*gortsplib.ServerSession]*encoder),
	}
	defer h.wait()
	failed := make(chan error, len(servers))
	for _, s := range servers {
		s.Handler = h
		s.ReadTimeout, s.WriteTimeout = o.Timeout, o.Timeout
		s.AuthMethods = []auth.VerifyMethod{auth.VerifyMethodBasic} // a token cannot be verified by its digest
		s.ListenPacket = listenPacket
		if err := s.Start(); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		defer s.Close()
		h.running.Go(func() { failed <- s.Wait() })
		sdk.Logger().Info("waiting for encoders", "rtsp", s.RTSPAddress, "tls", s.TLSConfig != nil, "udp", s.UDPRTPAddress)
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return fmt.Errorf("listening: %w", err)
	}
}

// A handler answers encoders. It implements the handlers of gortsplib.
type handler struct {
	ctx     context.Context
	offer   func(context.Context, sdk.Offer) (*sdk.Publication, error)
	timeout time.Duration
	running sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	waiting  map[*gortsplib.ServerConn]*time.Timer
	conns    int
	encoders map[*gortsplib.ServerSession]*encoder
}

// An encoder is one that the gateway let in.
type encoder struct {
	session *session
	pub     *sdk.Publication
	ended   chan error // takes one without blocking
}

var (
	_ gortsplib.ServerHandlerOnConnOpen     = (*handler)(nil)
	_ gortsplib.ServerHandlerOnConnClose    = (*handler)(nil)
	_ gortsplib.ServerHandlerOnRequest      = (*handler)(nil)
	_ gortsplib.ServerHandlerOnAnnounce     = (*handler)(nil)
	_ gortsplib.ServerHandlerOnSetup        = (*handler)(nil)
	_ gortsplib.ServerHandlerOnRecord       = (*handler)(nil)
	_ gortsplib.ServerHandlerOnSessionClose = (*handler)(nil)
	_ gortsplib.ServerHandlerOnPacketsLost  = (*handler)(nil)
	_ gortsplib.ServerHandlerOnDecodeError  = (*handler)(nil)
)

// wait waits until no goroutine of the handler runs. The servers are closed.
func (h *handler) wait() { h.running.Wait() }

// OnConnOpen implements [gortsplib.ServerHandlerOnConnOpen].
func (h *handler) OnConnOpen(c *gortsplib.ServerHandlerOnConnOpenCtx) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns++
	if h.conns > maxConns {
		c.Conn.Close()
		return
	}
	h.waiting[c.Conn] = time.AfterFunc(recordWithin, c.Conn.Close)
}

// OnConnClose implements [gortsplib.ServerHandlerOnConnClose].
func (h *handler) OnConnClose(c *gortsplib.ServerHandlerOnConnCloseCtx) {
	log := sdk.Logger().With("remote", c.Conn.NetConn().RemoteAddr())
	var alert *net.OpError
	var description liberrors.ErrServerSDPInvalid
	switch {
	case errors.As(c.Error, &alert) && alert.Op == "remote error":
		// What TLS calls that is an alert: nearly always about our certificate.
		log.Warn("an encoder does not take the certificate", "why", alert.Err)
	case errors.As(c.Error, &description):
		// The library refuses it before the handler hears of it. It may quote a URL.
		why, _, _ := strings.Cut(description.Err.Error(), "?")
		log.Warn("refused an encoder", "why", "its description is not understood: "+why)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns--
	h.settle(c.Conn)
}

// settle says that a connection need not hurry any more.
func (h *handler) settle(c *gortsplib.ServerConn) {
	if t := h.waiting[c]; t != nil {
		t.Stop()
		delete(h.waiting, c)
	}
}

// sendOnly is what an encoder may say of a track that it only sends (RFC 8866, 6.7).
var sendOnly = regexp.MustCompile(`(?m)^a=sendonly\r?\n?`)

// OnRequest implements [gortsplib.ServerHandlerOnRequest]. The library takes such a track
// for a back channel, which it is in the description of a camera, and would refuse.
func (*handler) OnRequest(_ *gortsplib.ServerConn, r *base.Request) {
	if r.Method == base.Announce {
		r.Body = sendOnly.ReplaceAll(r.Body, nil)
	}
}

// OnAnnounce implements [gortsplib.ServerHandlerOnAnnounce].
func (h *handler) OnAnnounce(c *gortsplib.ServerHandlerOnAnnounceCtx) (*base.Response, error) {
	remote := c.Conn.NetConn().RemoteAddr().String()
	name := strings.Trim(c.Path, "/")
	log := sdk.Logger().With("remote", remote, "stream", name)
	if err := checkName(name); err != nil {
		sdk.Logger().Warn("refused an encoder", "remote", remote, "why", err)
		return respond(base.StatusBadRequest), nil
	}
	s := newSession(c.Description, log)
	if len(s.tracks) == 0 {
		log.Warn("refused an encoder", "why", "it announces nothing that the gateway carries: want H.264, H.265, AAC, Opus or G.711")
		return respond(base.StatusUnsupportedMediaType), nil
	}
	ctx, cancel := context.WithTimeout(h.ctx, decideWithin)
	defer cancel()
	given := credentials(c.Request, c.Query)
	pub, err := h.offer(ctx, sdk.Offer{
		Name: name, Credentials: given, Remote: remote, Agent: "rtsp", Codecs: s.codecs(),
	})
	if err != nil {
		answer, end := refuse(err)
		if answer.StatusCode == base.StatusUnauthorized && given.Empty() {
			log.Debug("an encoder is asked for its password", "why", err) // as every one is that has it
		} else {
			log.Warn("refused an encoder", "why", err)
		}
		return answer, end
	}
	h.mu.Lock()
	h.encoders[c.Session] = &encoder{session: s, pub: pub, ended: make(chan error, 1)}
	h.mu.Unlock()
	return respond(base.StatusOK), nil
}

// checkName keeps what is no name of a stream out of offers and logs.
func checkName(name string) error {
	if name == "" {
		return errors.New("the URL names no stream: want rtsp://host/NAME?token=TOKEN")
	}
	if len(name) > 200 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("the URL names no stream")
	}
	return nil
}

// credentials are the token that the query has, or the password.
func credentials(r *base.Request, query string) secret.String {
	if values, err := url.ParseQuery(query); err == nil && values.Get("token") != "" {
		return secret.New(values.Get("token"))
	}
	var a headers.Authorization
	if a.Unmarshal(r.Header["Authorization"]) == nil && a.Method == headers.AuthMethodBasic {
		return secret.New(a.BasicPass)
	}
	return secret.String{}
}

func respond(code base.StatusCode) *base.Response { return &base.Response{StatusCode: code} }

// refuse is the answer to an encoder that the gateway does not let in.
func refuse(err error) (*base.Response, error) {
	var rejected *sdk.RejectedError
	if !errors.As(err, &rejected) {
		return respond(base.StatusServiceUnavailable), nil
	}
	switch rejected.Reason {
	case sdk.Unauthenticated:
		// Asks for a password, or ends the connection of one that came with a wrong one.
		return respond(base.StatusUnauthorized), liberrors.ErrServerAuth{}
	case sdk.Forbidden:
		return respond(base.StatusForbidden), nil
	case sdk.NotFound:
		return respond(base.StatusNotFound), nil
	case sdk.Conflict:
		return respond(base.StatusMethodNotValidInThisState), nil
	case sdk.Unusable:
		return respond(base.StatusUnsupportedMediaType), nil
	default:
		return respond(base.StatusServiceUnavailable), nil
	}
}

// OnSetup implements [gortsplib.ServerHandlerOnSetup].
func (h *handler) OnSetup(c *gortsplib.ServerHandlerOnSetupCtx) (*base.Response, *gortsplib.ServerStream, error) {
	if h.encoder(c.Session) == nil {
		return respond(base.StatusMethodNotAllowed), nil, nil // it wants to play
	}
	return respond(base.StatusOK), nil, nil
}

func (h *handler) encoder(s *gortsplib.ServerSession) *encoder {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.encoders[s]
}

// OnRecord implements [gortsplib.ServerHandlerOnRecord].
func (h *handler) OnRecord(c *gortsplib.ServerHandlerOnRecordCtx) (*base.Response, error) {
	e := h.encoder(c.Session)
	if e == nil {
		return respond(base.StatusMethodNotAllowed), nil
	}
	h.mu.Lock()
	h.settle(c.Conn)
	h.mu.Unlock()
	for _, m := range e.session.medias() {
		c.Session.OnPacketRTCP(m, func(p rtcp.Packet) { e.session.report(m, p) })
	}
	by := transportTCP
	if t := c.Session.SetuppedTransport(); t != nil && *t != gortsplib.TransportTCP {
		by = transportUDP
	}
	e.session.start(e.pub)
	h.running.Go(func() {
		err := watchSession(h.ctx, e.session, e.pub, func() string { return by }, h.timeout, e.ended)
		e.session.close()
		e.pub.Close(err) // nothing, if the gateway ended it
		c.Session.Close()
	})
	return respond(base.StatusOK), nil
}

// OnSessionClose implements [gortsplib.ServerHandlerOnSessionClose].
func (h *handler) OnSessionClose(c *gortsplib.ServerHandlerOnSessionCloseCtx) {
	h.mu.Lock()
	e := h.encoders[c.Session]
	delete(h.encoders, c.Session)
	h.mu.Unlock()
	if e == nil {
		return
	}
	err := c.Error
	switch {
	case errors.As(err, new(liberrors.ErrServerSessionTornDown)):
		err = nil // it said goodbye
	case errors.As(err, new(liberrors.ErrServerSessionTimedOut)):
		err = errStalled
	default:
		err = &sdk.Error{Cause: sdk.CauseRemote, Class: "closed", Err: errors.New("the encoder's connection was lost")}
	}
	e.ended <- err
	e.session.close()
	e.pub.Close(err) // also of one that never came to RECORD
}

// OnPacketsLost implements [gortsplib.ServerHandlerOnPacketsLost]: the session counts.
func (*handler) OnPacketsLost(*gortsplib.ServerHandlerOnPacketsLostCtx) {}

// OnDecodeError implements [gortsplib.ServerHandlerOnDecodeError].
func (h *handler) OnDecodeError(c *gortsplib.ServerHandlerOnDecodeErrorCtx) {
	if e := h.encoder(c.Session); e != nil {
		e.session.unreadable(c.Error)
	}
}
