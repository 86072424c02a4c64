package ingestsrt

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/headgate/gateway/internal/mpegts"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/aac"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/media/h265"
	"github.com/headgate/gateway/sdk/media/opus"
)

// A writer takes tracks and units: *[sdk.Publication].
type writer interface {
	SetTracks(tracks []media.Track)
	WriteAccessUnit(unit *media.AccessUnit)
}

// An assembler makes tracks and access units of a transport stream.
type assembler struct {
	pub   writer
	log   *slog.Logger
	demux mpegts.Demuxer

	streams []*stream // in the order of the program map
	mapped  bool      // there was one
	nextID  media.TrackID
	based   bool
	base    int64 // timestamp that is 0 here, 90 kHz
	shift   int64 // added to what the sender says, since it jumped
	newest  int64 // the highest DTS so far

	begun     bool   // nothing is held back any more
	held      []held // until then
	heldBytes int
	holding   bool          // a unit is held back
	heldFrom  int64         // the first of them, 90 kHz
	told      []media.Track // what the gateway knows

	lost, damaged, jumps uint64
	leftOut              map[string]int // streams of the program that are not carried, by name
}

// A stream is one track on its way.
type stream struct {
	mpegts.Stream
	track    media.Track
	config   []byte
	started  bool
	gap      bool // units are missing before the next one
	last     int64
	timed    bool
	rest     []byte // of an ADTS frame that goes on in the next packet
	frames   frames // of MPEG audio
	picture4 h264.Picture
	picture5 h265.Picture
	sets4    h264.ParameterSets
	sets5    h265.ParameterSets
	nalus    [][]byte

	unproven int  // bytes of MPEG audio before its first frame
	leftOut  bool // what was to be MPEG audio is of a kind that is not carried
}

const (
	// maxJump is by how much timestamps may step before the sender has begun anew,
	// maxBack by how much those of one stream may fall.
	maxJump = 10 * mpegts.TimestampHz
	maxBack = mpegts.TimestampHz / 2
)

func newAssembler(pub writer, program int, log *slog.Logger) *assembler {
	a := &assembler{pub: pub, log: log, nextID: 1, leftOut: make(map[string]int)}
	a.demux = mpegts.Demuxer{Program: program, OnStreams: a.setStreams, OnPES: a.take}
	return a
}

// useless says why there are no pictures, or no sound of a stream without pictures, and
// what to do; empty if there are.
func (a *assembler) useless() string {
	c, programs := a.demux.Counts(), a.demux.Programs()
	switch {
	case c.Packets == 0 || c.Unsynced > c.Packets*mpegts.PacketBytes:
		return "it is no MPEG transport stream: let the encoder send one (ffmpeg: -f mpegts)"
	case len(programs) == 0:
		return "it names no program"
	case a.demux.Program != 0 && !slices.Contains(programs, a.demux.Program):
		return fmt.Sprintf("it has no program %d, and has %v: name one of these in the option programs", a.demux.Program, programs)
	case a.mapped && !slices.ContainsFunc(a.streams, func(s *stream) bool { return !s.leftOut }):
		return "its program has nothing that the gateway carries: want H.264, H.265, AAC, Opus or MPEG audio of layer II or III"
	case !a.mapped:
		return "it does not say what is in its program"
	}
	for _, s := range a.streams {
		switch isVideo := s.Codec.Kind() == media.Video; {
		case s.timed && isVideo:
			return ""
		case s.timed:
		case c.Scrambled > 0:
			return "it is scrambled"
		case isVideo:
			return "no keyframe with its parameter sets has come"
		}
	}
	return ""
}

// setStreams takes the program map: streams that stay keep their track.
func (a *assembler) setStreams(list []mpegts.Stream) {
	if programs := a.demux.Programs(); !a.mapped && a.demux.Program == 0 && len(programs) > 1 {
		a.log.Info("of several programs the first is taken; the option programs chooses another one", "programs", fmt.Sprint(programs))
	}
	a.mapped = true
	var streams []*stream
	before := a.leftOut
	a.leftOut = make(map[string]int)
	for _, in := range list {
		if in.Codec == "" {
			if a.leftOut[in.Name]++; a.leftOut[in.Name] > before[in.Name] {
				a.log.Warn("a stream of the program is left out: the gateway does not carry it", "kind", in.Name, "pid", in.PID)
			}
			continue
		}
		i := slices.IndexFunc(a.streams, func(s *stream) bool { return s.PID == in.PID && s.Codec == in.Codec })
		if i >= 0 {
			s := a.streams[i]
			s.Stream = in
			if s.leftOut {
				a.leftOut[in.Name]++
			}
			streams = append(streams, s)
			continue
		}
		s := &stream{Stream: in, track: media.Track{ID: a.nextID, Codec: in.Codec, Language: in.Language}}
		a.nextID++
		if in.Codec == media.Opus {
			channels := in.Channels
			if channels == 0 || channels > 2 {
				channels = 2
			}
			s.setOpus(channels)
		}
		streams = append(streams, s)
	}
	a.streams = streams
	a.announce()
}

