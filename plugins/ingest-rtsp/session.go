package ingestrtsp

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/bluenviron/gortsplib/v4/pkg/liberrors"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	"github.com/headgate/gateway/internal/rtp/clock"
	"github.com/headgate/gateway/internal/rtp/depack"
	"github.com/headgate/gateway/internal/rtp/reorder"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
)

// A writer takes tracks and units: *[sdk.Publication].
type writer interface {
	SetTracks(tracks []media.Track)
	WriteAccessUnit(unit *media.AccessUnit)
}

const (
	// silentAfter is how long a session must send nothing to count as silent.
	silentAfter = 500 * time.Millisecond
	// maxPause bounds how rare pictures may be before that is silence.
	maxPause = 2 * time.Second
)

// sourceTimeout is how long the sender of a track must be silent before another one
// takes its place.
const sourceTimeout = time.Second

// A session makes tracks and access units of the packets of one RTSP session. Each
// packet goes the whole way on the goroutine that received it. Its methods are safe
// for concurrent use once packets come.
type session struct {
	log   *slog.Logger // says whose session it is
	clock *clock.Clock
	// now is the time; tests have their own.
	now func() time.Time

	mu      sync.Mutex // guards the fields below and the tracks
	pub     writer     // nil before start
	tracks  []*track
	timer   *time.Timer // gives up packets that are missing; nil if none are
	closed  bool
	lastAt  time.Time // of a packet
	pause   time.Duration
	figures figures
	warned  bool // of packets that cannot be read

	leftOut map[string]uint64 // what is not carried, by kind; not changed after describe
}

// figures are counts of a session.
type figures struct {
	bytes, packets, units, reports, jumps, unknown, unreadable uint64
}

// A track is one track on its way.
type track struct {
	session *session
	media   *description.Media
	track   media.Track
	time    *clock.Track
	buffer  *reorder.Buffer
	frames  depacketizer

	ssrc   uint32
	heard  bool
	lastAt time.Time
}

// A depacketizer makes access units of packets in order.
type depacketizer interface {
	Push(p reorder.Packet)
	// Dropped counts units that were incomplete, damaged or could not be decoded.
	Dropped() uint64
}

// newSession makes a session of what d offers; log says whose it is. Formats that are
// carried are replaced in d by such as hand their packets to the session.
func newSession(d *description.Session, log *slog.Logger) *session {
	now := time.Now()
	s := &session{log: log, clock: clock.New(now), now: time.Now, lastAt: now, leftOut: make(map[string]uint64)}
	for _, m := range d.Medias {
		s.describe(m)
	}
	return s
}

// A tap is a format that shows its packets to the session as they arrive. The library
// would hand them over in order itself, and then wait for a lost one until 64 more
// have come: more than a second of sound. It asks a format about each packet before
// that, and this is where the session takes it.
type tap struct {
	format.Format
	take func(*rtp.Packet)
}

// PTSEqualsDTS implements [format.Format].
func (t *tap) PTSEqualsDTS(p *rtp.Packet) bool {
	t.take(p)
	return t.Format.PTSEqualsDTS(p)
}

// medias are those that carry tracks.
func (s *session) medias() []*description.Media {
	var out []*description.Media
	for _, t := range s.tracks {
		out = append(out, t.media)
	}
	return out
}

// codecs are those of the tracks.
func (s *session) codecs() []media.Codec {
	var out []media.Codec
	for _, t := range s.tracks {
		out = append(out, t.track.Codec)
	}
	return out
}

// start has tracks and units go to pub from now on.
func (s *session) start(pub writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pub, s.lastAt = pub, s.now()
	s.announce()
}

// close stops the session; nothing is written after it has returned.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// announce tells the gateway which tracks there are.
func (s *session) announce() {
	tracks := make([]media.Track, len(s.tracks))
	for i, t := range s.tracks {
		tracks[i] = t.track
	}
	s.pub.SetTracks(tracks)
}

// take takes in one packet.
func (t *track) take(p *rtp.Packet) {
	s := t.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.pub == nil {
		return
	}
	now := s.now()
	s.figures.packets++
	s.figures.bytes += uint64(p.MarshalSize())
	if !t.comesFrom(p.SSRC, now) {
		s.figures.unknown++
		return
	}
	// The longest pause between packets, of late.
	pause := min(now.Sub(s.lastAt), maxPause)
	s.pause = max(pause, s.pause-s.pause/64)
	s.lastAt, t.lastAt = now, now
	t.buffer.Push(reorder.Packet{Seq: p.SequenceNumber, Time: p.Timestamp, Marker: p.Marker, Payload: p.Payload, Arrival: now})
	s.arm(now)
}

