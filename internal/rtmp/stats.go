package rtmp

import (
	"sync"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/aac"
	"github.com/headgate/gateway/sdk/media/h264"
)

// StreamStats are the figures of one publication as it arrives at a [Server].
// Rates and means are those of the last whole second; they are zero when nothing
// came in it.
type StreamStats struct {
	Publish
	// Ended is when the publication ended, zero while it is under way; EndedBy why,
	// empty when the client said goodbye.
	Ended   time.Time
	EndedBy string

	Bytes uint64 // of bodies
	Video TrackStats
	Audio TrackStats

	// Encoder is what onMetaData names; Metadata counts how often it came.
	Encoder  string
	Metadata uint64

	// Measured says that rates, AVOffset, AVSkew and Lag are of the last second; they are
	// zero before the first one is over.
	Measured bool
	// BackwardAcross counts messages with an earlier timestamp than the message
	// before them of the other track: interleaving that is not strict.
	BackwardAcross uint64
	// AVOffset is the newest audio timestamp less the newest video timestamp, seen
	// at each picture: positive when audio is ahead in the interleaving.
	AVOffset time.Duration
	// AVSkew is how much later a sound arrives than the picture of the same
	// timestamp: what a player has to buffer. An AAC frame is complete only 21 ms
	// after its timestamp, so a sender without any delay shows that much.
	AVSkew time.Duration
	// Lag is how much later units arrive, measured against their timestamps, than
	// the fastest unit of their track did: what piled up on the way since then. The
	// delay of that fastest unit itself cannot be seen from here. The reference
	// gives way by 0.1 ms per second, for clocks that differ.
	Lag time.Duration
	// LastArrival is when the last audio or video unit came.
	LastArrival time.Time
	// MaxArrivalGap is the longest time without any unit.
	MaxArrivalGap time.Duration

	// RTT is what the kernel knows of the connection; zero where it is not asked.
	RTT time.Duration
	// Pongs counts answers to our pings, ExtendedFaults chunks of type 3 without
	// the extended timestamp that belongs there.
	Pongs          uint64
	ExtendedFaults uint64
	// Malformed counts audio and video messages that could not be taken apart.
	Malformed uint64
}

// TrackStats are the figures of the audio or the video of a publication.
type TrackStats struct {
	// Codec is empty while nothing came; h264 and aac, otherwise a FourCC or
	// "flv NUMBER".
	Codec string
	// Profile as in Constrained Baseline or LC.
	Profile string
	// Enhanced says that it came in the form of Enhanced RTMP.
	Enhanced bool
	// Tracks is how many there are; the figures are those of the first, and
	// FurtherUnits counts the units of the others.
	Tracks       int
	FurtherUnits uint64
	Units        uint64
	Bytes        uint64
	// UnitsPerSecond and BitsPerSecond by arrival.
	UnitsPerSecond float64
	BitsPerSecond  float64

	// First and Last are timestamps, freed of the wrap at 2^32 ms.
	First, Last time.Duration
	// SequenceHeaders counts them, ConfigChanges those that differed from the one
	// before.
	SequenceHeaders uint64
	ConfigChanges   uint64
	// UnitsBeforeHeader counts units that a decoder could do nothing with.
	UnitsBeforeHeader uint64
	// Backward counts timestamps earlier than the one before on this track, Repeated
	// equal ones.
	Backward uint64
	Repeated uint64
	// MaxGap is the longest step of the timestamps.
	MaxGap time.Duration

	// Video: size and frame rate as the decoder config has them, keyframes, and
	// the time between the last two and the longest between any.
	Width, Height       int
	DeclaredFrameRate   float64
	Keyframes           uint64
	KeyframeInterval    time.Duration
	MaxKeyframeInterval time.Duration
	// BFrames says that pictures came that are shown later than they are decoded.
	BFrames bool
	// FirstKeyframe says that the first picture was one.
	FirstKeyframe bool

	// Audio.
	SampleRateHz int
	Channels     int
}

// A meter makes figures of messages. Its methods may be called concurrently.
type meter struct {
	mu       sync.Mutex // guards the fields below
	st       StreamStats
	video    trackMeter
	audio    trackMeter
	since    time.Time
	windowAt time.Time
	offset   mean
	last     *trackMeter   // of the last message
	lag      time.Duration // largest of the window
	scratch  []Packet
}

// A trackMeter follows one track.
type trackMeter struct {
	st         *TrackStats
	config     []byte
	timestamp  uint32
	clock      int64 // timestamp in ms without wrap
	seen       bool
	keyframeAt int64
	units      uint64
	bytes      uint64
	transit    mean // arrival less timestamp

	reference   time.Duration // least transit seen, drifting
	referenceAt time.Time
}