func (s *stream) setOpus(channels int) {
	head, err := opus.Head{Channels: channels, PreSkip: 312, InputSampleRateHz: 48000}.Marshal()
	if err != nil {
		return
	}
	s.track.SampleRateHz, s.track.Channels, s.track.DecoderConfig = 48000, channels, head
}

// take makes units of one packet.
func (a *assembler) take(p mpegts.PES) {
	i := slices.IndexFunc(a.streams, func(s *stream) bool { return s.PID == p.Stream.PID })
	if i < 0 {
		return
	}
	s := a.streams[i]
	if p.Lost {
		a.lost++
		s.gap, s.rest = true, nil
	}
	var err error
	switch s.Codec {
	case media.H264, media.H265:
		err = a.video(s, p)
	case media.AAC:
		err = a.aac(s, p)
	case media.Opus:
		err = a.opus(s, p)
	case media.MP2:
		a.mpegAudio(s, p)
	}
	if err != nil {
		a.damaged++
		s.gap = true
	}
}

// video takes a picture.
func (a *assembler) video(s *stream, p mpegts.PES) error {
	if !p.HasTime {
		return errors.New("a picture without time")
	}
	var err error
	if s.nalus, err = h264.SplitAnnexB(s.nalus[:0], p.Data); err != nil {
		return err
	}
	u := &media.AccessUnit{}
	var nalus [][]byte
	var changed, coded, damaged bool
	if s.Codec == media.H264 {
		if err := s.picture4.Normalize(s.nalus); err != nil {
			return err
		}
		pic := &s.picture4
		changed, _ = s.sets4.Update(pic.SPS, pic.PPS)
		nalus, coded, damaged = pic.NALUs, pic.Coded, pic.Damaged
		u.RandomAccess, u.Disposable = pic.RandomAccess, pic.Disposable
	} else {
		if err := s.picture5.Normalize(s.nalus); err != nil {
			return err
		}
		pic := &s.picture5
		changed, _ = s.sets5.Update(pic.VPS, pic.SPS, pic.PPS)
		nalus, coded, damaged = pic.NALUs, pic.Coded, pic.Damaged
		u.RandomAccess, u.Leading = pic.RandomAccess, pic.Leading
	}
	if changed || len(s.config) == 0 {
		a.describe(s)
	}
	switch {
	case damaged:
		return errors.New("a damaged picture")
	case !coded || len(s.config) == 0 || !s.started && !u.RandomAccess:
		return nil
	case s.gap && !u.RandomAccess:
		return nil // what refers to what is missing would smear
	}
	s.started = true
	u.Payload = h264.AppendLengthPrefixed(nil, nalus...)
	a.write(s, u, p.PTS, p.DTS)
	return nil
}

// describe sets the track's decoder config from the parameter sets in band.
func (a *assembler) describe(s *stream) {
	var config []byte
	t := &s.track
	if s.Codec == media.H264 {
		c, ok := s.sets4.Config()
		sps, _ := s.sets4.SPS()
		if !ok {
			return
		}
		b, err := c.Marshal()
		if err != nil {
			return
		}
		config, t.Width, t.Height, t.FrameRate = b, sps.Width(), sps.Height(), sps.FrameRate()
	} else {
		c, ok := s.sets5.Config()
		sps, _ := s.sets5.SPS()
		if !ok {
			return
		}
		b, err := c.Marshal()
		if err != nil {
			return
		}
		config, t.Width, t.Height = b, sps.Width(), sps.Height()
	}
	if bytes.Equal(config, s.config) {
		return
	}
	s.config, t.DecoderConfig = config, config
	a.announce()
}

