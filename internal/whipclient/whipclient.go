// Package whipclient publishes access units over WHIP from Go: the publisher of
// the end-to-end tests, the benchmark and the demonstrations. It paces stored
// media in real time, starts them again when they end, and answers a keyframe
// request as a browser does, by sending a random access point next.
//
// It knows WHIP's client side and RTP packetization. It does not encode, and it
// knows nothing of the gateway: any WHIP server will do.
package whipclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/interceptor/pkg/nack"
	"github.com/pion/interceptor/pkg/report"
	"github.com/pion/interceptor/pkg/twcc"
	"github.com/pion/logging"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// A Config says what to publish and where. URL and one of Video and Audio are
// required.
type Config struct {
	// URL is the WHIP endpoint: http://127.0.0.1:8080/whip/studio.
	URL   string
	Token secret.String
	// HTTP makes the requests; nil is a client with a time limit of 10 s.
	HTTP *http.Client

	// Video (H.264, H.265, AV1 or VP9) and Audio (Opus) in the normal form of sdk/media, in decoding
	// order, with times from about zero. Nil is none.
	Video, Audio *Media
	// Length is the period after which the media start again; a multiple of the
	// durations of a picture and of an audio packet. Zero: they are sent once.
	Length time.Duration
	// AudioShift delays the sound against the picture: what a test of
	// synchronisation must notice.
	AudioShift time.Duration
	// Timing puts a [Timing] in front of each picture of H.264.
	Timing bool

	// LoseEvery keeps every so many-th media packet from being sent, as a bad
	// network does; retransmissions count, too. Zero loses none.
	LoseEvery int

	// SenderReports is the interval of RTCP sender reports, 1 s if zero, none if
	// negative.
	SenderReports time.Duration
	// The following behave like publishers that lack something.
	IgnoreKeyframeRequests bool // as OBS does
	WithoutTWCC            bool
	WithoutRetransmission  bool
}

// Media is one track and its units.
type Media struct {
	Track media.Track
	Units []*media.AccessUnit
}

// Stats count what a [Publisher] has done.
type Stats struct {
	VideoUnits, AudioUnits uint64
	KeyframeRequests       uint64
	// LateUnits were sent more than 20 ms after their time: the machine is too slow.
	LateUnits uint64
}

const (
	mtu             = 1200 // bytes of RTP payload
	connectTimeout  = 10 * time.Second
	videoRateHz     = 90000
	audioRateHz     = 48000
	lateAfter       = 20 * time.Millisecond
	maxAnswerBytes  = 64 << 10
	twccExtension   = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
	defaultSRPeriod = time.Second
)

// A StatusError is a refusal by the server.
type StatusError struct {
	Status      int
	ContentType string
	Body        string
	Header      http.Header
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("server answered %d: %s", e.Status, strings.TrimSpace(e.Body))
}

// A Publisher is one WHIP session. Make it with [Publish], send with Run, end it
// with Delete, Close or Vanish.
type Publisher struct {
	cfg      Config
	pc       *webrtc.PeerConnection
	socket   net.PacketConn
	mux      *ice.UDPMuxDefault
	posted   time.Time
	location *url.URL
	etag     string
	answer   string

	connected chan struct{}
	lost      chan struct{}
	keyframe  atomic.Bool
	senders   chan struct{} // one token per RTCP reader that has ended
	readers   int

	video, audio writer
	start        time.Time // of the first call of Run

	videoUnits, audioUnits, requests, late atomic.Uint64
}

// Publish posts the offer and returns when the server has answered 201. ctx
// bounds this only. Any other answer is a *[StatusError].
func Publish(ctx context.Context, cfg Config) (*Publisher, error) {
	if cfg.Video == nil && cfg.Audio == nil {
		return nil, errors.New("nothing to publish")
	}
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Timeout: 10 * time.Second}
	}
	p := &Publisher{cfg: cfg, connected: make(chan struct{}), lost: make(chan struct{}), senders: make(chan struct{}, 2)}
	if err := p.open(ctx); err != nil {
		p.Vanish()
		return nil, err
	}
	return p, nil
}

