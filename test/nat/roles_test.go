package nat_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"github.com/headgate/gateway/plugins/ingest-webrtc/page"
	"github.com/headgate/gateway/plugins/ingest-webrtc/session"
	"github.com/headgate/gateway/plugins/ingest-webrtc/whip"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
)

// The roles that the test binary plays when it is started with one of these.
const (
	gatewayRole   = "NAT_GATEWAY"
	publisherRole = "NAT_PUBLISHER"
	browserRole   = "NAT_BROWSER"
)

func TestMain(m *testing.M) {
	role, err := "", error(nil)
	switch {
	case os.Getenv(gatewayRole) != "":
		role, err = gatewayRole, playGateway(os.Getenv(gatewayRole))
	case os.Getenv(publisherRole) != "":
		role, err = publisherRole, playPublisher(os.Getenv(publisherRole))
	case os.Getenv(browserRole) != "":
		var url string
		if err = json.Unmarshal([]byte(os.Getenv(browserRole)), &url); err == nil {
			role, err = browserRole, playBrowser(url)
		}
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Println(role, "ERROR:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// playGateway serves publishers until it is ended, and says what it sees.
func playGateway(text string) error {
	var cfg session.Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	cfg.Log = slog.New(slog.NewTextHandler(os.Stdout, nil))
	s, err := session.Listen(cfg, host{})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	l, err := net.Listen("tcp", ":8889")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(whip.Prefix, whip.NewHandler(s, cfg.Log))
	mux.Handle(page.Prefix, page.Handler(func(context.Context, string) error { return nil }, slog.Default()))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(l) }()
	fmt.Println("GATEWAY READY")
	err = s.Run(ctx)
	return errors.Join(err, server.Close())
}

type host struct{}

func (host) Offer(context.Context, sdk.Offer) (session.Publication, error) {
	return &publication{}, nil
}

// A publication says when media arrive.
type publication struct {
	mu    sync.Mutex
	units int
}

func (*publication) SetTracks([]media.Track)     {}
func (*publication) ReportStats(sdk.IngestStats) {}
func (*publication) ReportSilence(bool)          {}
func (*publication) Codecs() []media.Codec       { return nil }

func (*publication) Targets() ([]sdk.TargetState, bool) { return nil, false }
func (*publication) Done() <-chan struct{}              { return nil }
func (*publication) Err() error                         { return nil }
func (*publication) Close(error)                        {}
func (p *publication) WriteAccessUnit(*media.AccessUnit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.units++; p.units%25 == 0 {
		fmt.Println("UNITS", p.units)
	}
}

// A publisherConfig says how the publisher goes about it.
type publisherConfig struct {
	URL   string
	Relay bool // by TURN or not at all
	// ICEServers beside those that the gateway names.
	ICEServers []webrtc.ICEServer
	TCP        bool
	ForgetTURN bool // which the gateway names
}

// playPublisher publishes sound until it is ended; on SIGUSR1 it restarts ICE.
func playPublisher(text string) error {
	var cfg publisherConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	se := webrtc.SettingEngine{}
	types := []webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6}
	if cfg.TCP {
		types = append(types, webrtc.NetworkTypeTCP4, webrtc.NetworkTypeTCP6)
	}
	se.SetNetworkTypes(types)
	se.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	m := &webrtc.MediaEngine{}
	if err := m.RegisterDefaultCodecs(); err != nil {
		return err
	}
	conf := webrtc.Configuration{ICEServers: cfg.ICEServers}
	if cfg.Relay {
		conf.ICETransportPolicy = webrtc.ICETransportPolicyRelay
	}
	pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(se), webrtc.WithMediaEngine(m)).NewPeerConnection(conf)
	if err != nil {
		return err
	}
	track, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, "a", "s")
	if err != nil {
		return err
	}
	tr, err := pc.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	if err != nil {
		return err
	}
	p := &publisher{cfg: cfg, pc: pc, etag: make(chan struct{})}
	pc.OnICECandidate(p.candidate)
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		fmt.Println("STATE", s)
		if s == webrtc.PeerConnectionStateConnected {
			p.pair(tr.Sender())
		}
	})
	if err := p.publish(); err != nil {
		return err
	}
	restart := make(chan os.Signal, 1)
	signal.Notify(restart, syscall.SIGUSR1)
	go func() {
		for range restart {
			fmt.Println("RESTART", p.restart())
			p.pair(tr.Sender())
		}
	}()
	silence := []byte{0xfc, 0xff, 0xfe}
	for i := uint16(0); ; i++ {
		time.Sleep(20 * time.Millisecond) // the pace of sound
		_ = track.WriteRTP(&rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: i, Timestamp: uint32(i) * 960, Marker: i == 0}, Payload: silence})
	}
}

