package mpegts

import (
	"bytes"
	"encoding/binary"

	"github.com/headgate/gateway/sdk/media"
)

// Bounds of what a sender can make a demuxer keep.
const (
	maxPESBytes     = 8 << 20
	maxSectionBytes = 4 << 10
	maxStreams      = 32
	maxPrograms     = 64
)

// A Stream is one elementary stream of the program that is read.
type Stream struct {
	PID  uint16
	Type byte
	// Codec is what the gateway calls it; empty if it carries no such thing. Name
	// says what it is then, for people: "klv", "scte-35". Of MPEG audio, whose layer
	// the program map does not tell, it is [media.MP2]: the first frame may be of
	// layer III, or of a kind that is not carried, and Name is "mpeg audio".
	Codec    media.Codec
	Name     string
	Channels int    // of Opus; 0 if unknown
	Language string // three letters; empty if unknown
}

// A PES is one packet of an elementary stream: usually an access unit.
type PES struct {
	Stream Stream
	// PTS and DTS count [TimestampHz] on a timeline that does not wrap. HasTime is
	// false where the packet has none.
	PTS, DTS int64
	HasTime  bool
	Data     []byte // the receiver's
	// RandomAccess is what the packets said. Lost: something is missing before this
	// one.
	RandomAccess bool
	Lost         bool
}

// A Demuxer takes a transport stream apart. Set its functions, then write. Not safe
// for concurrent use.
type Demuxer struct {
	// Program is the number of the program to read; 0 for the first one.
	Program int
	// OnStreams is called with the streams of the program before the first packet,
	// and when they change.
	OnStreams func([]Stream)
	OnPES     func(PES)

	rest      []byte // of a packet that came in two pieces
	searching bool   // for the start of a packet
	pat       section
	pmt       section
	pmtPID    uint16
	known     bool // pmtPID and number are
	number    int  // of the program that is read
	version   int  // of the program map; -1 before the first
	programs  []int
	streams   map[uint16]*demuxStream
	times     bool
	last      int64 // unwrapped, the newest

	counts Counts
}

// Counts are what a demuxer has seen.
type Counts struct {
	Packets   uint64
	Unsynced  uint64 // bytes that were left out to find a packet again
	Lost      uint64 // gaps in the continuity counters
	Damaged   uint64 // packets and sections with errors
	Scrambled uint64
}

type demuxStream struct {
	Stream
	buf     []byte
	active  bool
	want    int // bytes of the whole; 0: until the next begins
	random  bool
	lost    bool
	counter byte
	counted bool
}

type section struct {
	buf    []byte
	active bool
}

// Counts returns what was seen so far.
func (d *Demuxer) Counts() Counts { return d.counts }

// Programs returns the numbers of the programs that there are.
func (d *Demuxer) Programs() []int { return d.programs }

// Streams returns the streams of the program.
func (d *Demuxer) Streams() []Stream {
	list := make([]Stream, 0, len(d.streams))
	for _, s := range d.streams {
		list = append(list, s.Stream)
	}
	return list
}

// Write takes the next bytes of the stream.
func (d *Demuxer) Write(b []byte) {
	if len(d.rest) > 0 {
		d.rest = append(d.rest, b...)
		b = d.rest
	}
	for len(b) >= PacketBytes {
		if d.searching && len(b) == PacketBytes {
			break // one sync byte proves nothing
		}
		if d.searching = b[0] != syncByte || d.searching && b[PacketBytes] != syncByte; d.searching {
			n := bytes.IndexByte(b[1:], syncByte)
			if n < 0 {
				d.counts.Unsynced += uint64(len(b))
				b = nil
				break
			}
			d.counts.Unsynced += uint64(n + 1)
			b = b[n+1:]
			continue
		}
		d.packet(b[:PacketBytes])
		b = b[PacketBytes:]
	}
	d.rest = append(d.rest[:0], b...)
}