func (p *Publisher) open(ctx context.Context) error {
	endpoint, err := url.Parse(p.cfg.URL)
	if err != nil {
		return fmt.Errorf("parsing URL: %w", err)
	}
	if p.pc, err = p.newPeerConnection(endpoint); err != nil {
		return err
	}
	if err := p.addTracks(); err != nil {
		return err
	}
	offer, err := p.pc.CreateOffer(nil)
	if err != nil {
		return fmt.Errorf("making offer: %w", err)
	}
	gathered := webrtc.GatheringCompletePromise(p.pc)
	if err := p.pc.SetLocalDescription(offer); err != nil {
		return fmt.Errorf("setting offer: %w", err)
	}
	select {
	case <-gathered:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := p.post(ctx, endpoint); err != nil {
		return fmt.Errorf("posting offer: %w", err)
	}
	if err := p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: p.answer}); err != nil {
		return fmt.Errorf("setting answer: %w", err)
	}
	return nil
}

func (p *Publisher) newPeerConnection(endpoint *url.URL) (*webrtc.PeerConnection, error) {
	local, err := localAddress(endpoint)
	if err != nil {
		return nil, fmt.Errorf("finding local address: %w", err)
	}
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: local})
	if err != nil {
		return nil, fmt.Errorf("opening socket: %w", err)
	}
	p.socket = socket
	if p.cfg.LoseEvery > 0 {
		p.socket = &lossy{PacketConn: socket, every: uint64(p.cfg.LoseEvery)}
	}
	// What goes wrong is told by errors: a library that writes to the terminal
	// as well would only disturb those who run this.
	quiet := &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}
	p.mux = ice.NewUDPMuxDefault(ice.UDPMuxParams{UDPConn: p.socket, Logger: quiet.NewLogger("ice")})
	se := webrtc.SettingEngine{LoggerFactory: quiet}
	se.SetICEUDPMux(p.mux)
	se.SetIncludeLoopbackCandidate(local.IsLoopback())
	se.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	se.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6})

	m, ir := &webrtc.MediaEngine{}, &interceptor.Registry{}
	if err := p.register(m, ir); err != nil {
		return nil, fmt.Errorf("registering codecs: %w", err)
	}
	api := webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithInterceptorRegistry(ir), webrtc.WithSettingEngine(se))
	pc, err := api.NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		return nil, fmt.Errorf("making peer connection: %w", err)
	}
	var up, down atomic.Bool
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		switch s {
		case webrtc.PeerConnectionStateConnected:
			if up.CompareAndSwap(false, true) {
				close(p.connected)
			}
		case webrtc.PeerConnectionStateFailed, webrtc.PeerConnectionStateClosed:
			if down.CompareAndSwap(false, true) {
				close(p.lost)
			}
		default:
		}
	})
	return pc, nil
}

// lossy is a socket that loses media packets.
type lossy struct {
	net.PacketConn
	every uint64
	sent  atomic.Uint64
}

// WriteTo implements [net.PacketConn].
func (l *lossy) WriteTo(b []byte, to net.Addr) (int, error) {
	// RTP, not RTCP, STUN or DTLS (RFC 7983, RFC 5761).
	isMedia := len(b) > 1 && b[0]>>6 == 2 && (b[1] < 192 || b[1] > 223)
	if isMedia && l.sent.Add(1)%l.every == 0 {
		return len(b), nil
	}
	return l.PacketConn.WriteTo(b, to)
}

