package session

import (
	"errors"
	"io"
	"net"
	"slices"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"github.com/headgate/gateway/plugins/ingest-webrtc/clock"
	"github.com/headgate/gateway/plugins/ingest-webrtc/depack"
	"github.com/headgate/gateway/plugins/ingest-webrtc/negotiate"
	"github.com/headgate/gateway/plugins/ingest-webrtc/reorder"
	"github.com/headgate/gateway/sdk/media"
)

// How long a missing packet is waited for: for its retransmission where the offer
// has that, else for one that others have overtaken. Nothing is held while none
// is missing.
const (
	retransmissionHold = 100 * time.Millisecond
	overtakenHold      = 30 * time.Millisecond
)

// retransmits reports whether the publisher sends again what he is asked for.
func retransmits(s *negotiate.Section) bool {
	return slices.ContainsFunc(s.Formats, func(f negotiate.Format) bool { return slices.Contains(f.Feedback, "nack") })
}

func holdFor(retransmits bool) time.Duration {
	if retransmits {
		return retransmissionHold
	}
	return overtakenHold
}

// maxReadErrors is how many packets in a row may be unreadable.
const maxReadErrors = 100

// A receiver carries one track from its packets to the publication.
type receiver struct {
	session *session
	id      media.TrackID
	time    *clock.Track
	buffer  *reorder.Buffer
	h264    *depack.H264 // nil for sound
	opus    *depack.Opus // nil for pictures
	keyDue  time.Time    // when the next random access point of the video is due

	ssrc     uint32
	asks     bool // missing packets are asked for
	askedFor []uint16

	lost, late, dropped uint64 // as last counted in the session's figures
}

// trackArrived is called by pion with the first packet of a track, on a
// goroutine of its own, which receives the track from then on.
func (s *session) trackArrived(t *webrtc.TrackRemote, r *webrtc.RTPReceiver) {
	video := t.Kind() == webrtc.RTPCodecTypeVideo
	id := audioTrack
	if video {
		id = videoTrack
	}
	s.mu.Lock()
	if s.closing || s.arrived[id] {
		s.mu.Unlock()
		return
	}
	s.arrived[id] = true
	if video {
		s.videoSSRC = uint32(t.SSRC())
	}
	s.receivers.Add(2)
	s.mu.Unlock()

	section := s.offer.Audio
	if video {
		section = s.offer.Video
	}
	rx := &receiver{session: s, id: id, ssrc: uint32(t.SSRC()), asks: retransmits(section)}
	if video {
		rx.time = s.clock.AddTrack(videoRateHz, false)
		rx.h264 = depack.NewH264(rx.emit, s.offer.Video.ParameterSets...)
		rx.buffer = reorder.New(holdFor(rx.asks), rx.h264.Push)
	} else {
		rx.time = s.clock.AddTrack(audioRateHz, true)
		rx.opus = depack.NewOpus(rx.emit)
		rx.buffer = reorder.New(holdFor(rx.asks), rx.opus.Push)
	}
	go func() {
		defer s.receivers.Done()
		readReports(r, rx.time)
	}()
	defer s.receivers.Done()
	rx.read(t)
}

// readReports takes the sender reports in until the receiver is closed.
func readReports(r *webrtc.RTPReceiver, t *clock.Track) {
	for {
		packets, _, err := r.ReadRTCP()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
			return
		}
		for _, p := range packets {
			if sr, ok := p.(*rtcp.SenderReport); ok {
				t.SenderReport(ntpTime(sr.NTPTime), sr.RTPTime)
			}
		}
	}
}

// ntpTime converts a 64-bit NTP timestamp, whose seconds count from 1900.
func ntpTime(v uint64) time.Time {
	const secondsTo1970 = 2208988800
	return time.Unix(int64(v>>32)-secondsTo1970, int64((v&0xffffffff)*1e9>>32))
}