// packet takes one packet.
func (d *Demuxer) packet(p []byte) {
	d.counts.Packets++
	pid := PID(p)
	if p[1]&0x80 != 0 {
		d.counts.Damaged++
		return
	}
	if pid == nullPID {
		return
	}
	payload := p[4:]
	random, jumped := false, false
	if p[3]&0x20 != 0 {
		n := int(p[4])
		if n > len(payload)-1 {
			d.counts.Damaged++
			return
		}
		if n > 0 {
			random, jumped = p[5]&0x40 != 0, p[5]&0x80 != 0
		}
		payload = payload[1+n:]
	}
	if p[3]&0x10 == 0 {
		if s := d.streams[pid]; s != nil && jumped {
			s.counted = false
		}
		return
	}
	if p[3]&0xc0 != 0 {
		d.counts.Scrambled++
		return
	}
	start := p[1]&0x40 != 0
	switch s := d.streams[pid]; {
	case pid == patPID:
		d.section(&d.pat, start, payload, d.association)
	case d.known && pid == d.pmtPID:
		d.section(&d.pmt, start, payload, d.programMap)
	case s != nil:
		if s.counted && !jumped {
			if Counter(p) == s.counter {
				return // sent twice, which is allowed
			}
			if Counter(p) != (s.counter+1)&0xf {
				d.counts.Lost++
				s.lost, s.active = true, false
			}
		}
		s.counter, s.counted = Counter(p), true
		d.elementary(s, start, random, payload)
	}
}

// section collects a section and calls f with each that is whole and right.
func (d *Demuxer) section(s *section, start bool, b []byte, f func([]byte)) {
	if start {
		if len(b) == 0 || int(b[0]) >= len(b) {
			d.counts.Damaged++
			return
		}
		n := int(b[0])
		if s.active {
			s.buf = append(s.buf, b[1:1+n]...)
			d.sections(s, f)
		}
		s.active, s.buf = true, s.buf[:0]
		b = b[1+n:]
	}
	if !s.active {
		return
	}
	s.buf = append(s.buf, b...)
	d.sections(s, f)
}

func (d *Demuxer) sections(s *section, f func([]byte)) {
	for len(s.buf) >= 3 && s.buf[0] != 0xff {
		n := 3 + int(s.buf[1]&0xf)<<8 + int(s.buf[2])
		if n > maxSectionBytes || n < 12 {
			d.counts.Damaged++
			s.active = false
			return
		}
		if len(s.buf) < n {
			return
		}
		whole := s.buf[:n]
		if crc32(0xffffffff, whole) != 0 {
			d.counts.Damaged++
		} else if whole[5]&1 != 0 { // it applies now
			f(whole)
		}
		s.buf = s.buf[:copy(s.buf, s.buf[n:])]
	}
	if len(s.buf) > 0 && s.buf[0] == 0xff {
		s.active = false
	}
}

// association takes the program association.
func (d *Demuxer) association(b []byte) {
	if b[0] != 0 {
		return
	}
	d.programs = d.programs[:0]
	found := false
	for e := b[8 : len(b)-4]; len(e) >= 4 && len(d.programs) < maxPrograms; e = e[4:] {
		number, pid := int(binary.BigEndian.Uint16(e)), binary.BigEndian.Uint16(e[2:])&0x1fff
		if number == 0 {
			continue // the network's
		}
		d.programs = append(d.programs, number)
		if !found && (d.Program == 0 || d.Program == number) {
			found = true
			if !d.known || d.pmtPID != pid || d.number != number {
				d.known, d.pmtPID, d.number, d.version = true, pid, number, -1
				d.pmt = section{}
			}
		}
	}
}

// programMap takes the program map.
func (d *Demuxer) programMap(b []byte) {
	if b[0] != 2 || len(b) < 16 {
		return
	}
	if int(binary.BigEndian.Uint16(b[3:])) != d.number {
		return // several programs may have their maps on one PID
	}
	version := int(b[5] >> 1 & 31)
	if version == d.version {
		return
	}
	e := b[12 : len(b)-4]
	info := int(b[10]&0xf)<<8 | int(b[11])
	if info > len(e) {
		d.counts.Damaged++
		return
	}
	var list []Stream
	for e = e[info:]; len(e) >= 5 && len(list) < maxStreams; {
		n := int(e[3]&0xf)<<8 | int(e[4])
		if n > len(e)-5 {
			d.counts.Damaged++
			return
		}
		list = append(list, describe(e[0], binary.BigEndian.Uint16(e[1:])&0x1fff, e[5:5+n]))
		e = e[5+n:]
	}
	d.version = version
	streams := make(map[uint16]*demuxStream, len(list))
	for _, s := range list {
		if old := d.streams[s.PID]; old != nil && old.Type == s.Type && old.Codec == s.Codec {
			old.Stream = s
			streams[s.PID] = old
			continue
		}
		streams[s.PID] = &demuxStream{Stream: s}
	}
	d.streams = streams
	if d.OnStreams != nil {
		d.OnStreams(list)
	}
}

