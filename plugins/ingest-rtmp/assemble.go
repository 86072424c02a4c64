package ingestrtmp

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/aac"
	"github.com/headgate/gateway/sdk/media/av1"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/media/h265"
	"github.com/headgate/gateway/sdk/media/opus"
	"github.com/headgate/gateway/sdk/media/vp9"
)

// A writer takes tracks and units: *[sdk.Publication].
type writer interface {
	SetTracks(tracks []media.Track)
	WriteAccessUnit(unit *media.AccessUnit)
}

// figures count what is not as it should be. Safe for concurrent use.
type figures struct {
	damaged atomic.Uint64 // units that could not be used
	early   atomic.Uint64 // units before what decoding needs
	leftOut atomic.Uint64 // packets of tracks and codecs that are not carried
	jumps   atomic.Uint64 // of the publisher's clock
}

// An assembler makes tracks and access units of messages. Not safe for concurrent
// use, apart from its figures.
type assembler struct {
	pub writer
	log *slog.Logger

	tracks    []*track
	nextID    media.TrackID
	announced bool // the tracks as they are
	metadata  rtmp.ReceivedMetadata
	clock     clock
	packets   []rtmp.Packet
	warned    []string // what was said to be left out

	figures figures
}

// A track is one on its way.
type track struct {
	media.Track
	number  uint8
	started bool
	gap     bool // units are missing before the next one
	last    time.Duration
	timed   bool

	lengthBytes int // before each NAL unit
	nalus       [][]byte
	obus        []av1.OBU
	picture4    h264.Picture
	picture5    h265.Picture
	sets4       h264.ParameterSets
	sets5       h265.ParameterSets
	frame       time.Duration // how long a unit of sound plays
	sequence    []byte        // the sequence header of AV1 that the config is of
}

const (
	// maxAudioTracks bounds the tracks of sound. Of pictures one is taken.
	maxAudioTracks = 8
	// maxWarnings bounds what is said of a publisher.
	maxWarnings = 16
	// maxComposition is how far a picture may be shown from when it is decoded.
	maxComposition = 10 * time.Second
)

func newAssembler(pub writer, log *slog.Logger) *assembler {
	return &assembler{pub: pub, log: log, nextID: 1}
}

// take takes a message in and reports whether a unit came of it.
func (a *assembler) take(m rtmp.Message, arrived time.Time) bool {
	switch m.Type {
	case rtmp.TypeAudio, rtmp.TypeVideo:
	case rtmp.TypeData, rtmp.TypeDataAMF3:
		if d, ok := rtmp.ReadMetadata(m); ok && d != a.metadata {
			a.metadata, a.announced = d, false
		}
		return false
	default:
		return false
	}
	var err error
	if a.packets, err = rtmp.Packets(a.packets[:0], m); err != nil {
		a.figures.damaged.Add(1)
	}
	at := a.clock.time(m.TimestampMS)
	wrote := false
	for _, p := range a.packets {
		if p.Kind != rtmp.PacketHeader && p.Kind != rtmp.PacketFrame || len(p.Payload) == 0 {
			continue
		}
		t := a.track(p, m.Type == rtmp.TypeVideo)
		if t == nil {
			a.figures.leftOut.Add(1)
			continue
		}
		switch {
		case p.Kind == rtmp.PacketHeader:
			err = a.header(t, p)
		case p.Codec == media.MP3:
			var some bool
			some, err = a.mpegAudio(t, p, at+p.Offset, arrived)
			wrote = wrote || some
		default:
			var u *media.AccessUnit
			if u, err = a.unit(t, p); u != nil {
				u.Received = arrived
				a.write(t, u, at+p.Offset, time.Duration(p.CompositionMS)*time.Millisecond)
				wrote = true
			}
		}
		if err != nil {
			if a.figures.damaged.Add(1) == 1 {
				a.log.Warn("a message of the publisher cannot be used", "codec", string(t.Codec), "why", err)
			}
			t.gap = true
		}
	}
	clear(a.packets) // the bodies are not ours
	return wrote
}

