package session

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/pion/interceptor/pkg/twcc"
	"github.com/pion/rtcp"
	"github.com/pion/transport/v4/packetio"

	"github.com/headgate/gateway/internal/rtp/clock"
	"github.com/headgate/gateway/internal/rtp/depack"
	"github.com/headgate/gateway/internal/rtp/reorder"
	"github.com/headgate/gateway/plugins/ingest-webrtc/negotiate"
	"github.com/headgate/gateway/sdk/media"
)

const (
	// twccEvery is the pace of the reports on which the sender's own estimate of
	// the bandwidth rests.
	twccEvery = 100 * time.Millisecond
	// sourceTimeout is how long the SSRC of a track must be silent before another
	// one takes its place.
	sourceTimeout = time.Second
	// maxSources bounds the SSRCs of a session.
	maxSources = 64
)

// A receiver is the way of a session's packets, from their decryption to the
// publication. Each packet goes the whole way on the goroutine that decrypted it:
// there is no queue, and no copy but that into the access unit.
type receiver struct {
	session *session
	formats [128]format // by payload type
	twccID  uint8       // of the header extension; 0 if there is none
	send    func(rtcp.Packet)

	mu      sync.Mutex // guards the fields below and the tracks
	closed  bool
	sources int // SSRCs so far
	packet  packet
	twcc    *twcc.Recorder
	twccAt  time.Time // of the last report
	out     []rtcp.Packet
	asked   []uint16
	timer   *time.Timer // runs expire
	arm     func(time.Duration)
	armed   time.Time // when; zero if it does not run

	tracks []*track
}

// A format is what a payload type stands for.
type format struct {
	track *track
	kind  formatKind
}

type formatKind int

const (
	unknownFormat formatKind = iota
	mediaFormat
	resentFormat    // RTX, RFC 4588
	redundantFormat // RED, RFC 2198
)

// A track is one track on its way.
type track struct {
	receiver *receiver
	id       media.TrackID
	time     *clock.Track
	buffer   *reorder.Buffer
	frames   depacketizer
	keyDue   time.Time // when the next random access point of the video is due

	ssrc      uint32 // zero before the first packet
	announced uint32 // in the offer
	lastAt    time.Time
	arrivals  arrivals
	red       depack.Red

	described bool // the first description of the track has come

	counted reorder.Counts // as last added to the session's figures
	dropped uint64
}

// A depacketizer makes access units of packets in order.
type depacketizer interface {
	Push(p reorder.Packet)
	// NeedsKeyframe reports whether nothing comes out until the next random access
	// point.
	NeedsKeyframe() bool
	// Dropped counts units that were incomplete, damaged or could not be decoded.
	Dropped() uint64
}

func newReceiver(s *session) *receiver {
	r := &receiver{session: s, twccAt: s.epoch, send: s.write}
	for _, section := range []*negotiate.Section{s.offer.Video, s.offer.Audio} {
		if section == nil {
			continue
		}
		t := &track{receiver: r, announced: section.SSRC}
		if section == s.offer.Video {
			t.id, t.time, t.arrivals.rateHz = videoTrack, s.clock.AddTrack(videoRateHz, false), videoRateHz
			t.frames = t.pictures(section)
		} else {
			t.id, t.time, t.arrivals.rateHz = audioTrack, s.clock.AddTrack(audioRateHz, true), audioRateHz
			t.frames = depack.NewOpus(t.emit)
		}
		t.buffer = reorder.New(section.Resends(), t.deliver)
		for _, f := range section.Formats {
			r.formats[f.PayloadType&0x7f] = format{t, mediaFormat}
		}
		for _, f := range section.Resent {
			r.formats[f.PayloadType&0x7f] = format{t, resentFormat}
		}
		for _, f := range section.Redundant {
			r.formats[f.PayloadType&0x7f] = format{t, redundantFormat}
		}
		if section.TransportCC != 0 {
			r.twccID = section.TransportCC
		}
		r.tracks = append(r.tracks, t)
	}
	if r.twccID != 0 {
		r.twcc = twcc.NewRecorder(s.ssrc)
	}
	r.timer = time.AfterFunc(time.Hour, r.expire)
	r.timer.Stop()
	r.arm = func(d time.Duration) { r.timer.Reset(d) }
	return r
}

// pictures returns what makes access units of the section's codec.
func (t *track) pictures(s *negotiate.Section) depacketizer {
	switch s.Codec {
	case media.H265:
		return depack.NewH265(t.emit, s.ParameterSets...)
	case media.AV1:
		return depack.NewAV1(t.emit)
	case media.VP9:
		return depack.NewVP9(t.emit)
	default:
		return depack.NewH264(t.emit, s.ParameterSets...)
	}
}

// buffer is pion's BufferFactory: what it decrypts is written here, and nobody
// reads.
func (r *receiver) buffer(kind packetio.BufferPacketType, ssrc uint32) io.ReadWriteCloser {
	s := sink{closed: make(chan struct{}), once: &sync.Once{}}
	r.mu.Lock()
	r.sources++
	over := r.sources > maxSources
	r.mu.Unlock()
	switch {
	case over:
		s.write = func([]byte) {}
	case kind == packetio.RTCPBufferPacket:
		s.write = func(b []byte) { r.report(ssrc, b, time.Now()) }
	default:
		s.write = func(b []byte) { r.take(b, time.Now()) }
	}
	return s
}