// describe says what a stream of a type with these descriptors is.
func describe(kind byte, pid uint16, descriptors []byte) Stream {
	s := Stream{PID: pid, Type: kind}
	registration := ""
	for b := descriptors; len(b) >= 2; {
		n := int(b[1])
		if n > len(b)-2 {
			break
		}
		body := b[2 : 2+n]
		switch {
		case b[0] == 5 && n >= 4:
			registration = string(body[:4])
		case b[0] == 10 && n >= 3:
			s.Language = language(body[:3])
		case b[0] == 0x7f && n >= 2 && body[0] == 0x80:
			s.Channels = int(body[1])
		case b[0] == 0x6a:
			registration = "AC-3"
		case b[0] == 0x59:
			registration = "subtitles"
		}
		b = b[2+n:]
	}
	switch kind {
	case typeH264:
		s.Codec = media.H264
	case typeH265:
		s.Codec = media.H265
	case typeADTS:
		s.Codec = media.AAC
	case typePrivate:
		switch registration {
		case "Opus":
			s.Codec = media.Opus
		case "HEVC":
			s.Codec = media.H265
		case "KLVA":
			s.Name = "klv"
		case "":
			s.Name = "private data"
		default:
			s.Name = registration
		}
	case typeMetadata:
		s.Name = "klv"
	case typeSCTE35:
		s.Name = "scte-35"
	case typeMPEG1Audio, typeMPEG2Audio:
		s.Codec, s.Name = media.MP2, "mpeg audio"
	case typeLATM:
		s.Name = "aac in latm"
	case 0x01, 0x02:
		s.Name = "mpeg-2 video"
	case 0x81:
		s.Name = "ac-3"
	default:
		s.Name = "unknown"
	}
	if s.Name == "" {
		s.Name = string(s.Codec)
	}
	return s
}

func language(b []byte) string {
	for _, c := range b {
		if c < 'a' || c > 'z' {
			return ""
		}
	}
	return string(b)
}

// elementary takes the payload of a packet of an elementary stream.
func (d *Demuxer) elementary(s *demuxStream, start, random bool, b []byte) {
	if s.Codec == "" {
		return
	}
	if start {
		d.flush(s)
		s.active, s.random, s.want = true, random, 0
		s.buf = s.buf[:0]
	}
	if !s.active {
		return
	}
	if len(s.buf)+len(b) > maxPESBytes {
		d.counts.Damaged++
		s.active, s.lost = false, true
		return
	}
	s.buf = append(s.buf, b...)
	if s.want == 0 && len(s.buf) >= 6 {
		if n := int(binary.BigEndian.Uint16(s.buf[4:])); n > 0 {
			s.want = 6 + n
		}
	}
	if s.want > 0 && len(s.buf) >= s.want {
		s.buf = s.buf[:s.want]
		d.flush(s)
	}
}

// Flush hands over what has no length and may be whole: the stream has ended.
func (d *Demuxer) Flush() {
	for _, s := range d.streams {
		d.flush(s)
	}
}

// flush hands the packet at hand over.
func (d *Demuxer) flush(s *demuxStream) {
	if !s.active {
		return
	}
	s.active = false
	b := s.buf
	if s.want > 0 && len(b) < s.want {
		s.lost = true // the rest never came
		return
	}
	if len(b) < 9 || b[0] != 0 || b[1] != 0 || b[2] != 1 || b[6]&0xc0 != 0x80 || len(b) < 9+int(b[8]) {
		d.counts.Damaged++
		s.lost = true
		return
	}
	p := PES{Stream: s.Stream, RandomAccess: s.random, Lost: s.lost}
	s.lost = false
	if b[7]&0x80 != 0 && b[8] >= 5 {
		p.HasTime = true
		p.PTS = timestamp(b[9:])
		p.DTS = p.PTS
		if b[7]&0x40 != 0 && b[8] >= 10 {
			p.DTS = timestamp(b[14:])
		}
		dts := d.unwrap(p.DTS)
		p.PTS, p.DTS = dts+signed33(p.PTS-p.DTS), dts
	}
	p.Data = bytes.Clone(b[9+int(b[8]):])
	if d.OnPES != nil {
		d.OnPES(p)
	}
}

func timestamp(b []byte) int64 {
	return int64(b[0]>>1&7)<<30 | int64(b[1])<<22 | int64(b[2]>>1)<<15 | int64(b[3])<<7 | int64(b[4]>>1)
}

// signed33 returns the difference of two timestamps as a signed number.
func signed33(d int64) int64 { return d << 31 >> 31 }

// unwrap puts a timestamp next to the newest one.
func (d *Demuxer) unwrap(t int64) int64 {
	if !d.times {
		d.times, d.last = true, t
		return t
	}
	u := d.last + signed33(t-d.last)
	d.last = max(d.last, u)
	if d.last-u > 10*TimestampHz {
		d.last = u // the sender began anew
	}
	return u
}