// track finds or makes the track of a packet; nil if it is left out.
func (a *assembler) track(p rtmp.Packet, video bool) *track {
	kind := media.Audio
	if video {
		kind = media.Video
	}
	if !slices.Contains(carried(), p.Codec) {
		a.leaveOut(string(kind)+" of "+p.Name, "send H.264 and AAC, or another codec that the gateway carries")
		return nil
	}
	of := 0
	for i, t := range a.tracks {
		if t.Codec.Kind() != kind {
			continue
		}
		of++
		if t.number != p.Track {
			continue
		}
		if t.Codec != p.Codec && (t.Codec != media.MP2 || p.Codec != media.MP3) {
			a.tracks[i] = a.newTrack(p) // the encoder begins anew with another codec
		}
		return a.tracks[i]
	}
	switch {
	case video && of > 0:
		a.leaveOut("a further video track", "one is taken of each publisher, the first")
		return nil
	case of >= maxAudioTracks:
		a.leaveOut("a further audio track", fmt.Sprintf("%d are taken of each publisher", maxAudioTracks))
		return nil
	}
	t := a.newTrack(p)
	a.tracks = append(a.tracks, t)
	return t
}

func (a *assembler) newTrack(p rtmp.Packet) *track {
	t := &track{Track: media.Track{ID: a.nextID, Codec: p.Codec}, number: p.Track, lengthBytes: 4}
	a.nextID++
	a.announced = false
	return t
}

// leaveOut says once what of the publisher's is not carried.
func (a *assembler) leaveOut(what, remedy string) {
	if len(a.warned) < maxWarnings && !slices.Contains(a.warned, what) {
		a.warned = append(a.warned, what)
		a.log.Warn("something of what the publisher sends is left out", "what", what, "remedy", remedy)
	}
}

// configure sets what a decoder of t needs.
func (a *assembler) configure(t *track, config []byte) {
	if !bytes.Equal(config, t.DecoderConfig) {
		t.DecoderConfig, a.announced = config, false
	}
}

// describe sets the size of the pictures of t.
func (a *assembler) describe(t *track, width, height int, rate float64) {
	if t.Width != width || t.Height != height || t.FrameRate != rate {
		t.Width, t.Height, t.FrameRate, a.announced = width, height, rate, false
	}
}

// header takes a sequence header.
func (a *assembler) header(t *track, p rtmp.Packet) error {
	switch t.Codec {
	case media.H264:
		return a.headerH264(t, p.Payload)
	case media.H265:
		return a.headerH265(t, p.Payload)
	case media.AV1:
		// The four bytes before are made of the sequence header, and wrong in what some send.
		const before = 4
		if len(p.Payload) < before {
			return av1.ErrTruncated
		}
		obus, err := av1.Split(nil, p.Payload[before:])
		if err != nil {
			return err
		}
		return a.sequenceAV1(t, av1.Inspect(obus).SequenceHeader)
	case media.AAC:
		c, err := aac.ParseConfig(p.Payload)
		if err != nil {
			return err
		}
		a.configure(t, p.Payload)
		t.SampleRateHz, t.Channels = c.OutputSampleRateHz(), c.OutputChannels()
		samples := 1024
		if c.ShortFrames {
			samples = 960
		}
		t.frame = time.Duration(samples) * time.Second / time.Duration(c.SampleRateHz)
	case media.Opus:
		h, err := opus.ParseHead(p.Payload)
		if err != nil {
			return err
		}
		a.configure(t, p.Payload)
		t.SampleRateHz, t.Channels = opus.SampleRateHz, h.Channels
	default: // those of VP9 and MP3 say nothing that their frames do not
	}
	return nil
}

// headerH264 takes avcC. It is passed on as it is, but that lengths of NAL units have
// four bytes in what the gateway carries.
func (a *assembler) headerH264(t *track, avcC []byte) error {
	const lengthAt = 4
	avcC, n := fourBytes(avcC, lengthAt)
	c, err := h264.ParseDecoderConfig(avcC)
	if err != nil {
		return err
	}
	t.lengthBytes, t.sets4 = n, h264.ParameterSets{}
	if len(c.SPS) == 0 || len(c.PPS) == 0 {
		return nil // they come with the pictures
	}
	a.configure(t, avcC)
	if _, err := t.sets4.Update(c.SPS, c.PPS); err != nil {
		return err
	}
	if s, ok := t.sets4.SPS(); ok {
		a.describe(t, s.Width(), s.Height(), s.FrameRate())
	}
	return nil
}

// headerH265 takes hvcC, in the same way.
func (a *assembler) headerH265(t *track, hvcC []byte) error {
	const lengthAt = 21
	hvcC, n := fourBytes(hvcC, lengthAt)
	c, err := h265.ParseDecoderConfig(hvcC)
	if err != nil {
		return err
	}
	t.lengthBytes, t.sets5 = n, h265.ParameterSets{}
	if len(c.VPS) == 0 || len(c.SPS) == 0 || len(c.PPS) == 0 {
		return nil
	}
	a.configure(t, hvcC)
	if _, err := t.sets5.Update(c.VPS, c.SPS, c.PPS); err != nil {
		return err
	}
	if s, ok := t.sets5.SPS(); ok {
		a.describe(t, s.Width(), s.Height(), 0)
	}
	return nil
}

