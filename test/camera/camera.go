// Package camera is a camera with RTSP, for tests: it plays the test card in real time
// and behaves as its script says, well or badly.
//
// It knows gortsplib's server and the card. It knows nothing of the gateway.
package camera

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/bluenviron/gortsplib/v4/pkg/auth"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/bluenviron/gortsplib/v4/pkg/format/rtph264"
	"github.com/bluenviron/gortsplib/v4/pkg/liberrors"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/test/peers"
)

// A Script is how a camera behaves.
type Script struct {
	User, Password string              // who may look; anybody if empty
	Methods        []auth.VerifyMethod // basic and digest by MD5 if nil
	TLS            *tls.Certificate    // it speaks rtsps
	UDP            bool                // it can send by UDP
	// LieUDP: it says that it sends by UDP, and nothing arrives.
	LieUDP bool
	// Reports says how a sender report is to be: another wall clock, RTP time shifted by
	// so much, or no report at all. Without it there are none.
	Reports func(video bool, at time.Duration) (ntp time.Time, shift time.Duration, ok bool)
	// Drop leaves out packets.
	Drop func(seq uint16, video bool) bool
	// NoSets: the description has no parameter sets; they are in band.
	NoSets bool
	// SetsOnlyInDescription: they are not in band.
	SetsOnlyInDescription bool
	More                  []*description.Media // beside picture and sound
	Status                base.StatusCode      // of DESCRIBE, instead of 200
}

// A Camera is a server that plays to whoever asks.
type Camera struct {
	t testing.TB
	// Addr is where it listens; RTPAddr and RTCPAddr are where it sends from by UDP, if it
	// does.
	Addr, RTPAddr, RTCPAddr string
	script                  Script

	server *gortsplib.Server
	stream *gortsplib.ServerStream
	video  *description.Media
	audio  *description.Media
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	sessions map[*gortsplib.ServerSession]gortsplib.Transport
	plays    int
	// keys are when key pictures were about to be sent.
	keys []time.Time
}

// Start starts a camera that ends with the test.
func Start(t testing.TB, addr string, s Script) *Camera {
	t.Helper()
	c := &Camera{t: t, Addr: addr, script: s, sessions: make(map[*gortsplib.ServerSession]gortsplib.Transport)}
	c.start()
	t.Cleanup(c.Stop)
	return c
}

// Describe makes the description of the test card.
func Describe(c *clip.Clip, s Script) (d *description.Session, video, audio *description.Media) {
	h := &format.H264{PayloadTyp: 96, PacketizationMode: 1}
	if !s.NoSets {
		h.SPS, h.PPS = c.SPS, c.PPS
	}
	video = &description.Media{Type: description.MediaTypeVideo, Formats: []format.Format{h}}
	audio = &description.Media{Type: description.MediaTypeAudio, Formats: []format.Format{&format.Opus{PayloadTyp: 97, ChannelCount: 2}}}
	return &description.Session{Medias: append([]*description.Media{video, audio}, s.More...)}, video, audio
}

func (c *Camera) start() {
	c.t.Helper()
	card, err := clip.Load()
	if err != nil {
		c.t.Fatal(err)
	}
	s := c.script
	c.server = &gortsplib.Server{Handler: c, RTSPAddress: c.Addr, AuthMethods: s.Methods, DisableRTCPSenderReports: true}
	if s.TLS != nil {
		c.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*s.TLS}}
	}
	if s.UDP || s.LieUDP {
		even := peers.FreePair(c.t)
		c.server.UDPRTPAddress, c.server.UDPRTCPAddress = loopback(even), loopback(even+1)
	}
	if err := c.server.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.RTPAddr, c.RTCPAddr = c.server.UDPRTPAddress, c.server.UDPRTCPAddress
	var d *description.Session
	d, c.video, c.audio = Describe(card, s)
	stream := &gortsplib.ServerStream{Server: c.server, Desc: d}
	if err := stream.Initialize(); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.stream = stream
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.wg.Go(func() { c.play(ctx, card) })
}

// Stop ends the camera as if its power was cut, as far as a process can.
func (c *Camera) Stop() {
	if c.cancel == nil {
		return
	}
	c.cancel()
	c.wg.Wait()
	c.stream.Close()
	c.server.Close()
	c.cancel = nil
}

// Again starts a camera anew that was stopped.
func (c *Camera) Again() { c.start() }

// Keyframes are when key pictures were about to be sent.
func (c *Camera) Keyframes() []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.keys)
}

// play sends the test card until ctx ends.
func (c *Camera) play(ctx context.Context, card *clip.Clip) {
	p := NewPacker(card, c.script)
	wall := time.Now()
	p.Each(ctx, func(u *media.AccessUnit, packets []*rtp.Packet) {
		video := u.Track == clip.VideoTrack
		m := c.audio
		if video {
			m = c.video
		}
		if video && u.RandomAccess {
			c.mu.Lock()
			c.keys = append(c.keys, time.Now())
			c.mu.Unlock()
		}
		for _, pkt := range packets {
			if c.script.Drop != nil && c.script.Drop(pkt.SequenceNumber, video) || c.script.LieUDP && c.byUDP() {
				continue
			}
			_ = c.stream.WritePacketRTP(m, pkt)
		}
		if r := Report(u, packets, wall, c.script.Reports); r != nil {
			_ = c.stream.WritePacketRTCP(m, r)
		}
	})
}

