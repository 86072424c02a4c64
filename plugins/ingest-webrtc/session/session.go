package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"

	"github.com/headgate/gateway/internal/rtp/clock"
	"github.com/headgate/gateway/plugins/ingest-webrtc/negotiate"
	"github.com/headgate/gateway/plugins/ingest-webrtc/whip"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/opus"
)

const (
	connectTimeout    = 10 * time.Second
	firstMediaTimeout = 10 * time.Second
	// silenceTimeout ends a session whose connection stands but brings nothing.
	silenceTimeout = 10 * time.Second

	iceDisconnected = 3 * time.Second
	iceFailed       = 7 * time.Second // after disconnected
	iceKeepalive    = time.Second

	// excessSeconds is how long a publisher may send twice what it was asked to.
	excessSeconds = 5
	// silentAfter is when the gateway is told that no media come.
	silentAfter = 500 * time.Millisecond

	statsEvery = time.Second
)

// The tracks of a publication.
const (
	videoTrack media.TrackID = 1
	audioTrack media.TrackID = 2
)

// Why a session ended. All but a DELETE leave the stream waiting for its publisher.
var (
	errHungUp     = errors.New("publisher hung up without DELETE")
	errICE        = errors.New("connection to the publisher lost")
	errConnect    = fmt.Errorf("publisher did not connect within %v", connectTimeout)
	errFirstMedia = fmt.Errorf("publisher connected but sent no media within %v", firstMediaTimeout)
	errSilence    = fmt.Errorf("publisher sent no media for %v", silenceTimeout)
	errExcess     = errors.New("publisher sent more than twice max_bitrate")
	errStopping   = errors.New("ingest is stopping")
	errEnded      = errors.New("publication ended by the gateway")
)

// A session is one publisher. run is its life; everything else is called from
// HTTP handlers, pion's callbacks and the gateway's.
type session struct {
	server     *Server
	log        *slog.Logger
	id         string
	ice        iceSession
	remoteHost string
	stream     string // its name
	offer      *negotiate.Offer
	pub        Publication
	pc         *webrtc.PeerConnection
	clock      *clock.Clock

	receiver   *receiver
	ciphers    ciphers
	ssrc       uint32        // of the gateway in its reports
	deleted    chan struct{} // closed by End
	endOnce    sync.Once
	done       chan struct{} // closed when run has returned
	states     chan webrtc.PeerConnectionState
	keyframe   chan struct{} // a random access point is needed
	bitrate    chan struct{} // targetBPS has changed
	targetBPS  atomic.Uint64
	lastPacket atomic.Int64 // arrival, nanoseconds since clock epoch; 0 before the first
	lastKey    atomic.Int64 // the same of the last random access point of the video
	epoch      time.Time
	figures    figures

	mu     sync.Mutex // guards the fields below
	tracks []media.Track

	countedConnected bool // guarded by the server's mutex
}

func newSession(server *Server, offer *negotiate.Offer, r whip.Request) *session {
	host, _, err := net.SplitHostPort(r.Remote)
	if err != nil {
		host = r.Remote
	}
	now := time.Now()
	id := newID()
	s := &session{
		server: server, log: server.log.With("stream", r.Stream, "remote", r.Remote, "session", id[:8]),
		id: id, remoteHost: host, stream: r.Stream, offer: offer,
		clock: clock.New(now), epoch: now,
		deleted: make(chan struct{}), done: make(chan struct{}),
		states: make(chan webrtc.PeerConnectionState, 8), keyframe: make(chan struct{}, 1), bitrate: make(chan struct{}, 1),
		ssrc: rand.Uint32() | 1,
	}
	s.ice.begin(offer.Ufrag, 0)
	return s
}

// End implements [whip.Session].
func (s *session) End() {
	s.endOnce.Do(func() { close(s.deleted) })
	<-s.done
}

// Targets implements [whip.Session].
func (s *session) Targets() (list []whip.Target, known bool) {
	targets, known := s.pub.Targets()
	for _, t := range targets {
		list = append(list, whip.Target(t))
	}
	return list, known
}

// over reports whether the session has ended or is about to.
func (s *session) over() bool {
	select {
	case <-s.deleted:
		return true
	case <-s.done:
		return true
	default:
		return false
	}
}

// requestKeyframe may be called at any time and does not block.
func (s *session) requestKeyframe() { signal(s.keyframe) }

// setTargetBitrate may be called at any time and does not block.
func (s *session) setTargetBitrate(bps uint64) {
	s.targetBPS.Store(bps)
	signal(s.bitrate)
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// announce tells the gateway what was negotiated: targets can connect before the
// first picture says how large it is.
func (s *session) announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.offer.Video != nil {
		s.tracks = append(s.tracks, media.Track{ID: videoTrack, Codec: s.offer.Video.Codec})
	}
	if s.offer.Audio != nil {
		// Packets of one channel decode to two: the description holds for both.
		head, err := opus.Head{Channels: 2, InputSampleRateHz: opus.SampleRateHz}.Marshal()
		if err != nil {
			s.log.Error("making OpusHead", "error", err)
		}
		s.tracks = append(s.tracks, media.Track{
			ID: audioTrack, Codec: media.Opus, DecoderConfig: head, SampleRateHz: opus.SampleRateHz, Channels: 2,
		})
	}
	s.pub.SetTracks(append([]media.Track(nil), s.tracks...))
}

