package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"

	"github.com/headgate/gateway/plugins/ingest-webrtc/clock"
	"github.com/headgate/gateway/plugins/ingest-webrtc/negotiate"
	"github.com/headgate/gateway/plugins/ingest-webrtc/whip"
	"github.com/headgate/gateway/sdk"
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

	statsEvery = time.Second
	// unlimitedBPS lifts a limit: publishers keep the last one that they were told.
	unlimitedBPS = 100_000_000
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
	errConnect    = fmt.Errorf("publisher did not connect within %v; is the UDP port reachable?", connectTimeout)
	errFirstMedia = fmt.Errorf("publisher connected but sent no media within %v", firstMediaTimeout)
	errSilence    = fmt.Errorf("publisher sent no media for %v", silenceTimeout)
	errStopping   = errors.New("ingest is stopping")
	errEnded      = errors.New("publication ended by the gateway")
)

// A session is one publisher. run is its life; everything else is called from
// HTTP handlers, pion's callbacks and the gateway's.
type session struct {
	server     *Server
	log        *slog.Logger
	id, etag   string
	remoteHost string
	offer      *negotiate.Offer
	pub        Publication
	pc         *webrtc.PeerConnection
	clock      *clock.Clock

	deleted    chan struct{} // closed by End
	endOnce    sync.Once
	done       chan struct{} // closed when run has returned
	states     chan webrtc.PeerConnectionState
	keyframe   chan struct{} // a random access point is needed
	bitrate    chan struct{} // targetBPS has changed
	receivers  sync.WaitGroup
	targetBPS  atomic.Uint64
	lastPacket atomic.Int64 // arrival, nanoseconds since clock epoch; 0 before the first
	lastKey    atomic.Int64 // the same of the last random access point of the video
	epoch      time.Time
	figures    figures

	mu        sync.Mutex // guards the fields below
	closing   bool
	tracks    []media.Track
	videoSSRC uint32
	arrived   map[media.TrackID]bool

	countedConnected bool // guarded by the server's mutex
}

// figures are counted by the receivers and reported once a second.
type figures struct {
	bytes, packets, lost, late, dropped atomic.Uint64
	keyframeRequests                    atomic.Uint64
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
		id: id, etag: `"` + newID()[:16] + `"`, remoteHost: host, offer: offer,
		clock: clock.New(now), epoch: now,
		deleted: make(chan struct{}), done: make(chan struct{}),
		states: make(chan webrtc.PeerConnectionState, 8), keyframe: make(chan struct{}, 1), bitrate: make(chan struct{}, 1),
		arrived: map[media.TrackID]bool{},
	}
	if offer.Video != nil {
		s.videoSSRC = offer.Video.SSRC
	}
	return s
}

// ETag implements [whip.Session].
func (s *session) ETag() string { return s.etag }

// Ufrag implements [whip.Session].
func (s *session) Ufrag() string { return s.offer.Ufrag }

// AddCandidates implements [whip.Session].
func (s *session) AddCandidates(candidates []whip.Candidate) {
	for _, c := range candidates {
		if err := s.pc.AddICECandidate(webrtc.ICECandidateInit{Candidate: c.Line, SDPMid: &c.MID}); err != nil {
			s.log.Debug("candidate left out", "error", err)
		}
	}
}

// End implements [whip.Session].
func (s *session) End() {
	s.endOnce.Do(func() { close(s.deleted) })
	<-s.done
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
		s.tracks = append(s.tracks, media.Track{ID: videoTrack, Codec: media.H264})
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
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.closePeer()
	s.receivers.Wait()
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
	var keys keyframes
	ticker := time.NewTicker(statsEvery)
	defer ticker.Stop()
	keyTimer := time.NewTimer(time.Hour)
	defer keyTimer.Stop()
	connected := false
	deadline, missed := s.epoch.Add(connectTimeout), errConnect
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
			switch state {
			case webrtc.PeerConnectionStateConnected:
				if connected {
					break // again, after a short interruption
				}
				connected = true
				s.log.Info("publisher connected")
				s.server.connected(s)
				deadline, missed = time.Now().Add(firstMediaTimeout), errFirstMedia
				if s.lastKey.Load() == 0 {
					keys.want(time.Now(), s.latestKey())
				}
			case webrtc.PeerConnectionStateFailed:
				return errICE
			case webrtc.PeerConnectionStateClosed:
				return errHungUp
			default:
			}
		case <-s.keyframe:
			keys.want(time.Now(), s.latestKey())
		case <-keyTimer.C:
		case <-s.bitrate:
			s.limitBitrate()
		case now := <-ticker.C:
			if at := s.lastPacket.Load(); at != 0 {
				deadline, missed = s.epoch.Add(time.Duration(at)).Add(silenceTimeout), errSilence
			}
			if now.After(deadline) {
				return missed
			}
			s.report()
		}
		if connected {
			s.askForKeyframe(&keys, keyTimer)
		}
	}
}

// latestKey is when the last random access point of the video came.
func (s *session) latestKey() time.Time { return s.epoch.Add(time.Duration(s.lastKey.Load())) }

func (s *session) askForKeyframe(keys *keyframes, timer *time.Timer) {
	s.mu.Lock()
	ssrc := s.videoSSRC
	s.mu.Unlock()
	if ssrc == 0 {
		return
	}
	now := time.Now()
	send, at, wait := keys.next(now, s.latestKey())
	if send {
		s.figures.keyframeRequests.Add(1)
		s.write(&rtcp.PictureLossIndication{MediaSSRC: ssrc})
	}
	if wait {
		timer.Reset(at.Sub(now))
	}
}

// limitBitrate tells the publisher what the receivers can take.
func (s *session) limitBitrate() {
	s.mu.Lock()
	ssrc := s.videoSSRC
	s.mu.Unlock()
	if ssrc == 0 {
		return
	}
	bps := s.targetBPS.Load()
	if bps == 0 {
		bps = unlimitedBPS
	}
	s.write(&rtcp.ReceiverEstimatedMaximumBitrate{Bitrate: float32(bps), SSRCs: []uint32{ssrc}})
}

func (s *session) write(p rtcp.Packet) {
	if err := s.pc.WriteRTCP([]rtcp.Packet{p}); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		s.log.Debug("sending RTCP", "error", err)
	}
}

func (s *session) report() {
	if s.targetBPS.Load() != 0 {
		s.limitBitrate() // again: the packet may have been lost
	}
	f := &s.figures
	s.pub.ReportStats(sdk.IngestStats{
		Bytes: f.bytes.Load(), UnitsLost: f.dropped.Load(),
		Values: map[string]float64{
			"rtp_packets":       float64(f.packets.Load()),
			"rtp_packets_lost":  float64(f.lost.Load()),
			"rtp_packets_late":  float64(f.late.Load()),
			"keyframe_requests": float64(f.keyframeRequests.Load()),
		},
	})
}
