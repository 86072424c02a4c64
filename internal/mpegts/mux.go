package mpegts

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/aac"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/media/h265"
	"github.com/headgate/gateway/sdk/media/opus"
)

const (
	programNumber = 1
	pmtPID        = 0x1000
	firstPID      = 0x100
	// tablesEvery bounds the media time between two program tables; they also
	// stand before each random access point of the video.
	tablesEvery = 400 * time.Millisecond
	// epoch is the timestamp of the first unit: room for a clock that runs before
	// it, and for sound that begins before the picture.
	epoch = 2 * time.Second
)

// A Muxer makes transport packets of access units: one program, one PID per track.
// It writes no program clock; [AppendClock] does, when packets are sent. Not safe
// for concurrent use.
type Muxer struct {
	streams  []*muxStream
	hasVideo bool
	version  byte // of the program map
	pat, pmt counter

	started bool
	base    time.Duration // decoding time of the first unit
	due     time.Duration // decoding time at which tables are due
	es      []byte        // the elementary stream of the unit at hand
	section []byte
}

// A counter is a continuity counter.
type counter byte

func (c *counter) next() byte {
	v := byte(*c)
	*c = (*c + 1) & 0xf
	return v
}

// A muxStream is one track with its PID.
type muxStream struct {
	track media.Track
	pid   uint16
	cc    counter
	sets  []byte // H.264, H.265: the parameter sets as a byte stream
	adts  aac.Config
	head  opus.Head
}

// Carries reports whether a transport stream carries codec c.
func Carries(c media.Codec) bool {
	switch c {
	case media.H264, media.H265, media.AAC, media.Opus:
		return true
	default:
		return false
	}
}

// NewMuxer returns a muxer for tracks, of codecs that [Carries] knows.
func NewMuxer(tracks []media.Track) (*Muxer, error) {
	m := &Muxer{version: 31}
	return m, m.SetTracks(tracks)
}

// SetTracks changes the tracks or their decoder configs. A track that stays keeps
// its PID; the tables follow with the next unit. A track without decoder config is
// left out until it has one.
func (m *Muxer) SetTracks(tracks []media.Track) error {
	var streams []*muxStream
	used := map[uint16]bool{}
	for _, s := range m.streams {
		used[s.pid] = true // also of those that go: a PID means one thing
	}
	hasVideo := false
	for _, t := range tracks {
		if !t.Complete() {
			continue
		}
		s := &muxStream{track: t}
		if old := m.stream(t.ID); old != nil && old.track.Codec == t.Codec {
			s.pid, s.cc = old.pid, old.cc
		} else {
			s.pid = freePID(used)
		}
		if err := s.describe(); err != nil {
			return err
		}
		hasVideo = hasVideo || t.Codec.Kind() == media.Video
		streams = append(streams, s)
	}
	if !sameProgram(streams, m.streams) {
		m.version = (m.version + 1) & 31
		m.due = math.MinInt64
	}
	m.streams, m.hasVideo = streams, hasVideo
	return nil
}

func freePID(used map[uint16]bool) uint16 {
	pid := uint16(firstPID)
	for used[pid] {
		pid++
	}
	used[pid] = true
	return pid
}

// sameProgram reports whether the program map says the same of a and b.
func sameProgram(a, b []*muxStream) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].pid != b[i].pid || !bytes.Equal(a[i].entry(nil), b[i].entry(nil)) {
			return false
		}
	}
	return true
}

func (m *Muxer) stream(id media.TrackID) *muxStream {
	for _, s := range m.streams {
		if s.track.ID == id {
			return s
		}
	}
	return nil
}

// describe reads the decoder config.
func (s *muxStream) describe() (err error) {
	config := s.track.DecoderConfig
	switch s.track.Codec {
	case media.H264:
		c, err := h264.ParseDecoderConfig(config)
		if err != nil {
			return err
		}
		s.sets = h264.AppendAnnexB(h264.AppendAnnexB(nil, c.SPS...), c.PPS...)
	case media.H265:
		c, err := h265.ParseDecoderConfig(config)
		if err != nil {
			return err
		}
		s.sets = h264.AppendAnnexB(h264.AppendAnnexB(h264.AppendAnnexB(nil, c.VPS...), c.SPS...), c.PPS...)
	case media.AAC:
		if s.adts, err = aac.ParseConfig(config); err != nil {
			return err
		}
		if _, err := aac.AppendADTSHeader(nil, s.adts, 0); err != nil {
			return err
		}
	case media.Opus:
		if s.head, err = opus.ParseHead(config); err != nil {
			return err
		}
		if s.head.MappingFamily != 0 {
			return fmt.Errorf("opus of mapping family %d in a transport stream: want mono or stereo", s.head.MappingFamily)
		}
	default:
		return fmt.Errorf("a transport stream carries h264, h265, aac and opus, and was given %s", s.track.Codec)
	}
	return nil
}