// aac takes the ADTS frames of a packet. A frame may go on in the next one.
func (a *assembler) aac(s *stream, p mpegts.PES) error {
	b := p.Data
	begun := len(s.rest)
	if begun > 0 {
		b = append(s.rest, b...)
		s.rest = nil
	}
	pts := p.PTS
	if !p.HasTime {
		if !s.timed {
			return errors.New("sound without time")
		}
		pts = s.last + 1
	}
	for n := 0; len(b) > 0; n++ {
		if len(b) < aac.ADTSHeaderBytes {
			s.rest = bytes.Clone(b)
			return nil
		}
		h, err := aac.ParseADTSHeader(b)
		if err != nil {
			return err
		}
		if h.Blocks != 1 {
			return errors.New("several blocks in an ADTS frame")
		}
		if len(b) < h.FrameBytes {
			s.rest = bytes.Clone(b)
			return nil
		}
		frame := 1024 * mpegts.TimestampHz / int64(h.Config.SampleRateHz)
		at := pts + int64(n)*frame
		if begun > 0 {
			at -= frame // the first one began in the packet before
		}
		if err := a.describeAAC(s, h.Config); err != nil {
			return err
		}
		a.write(s, &media.AccessUnit{
			RandomAccess: true, Duration: 1024 * time.Second / time.Duration(h.Config.SampleRateHz),
			Payload: bytes.Clone(b[h.HeaderBytes:h.FrameBytes]),
		}, at, at)
		b = b[h.FrameBytes:]
	}
	return nil
}

func (a *assembler) describeAAC(s *stream, c aac.Config) error {
	config, err := c.Marshal()
	if err != nil {
		return err
	}
	if bytes.Equal(config, s.config) {
		return nil
	}
	s.config, s.track.DecoderConfig = config, config
	s.track.SampleRateHz, s.track.Channels = c.OutputSampleRateHz(), c.OutputChannels()
	a.announce()
	return nil
}

// opus takes the Opus packets of a packet, each behind its control header.
func (a *assembler) opus(s *stream, p mpegts.PES) error {
	if !p.HasTime {
		return errors.New("sound without time")
	}
	at := p.PTS
	for b := p.Data; len(b) > 0; {
		if len(b) < 3 || b[0] != 0x7f || b[1]&0xe0 != 0xe0 {
			return errors.New("no control header")
		}
		flags := b[1]
		n, size := 2, 0
		for n < len(b) {
			c := b[n]
			n++
			if size += int(c); c != 255 {
				break
			}
		}
		if flags&0x10 != 0 {
			n += 2 // samples to leave out at the start
		}
		if flags&0x08 != 0 {
			n += 2 // and at the end
		}
		if flags&0x04 != 0 {
			if n >= len(b) {
				return errors.New("data end within a control header")
			}
			n += 1 + int(b[n])
		}
		if n+size > len(b) || size == 0 {
			return errors.New("data end within a packet")
		}
		packet := b[n : n+size]
		d, err := opus.PacketDuration(packet)
		if err != nil {
			return err
		}
		a.write(s, &media.AccessUnit{RandomAccess: true, Duration: d, Payload: bytes.Clone(packet)}, at, at)
		at += mpegts.Ticks(d)
		b = b[n+size:]
	}
	return nil
}

// write stamps a unit and hands it over.
func (a *assembler) write(s *stream, u *media.AccessUnit, pts, dts int64) {
	if !a.based {
		a.based, a.base, a.newest = true, dts, dts
	}
	ahead := pts - dts
	at := dts + a.shift
	d := at - a.newest
	if d > maxJump || d < -maxJump || s.timed && at < s.last-maxBack {
		// The sender's clock was set, or it began anew: go on where we were.
		a.jumps++
		a.shift += a.newest + mpegts.TimestampHz/25 - at
		at = dts + a.shift
	}
	if s.timed && at <= s.last {
		at = s.last + 1
	}
	s.last, s.timed = at, true
	a.newest = max(a.newest, at)
	u.Track = s.track.ID
	u.DTS = toTime(at - a.base)
	u.PTS = toTime(at + ahead - a.base)
	u.Discontinuity, s.gap = s.gap, false
	u.Received = time.Now()
	a.hand(u, at)
}

// toTime converts units of 90 kHz.
func toTime(ticks int64) time.Duration {
	return time.Duration(ticks/9*100_000 + ticks%9*100_000/9)
}
