package ingestsrt

import (
	"reflect"
	"slices"

	"github.com/headgate/gateway/internal/mpegts"
	"github.com/headgate/gateway/sdk/media"
)

// A stream of MPEG audio is known with its first frame, which comes after the first
// picture. Until then all is held back at the beginning of a session: targets that began
// without the sound would have to begin anew with it. Bounds of that, after which the
// session begins without:
const (
	maxHold      = mpegts.TimestampHz // of media, 90 kHz
	maxHoldBytes = 2 << 20
	maxHeld      = 8192 // units and changes of tracks
)

// A held is a unit that is held back, or else the tracks that come before the next one.
type held struct {
	unit    *media.AccessUnit
	streams []*stream
	tracks  []media.Track // of the streams, as they were
}

// unknown reports whether s is MPEG audio of which no frame has come.
func (s *stream) unknown() bool { return s.Codec == media.MP2 && s.track.SampleRateHz == 0 }

// holds reports whether what comes is held back.
func (a *assembler) holds() bool {
	return !a.begun && slices.ContainsFunc(a.streams, func(s *stream) bool { return s.unknown() && !s.leftOut })
}

// announce tells the gateway which tracks there are.
func (a *assembler) announce() {
	h := held{streams: a.streams}
	for _, s := range a.streams {
		h.tracks = append(h.tracks, s.track)
	}
	if a.holds() {
		if n := len(a.held); n > 0 && a.held[n-1].unit == nil {
			a.held = a.held[:n-1]
		}
		a.held = append(a.held, h)
		return
	}
	a.begin()
	a.tell(h)
}

// hand hands a unit over.
func (a *assembler) hand(u *media.AccessUnit, at int64) {
	if !a.holds() {
		a.pub.WriteAccessUnit(u)
		return
	}
	if !a.holding {
		a.holding, a.heldFrom = true, at
	}
	a.held, a.heldBytes = append(a.held, held{unit: u}), a.heldBytes+len(u.Payload)
	if at-a.heldFrom > maxHold || a.heldBytes > maxHoldBytes || len(a.held) > maxHeld {
		a.begin()
	}
}

// begin hands over what was held back.
func (a *assembler) begin() {
	a.begun = true
	for i, h := range a.held {
		switch {
		case h.unit != nil:
			a.pub.WriteAccessUnit(h.unit)
		case i+1 < len(a.held): // else the next ones are told at once
			a.tell(h)
		}
	}
	a.held = nil
}

// tell tells the gateway the tracks of h that are known by now, if they are new to it.
func (a *assembler) tell(h held) {
	list := make([]media.Track, 0, len(h.tracks))
	for i, s := range h.streams {
		if s.unknown() {
			continue
		}
		if s.Codec == media.MP2 && h.tracks[i].SampleRateHz == 0 {
			h.tracks[i] = s.track
		}
		list = append(list, h.tracks[i])
	}
	if a.told == nil || !reflect.DeepEqual(list, a.told) {
		a.told = list
		a.pub.SetTracks(list)
	}
}