// Report is the sender report that follows the packets of a unit of a camera whose time
// began at wall; nil if none does. reports is as in a [Script].
func Report(u *media.AccessUnit, packets []*rtp.Packet, wall time.Time, reports func(video bool, at time.Duration) (time.Time, time.Duration, bool)) *rtcp.SenderReport {
	if reports == nil || u.Seq%25 != 3 {
		return nil
	}
	at, shift, ok := reports(u.Track == clip.VideoTrack, u.PTS)
	if !ok {
		return nil
	}
	return &rtcp.SenderReport{
		SSRC: packets[0].SSRC, NTPTime: ntpOf(wall.Add(u.PTS), at), RTPTime: packets[0].Timestamp + uint32(shift.Seconds()*90000),
	}
}

func (c *Camera) byUDP() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, by := range c.sessions {
		if by == gortsplib.TransportUDP {
			return true
		}
	}
	return false
}

// ntpOf is t, or instead if that is set, as NTP time.
func ntpOf(t, instead time.Time) uint64 {
	if !instead.IsZero() {
		t = instead
	}
	return uint64(t.Unix()+2208988800)<<32 | uint64(t.Nanosecond())<<32/uint64(time.Second)
}

// OnDescribe answers DESCRIBE.
func (c *Camera) OnDescribe(x *gortsplib.ServerHandlerOnDescribeCtx) (*base.Response, *gortsplib.ServerStream, error) {
	if c.script.User != "" && !x.Conn.VerifyCredentials(x.Request, c.script.User, c.script.Password) {
		return respond(base.StatusUnauthorized), nil, liberrors.ErrServerAuth{}
	}
	if c.script.Status != 0 {
		return respond(c.script.Status), nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return respond(base.StatusOK), c.stream, nil
}

// OnSetup answers SETUP.
func (c *Camera) OnSetup(x *gortsplib.ServerHandlerOnSetupCtx) (*base.Response, *gortsplib.ServerStream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions[x.Session] = x.Transport
	return respond(base.StatusOK), c.stream, nil
}

// OnPlay answers PLAY.
func (c *Camera) OnPlay(*gortsplib.ServerHandlerOnPlayCtx) (*base.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plays++
	return respond(base.StatusOK), nil
}

// OnSessionClose forgets a session.
func (c *Camera) OnSessionClose(x *gortsplib.ServerHandlerOnSessionCloseCtx) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, x.Session)
}

// OnStreamWriteError keeps the library from printing that a client reads too slowly.
func (*Camera) OnStreamWriteError(*gortsplib.ServerHandlerOnStreamWriteErrorCtx) {}

// OnDecodeError keeps it from printing what it cannot decode.
func (*Camera) OnDecodeError(*gortsplib.ServerHandlerOnDecodeErrorCtx) {}

// A Packer makes RTP packets of the test card.
type Packer struct {
	card   *clip.Clip
	script Script
	video  *rtph264.Encoder
	seq    uint16 // of the sound
}

const (
	packerVideoFrom, packerAudioFrom = 0xffff_0000, 0xffff_ff00 // both clocks wrap soon
	audioSSRC                        = 0xa0d10
)

// NewPacker makes a packer that begins at the beginning of the card.
func NewPacker(card *clip.Clip, s Script) *Packer {
	p := &Packer{card: card, script: s, video: &rtph264.Encoder{PayloadType: 96, PacketizationMode: 1}, seq: 0xfff0}
	if err := p.video.Init(); err != nil {
		panic(err)
	}
	return p
}

// Pack makes the packets of a unit.
func (p *Packer) Pack(u *media.AccessUnit) []*rtp.Packet {
	if u.Track == clip.AudioTrack {
		p.seq++
		return []*rtp.Packet{{
			Header: rtp.Header{
				Version: 2, PayloadType: 97, SequenceNumber: p.seq, Marker: true, SSRC: audioSSRC,
				Timestamp: uint32(packerAudioFrom + int64(u.PTS)*48/int64(time.Millisecond)),
			},
			Payload: u.Payload,
		}}
	}
	nalus, err := h264.SplitLengthPrefixed(nil, u.Payload)
	if err != nil {
		panic(err)
	}
	if u.RandomAccess && !p.script.SetsOnlyInDescription {
		nalus = append([][]byte{p.card.SPS, p.card.PPS}, nalus...)
	}
	packets, err := p.video.Encode(nalus)
	if err != nil {
		panic(err)
	}
	for _, pkt := range packets {
		pkt.Timestamp = uint32(packerVideoFrom + int64(u.PTS)*90/int64(time.Millisecond))
	}
	return packets
}

// Each calls send for each unit of the card at its time, until ctx ends.
func (p *Packer) Each(ctx context.Context, send func(*media.AccessUnit, []*rtp.Packet)) {
	player := p.card.NewPlayer()
	start := time.Now()
	for {
		u := player.Next()
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(start.Add(u.DTS))):
		}
		send(u, p.Pack(u))
	}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func respond(code base.StatusCode) *base.Response { return &base.Response{StatusCode: code} }

// Watchers is how many sessions there are.
func (c *Camera) Watchers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.sessions)
}
