package ingestsrt

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"github.com/headgate/gateway/internal/mpegts"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/mpegaudio"
)

// maxUnproven is how much comes of a stream of MPEG audio before it is left out,
// where no two frames in it follow each other: three frames of the largest kind and
// more.
const maxUnproven = 6 << 10

// mpegAudio takes the frames of MPEG audio in a packet.
func (a *assembler) mpegAudio(s *stream, p mpegts.PES) {
	list, damaged := s.frames.take(p)
	for _, f := range list {
		a.describeMPEGAudio(s, f.Header)
		s.gap = s.gap || f.gap
		a.write(s, &media.AccessUnit{
			RandomAccess: true, Duration: mpegaudio.Samples * time.Second / time.Duration(f.SampleRateHz),
			Payload: f.payload,
		}, f.at, f.at)
	}
	if damaged {
		a.damaged++
	}
	if s.track.SampleRateHz != 0 || s.leftOut {
		return
	}
	if s.unproven += len(p.Data); s.unproven > maxUnproven {
		_, why := mpegaudio.Parse(p.Data)
		if why == nil {
			why = errors.New("no two frames in it follow each other")
		}
		s.leftOut = true
		a.leftOut[s.Name]++
		a.log.Warn("a stream of the program is left out: the gateway does not carry it", "kind", s.Name, "pid", s.PID, "why", why)
		a.announce()
	}
}

// describeMPEGAudio makes the track one of frames with that header. The program map did
// not tell the layer.
func (a *assembler) describeMPEGAudio(s *stream, h mpegaudio.Header) {
	t := &s.track
	if t.Codec == h.Codec() && t.SampleRateHz == h.SampleRateHz && t.Channels == h.Channels() {
		return
	}
	if s.leftOut {
		s.leftOut = false
		a.leftOut[s.Name]--
	}
	if t.Codec != h.Codec() {
		t.ID, t.Codec = a.nextID, h.Codec()
		a.nextID++
	}
	t.SampleRateHz, t.Channels = h.SampleRateHz, h.Channels()
	a.announce()
}

// frames finds the frames in the packets of one stream of MPEG audio, and their times.
// A frame may go on in the next packet. The zero value is ready.
type frames struct {
	rest   []byte           // begins with a frame whose end, or what proves it, is to come
	header mpegaudio.Header // of the newest frame
	synced bool             // the next frame begins where that one ended
	joined bool             // there was a frame, and no packet is missing since
	gap    bool             // bytes that belong to no frame came before the next one

	timed   bool
	base    int64 // time of a frame, 90 kHz
	samples int64 // from it to the next one
}

// A frame is one of MPEG audio.
type frame struct {
	mpegaudio.Header
	payload []byte
	at      int64 // 90 kHz
	gap     bool  // something is missing before it
}

// take returns the frames that a packet completes. Damaged: where one was to begin none
// did, or there is no time.
func (f *frames) take(p mpegts.PES) (list []frame, damaged bool) {
	if p.Lost {
		f.leave()
	}
	if !p.HasTime && !f.timed {
		f.leave()
		return nil, true
	}
	begun := len(f.rest)
	b := slices.Concat(f.rest, p.Data)
	f.rest = nil
	stamped, lost := !p.HasTime, -1
	if f.joined && !f.synced {
		lost = 0
	}
	for at := 0; at < len(b); {
		if !stamped && at >= begun { // the time is that of the first frame that begins here
			stamped, f.timed, f.base, f.samples, lost = true, true, p.PTS, 0, -1
		}
		h, found := f.look(b[at:])
		switch found {
		case undecided:
			f.pass(at, lost)
			f.rest = bytes.Clone(b[at:])
			return list, damaged
		case noFrame:
			if f.synced {
				f.synced, lost = false, at
			}
			if f.joined {
				damaged, f.gap = true, true
			}
			n := bytes.IndexByte(b[at+1:], 0xff)
			if n < 0 {
				n = len(b) - at - 1
			}
			at += 1 + n
			continue
		case aFrame:
		}
		f.pass(at, lost)
		lost = -1
		if h.SampleRateHz != f.header.SampleRateHz {
			f.base, f.samples = f.now(), 0
		}
		f.header = h
		list = append(list, frame{Header: h, payload: b[at : at+h.Bytes : at+h.Bytes], at: f.now(), gap: f.gap})
		f.samples += mpegaudio.Samples
		f.synced, f.joined, f.gap = true, true, false
		at += h.Bytes
	}
	return list, damaged
}

// pass lets the time pass of what was there instead of frames from lost to at: it took its
// time, too. Nothing was where lost is less than 0.
func (f *frames) pass(at, lost int) {
	if lost >= 0 && f.header.BitrateBitsPerSecond > 0 {
		f.samples += int64(at-lost) * 8 * int64(f.header.SampleRateHz) / int64(f.header.BitrateBitsPerSecond)
	}
}

// leave forgets where frames begin: something is missing.
func (f *frames) leave() {
	f.rest, f.synced, f.joined, f.timed = nil, false, false, false
}

// now is the time of the next frame.
func (f *frames) now() int64 {
	rate := int64(f.header.SampleRateHz)
	if rate == 0 {
		return f.base
	}
	return f.base + (f.samples*mpegts.TimestampHz+rate/2)/rate
}

// What [frames.look] finds.
type finding int

const (
	noFrame finding = iota
	undecided
	aFrame
)

// look says whether a frame begins at b, and is whole. Four bytes may look like a header
// anywhere: one that is not where the frame before ended, or is of another kind than
// that, counts if another one like it follows.
func (f *frames) look(b []byte) (mpegaudio.Header, finding) {
	if b[0] != 0xff {
		return mpegaudio.Header{}, noFrame
	}
	if len(b) < mpegaudio.HeaderBytes {
		return mpegaudio.Header{}, undecided
	}
	h, err := mpegaudio.Parse(b)
	switch {
	case err != nil:
		return h, noFrame
	case len(b) < h.Bytes:
		return h, undecided
	case f.synced && alike(h, f.header):
		return h, aFrame
	case len(b) < h.Bytes+mpegaudio.HeaderBytes:
		return h, undecided
	}
	if next, err := mpegaudio.Parse(b[h.Bytes:]); err != nil || !alike(h, next) {
		return h, noFrame
	}
	return h, aFrame
}

func alike(a, b mpegaudio.Header) bool {
	return a.Layer == b.Layer && a.SampleRateHz == b.SampleRateHz && a.Channels() == b.Channels()
}
