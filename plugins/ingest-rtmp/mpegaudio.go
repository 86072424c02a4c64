package ingestrtmp

import (
	"errors"
	"fmt"
	"time"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/mpegaudio"
)

var errCutShort = errors.New("mpeg audio: the message ends within a frame")

// mpegAudio takes the frames of a message, mostly one: at is the time of the first. What
// they are is in their headers: FLV knows of three sample rates, and of no layer II,
// which comes as MP3 where it does.
func (a *assembler) mpegAudio(t *track, p rtmp.Packet, at time.Duration, arrived time.Time) (wrote bool, err error) {
	for b := p.Payload; len(b) > 0; {
		h, err := mpegaudio.Parse(b)
		switch {
		case err != nil && t.SampleRateHz == 0: // nothing of it could be used yet
			a.leaveOut("audio of "+p.Name, fmt.Sprintf("send AAC, or other MP3: %v", err))
			a.figures.leftOut.Add(1)
			return wrote, nil
		case err != nil:
			return wrote, err
		case len(b) < h.Bytes:
			return wrote, errCutShort
		}
		a.describeMPEGAudio(t, h)
		u := &media.AccessUnit{
			Track: t.ID, RandomAccess: true, Received: arrived, Payload: b[:h.Bytes:h.Bytes],
			Duration: mpegaudio.Samples * time.Second / time.Duration(h.SampleRateHz),
		}
		a.write(t, u, at, 0)
		at += u.Duration
		wrote, b = true, b[h.Bytes:]
	}
	return wrote, nil
}

// describeMPEGAudio makes t a track of frames with that header.
func (a *assembler) describeMPEGAudio(t *track, h mpegaudio.Header) {
	if t.Codec != h.Codec() {
		t.ID, t.Codec = a.nextID, h.Codec()
		a.nextID++
		a.announced = false
	}
	if t.SampleRateHz != h.SampleRateHz || t.Channels != h.Channels() {
		t.SampleRateHz, t.Channels = h.SampleRateHz, h.Channels()
		a.announced = false
	}
}