// describe changes one track and announces it.
func (s *session) describe(id media.TrackID, change func(*media.Track)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.tracks {
		if s.tracks[i].ID == id {
			change(&s.tracks[i])
		}
	}
	s.pub.SetTracks(append([]media.Track(nil), s.tracks...))
}

func (s *session) stateChanged(state webrtc.PeerConnectionState) {
	select {
	case s.states <- state:
	case <-s.done:
	}
}

// run holds the session until it ends, and takes everything down.
func (s *session) run(ctx context.Context) {
	defer close(s.done)
	s.log.Info("publisher connecting")
	err := s.hold(ctx)
	s.receiver.close()
	s.closePeer()
	s.pub.Close(err)
	s.server.leave(s)
	switch {
	case err == nil:
		s.log.Info("publisher said goodbye")
	case errors.Is(err, errEnded) || errors.Is(err, errStopping):
		s.log.Info("publisher sent away", "reason", err)
	default:
		s.log.Warn("publisher lost", "reason", err)
	}
}

// closePeer frees the peer connection and waits for what belongs to it. States
// that it still reports are taken off its hands.
func (s *session) closePeer() {
	if s.pc == nil {
		return
	}
	closed := make(chan error, 1)
	go func() { closed <- s.pc.GracefulClose() }()
	for {
		select {
		case err := <-closed:
			if err != nil {
				s.log.Debug("closing peer connection", "error", err)
			}
			return
		case <-s.states:
		}
	}
}

// hold waits for the reason that ends the session: nil if the publisher said
// goodbye.
func (s *session) hold(ctx context.Context) error {
	l := life{session: s, deadline: s.epoch.Add(connectTimeout), missed: errConnect}
	l.keys.intra = s.offer.Video != nil && s.offer.Video.TakesIntraRequests()
	ticker := time.NewTicker(statsEvery)
	defer ticker.Stop()
	l.keyTimer, l.silenceTimer = time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	defer l.keyTimer.Stop()
	defer l.silenceTimer.Stop()
	for {
		select {
		case <-ctx.Done():
			return errStopping
		case <-s.deleted:
			return nil
		case <-s.pub.Done():
			if why := s.pub.Err(); why != nil {
				return fmt.Errorf("%w: %w", errEnded, why)
			}
			return errEnded
		case state := <-s.states:
			if err := l.changed(state); err != nil {
				return err
			}
		case <-s.keyframe:
			l.keys.want(time.Now(), s.latestKey())
		case <-l.keyTimer.C:
		case <-l.silenceTimer.C:
			l.watchSilence(time.Now())
		case <-s.bitrate:
			l.bitrate.set(s.targetBPS.Load(), time.Now())
			l.limitBitrate(time.Now())
		case now := <-ticker.C:
			if now.After(l.limit()) {
				if !l.connected {
					return s.notConnected()
				}
				return l.missed
			}
			l.tick(now)
			if l.excessive() {
				return errExcess
			}
		}
		if l.connected {
			l.askForKeyframe()
		}
	}
}

// A life is what hold knows of the session.
type life struct {
	*session
	connected bool
	deadline  time.Time // when the session ends, unless media come
	missed    error     // why, then

	keys         keyframes
	keyTimer     *time.Timer
	packetsAsked uint64 // received when a random access point was last asked for
	toldIgnored  bool
	intraSeq     uint8

	silent       bool
	silenceTimer *time.Timer

	bitrate    bitrate
	bytesAt    time.Time // the last tick
	bytes      uint64    // received then
	receivedBS float64   // bits per second since the tick before
	excess     int       // seconds in a row of twice the most that is wanted
	roundTrip  time.Duration
}

// changed follows the connection's state; an error ends the session.
func (l *life) changed(state webrtc.PeerConnectionState) error {
	switch state {
	case webrtc.PeerConnectionStateConnected:
		if l.connected {
			break // again, after a short interruption
		}
		l.connected = true
		l.log.Info("publisher connected")
		l.server.connected(l.session)
		l.deadline, l.missed = time.Now().Add(firstMediaTimeout), errFirstMedia
		l.measureRoundTrip()
		l.silenceTimer.Reset(silentAfter)
		if l.lastKey.Load() == 0 {
			l.keys.want(time.Now(), l.latestKey())
		}
	case webrtc.PeerConnectionStateFailed:
		if !l.connected {
			return l.notConnected()
		}
		return errICE
	case webrtc.PeerConnectionStateClosed:
		return errHungUp
	default:
	}
	return nil
}

// limit is when the session ends unless media come.
func (l *life) limit() time.Time {
	if at := l.lastPacket.Load(); at != 0 {
		l.deadline, l.missed = l.epoch.Add(time.Duration(at)).Add(silenceTimeout), errSilence
	}
	return l.deadline
}

