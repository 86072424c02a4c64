package depack

import (
	"bytes"

	"github.com/headgate/gateway/internal/rtp/reorder"
	"github.com/headgate/gateway/sdk/media/opus"
)

// An Opus makes units of Opus packets, of which each RTP packet holds one.
type Opus struct {
	emit func(Unit)
	lost bool

	dropped uint64
}

// NewOpus returns an Opus that calls emit for each unit.
func NewOpus(emit func(Unit)) *Opus { return &Opus{emit: emit} }

// NeedsKeyframe reports that every packet can be decoded.
func (o *Opus) NeedsKeyframe() bool { return false }

// Dropped counts packets that are not Opus.
func (o *Opus) Dropped() uint64 { return o.dropped }

// Push takes the next packet. Its payload is not kept.
func (o *Opus) Push(p reorder.Packet) {
	o.lost = o.lost || p.AfterGap
	if len(p.Payload) == 0 {
		return
	}
	d, err := opus.PacketDuration(p.Payload)
	if err != nil {
		o.dropped++
		o.lost = true
		return
	}
	o.emit(Unit{
		Payload: bytes.Clone(p.Payload), Time: p.Time, First: p.Arrival, Last: p.Arrival,
		Duration: d, RandomAccess: true, Discontinuity: o.lost,
	})
	o.lost = false
}