// entry appends what the program map says of the stream behind its PID.
func (s *muxStream) entry(dst []byte) []byte {
	var info []byte
	kind := byte(typePrivate)
	switch s.track.Codec {
	case media.H264:
		kind = typeH264
	case media.H265:
		kind = typeH265
		info = append(info, 5, 4, 'H', 'E', 'V', 'C')
	case media.AAC:
		kind = typeADTS
	case media.Opus:
		// "Opus in MPEG-TS" (opus-codec.org): a registration, and the number of
		// channels in an extension descriptor.
		info = append(info, 5, 4, 'O', 'p', 'u', 's', 0x7f, 2, 0x80, byte(s.head.Channels))
	}
	if l := s.track.Language; len(l) == 3 && s.track.Codec.Kind() == media.Audio {
		info = append(info, 10, 4, l[0], l[1], l[2], 0)
	}
	dst = append(dst, kind, 0xe0|byte(s.pid>>8), byte(s.pid), 0xf0, byte(len(info)))
	return append(dst, info...)
}

// ClockPID is the PID that carries the program clock: the first video's, or else
// the first track's; 0 without tracks.
func (m *Muxer) ClockPID() uint16 {
	for _, s := range m.streams {
		if s.track.Codec.Kind() == media.Video {
			return s.pid
		}
	}
	if len(m.streams) > 0 {
		return m.streams[0].pid
	}
	return 0
}

// Timestamp converts a time of the stream's timeline to the one in the packets,
// which begins near 0 and is unbounded here.
func (m *Muxer) Timestamp(d time.Duration) time.Duration { return d - m.base + epoch }

// AppendUnit appends the packets of a unit to dst, with program tables where they
// are due. A unit of a track that is not there or not complete adds nothing.
func (m *Muxer) AppendUnit(dst []byte, u *media.AccessUnit) ([]byte, error) {
	s := m.stream(u.Track)
	if s == nil {
		return dst, nil
	}
	if !m.started {
		m.started, m.base, m.due = true, u.DTS, u.DTS
	}
	m.es = m.es[:0]
	if err := m.elementary(s, u); err != nil {
		return dst, err
	}
	isVideo := s.track.Codec.Kind() == media.Video
	if isVideo && u.RandomAccess || u.DTS >= m.due {
		dst = m.appendTables(dst)
		m.due = u.DTS + tablesEvery
	}
	return m.appendPES(dst, s, u), nil
}

// elementary puts the unit into m.es as it stands in a transport stream.
func (m *Muxer) elementary(s *muxStream, u *media.AccessUnit) (err error) {
	switch s.track.Codec {
	case media.H264, media.H265:
		if s.track.Codec == media.H264 {
			m.es = append(m.es, 0, 0, 0, 1, byte(h264.TypeAUD), 0xf0)
		} else {
			m.es = append(m.es, 0, 0, 0, 1, byte(h265.TypeAUD)<<1, 1, 0x50)
		}
		if u.RandomAccess {
			m.es = append(m.es, s.sets...)
		}
		for b := u.Payload; len(b) > 0; {
			if len(b) < 4 {
				return h264.ErrTruncated
			}
			n := binary.BigEndian.Uint32(b)
			if uint64(n) > uint64(len(b)-4) {
				return h264.ErrTruncated
			}
			m.es = append(append(m.es, 0, 0, 0, 1), b[4:4+n]...)
			b = b[4+n:]
		}
	case media.AAC:
		if m.es, err = aac.AppendADTSHeader(m.es, s.adts, len(u.Payload)); err != nil {
			return err
		}
		m.es = append(m.es, u.Payload...)
	case media.Opus:
		m.es = append(m.es, 0x7f, 0xe0)
		n := len(u.Payload)
		for ; n >= 255; n -= 255 {
			m.es = append(m.es, 255)
		}
		m.es = append(append(m.es, byte(n)), u.Payload...)
	}
	return nil
}

// appendPES appends m.es as one PES packet.
func (m *Muxer) appendPES(dst []byte, s *muxStream, u *media.AccessUnit) []byte {
	pts, dts := Ticks(m.Timestamp(u.PTS))&timestampMask, Ticks(m.Timestamp(u.DTS))&timestampMask
	isVideo := s.track.Codec.Kind() == media.Video
	id := byte(0xc0)
	switch {
	case isVideo:
		id = 0xe0
	case s.track.Codec == media.Opus:
		id = 0xbd // private stream 1
	}
	var header [19]byte
	h := append(header[:0], 0, 0, 1, id, 0, 0, 0x84, 0x80, 5)
	if pts != dts {
		h[7], h[8] = 0xc0, 10
		h = appendTimestamp(h, 3, pts)
		h = appendTimestamp(h, 1, dts)
	} else {
		h = appendTimestamp(h, 2, pts)
	}
	// With its length known a receiver need not wait for the next unit.
	if n := len(h) - 6 + len(m.es); n <= 0xffff {
		binary.BigEndian.PutUint16(h[4:], uint16(n))
	}
	return appendPayload(dst, s.pid, &s.cc, u.RandomAccess, h, m.es)
}

func appendTimestamp(dst []byte, mark byte, t int64) []byte {
	return append(dst, mark<<4|byte(t>>29)&0xe|1, byte(t>>22), byte(t>>14)|1, byte(t>>7), byte(t<<1)|1)
}