// A publisher does as the page does: it posts the offer first, looks for candidates
// with the servers that the answer names, and trickles them.
type publisher struct {
	cfg     publisherConfig
	pc      *webrtc.PeerConnection
	session string
	answer  string
	etag    chan struct{} // closed when candidates can be sent
	tag     string
}

func (p *publisher) pair(s *webrtc.RTPSender) {
	for range 50 {
		pair, err := s.Transport().ICETransport().GetSelectedCandidatePair()
		if err == nil && pair != nil {
			fmt.Printf("PAIR local %v %v remote %v %v %s\n", pair.Local.Protocol, pair.Local.Typ, pair.Remote.Protocol, pair.Remote.Typ, pair.Remote.Address)
			return
		}
		time.Sleep(100 * time.Millisecond) // until one is chosen
	}
}

func (p *publisher) publish() error {
	offer, err := p.pc.CreateOffer(nil)
	if err != nil {
		return err
	}
	res, body, err := do(http.MethodPost, p.cfg.URL, "application/sdp", "", offer.SDP)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusCreated {
		return fmt.Errorf("%s: %s", res.Status, body)
	}
	base, err := url.Parse(p.cfg.URL)
	if err != nil {
		return err
	}
	at, err := base.Parse(res.Header.Get("Location"))
	if err != nil {
		return err
	}
	p.session, p.tag, p.answer = at.String(), res.Header.Get("ETag"), body
	conf := p.pc.GetConfiguration()
	if !p.cfg.ForgetTURN {
		conf.ICEServers = append(conf.ICEServers, linked(res.Header.Values("Link"))...)
	}
	if err := p.pc.SetConfiguration(conf); err != nil {
		return err
	}
	if err := p.pc.SetLocalDescription(offer); err != nil {
		return err
	}
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "a=candidate") {
			fmt.Println("ANSWER", strings.TrimSpace(line))
		}
	}
	close(p.etag)
	return p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: body})
}

var link = regexp.MustCompile(`^<([^>]+)>; rel="ice-server"(?:; username="([^"]*)"; credential="([^"]*)")?`)

func linked(links []string) []webrtc.ICEServer {
	var out []webrtc.ICEServer
	for _, l := range links {
		if m := link.FindStringSubmatch(l); m != nil {
			out = append(out, webrtc.ICEServer{URLs: []string{m[1]}, Username: m[2], Credential: m[3]})
		}
	}
	return out
}

func (p *publisher) candidate(c *webrtc.ICECandidate) {
	if c == nil {
		return
	}
	text := c.ToJSON().Candidate
	fmt.Println("CANDIDATE", text)
	go func() {
		<-p.etag
		_, _, err := do(http.MethodPatch, p.session, "application/trickle-ice-sdpfrag", p.tag,
			"m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\na="+text+"\r\n")
		if err != nil {
			fmt.Println("TRICKLE", err)
		}
	}()
}

var ufrag, pwd = regexp.MustCompile(`a=ice-ufrag:\S+`), regexp.MustCompile(`a=ice-pwd:\S+`)

func (p *publisher) restart() error {
	offer, err := p.pc.CreateOffer(&webrtc.OfferOptions{ICERestart: true})
	if err != nil {
		return err
	}
	if err := p.pc.SetLocalDescription(offer); err != nil {
		return err
	}
	var res *http.Response
	var body string
	for range 50 { // the new network may need a moment
		res, body, err = do(http.MethodPatch, p.session, "application/trickle-ice-sdpfrag", "*",
			ufrag.FindString(offer.SDP)+"\r\n"+pwd.FindString(offer.SDP)+"\r\n")
		if err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond) // and ask again
	}
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", res.Status, body)
	}
	p.tag = res.Header.Get("ETag")
	answer := ufrag.ReplaceAllString(pwd.ReplaceAllString(p.answer, pwd.FindString(body)), ufrag.FindString(body))
	return p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer})
}

func do(method, url, contentType, match, body string) (*http.Response, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Content-Type", contentType)
	if match != "" {
		req.Header.Set("If-Match", match)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		http.DefaultClient.CloseIdleConnections()
		return nil, "", err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return res, string(b), err
}