// fourBytes returns how many bytes the lengths of NAL units have by a config, and the
// config that says four.
func fourBytes(config []byte, at int) ([]byte, int) {
	const four = 3 // as the field has it
	if len(config) <= at || config[at]&3 == four {
		return config, 4
	}
	n := int(config[at]&3) + 1
	config = bytes.Clone(config)
	config[at] |= four
	return config, n
}

// sequenceAV1 takes a sequence header; nil changes nothing.
func (a *assembler) sequenceAV1(t *track, sequence []byte) error {
	if sequence == nil || bytes.Equal(sequence, t.sequence) {
		return nil
	}
	config, h, err := av1.DecoderConfig(sequence)
	if err != nil {
		return err
	}
	t.sequence = bytes.Clone(sequence)
	a.configure(t, config)
	a.describe(t, h.Width, h.Height, h.FrameRate)
	return nil
}

// unit makes a unit of a frame: without an error nil if it is none that can be used.
func (a *assembler) unit(t *track, p rtmp.Packet) (*media.AccessUnit, error) {
	u := &media.AccessUnit{Track: t.ID}
	coded, err := true, error(nil)
	switch t.Codec {
	case media.H264:
		coded, err = a.unitH264(t, u, p.Payload)
	case media.H265:
		coded, err = a.unitH265(t, u, p.Payload)
	case media.AV1:
		coded, err = a.unitAV1(t, u, p.Payload)
	case media.VP9:
		err = a.unitVP9(t, u, p.Payload)
	case media.AAC:
		u.RandomAccess, u.Payload, u.Duration = true, p.Payload, t.frame
	case media.Opus:
		err = a.unitOpus(t, u, p.Payload)
	default:
	}
	switch {
	case err != nil:
		return nil, err
	case !coded:
		return nil, nil //nolint:nilnil // parameter sets alone, for instance
	case !t.Complete() || !t.started && !u.RandomAccess, t.gap && !u.RandomAccess:
		// What refers to what is missing would smear.
		a.figures.early.Add(1)
		return nil, nil //nolint:nilnil // as above
	}
	t.started = true
	return u, nil
}

var errDamaged = errors.New("a NAL unit is marked as damaged")

func (a *assembler) unitH264(t *track, u *media.AccessUnit, payload []byte) (coded bool, err error) {
	if t.nalus, err = split(t.nalus[:0], payload, t.lengthBytes); err != nil {
		return false, err
	}
	pic := &t.picture4
	if err := pic.Normalize(t.nalus); err != nil {
		return false, err
	}
	if changed, _ := t.sets4.Update(pic.SPS, pic.PPS); changed {
		if c, ok := t.sets4.Config(); ok {
			config, err := c.Marshal()
			if err != nil {
				return false, err
			}
			s, _ := t.sets4.SPS()
			a.configure(t, config)
			a.describe(t, s.Width(), s.Height(), s.FrameRate())
		}
	}
	if pic.Damaged {
		return false, errDamaged
	}
	u.RandomAccess, u.Disposable = pic.RandomAccess, pic.Disposable
	u.Payload = join(pic.NALUs, payload, t.lengthBytes)
	return pic.Coded, nil
}

func (a *assembler) unitH265(t *track, u *media.AccessUnit, payload []byte) (coded bool, err error) {
	if t.nalus, err = split(t.nalus[:0], payload, t.lengthBytes); err != nil {
		return false, err
	}
	pic := &t.picture5
	if err := pic.Normalize(t.nalus); err != nil {
		return false, err
	}
	if changed, _ := t.sets5.Update(pic.VPS, pic.SPS, pic.PPS); changed {
		if c, ok := t.sets5.Config(); ok {
			config, err := c.Marshal()
			if err != nil {
				return false, err
			}
			s, _ := t.sets5.SPS()
			a.configure(t, config)
			a.describe(t, s.Width(), s.Height(), 0)
		}
	}
	if pic.Damaged {
		return false, errDamaged
	}
	u.RandomAccess, u.Leading = pic.RandomAccess, pic.Leading
	u.Payload = join(pic.NALUs, payload, t.lengthBytes)
	return pic.Coded, nil
}