// A sink passes on what is written to it. Read waits until it is closed.
type sink struct {
	write  func([]byte)
	closed chan struct{}
	once   *sync.Once
}

func (s sink) Write(b []byte) (int, error) {
	s.write(b)
	return len(b), nil
}

func (s sink) Read([]byte) (int, error) {
	<-s.closed
	return 0, io.EOF
}

func (s sink) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// close stops the receiver; nothing is emitted after it has returned.
func (r *receiver) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.timer.Stop()
}

// take takes in one packet that arrived at now.
func (r *receiver) take(b []byte, now time.Time) {
	r.mu.Lock()
	if r.closed || !r.packet.parse(b) {
		r.mu.Unlock()
		return
	}
	p := &r.packet
	s := r.session
	s.figures.packets.Add(1)
	s.figures.bytes.Add(uint64(len(b)))
	r.recordTWCC(p, now)
	if f := r.formats[p.payloadType]; f.track != nil {
		f.track.take(f.kind, p, now)
	} else {
		s.figures.unknown.Add(1)
	}
	r.finish(now)
}

// finish sends what is to be sent, arms the timer and unlocks mu.
func (r *receiver) finish(now time.Time) {
	var at time.Time
	for _, t := range r.tracks {
		if due := t.maintain(now); !due.IsZero() && (at.IsZero() || due.Before(at)) {
			at = due
		}
	}
	switch {
	case at.IsZero() || r.closed:
		r.armed = time.Time{} // it may run once in vain
	case r.armed.IsZero() || at.Before(r.armed):
		r.armed = at
		r.arm(max(0, at.Sub(now)))
	}
	if r.twcc != nil && now.Sub(r.twccAt) >= twccEvery {
		r.twccAt = now
		r.out = append(r.out, r.twcc.BuildFeedbackPacket()...)
	}
	out := r.out
	r.out = nil
	r.mu.Unlock()
	for _, p := range out {
		r.send(p) // each alone: congestion reports must not be part of a compound
	}
}

// expire does what is due although no packet came.
func (r *receiver) expire() {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	now := time.Now()
	r.armed = time.Time{}
	for _, t := range r.tracks {
		t.buffer.Expire(now)
	}
	r.finish(now)
}

func (r *receiver) recordTWCC(p *packet, now time.Time) {
	if r.twcc == nil {
		return
	}
	if e := p.element(r.twccID); len(e) == 2 {
		r.twcc.Record(p.ssrc, binary.BigEndian.Uint16(e), now.Sub(r.session.epoch).Microseconds())
	}
}

// report takes in one RTCP packet that was addressed to ssrc, or that ssrc sent.
func (r *receiver) report(ssrc uint32, b []byte, now time.Time) {
	packets, err := rtcp.Unmarshal(b)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range packets {
		sr, ok := p.(*rtcp.SenderReport)
		if !ok || sr.SSRC != ssrc {
			continue
		}
		for _, t := range r.tracks {
			if t.ssrc == ssrc {
				t.time.SenderReport(ntpTime(sr.NTPTime), sr.RTPTime)
				t.arrivals.senderReport(sr.NTPTime, now)
				r.session.figures.reportAt.Store(now.UnixNano())
			}
		}
	}
}

// receiverReport is what is told to the sender about all tracks; nil if there is
// nothing so far.
func (r *receiver) receiverReport(now time.Time) *rtcp.ReceiverReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &rtcp.ReceiverReport{SSRC: r.session.ssrc}
	for _, t := range r.tracks {
		if t.ssrc != 0 {
			out.Reports = append(out.Reports, t.arrivals.report(t.ssrc, now))
		}
	}
	if len(out.Reports) == 0 {
		return nil
	}
	return out
}

// setRoundTrip tells all tracks how long an answer takes.
func (r *receiver) setRoundTrip(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tracks {
		t.buffer.SetRoundTrip(d)
	}
}

// videoSSRC is what keyframe requests name; zero if it is not known.
func (r *receiver) videoSSRC() uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tracks {
		if t.id == videoTrack {
			if t.ssrc == 0 {
				return t.announced
			}
			return t.ssrc
		}
	}
	return 0
}

// take takes in one packet of the track.
func (t *track) take(kind formatKind, p *packet, now time.Time) {
	s := t.receiver.session
	in := reorder.Packet{Seq: p.seq, Time: p.time, Marker: p.marker, Payload: p.payload, Arrival: now}
	switch kind {
	case resentFormat:
		if t.ssrc == 0 || len(p.payload) < 2 {
			return // a probe
		}
		in.Seq, in.Payload, in.Resent = binary.BigEndian.Uint16(p.payload), p.payload[2:], true
		s.figures.resent.Add(1)
	default:
		if !t.comesFrom(p.ssrc, now) {
			s.figures.unknown.Add(1)
			return
		}
		t.lastAt = now
		s.lastPacket.Store(int64(max(1, now.Sub(s.epoch))))
		t.arrivals.take(p.seq, p.time, now.Sub(s.epoch))
		if kind == redundantFormat {
			t.unwrap(in)
			return
		}
	}
	t.buffer.Push(in)
	if t.id == videoTrack && t.frames.NeedsKeyframe() {
		s.requestKeyframe()
	}
}

