package egressrtmp

import (
	"time"

	"github.com/headgate/gateway/sdk/media"
)

const (
	// mergeWindow is how much media of one track waits for the other.
	mergeWindow = 200 * time.Millisecond
	// mergeGiveUp is how far a track may be behind before nothing waits for it any
	// more: it is muted, or gone.
	mergeGiveUp = time.Second
)

// A merger orders the units of two tracks by decoding time. It waits for the
// slower one, but for no more media than mergeWindow: what comes later than that
// is out of order. The zero value waits for nothing.
type merger struct {
	tracks [2]mergeTrack
	newest time.Duration
}

type mergeTrack struct {
	id    media.TrackID // 0: there is none
	queue []*media.AccessUnit
	seen  bool
	last  time.Duration // decoding time of the newest unit so far
}

// expect sets the tracks. The queues have to be empty.
func (m *merger) expect(ids ...media.TrackID) {
	for i, id := range ids {
		if m.tracks[i].id != id {
			m.tracks[i] = mergeTrack{id: id}
		}
	}
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
	first, other := m.first()
	if first == nil {
		return nil
	}
	head := first.queue[0].DTS
	wait := other.id != 0 && len(other.queue) == 0 && m.newest-head < mergeWindow
	if wait && other.seen && head-other.last > mergeGiveUp {
		wait = false
	}
	if wait {
		return nil
	}
	return first.take()
}

// drain returns the next unit, nil if there is none.
func (m *merger) drain() *media.AccessUnit {
	first, _ := m.first()
	if first == nil {
		return nil
	}
	return first.take()
}

func (m *merger) empty() bool { return len(m.tracks[0].queue)+len(m.tracks[1].queue) == 0 }

// first returns the track with the earliest unit, the video if both are equal,
// and the other one.
func (m *merger) first() (first, other *mergeTrack) {
	a, b := &m.tracks[0], &m.tracks[1]
	switch {
	case len(a.queue) == 0 && len(b.queue) == 0:
		return nil, nil
	case len(a.queue) == 0:
		return b, a
	case len(b.queue) == 0 || a.queue[0].DTS <= b.queue[0].DTS:
		return a, b
	default:
		return b, a
	}
}

func (t *mergeTrack) take() *media.AccessUnit {
	u := t.queue[0]
	t.queue[0] = nil
	t.queue = t.queue[1:]
	return u
}