// A mean collects durations.
type mean struct {
	sum time.Duration
	n   int64
}

func (m *mean) add(d time.Duration) { m.sum += d; m.n++ }

func (m *mean) take() (time.Duration, bool) {
	defer func() { *m = mean{} }()
	if m.n == 0 {
		return 0, false
	}
	return m.sum / time.Duration(m.n), true
}

func newMeter(now time.Time) *meter {
	m := &meter{since: now, windowAt: now}
	m.video.st, m.audio.st = &m.st.Video, &m.st.Audio
	return m
}

func (m *meter) pong() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.st.Pongs++
}

func (m *meter) faults(n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.st.ExtendedFaults = n
}

// snapshot returns the figures, without Publish.
func (m *meter) snapshot(now time.Time) StreamStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.roll(now)
	return m.st
}

// observe takes in a message.
func (m *meter) observe(msg Message, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.roll(now)
	m.st.Bytes += uint64(len(msg.Body))
	switch msg.Type {
	case TypeVideo:
		m.packets(&m.video, msg, now)
	case TypeAudio:
		m.packets(&m.audio, msg, now)
	case TypeData, TypeDataAMF3:
		m.metadata(msg)
	}
}

// packets takes in a message of the track t. Of the further tracks of a message, or
// of messages of their own, only the number is kept.
func (m *meter) packets(t *trackMeter, msg Message, now time.Time) {
	list, err := Packets(m.scratch[:0], msg)
	if err != nil {
		m.st.Malformed++
	}
	for _, p := range list {
		t.st.Tracks = max(t.st.Tracks, int(p.Track)+1)
		if p.Track != 0 {
			if p.Kind == PacketFrame {
				t.st.FurtherUnits++
			}
			continue
		}
		if t.packet(p, msg) {
			m.unit(t, msg, now)
		}
	}
	clear(list) // the payloads are not ours
	m.scratch = list
}

// roll closes the window when it is a second old.
func (m *meter) roll(now time.Time) {
	elapsed := now.Sub(m.windowAt)
	if elapsed < time.Second {
		return
	}
	if elapsed >= 2*time.Second {
		// Whatever the window holds is older than a second.
		m.video.units, m.video.bytes, m.audio.units, m.audio.bytes = 0, 0, 0, 0
		m.video.transit, m.audio.transit, m.offset = mean{}, mean{}, mean{}
		m.lag = 0
	}
	for _, t := range []*trackMeter{&m.video, &m.audio} {
		t.st.UnitsPerSecond = float64(t.units) / elapsed.Seconds()
		t.st.BitsPerSecond = float64(t.bytes) * 8 / elapsed.Seconds()
		t.units, t.bytes = 0, 0
	}
	m.st.AVOffset, _ = m.offset.take()
	v, hasVideo := m.video.transit.take()
	a, hasAudio := m.audio.transit.take()
	m.st.AVSkew = 0
	if hasVideo && hasAudio {
		m.st.AVSkew = a - v
	}
	m.st.Lag, m.lag = m.lag, 0
	m.st.Measured, m.windowAt = true, now
}