// unwrap takes a packet with redundancy apart: what it repeats fills gaps.
func (t *track) unwrap(in reorder.Packet) {
	blocks, ok := t.red.Split(in.Payload)
	if !ok {
		t.receiver.session.figures.unknown.Add(1)
		return
	}
	for _, b := range blocks {
		// Each block is the payload of the packet that many places before.
		again := in
		again.Seq, again.Time, again.Payload = in.Seq-b.Behind, in.Time-b.Before, b.Payload
		if b.Behind > 0 {
			if !t.buffer.Misses(again.Seq) {
				continue
			}
			again.Resent, again.Marker = true, false
			t.receiver.session.figures.redundant.Add(1)
		}
		t.buffer.Push(again)
	}
}

// comesFrom reports whether ssrc is the track's source. Another one takes its
// place when the one before has fallen silent.
func (t *track) comesFrom(ssrc uint32, now time.Time) bool {
	switch {
	case t.ssrc == ssrc:
		return true
	case t.ssrc == 0 && t.announced != 0 && ssrc != t.announced && t.receiver.announces(ssrc):
		return false // of another track, with a wrong payload type
	case t.ssrc != 0 && now.Sub(t.lastAt) < sourceTimeout:
		return false
	}
	if t.ssrc != 0 {
		t.receiver.session.log.Info("the publisher's source changed", "track", t.id)
		t.buffer.Restart()
		t.arrivals = arrivals{rateHz: t.arrivals.rateHz}
	}
	t.ssrc = ssrc
	return true
}

func (r *receiver) announces(ssrc uint32) bool {
	return slices.ContainsFunc(r.tracks, func(t *track) bool { return t.announced == ssrc })
}

func (t *track) deliver(p reorder.Packet) { t.frames.Push(p) }

// maintain asks for what is missing, counts, and returns when there is something
// to do even if no packet comes; zero if there is not.
func (t *track) maintain(now time.Time) time.Time {
	r := t.receiver
	r.asked = t.buffer.Requests(r.asked[:0], now)
	if len(r.asked) > 0 {
		r.out = append(r.out, &rtcp.TransportLayerNack{
			SenderSSRC: r.session.ssrc, MediaSSRC: t.ssrc, Nacks: rtcp.NackPairsFromSequenceNumbers(r.asked),
		})
	}
	t.count()
	at, ok := t.buffer.Deadline()
	if next, due := t.buffer.NextRequest(); due && (!ok || next.Before(at)) {
		at = next
	}
	return at
}

// count adds what has happened since to the session's figures.
func (t *track) count() {
	c, dropped := t.buffer.Counts, t.frames.Dropped()
	if c == t.counted && dropped == t.dropped {
		return
	}
	f, o := &t.receiver.session.figures, t.counted
	f.lost.Add(c.Lost - o.Lost)
	f.late.Add(c.Late - o.Late)
	f.duplicates.Add(c.Duplicates - o.Duplicates)
	f.requested.Add(c.Requested - o.Requested)
	f.recovered.Add(c.Recovered - o.Recovered)
	f.overtaken.Add(c.Overtaken - o.Overtaken)
	f.dropped.Add(dropped - t.dropped)
	t.counted, t.dropped = c, dropped
}

// watchKeyframes asks for a random access point where the publisher sends none
// by himself.
func (t *track) watchKeyframes(u depack.Unit) {
	s := t.receiver.session
	if u.RandomAccess {
		t.keyDue = u.Last.Add(keyframeWithin)
		s.keyframeArrived(u.Last)
		return
	}
	if u.Last.After(t.keyDue) {
		t.keyDue = u.Last.Add(keyframeWithin)
		s.requestKeyframe()
	}
}

// emit hands a unit to the publication.
func (t *track) emit(u depack.Unit) {
	s := t.receiver.session
	if u.Config != nil {
		t.time.SetReorder(u.Config.Reorder)
		if t.described {
			s.figures.changes.Add(1)
		}
		t.described = true
		s.describe(t.id, u.Config.Apply)
	}
	at := t.time.Stamp(u.Time, u.First, u.RandomAccess)
	if t.id == videoTrack {
		t.watchKeyframes(u)
	}
	s.figures.units.Add(1)
	s.pub.WriteAccessUnit(&media.AccessUnit{
		Track: t.id, PTS: at.PTS, DTS: at.DTS, Duration: u.Duration,
		RandomAccess: u.RandomAccess, Leading: u.Leading, Disposable: u.Disposable, Discontinuity: u.Discontinuity || at.Jumped,
		Received: u.Last, Payload: u.Payload,
	})
}

// write sends one RTCP packet.
func (s *session) write(p rtcp.Packet) {
	if err := s.pc.WriteRTCP([]rtcp.Packet{p}); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		s.log.Debug("sending RTCP", "error", err)
	}
}
