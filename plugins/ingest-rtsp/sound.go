package ingestrtsp

import (
	"bytes"
	"errors"
	"time"

	"github.com/bluenviron/gortsplib/v4/pkg/format/rtpfragmented"
	"github.com/bluenviron/gortsplib/v4/pkg/format/rtpmpeg4audio"
	"github.com/pion/rtp"

	"github.com/headgate/gateway/internal/rtp/depack"
	"github.com/headgate/gateway/internal/rtp/reorder"
)

// sound is what all depacketizers of sound have.
type sound struct {
	emit    func(depack.Unit)
	lost    bool
	dropped uint64
}

// Dropped implements [depacketizer].
func (s *sound) Dropped() uint64 { return s.dropped }

// fail notes that a packet was of no use.
func (s *sound) fail() {
	s.dropped++
	s.lost = true
}

// unit hands over the sound of the packet p that begins after so many ticks; the
// payload is the unit's own.
func (s *sound) unit(p reorder.Packet, after int, length time.Duration, payload []byte) {
	s.emit(depack.Unit{
		Payload: payload, Time: p.Time + uint32(after), First: p.Arrival, Last: p.Arrival,
		Duration: length, RandomAccess: true, Discontinuity: s.lost,
	})
	s.lost = false
}

// An aacDecoder takes the packets of AAC apart.
type aacDecoder interface {
	Decode(p *rtp.Packet) ([][]byte, error)
}

// aacFrames makes units of AAC in RFC 3640 or RFC 6416 (LATM).
type aacFrames struct {
	sound
	make  func() (aacDecoder, error)
	ticks ticks // of a unit
	dec   aacDecoder
}

// Push implements [depacketizer].
func (a *aacFrames) Push(p reorder.Packet) {
	if a.dec == nil || p.AfterGap {
		a.lost = a.lost || p.AfterGap
		dec, err := a.make() // one that holds no half of a unit
		if err != nil {
			a.fail()
			return
		}
		a.dec = dec
	}
	if len(p.Payload) == 0 {
		return
	}
	// It keeps fragments, and the payload is ours for this call only.
	units, err := a.dec.Decode(&rtp.Packet{
		Header:  rtp.Header{Version: 2, SequenceNumber: p.Seq, Timestamp: p.Time, Marker: p.Marker},
		Payload: bytes.Clone(p.Payload),
	})
	switch {
	case errors.Is(err, rtpmpeg4audio.ErrMorePacketsNeeded), errors.Is(err, rtpfragmented.ErrMorePacketsNeeded):
		return
	case err != nil:
		a.fail()
		return
	}
	for i, u := range units {
		if len(u) == 0 {
			a.fail()
			continue
		}
		a.unit(p, i*a.ticks.n, a.ticks.duration(), u)
	}
}

// latmDecoder takes audio mux elements apart that hold one program of one layer and
// no configuration (ISO/IEC 14496-3, 1.7.3).
type latmDecoder struct{ elements *rtpfragmented.Decoder }

var errLATM = errors.New("an audio mux element is longer or shorter than it says")

// Decode implements [aacDecoder].
func (d latmDecoder) Decode(p *rtp.Packet) ([][]byte, error) {
	b, err := d.elements.Decode(p)
	if err != nil {
		return nil, err
	}
	var units [][]byte
	for len(b) > 0 {
		// PayloadLengthInfo: bytes are added up until one is not 255.
		size := 0
		for {
			if len(b) == 0 {
				return nil, errLATM
			}
			c := b[0]
			b = b[1:]
			if size += int(c); c != 255 {
				break
			}
		}
		if size > len(b) {
			return nil, errLATM
		}
		units = append(units, b[:size])
		b = b[size:]
	}
	return units, nil
}

// g711Frames makes units of 20 ms of G.711.
type g711Frames struct {
	sound
	rateHz, channels int

	rest []byte // of the packet before, less than a unit
	from uint32 // RTP time of rest
}

// Push implements [depacketizer].
func (g *g711Frames) Push(p reorder.Packet) {
	samples := g.rateHz / 50
	size := samples * g.channels
	if size == 0 {
		g.fail()
		return
	}
	if p.AfterGap || len(g.rest) > 0 && p.Time != g.from+uint32(len(g.rest)/g.channels) {
		g.rest = g.rest[:0] // less than a unit, before a hole
		g.lost = g.lost || p.AfterGap
	}
	b := p.Payload[:len(p.Payload)/g.channels*g.channels]
	from := p.Time - uint32(len(g.rest)/g.channels)
	b = append(g.rest, b...)
	at := p
	at.Time = from
	n := 0
	for ; len(b)-n*size >= size; n++ {
		g.unit(at, n*samples, ticks{samples, g.rateHz}.duration(), bytes.Clone(b[n*size:][:size]))
	}
	g.rest = append(g.rest[:0], b[n*size:]...)
	g.from = from + uint32(n*samples)
}