// unit takes in the times of an audio or video unit.
func (m *meter) unit(t *trackMeter, msg Message, now time.Time) {
	st := t.st
	st.Units++
	st.Bytes += uint64(len(msg.Body))
	t.units++
	t.bytes += uint64(len(msg.Body))
	step := int64(int32(msg.TimestampMS - t.timestamp))
	if !t.seen {
		t.seen = true
		step = int64(msg.TimestampMS)
		// The tracks of one stream wrap together.
		if other := m.last; other != nil {
			step = other.clock + int64(int32(msg.TimestampMS-other.timestamp))
		}
		t.clock = 0
		st.First = milliseconds(step)
	} else {
		switch {
		case step < 0:
			st.Backward++
		case step == 0:
			st.Repeated++
		}
		st.MaxGap = max(st.MaxGap, milliseconds(step))
	}
	t.clock += step
	t.timestamp = msg.TimestampMS
	st.Last = milliseconds(t.clock)
	if m.last != nil && m.last != t && t.clock < m.last.clock {
		m.st.BackwardAcross++
	}
	m.last = t

	if t == &m.video && m.audio.seen {
		m.offset.add(milliseconds(m.audio.clock - m.video.clock))
	}
	transit := now.Sub(m.since) - milliseconds(t.clock)
	t.transit.add(transit)
	if t.referenceAt.IsZero() {
		t.reference, t.referenceAt = transit, now
	}
	t.reference += now.Sub(t.referenceAt) / 10000
	t.referenceAt = now
	t.reference = min(t.reference, transit)
	m.lag = max(m.lag, transit-t.reference)

	if !m.st.LastArrival.IsZero() {
		m.st.MaxArrivalGap = max(m.st.MaxArrivalGap, now.Sub(m.st.LastArrival))
	}
	m.st.LastArrival = now
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// codecName returns our name of what Enhanced RTMP calls fourCC, which stays as
// it is if we have none.
func codecName(fourCC string) string {
	switch fourCC {
	case "avc1":
		return "h264"
	case "hvc1":
		return "h265"
	case "av01":
		return "av1"
	case "vp08":
		return "vp8"
	case "vp09":
		return "vp9"
	case "mp4a":
		return "aac"
	case "Opus":
		return "opus"
	case ".mp3":
		return "mp3"
	default:
		return printable(fourCC)
	}
}

func flvCodecName(kind string, id byte) string {
	switch {
	case kind == "video" && id == flvAVC:
		return "h264"
	case kind == "video" && id == 12:
		return "h265"
	case kind == "audio" && id == flvAAC:
		return "aac"
	case kind == "audio" && id == 2:
		return "mp3"
	case kind == "audio" && id == 7:
		return "pcma"
	case kind == "audio" && id == 8:
		return "pcmu"
	}
	return "flv " + string([]byte{'0' + id/10, '0' + id%10})
}

// packet takes in a packet of the track and reports whether it is a picture or a
// frame of sound.
func (t *trackMeter) packet(p Packet, msg Message) bool {
	st := t.st
	st.Enhanced, st.Codec = p.Enhanced, p.Name
	switch p.Kind {
	case PacketHeader:
		t.header(p.Payload)
		switch p.Codec {
		case media.H264:
			st.describeH264(p.Payload)
		case media.AAC:
			st.describeAAC(p.Payload)
		}
		return false
	case PacketFrame:
	default:
		return false
	}
	if st.SequenceHeaders == 0 && (p.Codec.NeedsConfig() || p.Codec == media.VP9) {
		st.UnitsBeforeHeader++
	}
	st.BFrames = st.BFrames || p.CompositionMS != 0
	if p.Keyframe {
		if st.Units == 0 {
			st.FirstKeyframe = true
		}
		clock := t.clock + int64(int32(msg.TimestampMS-t.timestamp))
		if st.Keyframes > 0 {
			st.KeyframeInterval = milliseconds(clock - t.keyframeAt)
			st.MaxKeyframeInterval = max(st.MaxKeyframeInterval, st.KeyframeInterval)
		}
		t.keyframeAt = clock
		st.Keyframes++
	}
	return true
}

func (t *trackMeter) header(config []byte) {
	if t.st.SequenceHeaders > 0 && string(config) != string(t.config) {
		t.st.ConfigChanges++
	}
	t.st.SequenceHeaders++
	t.config = append(t.config[:0], config...)
}

func (st *TrackStats) describeH264(avcC []byte) {
	config, err := h264.ParseDecoderConfig(avcC)
	if err != nil || len(config.SPS) == 0 {
		st.Profile = "unreadable"
		return
	}
	sps, err := h264.ParseSPS(config.SPS[0])
	if err != nil {
		st.Profile = "unreadable"
		return
	}
	st.Width, st.Height, st.DeclaredFrameRate = sps.Width(), sps.Height(), sps.FrameRate()
	switch {
	case sps.ProfileIDC == 66 && sps.ConstraintFlags&0x40 != 0:
		st.Profile = "Constrained Baseline"
	case sps.ProfileIDC == 66:
		st.Profile = "Baseline"
	case sps.ProfileIDC == 77:
		st.Profile = "Main"
	case sps.ProfileIDC == 88:
		st.Profile = "Extended"
	case sps.ProfileIDC == 100:
		st.Profile = "High"
	case sps.ProfileIDC == 110:
		st.Profile = "High 10"
	case sps.ProfileIDC == 122:
		st.Profile = "High 4:2:2"
	case sps.ProfileIDC == 244:
		st.Profile = "High 4:4:4"
	default:
		st.Profile = "other"
	}
}

func (st *TrackStats) describeAAC(config []byte) {
	c, err := aac.ParseConfig(config)
	if err != nil {
		st.Profile = "unreadable"
		return
	}
	st.SampleRateHz, st.Channels = c.OutputSampleRateHz(), c.OutputChannels()
	switch {
	case c.Extension == aac.PS:
		st.Profile = "HE v2"
	case c.Extension == aac.SBR:
		st.Profile = "HE"
	case c.ObjectType == aac.LC:
		st.Profile = "LC"
	case c.ObjectType == aac.Main:
		st.Profile = "Main"
	default:
		st.Profile = "other"
	}
}

func (m *meter) metadata(msg Message) {
	if d, ok := ReadMetadata(msg); ok {
		m.st.Metadata++
		if d.Encoder != "" {
			m.st.Encoder = d.Encoder
		}
	}
}