// read takes packets in until the track ends.
func (rx *receiver) read(t *webrtc.TrackRemote) {
	b := make([]byte, mtuBytes)
	var header rtp.Header
	var armed time.Time // the read deadline; zero if none
	failed := 0
	for failed < maxReadErrors {
		if at := rx.deadline(); at != armed {
			if err := t.SetReadDeadline(at); err != nil {
				return
			}
			armed = at
		}
		n, _, err := t.Read(b)
		now := time.Now()
		var timeout net.Error
		switch {
		case err == nil:
			failed = 0
			rx.take(b[:n], &header, now)
		case errors.As(err, &timeout) && timeout.Timeout():
			rx.buffer.Expire(now)
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe):
			return
		default:
			failed++ // a payload type that was not negotiated, or garbage
		}
		rx.askForMissing(now)
		rx.count()
	}
	rx.session.log.Warn("track ended: its packets cannot be read", "track", rx.id)
}

// deadline is when something is to be done even if no packet comes; zero if
// nothing is.
func (rx *receiver) deadline() time.Time {
	at, ok := rx.buffer.Deadline()
	if next, due := rx.buffer.NextRequest(); rx.asks && due && (!ok || next.Before(at)) {
		at = next
	}
	return at
}

// askForMissing sends the requests that are due (generic NACK, RFC 4585 6.2.1).
func (rx *receiver) askForMissing(now time.Time) {
	if !rx.asks {
		return
	}
	rx.askedFor = rx.buffer.Requests(rx.askedFor[:0], now)
	if len(rx.askedFor) == 0 {
		return
	}
	request := &rtcp.TransportLayerNack{MediaSSRC: rx.ssrc, Nacks: rtcp.NackPairsFromSequenceNumbers(rx.askedFor)}
	if err := rx.session.pc.WriteRTCP([]rtcp.Packet{request}); err != nil {
		rx.session.log.Debug("packets were not asked for again", "error", err)
	}
}

func (rx *receiver) take(packet []byte, h *rtp.Header, now time.Time) {
	s := rx.session
	n, err := h.Unmarshal(packet)
	if err != nil {
		return
	}
	payload := packet[n:]
	if h.Padding && len(payload) > 0 {
		payload = payload[:max(0, len(payload)-int(payload[len(payload)-1]))]
	}
	s.figures.packets.Add(1)
	s.figures.bytes.Add(uint64(len(packet)))
	s.lastPacket.Store(int64(max(1, now.Sub(s.epoch))))
	rx.buffer.Push(reorder.Packet{
		Seq: h.SequenceNumber, Time: h.Timestamp, Marker: h.Marker, Payload: payload, Arrival: now,
	})
	if rx.h264 != nil && rx.h264.NeedsKeyframe() {
		s.requestKeyframe()
	}
}

// count adds what has happened since to the session's figures.
func (rx *receiver) count() {
	f := &rx.session.figures
	var dropped uint64
	if rx.h264 != nil {
		dropped = rx.h264.Dropped
	} else {
		dropped = rx.opus.Dropped
	}
	f.lost.Add(rx.buffer.Lost - rx.lost)
	f.late.Add(rx.buffer.Late - rx.late)
	f.dropped.Add(dropped - rx.dropped)
	rx.lost, rx.late, rx.dropped = rx.buffer.Lost, rx.buffer.Late, dropped
}

// watchKeyframes asks for a random access point where the publisher sends none
// by himself.
func (rx *receiver) watchKeyframes(u depack.Unit) {
	if u.RandomAccess {
		rx.keyDue = u.Last.Add(keyframeWithin)
		rx.session.lastKey.Store(int64(u.Last.Sub(rx.session.epoch)))
		return
	}
	if u.Last.After(rx.keyDue) {
		rx.keyDue = u.Last.Add(keyframeWithin)
		rx.session.requestKeyframe()
	}
}

// emit hands a unit to the publication.
func (rx *receiver) emit(u depack.Unit) {
	s := rx.session
	if u.Config != nil {
		rx.time.SetReorder(u.Config.Reorder)
		s.describe(rx.id, u.Config.Apply)
	}
	at := rx.time.Stamp(u.Time, u.First, u.RandomAccess)
	if rx.h264 != nil {
		rx.watchKeyframes(u)
	}
	s.pub.WriteAccessUnit(&media.AccessUnit{
		Track: rx.id, PTS: at.PTS, DTS: at.DTS, Duration: u.Duration,
		RandomAccess: u.RandomAccess, Disposable: u.Disposable, Discontinuity: u.Discontinuity || at.Jumped,
		Received: u.Last, Payload: u.Payload,
	})
}