// excessive reports whether the publisher has sent far more than it was asked to for
// a while. It is called once a second.
func (l *life) excessive() bool {
	if l.server.maxBPS == 0 || l.receivedBS <= 2*float64(l.server.maxBPS) {
		l.excess = 0
		return false
	}
	l.excess++
	return l.excess >= excessSeconds
}

// watchSilence tells the gateway when media stop and when they go on, long before
// the connection is given up.
func (l *life) watchSilence(now time.Time) {
	at := l.lastPacket.Load()
	if at == 0 {
		l.silenceTimer.Reset(silentAfter)
		return
	}
	since := now.Sub(l.epoch.Add(time.Duration(at)))
	silent := since >= silentAfter
	if silent != l.silent {
		l.silent = silent
		l.pub.ReportSilence(silent)
		if silent {
			l.log.Warn("publisher has fallen silent", "for", since.Round(time.Millisecond))
		} else {
			l.log.Info("publisher is heard again")
		}
	}
	wait := silentAfter - since
	if silent {
		wait = silentAfter / 5
	}
	l.silenceTimer.Reset(max(wait, time.Millisecond))
}

// tick does what is done once a second.
func (l *life) tick(now time.Time) {
	bytes := l.figures.bytes.Load()
	if d := now.Sub(l.bytesAt).Seconds(); !l.bytesAt.IsZero() && d > 0 {
		l.receivedBS = float64(bytes-l.bytes) * 8 / d
	}
	l.bytesAt, l.bytes = now, bytes
	if l.connected {
		l.measureRoundTrip()
		if report := l.receiver.receiverReport(now); report != nil {
			l.write(report)
		}
		l.bitrate.observe(l.receivedBS, now)
		l.limitBitrate(now)
	}
	l.tell()
	l.report(now)
}

// tell says once what the publisher does not do.
func (l *life) tell() {
	if l.keys.ignored != l.toldIgnored {
		l.toldIgnored = l.keys.ignored
		if l.keys.ignored {
			l.log.Warn("publisher ignores keyframe requests; targets wait for the keyframes that it sends by itself",
				"remedy", "set its keyframe interval to 2 s or less")
		}
	}
	if l.bitrate.news() {
		l.log.Warn("publisher ignores the bitrate that targets can take", "limit_bps", l.bitrate.target,
			"received_bps", uint64(l.receivedBS), "remedy", "lower its bitrate by hand: it does not follow REMB")
	}
}

// measureRoundTrip takes the round trip from the connectivity checks, which go on
// as long as the session does.
func (l *life) measureRoundTrip() {
	path := l.path()
	if path == nil {
		return
	}
	pair, ok := path.GetSelectedCandidatePairStats()
	if !ok || pair.CurrentRoundTripTime <= 0 {
		return
	}
	l.roundTrip = time.Duration(pair.CurrentRoundTripTime * float64(time.Second))
	l.keys.roundTrip = l.roundTrip
	l.receiver.setRoundTrip(l.roundTrip)
}

// path is the ICE transport that all tracks share; nil before there is one.
func (s *session) path() *webrtc.ICETransport {
	for _, r := range s.pc.GetReceivers() {
		if t := r.Transport(); t != nil && t.ICETransport() != nil {
			return t.ICETransport()
		}
	}
	return nil
}

// latestKey is when the last random access point of the video came.
func (s *session) latestKey() time.Time { return s.epoch.Add(time.Duration(s.lastKey.Load())) }

func (l *life) askForKeyframe() {
	ssrc := l.receiver.videoSSRC()
	if ssrc == 0 {
		return
	}
	now := time.Now()
	packets := l.figures.packets.Load()
	send, at, wait := l.keys.next(now, l.latestKey(), packets > l.packetsAsked)
	switch send {
	case pictureLoss:
		l.write(&rtcp.PictureLossIndication{SenderSSRC: l.ssrc, MediaSSRC: ssrc})
	case intraRequest:
		l.intraSeq++
		l.write(&rtcp.FullIntraRequest{
			SenderSSRC: l.ssrc, MediaSSRC: ssrc, FIR: []rtcp.FIREntry{{SSRC: ssrc, SequenceNumber: l.intraSeq}},
		})
	default:
	}
	if send != noRequest {
		l.packetsAsked = packets
		l.figures.keyframeRequests.Add(1)
	}
	if wait {
		l.keyTimer.Reset(at.Sub(now))
	}
}

// limitBitrate tells the publisher what the targets can take, in a packet of its
// own, as long as it has to be told.
func (l *life) limitBitrate(now time.Time) {
	bps, ok := l.bitrate.tell(now)
	ssrc := l.receiver.videoSSRC()
	if !ok || ssrc == 0 || !l.connected {
		return
	}
	l.write(&rtcp.ReceiverEstimatedMaximumBitrate{SenderSSRC: l.ssrc, Bitrate: float32(bps), SSRCs: []uint32{ssrc}})
}