// unreadable notes what the library says of a packet that it did not hand over. Once it
// is logged, for the one who looks for the picture.
func (s *session) unreadable(err error) {
	var unknown liberrors.ErrClientRTPPacketUnknownPayloadType
	var why string
	switch {
	case errors.As(err, &unknown):
		why = fmt.Sprintf("they are of payload type %d, which the description does not name", unknown.PayloadType)
	case errors.As(err, new(liberrors.ErrClientRTPPacketTooBigUDP)):
		why = "they are larger than 1472 bytes: have smaller ones sent, or send them by TCP"
	default:
		return // reports, and packets that the session has seen or misses
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.figures.unreadable++
	if !s.warned {
		s.warned = true
		s.log.Warn("packets come that cannot be read", "why", why)
	}
}

// comesFrom reports whether ssrc is the sender of the track. Another one takes its
// place when the one before has fallen silent.
func (t *track) comesFrom(ssrc uint32, now time.Time) bool {
	switch {
	case t.heard && t.ssrc == ssrc:
		return true
	case t.heard && now.Sub(t.lastAt) < sourceTimeout:
		return false
	case t.heard:
		t.buffer.Restart()
	}
	t.ssrc, t.heard = ssrc, true
	return true
}

// arm sets the timer for what is missing.
func (s *session) arm(now time.Time) {
	var due time.Time
	for _, t := range s.tracks {
		if at, ok := t.buffer.Deadline(); ok && (due.IsZero() || at.Before(due)) {
			due = at
		}
	}
	switch {
	case due.IsZero():
	case s.timer == nil:
		s.timer = time.AfterFunc(due.Sub(now), s.expire)
	default:
		s.timer.Reset(due.Sub(now))
	}
}

// expire gives up what has been missing for too long.
func (s *session) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	now := s.now()
	for _, t := range s.tracks {
		t.buffer.Expire(now)
	}
	s.arm(now)
}

// report takes in one RTCP packet about the tracks of m. The connection or the port
// that it came by says what it is about: some cameras write another sender into it.
func (s *session) report(m *description.Media, p rtcp.Packet) {
	r, ok := p.(*rtcp.SenderReport)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.figures.reports++
	for _, t := range s.tracks {
		if t.media == m && r.NTPTime != 0 {
			t.time.SenderReport(wallClock(r.NTPTime), r.RTPTime)
		}
	}
}

// wallClock converts NTP time (RFC 3550, 4).
func wallClock(ntp uint64) time.Time {
	const from1900 = 2_208_988_800 // seconds from 1900 to 1970
	return time.Unix(int64(ntp>>32)-from1900, int64((ntp&0xffffffff)*uint64(time.Second)>>32))
}

// emit stamps a unit and hands it over. It is called with the session locked.
func (t *track) emit(u depack.Unit) {
	s := t.session
	if u.Config != nil {
		t.time.SetReorder(u.Config.Reorder)
		if string(u.Config.DecoderConfig) != string(t.track.DecoderConfig) {
			u.Config.Apply(&t.track)
			s.announce()
		}
	}
	at := t.time.Stamp(u.Time, u.First, u.RandomAccess)
	if at.Jumped {
		s.figures.jumps++
	}
	s.figures.units++
	s.pub.WriteAccessUnit(&media.AccessUnit{
		Track: t.track.ID, PTS: at.PTS, DTS: at.DTS, Duration: u.Duration,
		RandomAccess: u.RandomAccess, Leading: u.Leading, Disposable: u.Disposable, Discontinuity: u.Discontinuity || at.Jumped,
		Received: u.Last, Payload: u.Payload,
	})
}

// silent reports whether nothing comes any more: for half a second, or twice the
// pause that there is between pictures where they are rare.
func (s *session) silent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now().Sub(s.lastAt) > max(silentAfter, 2*s.pause)
}

// quiet is how long no packet has come that could be read.
func (s *session) quiet() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now().Sub(s.lastAt)
}

// stats are the figures of the session.
func (s *session) stats(transport string) sdk.IngestStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	var counts reorder.Counts
	var dropped, left uint64
	for _, t := range s.tracks {
		c := t.buffer.Counts
		counts.Lost += c.Lost
		counts.Late += c.Late
		counts.Duplicates += c.Duplicates
		counts.Overtaken += c.Overtaken
		dropped += t.frames.Dropped()
	}
	for _, n := range s.leftOut {
		left += n
	}
	f := &s.figures
	values := map[string]float64{
		"rtsp_packets_received":   float64(f.packets),
		"rtsp_packets_lost":       float64(counts.Lost),
		"rtsp_packets_late":       float64(counts.Late),
		"rtsp_packets_duplicate":  float64(counts.Duplicates),
		"rtsp_packets_overtaken":  float64(counts.Overtaken),
		"rtsp_packets_of_unknown": float64(f.unknown),
		"rtsp_packets_unreadable": float64(f.unreadable),
		"rtsp_sender_reports":     float64(f.reports),
		"rtsp_tracks_left_out":    float64(left),
		"rtsp_time_jumps":         float64(f.jumps),
	}
	if d, ok := s.clock.Offset(); ok {
		values["rtsp_picture_late_seconds"] = d.Seconds()
	}
	return sdk.IngestStats{
		Bytes: f.bytes, UnitsLost: dropped, Values: values, Info: map[string]string{"transport": transport},
	}
}
