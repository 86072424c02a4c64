package egressrtmp

import (
	"slices"
	"time"

	"github.com/headgate/gateway/sdk/media"
)

const (
	// mergeStart is how much media of one track waits for another that has brought
	// nothing so far.
	mergeStart = 200 * time.Millisecond
	// mergeGiveUp is how far a track may be behind before nothing waits for it any
	// more: it is muted, or gone. What comes later than that can only be sent with
	// the timestamp of what has gone before it, and is no longer where it belongs.
	mergeGiveUp = time.Second
)

// A merger orders the units of several tracks by decoding time. It waits for the
// slowest one, but for no more media than mergeGiveUp. The zero value waits for
// nothing.
type merger struct {
	tracks []mergeTrack // of equal units the first track's goes first
	newest time.Duration
}

type mergeTrack struct {
	id    media.TrackID
	queue []*media.AccessUnit
	seen  bool
	last  time.Duration // decoding time of the newest unit so far
}

// expect sets the tracks. The queues have to be empty.
func (m *merger) expect(tracks []sinkTrack) {
	now := make([]mergeTrack, len(tracks))
	for i := range tracks {
		now[i] = mergeTrack{id: tracks[i].ID}
		if j := slices.IndexFunc(m.tracks, func(t mergeTrack) bool { return t.id == tracks[i].ID }); j >= 0 {
			now[i] = m.tracks[j]
		}
	}
	m.tracks = now
}

func (m *merger) push(u *media.AccessUnit) {
	for i := range m.tracks {
		if t := &m.tracks[i]; t.id == u.Track {
			t.queue = append(t.queue, u)
			t.seen, t.last = true, u.DTS
		}
	}
	m.newest = max(m.newest, u.DTS)
}

// pop returns the next unit if its turn has come, otherwise nil.
func (m *merger) pop() *media.AccessUnit {
	first := m.first()
	if first == nil {
		return nil
	}
	head := first.queue[0].DTS
	for i := range m.tracks {
		if t := &m.tracks[i]; len(t.queue) == 0 && t.mayCome(head, m.newest) {
			return nil
		}
	}
	return first.take()
}

// drain returns the next unit, nil if there is none.
func (m *merger) drain() *media.AccessUnit {
	if first := m.first(); first != nil {
		return first.take()
	}
	return nil
}

// first returns the track with the earliest unit.
func (m *merger) first() (first *mergeTrack) {
	for i := range m.tracks {
		t := &m.tracks[i]
		if len(t.queue) > 0 && (first == nil || t.queue[0].DTS < first.queue[0].DTS) {
			first = t
		}
	}
	return first
}

// mayCome reports whether a unit of t, of which none is here, is to be waited for
// before one with the decoding time head; newest is that of the newest unit of all.
func (t *mergeTrack) mayCome(head, newest time.Duration) bool {
	if !t.seen {
		return newest-head < mergeStart
	}
	return head-t.last <= mergeGiveUp && newest-head < mergeGiveUp
}

func (t *mergeTrack) take() *media.AccessUnit {
	u := t.queue[0]
	t.queue[0] = nil
	t.queue = t.queue[1:]
	return u
}
