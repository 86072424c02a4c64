// Package depack makes access units of the RTP payloads of one track: H.264
// (RFC 6184), H.265 (RFC 7798), AV1 (the format of the Alliance for Open Media),
// VP9 (RFC 9628) and Opus (RFC 7587, with redundancy as in RFC 2198). Those of
// H.264 and Opus are born in the normal form of sdk/media with one copy out of the
// packets, the others are put together first.
//
// It takes packets in order and is told where some are missing. It does not know
// sockets, sessions or the mapping of RTP time: that is clock's.
package depack

import (
	"time"

	"github.com/headgate/gateway/sdk/media"
)

// A Unit is an access unit whose time is still the RTP timestamp of its sender.
// The payload belongs to who receives it.
type Unit struct {
	Payload []byte
	Time    uint32 // RTP timestamp
	// First and Last are the arrivals of the unit's first and last packet.
	First, Last time.Time
	Duration    time.Duration // zero if unknown

	RandomAccess  bool
	Leading       bool
	Disposable    bool
	Discontinuity bool

	// Config is set if the description of the track changes with this unit.
	Config *Config
}

// A Config is what the stream says of its track.
type Config struct {
	DecoderConfig []byte
	Width, Height int
	FrameRate     float64
	// Reorder is how many pictures may follow one in decoding order and precede
	// it in output; -1 if the stream does not say.
	Reorder int
}

// Apply sets what c knows of t.
func (c *Config) Apply(t *media.Track) {
	t.DecoderConfig, t.Width, t.Height, t.FrameRate = c.DecoderConfig, c.Width, c.Height, c.FrameRate
}