// localAddress is the address from which the server of endpoint is reached.
func localAddress(endpoint *url.URL) (net.IP, error) {
	c, err := net.Dial("udp", net.JoinHostPort(endpoint.Hostname(), "9"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	return c.LocalAddr().(*net.UDPAddr).IP, nil
}

func (p *Publisher) register(m *webrtc.MediaEngine, ir *interceptor.Registry) error {
	feedback := []webrtc.RTCPFeedback{{Type: "nack", Parameter: "pli"}, {Type: "ccm", Parameter: "fir"}}
	if !p.cfg.WithoutRetransmission {
		feedback = append(feedback, webrtc.RTCPFeedback{Type: "nack"})
		responder, err := nack.NewResponderInterceptor()
		if err != nil {
			return err
		}
		ir.Add(responder)
	}
	var audioFeedback []webrtc.RTCPFeedback
	if !p.cfg.WithoutTWCC {
		feedback = append(feedback, webrtc.RTCPFeedback{Type: "transport-cc"})
		audioFeedback = append(audioFeedback, webrtc.RTCPFeedback{Type: "transport-cc"})
		for _, kind := range []webrtc.RTPCodecType{webrtc.RTPCodecTypeVideo, webrtc.RTPCodecTypeAudio} {
			if err := m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: twccExtension}, kind); err != nil {
				return err
			}
		}
		header, err := twcc.NewHeaderExtensionInterceptor()
		if err != nil {
			return err
		}
		ir.Add(header)
	}
	if p.cfg.SenderReports >= 0 {
		period := p.cfg.SenderReports
		if period == 0 {
			period = defaultSRPeriod
		}
		sender, err := report.NewSenderInterceptor(report.SenderInterval(period))
		if err != nil {
			return err
		}
		ir.Add(sender)
	}
	if err := m.RegisterCodec(webrtc.RTPCodecParameters{
		RTPCodecCapability: p.capability(feedback), PayloadType: 96,
	}, webrtc.RTPCodecTypeVideo); err != nil {
		return err
	}
	return m.RegisterCodec(webrtc.RTPCodecParameters{
		RTPCodecCapability: webrtc.RTPCodecCapability{
			MimeType: webrtc.MimeTypeOpus, ClockRate: audioRateHz, Channels: 2, RTCPFeedback: audioFeedback,
			SDPFmtpLine: "minptime=10;useinbandfec=1;stereo=1;sprop-stereo=1",
		}, PayloadType: 111,
	}, webrtc.RTPCodecTypeAudio)
}

// profile is the profile-level-id that browsers use for the profile of the video.
func (p *Publisher) profile() string {
	if p.cfg.Video != nil && len(p.cfg.Video.Track.DecoderConfig) > 3 {
		switch p.cfg.Video.Track.DecoderConfig[1] {
		case 77:
			return "4d001f"
		case 100:
			return "64001f"
		}
	}
	return "42e01f"
}

func (p *Publisher) addTracks() error {
	add := func(mime string, rateHz uint32, id string) (writer, error) {
		t, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: mime, ClockRate: rateHz}, id, "publisher")
		if err != nil {
			return writer{}, fmt.Errorf("making track: %w", err)
		}
		tr, err := p.pc.AddTransceiverFromTrack(t, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
		if err != nil {
			return writer{}, fmt.Errorf("adding track: %w", err)
		}
		p.readers++
		go p.readFeedback(tr.Sender())
		return writer{track: t, seq: uint16(rand.Uint32()), base: rand.Uint32()}, nil
	}
	var err error
	if p.cfg.Audio != nil {
		if p.audio, err = add(webrtc.MimeTypeOpus, audioRateHz, "audio"); err != nil {
			return err
		}
	}
	if p.cfg.Video != nil {
		if p.video, err = add(p.capability(nil).MimeType, videoRateHz, "video"); err != nil {
			return err
		}
	}
	return nil
}

func (p *Publisher) readFeedback(s *webrtc.RTPSender) {
	defer func() { p.senders <- struct{}{} }()
	for {
		packets, _, err := s.ReadRTCP()
		if err != nil {
			return
		}
		for _, packet := range packets {
			switch packet.(type) {
			case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
				p.requests.Add(1)
				p.keyframe.Store(true)
			}
		}
	}
}

// A response is what a server answered, read whole.
type response struct {
	status int
	header http.Header
	url    *url.URL // after redirects
	body   string
}

func (r response) refusal() *StatusError {
	return &StatusError{Status: r.status, ContentType: r.header.Get("Content-Type"), Body: r.body, Header: r.header}
}

// request makes one; headers are names and values that follow each other.
func (p *Publisher) request(ctx context.Context, method, target, body string, headers ...string) (response, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(body))
	if err != nil {
		return response{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/sdp")
	}
	if !p.cfg.Token.Empty() {
		req.Header.Set("Authorization", "Bearer "+p.cfg.Token.Reveal())
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := p.cfg.HTTP.Do(req)
	if err != nil {
		return response{}, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes))
	if err != nil {
		return response{}, fmt.Errorf("reading answer: %w", err)
	}
	return response{status: res.StatusCode, header: res.Header, url: res.Request.URL, body: string(b)}, nil
}