// split appends the NAL units of b to dst, each of which stands behind its length in
// n bytes.
func split(dst [][]byte, b []byte, n int) ([][]byte, error) {
	if n == 4 {
		return h264.SplitLengthPrefixed(dst, b)
	}
	for len(b) > 0 {
		if len(b) < n {
			return dst, h264.ErrTruncated
		}
		size := 0
		for _, c := range b[:n] {
			size = size<<8 | int(c)
		}
		if b = b[n:]; size > len(b) {
			return dst, h264.ErrTruncated
		}
		if len(dst) == h264.MaxNALUs {
			return dst, h264.ErrTooMany
		}
		dst, b = append(dst, b[:size:size]), b[size:]
	}
	return dst, nil
}

// join is nalus in the normal form: the payload that they were taken from if nothing
// of it is left out.
func join(nalus [][]byte, payload []byte, lengthBytes int) []byte {
	size := 0
	for _, n := range nalus {
		size += 4 + len(n)
	}
	if lengthBytes == 4 && size == len(payload) {
		return payload
	}
	return h264.AppendLengthPrefixed(nil, nalus...)
}

func (a *assembler) unitAV1(t *track, u *media.AccessUnit, payload []byte) (coded bool, err error) {
	t.obus = t.obus[:0]
	size, whole := 0, true
	for b := payload; len(b) > 0; {
		o, rest, err := av1.ParseOBU(b)
		if err != nil {
			return false, err
		}
		const sizeBit = 0x02
		hasSize := b[0]&sizeBit != 0
		b = rest
		switch o.Type {
		case av1.TypeTemporalDelimiter, av1.TypeTileList, av1.TypePadding:
			whole = false
			continue
		default:
		}
		if len(t.obus) == av1.MaxOBUs {
			return false, errors.New("too many OBUs")
		}
		whole = whole && hasSize
		t.obus = append(t.obus, o)
		size += len(o.Payload) + 10
	}
	unit := av1.Inspect(t.obus)
	if err := a.sequenceAV1(t, unit.SequenceHeader); err != nil {
		return false, err
	}
	u.RandomAccess = unit.KeyFrame
	if u.Payload = payload; !whole {
		u.Payload = make([]byte, 0, size)
		for _, o := range t.obus {
			u.Payload = o.Append(u.Payload)
		}
	}
	return unit.Coded, nil
}

func (a *assembler) unitVP9(t *track, u *media.AccessUnit, payload []byte) error {
	h, err := vp9.ParseHeader(payload)
	if err != nil {
		return err
	}
	if h.KeyFrame {
		a.describe(t, h.Width, h.Height, 0)
	}
	u.RandomAccess, u.Payload = h.KeyFrame, payload
	return nil
}

func (a *assembler) unitOpus(t *track, u *media.AccessUnit, payload []byte) (err error) {
	if len(t.DecoderConfig) == 0 {
		// Who sends no header sends stereo, or mono that decodes to it.
		head, err := opus.Head{Channels: 2, InputSampleRateHz: opus.SampleRateHz}.Marshal()
		if err != nil {
			return err
		}
		a.configure(t, head)
		t.SampleRateHz, t.Channels = opus.SampleRateHz, 2
	}
	u.RandomAccess, u.Payload = true, payload
	u.Duration, err = opus.PacketDuration(payload)
	return err
}

// write stamps a unit and hands it over, behind the tracks if they changed.
func (a *assembler) write(t *track, u *media.AccessUnit, at, ahead time.Duration) {
	if ahead > maxComposition || ahead < -maxComposition {
		a.figures.damaged.Add(1)
		ahead = 0
	}
	u.DTS = a.clock.settle(t, at, u.Received)
	u.PTS = u.DTS + ahead
	a.figures.jumps.Store(a.clock.jumps)
	u.Discontinuity, t.gap = t.gap, false
	a.announce()
	a.pub.WriteAccessUnit(u)
}

// announce tells the gateway the tracks if they are not as it knows them.
func (a *assembler) announce() {
	if a.announced {
		return
	}
	a.announced = true
	list := make([]media.Track, 0, len(a.tracks))
	for _, t := range a.tracks {
		if !t.Complete() || t.Codec == media.MP3 && t.SampleRateHz == 0 {
			continue
		}
		out := t.Track
		if t.Codec.Kind() == media.Video {
			out.BitrateBitsPerSecond = a.metadata.VideoBitsPerSecond
			if out.FrameRate == 0 {
				out.FrameRate = a.metadata.FrameRate
			}
		} else {
			out.BitrateBitsPerSecond = a.metadata.AudioBitsPerSecond
		}
		list = append(list, out)
	}
	a.pub.SetTracks(list)
}
