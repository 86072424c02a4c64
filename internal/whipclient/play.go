package whipclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h264"
)

// player is the playhead over the stored media. Content time counts through the
// stored media and on through its repetitions; play time counts from the start
// of playing. Content time is play time plus skipped: after a keyframe request
// both tracks go on at the next random access point, so that they stay together.
type player struct {
	p       *Publisher
	start   time.Time
	rtpTime time.Duration // of the start: since the first call of Run
	skipped time.Duration

	videoNext, audioNext cursor
	audioSlot            time.Duration // play time of the next audio packet
	frame                uint64
	packetizer           *packetizer
}

// A cursor walks over units and starts again at the end.
type cursor struct {
	units  []*media.AccessUnit
	length time.Duration
	index  int
	base   time.Duration // content time at which this repetition began
}

func (c *cursor) done() bool                { return c.index >= len(c.units) }
func (c *cursor) unit() *media.AccessUnit   { return c.units[c.index] }
func (c *cursor) content() time.Duration    { return c.base + c.unit().DTS }
func (c *cursor) contentPTS() time.Duration { return c.base + c.unit().PTS }
func (c *cursor) advance() {
	c.index++
	if c.done() && c.length > 0 {
		c.index, c.base = 0, c.base+c.length
	}
}

func (p *Publisher) play(ctx context.Context) error {
	pl := &player{p: p, start: time.Now()}
	if p.start.IsZero() {
		p.start = pl.start
	}
	pl.rtpTime = pl.start.Sub(p.start)
	if p.cfg.Video != nil {
		var err error
		if pl.packetizer, err = newPacketizer(p.cfg.Video.Track); err != nil {
			return err
		}
		pl.videoNext = cursor{units: p.cfg.Video.Units, length: p.cfg.Length}
	}
	if p.cfg.Audio != nil {
		pl.audioNext = cursor{units: p.cfg.Audio.Units, length: p.cfg.Length}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		due, write := pl.next()
		if write == nil {
			return nil
		}
		wait := time.Until(pl.start.Add(due))
		if wait < -lateAfter {
			p.late.Add(1)
		}
		if wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return nil
			case <-p.lost:
				return errors.New("connection lost")
			}
		} else if ctx.Err() != nil {
			return nil
		}
		if err := write(); err != nil {
			return fmt.Errorf("sending media: %w", err)
		}
	}
}

// next returns what comes next and at which play time; nil at the end.
func (pl *player) next() (time.Duration, func() error) {
	videoDone, audioDone := pl.videoNext.done(), pl.audioNext.done()
	switch {
	case videoDone && audioDone:
		return 0, nil
	case audioDone:
		return pl.videoNext.content() - pl.skipped, pl.sendVideo
	case videoDone:
		return pl.audioSlot, pl.sendAudio
	}
	if due := pl.videoNext.content() - pl.skipped; due <= pl.audioSlot {
		return due, pl.sendVideo
	}
	return pl.audioSlot, pl.sendAudio
}

func (pl *player) sendVideo() error {
	if pl.p.keyframe.Swap(false) && !pl.p.cfg.IgnoreKeyframeRequests {
		pl.skipToRandomAccess()
	}
	c := &pl.videoNext
	u := c.unit()
	playPTS := c.contentPTS() - pl.skipped
	pl.frame++
	packets, err := pl.packetizer.payloads(u, pl.timing())
	if err != nil {
		return err
	}
	c.advance()
	pl.p.videoUnits.Add(1)
	return pl.p.video.write(packets, ticks(pl.rtpTime+playPTS, videoRateHz), true)
}

// skipToRandomAccess moves the playhead to the next random access point of the
// video, which then takes the place of the picture that was due.
func (pl *player) skipToRandomAccess() {
	c := pl.videoNext
	from := c.content()
	for range 2 * len(c.units) {
		if c.done() {
			return
		}
		if c.unit().RandomAccess {
			pl.skipped += c.content() - from
			pl.videoNext = c
			return
		}
		c.advance()
	}
}

func (pl *player) sendAudio() error {
	c := &pl.audioNext
	d := c.unit().Duration
	if d <= 0 {
		d = 20 * time.Millisecond
	}
	// The packet whose content is nearest to the playhead; the RTP time goes on
	// without a gap.
	want := pl.audioSlot + pl.skipped - pl.p.cfg.AudioShift
	for !c.done() && c.content()+d/2 < want {
		c.advance()
	}
	if c.done() {
		return nil
	}
	u := c.unit()
	at := pl.audioSlot
	pl.audioSlot += d
	if c.content()-d/2 > want {
		return nil // before the first one, when the sound is shifted
	}
	c.advance()
	pl.p.audioUnits.Add(1)
	return pl.p.audio.write([][]byte{u.Payload}, ticks(pl.rtpTime+at, audioRateHz), false)
}

// ticks converts d to a clock of rateHz, rounding to the nearest.
func ticks(d time.Duration, rateHz int64) uint32 {
	return uint32((int64(d)*rateHz + int64(time.Second)/2) / int64(time.Second))
}

// packetize appends to dst the RTP payloads of one picture (RFC 6184,
// packetization-mode 1): small units together in STAP-A, large ones in FU-A.
func packetize(dst [][]byte, nalus [][]byte) [][]byte {
	for len(nalus) > 0 {
		n := nalus[0]
		if len(n) > mtu {
			dst = fragment(dst, n)
			nalus = nalus[1:]
			continue
		}
		size, count, refIDC := 1, 0, byte(0)
		for _, u := range nalus {
			if size+2+len(u) > mtu {
				break
			}
			size, count, refIDC = size+2+len(u), count+1, max(refIDC, u[0]&0x60)
		}
		if count < 2 {
			dst, nalus = append(dst, n), nalus[1:]
			continue
		}
		b := append(make([]byte, 0, size), refIDC|byte(h264.TypeSTAPA))
		for _, u := range nalus[:count] {
			b = append(b, byte(len(u)>>8), byte(len(u)))
			b = append(b, u...)
		}
		dst, nalus = append(dst, b), nalus[count:]
	}
	return dst
}

func fragment(dst [][]byte, nalu []byte) [][]byte {
	indicator, header := nalu[0]&0xe0|byte(h264.TypeFUA), nalu[0]&0x1f|0x80
	for rest := nalu[1:]; len(rest) > 0; header &= 0x1f {
		n := min(len(rest), mtu-2)
		if n == len(rest) {
			header |= 0x40
		}
		b := append(make([]byte, 0, n+2), indicator, header)
		dst = append(dst, append(b, rest[:n]...))
		rest = rest[n:]
	}
	return dst
}