func (p *Publisher) post(ctx context.Context, endpoint *url.URL) error {
	p.posted = time.Now()
	res, err := p.request(ctx, http.MethodPost, endpoint.String(), p.pc.LocalDescription().SDP)
	if err != nil {
		return err
	}
	if res.status != http.StatusCreated {
		return res.refusal()
	}
	if p.location, err = res.url.Parse(res.header.Get("Location")); err != nil {
		return fmt.Errorf("parsing Location: %w", err)
	}
	p.etag, p.answer = res.header.Get("ETag"), res.body
	return nil
}

// Posted is when the offer was posted, Location the session's URL, Answer the
// server's SDP.
func (p *Publisher) Posted() time.Time { return p.posted }

// Location is the URL of the session.
func (p *Publisher) Location() string { return p.location.String() }

// ETag is the tag of the current ICE session.
func (p *Publisher) ETag() string { return p.etag }

// Answer is the server's session description.
func (p *Publisher) Answer() string { return p.answer }

// AnswerDescription is Answer, parsed.
func (p *Publisher) AnswerDescription() (*sdp.SessionDescription, error) {
	var d sdp.SessionDescription
	if err := d.UnmarshalString(p.answer); err != nil {
		return nil, fmt.Errorf("parsing answer: %w", err)
	}
	return &d, nil
}

// Stats may be called at any time.
func (p *Publisher) Stats() Stats {
	return Stats{
		VideoUnits: p.videoUnits.Load(), AudioUnits: p.audioUnits.Load(),
		KeyframeRequests: p.requests.Load(), LateUnits: p.late.Load(),
	}
}

// Run waits for the connection and sends the media until ctx ends (nil), the
// media end (nil) or the connection is lost. It may be called again when it has
// returned: the media begin anew while sequence numbers and RTP time go on, as of a
// publisher who sent nothing for a while.
func (p *Publisher) Run(ctx context.Context) error {
	timeout := time.NewTimer(connectTimeout)
	defer timeout.Stop()
	select {
	case <-p.connected:
	case <-p.lost:
		return errors.New("connection lost before media")
	case <-timeout.C:
		return fmt.Errorf("not connected within %v", connectTimeout)
	case <-ctx.Done():
		return nil
	}
	return p.play(ctx)
}

// Delete says goodbye as WHIP wants it and frees everything.
func (p *Publisher) Delete(ctx context.Context) error {
	defer p.Close()
	res, err := p.request(ctx, http.MethodDelete, p.location.String(), "")
	if err != nil {
		return fmt.Errorf("deleting session: %w", err)
	}
	if res.status/100 != 2 {
		return fmt.Errorf("deleting session: %w", res.refusal())
	}
	return nil
}

// Close ends the connection without a WHIP goodbye, as a closed browser tab
// does: the peer is told by DTLS only.
func (p *Publisher) Close() {
	if p.pc != nil {
		_ = p.pc.GracefulClose()
	}
	for range p.readers {
		<-p.senders
	}
	p.readers = 0
	if p.mux != nil {
		_ = p.mux.Close()
	}
	if p.socket != nil {
		_ = p.socket.Close()
	}
}

// Vanish ends everything without a word to the peer, as a killed process or a
// pulled cable does.
func (p *Publisher) Vanish() {
	if p.socket != nil {
		_ = p.socket.Close()
	}
	p.Close()
}

// writer packs the units of one track into RTP; sequence numbers and time begin at
// random.
type writer struct {
	track *webrtc.TrackLocalStaticRTP
	seq   uint16
	base  uint32
}

func (w *writer) write(payloads [][]byte, rtpTime uint32, marker bool) error {
	for i, b := range payloads {
		w.seq++
		err := w.track.WriteRTP(&rtp.Packet{
			Header: rtp.Header{
				Version: 2, SequenceNumber: w.seq, Timestamp: w.base + rtpTime,
				Marker: marker && i == len(payloads)-1,
			},
			Payload: b,
		})
		if err != nil {
			return err
		}
	}
	return nil
}
