package depack

import (
	"time"

	"github.com/headgate/gateway/internal/rtp/reorder"
)

// A scheme is how one codec is put into packets.
type scheme interface {
	// starts reports whether nothing of a picture can stand before payload. first: it is
	// the first of the session, and nothing that was told beforehand is missed.
	starts(payload []byte, first bool) bool
	// continues reports whether payload cannot be the first of a picture, whatever the
	// marker before it said.
	continues(payload []byte) bool
	// reset begins a picture.
	reset()
	// take takes in one payload of the picture; false if it breaks the picture.
	take(payload []byte) bool
	// finish says what the picture has become. It is called after take only.
	finish() picture
}

// A picture is what a scheme made of its packets.
type picture struct {
	payload []byte // of its own
	// damaged: it must not be used. Not coded: it is no picture, and none is missing.
	damaged, coded        bool
	randomAccess, leading bool
	config                *Config // if it changes with this picture
	ready                 bool    // a decoder has all it needs
}

// An Assembly makes pictures of packets. After a loss it emits nothing until a random
// access point has come whole: what it emits always decodes. Not safe for concurrent
// use.
type Assembly struct {
	emit   func(Unit)
	scheme scheme

	// The picture being assembled.
	open        bool
	whole       bool // nothing of it is missing so far
	rtpTime     uint32
	first, last time.Time

	marked      bool // the picture before was whole, and a marker ended it
	markerLies  bool // it is set within pictures: only the time of the next one ends one
	begun       bool // the first picture was
	contiguous  bool // the next packet follows the end of a picture
	needKey     bool
	lost        bool // units are missing before the next one emitted
	emitted     bool
	skipLeading bool // joined at the last random access point
	dropped     uint64
}

func newAssembly(emit func(Unit), s scheme) *Assembly {
	return &Assembly{emit: emit, scheme: s, needKey: true}
}

// NeedsKeyframe reports whether nothing is emitted until the next random access
// point.
func (a *Assembly) NeedsKeyframe() bool { return a.needKey }

// Dropped counts pictures that were incomplete, damaged or could not be decoded
// because of one that was.
func (a *Assembly) Dropped() uint64 { return a.dropped }

// Push takes the next packet. Its payload is not kept.
func (a *Assembly) Push(p reorder.Packet) {
	if p.AfterGap {
		if a.open {
			a.drop()
		}
		a.contiguous = false
		a.loss()
	}
	if len(p.Payload) == 0 {
		return // a probe or padding
	}
	if a.open && p.Time != a.rtpTime {
		a.finish()
	}
	if !a.open {
		if a.marked && p.Time == a.rtpTime && a.scheme.continues(p.Payload) {
			// Some cameras set the marker on each slice (RFC 7798, 4.1, wants the last).
			a.markerLies = true
			a.contiguous = false // the beginning is gone
		}
		a.open, a.marked = true, false
		a.whole = a.contiguous || a.scheme.starts(p.Payload, !a.begun)
		a.begun = true
		a.rtpTime, a.first = p.Time, p.Arrival
		a.scheme.reset()
	}
	a.last = p.Arrival
	if a.whole && !a.scheme.take(p.Payload) {
		a.whole = false
	}
	if p.Marker && !a.markerLies {
		a.marked = a.finish()
	}
}

// drop forgets the open picture.
func (a *Assembly) drop() {
	a.open = false
	a.dropped++
}

// loss notes that pictures are missing from here on.
func (a *Assembly) loss() {
	a.needKey = true
	a.lost = a.emitted
}

// finish ends the open picture and emits it if it can be decoded. It reports whether
// there was a picture, and it was whole.
func (a *Assembly) finish() (whole bool) {
	a.contiguous = true
	if !a.whole {
		a.drop()
		a.loss()
		return false
	}
	p := a.scheme.finish()
	switch {
	case p.damaged:
		a.drop()
		a.loss()
		return false
	case !p.coded:
		a.open = false
		return false
	}
	if p.randomAccess && p.ready {
		a.skipLeading = a.needKey
		a.needKey = false
	}
	switch {
	case a.needKey:
		a.drop()
		a.loss()
		return true
	case p.leading && a.skipLeading:
		a.drop() // it refers to what was not emitted
		return true
	}
	u := Unit{
		Payload: p.payload, Time: a.rtpTime, First: a.first, Last: a.last,
		RandomAccess: p.randomAccess, Leading: p.leading, Discontinuity: a.lost, Config: p.config,
	}
	a.open, a.lost, a.emitted = false, false, true
	a.emit(u)
	return true
}