// appendPayload appends packets that carry header and body.
func appendPayload(dst []byte, pid uint16, cc *counter, randomAccess bool, header, body []byte) []byte {
	first := true
	for left := len(header) + len(body); left > 0; {
		start := byte(0)
		if first {
			start = 0x40
		}
		dst = append(dst, syncByte, start|byte(pid>>8), byte(pid), 0x10|cc.next())
		room := PacketBytes - 4
		flagged := first && randomAccess
		if flagged {
			room -= 2
		}
		stuffing := max(room-left, 0)
		if flagged || stuffing > 0 {
			dst[len(dst)-1] |= 0x20
			length := stuffing - 1
			if flagged {
				length = 1 + stuffing
			}
			dst = append(dst, byte(length))
			if length > 0 {
				flags := byte(0)
				if flagged {
					flags = 0x40
				}
				dst = append(dst, flags)
				for range length - 1 {
					dst = append(dst, 0xff)
				}
			}
			room -= stuffing
		}
		n := min(room, len(header))
		dst = append(dst, header[:n]...)
		header = header[n:]
		k := min(room-n, len(body))
		dst = append(dst, body[:k]...)
		body = body[k:]
		left -= n + k
		first = false
	}
	return dst
}

// appendTables appends the program association and the program map.
func (m *Muxer) appendTables(dst []byte) []byte {
	m.section = append(m.section[:0], 0, programNumber, 0xe0|pmtPID>>8, pmtPID&0xff)
	dst = m.appendSection(dst, patPID, &m.pat, 0, 1, 0)
	clock := m.ClockPID()
	m.section = append(m.section[:0], 0xe0|byte(clock>>8), byte(clock), 0xf0, 0)
	for _, s := range m.streams {
		m.section = s.entry(m.section)
	}
	return m.appendSection(dst, pmtPID, &m.pmt, 2, programNumber, m.version)
}

// appendSection appends m.section, with its head and check sum, in packets.
func (m *Muxer) appendSection(dst []byte, pid uint16, cc *counter, table byte, id uint16, version byte) []byte {
	length := 5 + len(m.section) + 4
	head := [...]byte{0 /* pointer */, table, 0xb0 | byte(length>>8), byte(length), byte(id >> 8), byte(id), 0xc1 | version<<1, 0, 0}
	sum := crc32(crc32(0xffffffff, head[1:]), m.section)
	m.section = binary.BigEndian.AppendUint32(m.section, sum)
	return appendSectionPackets(dst, pid, cc, head[:], m.section)
}

// appendSectionPackets is like appendPayload, and fills the last packet with what
// sections are filled with.
func appendSectionPackets(dst []byte, pid uint16, cc *counter, head, body []byte) []byte {
	start := byte(0x40)
	for len(head)+len(body) > 0 {
		dst = append(dst, syncByte, start|byte(pid>>8), byte(pid), 0x10|cc.next())
		start = 0
		room := PacketBytes - 4
		n := min(room, len(head))
		dst = append(dst, head[:n]...)
		head = head[n:]
		k := min(room-n, len(body))
		dst = append(dst, body[:k]...)
		body = body[k:]
		for range room - n - k {
			dst = append(dst, 0xff)
		}
	}
	return dst
}

// AppendClock appends a packet of pid without payload that carries the program
// clock. discontinuity says that the clock has jumped. cc is the continuity counter
// of the packet of pid that was sent last: it does not count.
func AppendClock(dst []byte, pid uint16, cc byte, at ClockTime, discontinuity bool) []byte {
	flags := byte(0x10)
	if discontinuity {
		flags |= 0x80
	}
	base, ext := int64(at)/300&timestampMask, int64(at)%300
	dst = append(dst, syncByte, byte(pid>>8), byte(pid), 0x20|cc&0xf, PacketBytes-5, flags,
		byte(base>>25), byte(base>>17), byte(base>>9), byte(base>>1), byte(base<<7)|0x7e|byte(ext>>8), byte(ext))
	for range PacketBytes - 12 {
		dst = append(dst, 0xff)
	}
	return dst
}

// AppendNull appends a packet that carries nothing.
func AppendNull(dst []byte) []byte {
	dst = append(dst, syncByte, nullPID>>8, nullPID&0xff, 0x10)
	for range PacketBytes - 4 {
		dst = append(dst, 0xff)
	}
	return dst
}

// PID returns the PID of a packet.
func PID(packet []byte) uint16 { return binary.BigEndian.Uint16(packet[1:]) & 0x1fff }

// Counter returns the continuity counter of a packet.
func Counter(packet []byte) byte { return packet[3] & 0xf }

// crc32 is the check sum of sections: polynomial 0x04c11db7, most significant bit
// first, no final inversion (ISO/IEC 13818-1, annex A).
func crc32(sum uint32, b []byte) uint32 {
	for _, c := range b {
		sum ^= uint32(c) << 24
		for range 8 {
			if sum&(1<<31) != 0 {
				sum = sum<<1 ^ 0x04c11db7
			} else {
				sum <<= 1
			}
		}
	}
	return sum
}
