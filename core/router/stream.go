package router

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"github.com/headgate/gateway/sdk/media"
)

// A Stream is a name's media: at most one publication feeds it at a time, any
// number of subscriptions read it. It outlives its publications: its tracks keep
// their ids and its time goes on. Its methods, and those of its publications,
// derivations and subscriptions, may be called from any goroutine and never
// block.
type Stream struct {
	id   uint64
	name string

	mu      sync.Mutex // guards the fields below, and those of what is attached
	state   State
	since   time.Time
	count   uint64        // publications ever attached
	fed     bool          // media flowed since the stream was last idle
	changed chan struct{} // closed when the snapshot changes, then replaced

	base *Publication // feeds the stream
	next *Publication // is attached and has not reached a random access point yet

	derivations []*Derivation
	tracks      []media.Track // replaced, never changed
	known       []knownTrack  // the ids that originals had so far
	times       map[media.TrackID]*trackTime
	lastID      media.TrackID
	subs        []*Subscription
	cache       cache

	// newest is the stream's time so far, and newestAt when that unit of a publisher
	// arrived. A derived unit is no clock: its maker holds it back.
	started  bool
	newest   time.Duration
	newestAt time.Time

	dropped map[Reason]uint64
}

// knownTrack is an id that a track of some codec has, over all publishers.
type knownTrack struct {
	id    media.TrackID
	codec media.Codec
}

// trackTime is what the next unit of a track follows.
type trackTime struct {
	used bool
	dts  time.Duration
	seq  uint32
}

// NewStream makes a stream without a publisher. The id is the stream's for as
// long as the gateway runs.
func NewStream(id uint64, name string) *Stream {
	return &Stream{
		id: id, name: name,
		state: Idle, since: time.Now(), changed: make(chan struct{}),
		times: make(map[media.TrackID]*trackTime), cache: newCache(),
		dropped: make(map[Reason]uint64),
	}
}

// ID returns the stream's number, which outlives its publishers.
func (s *Stream) ID() uint64 { return s.id }

// Name returns the stream's name.
func (s *Stream) Name() string { return s.name }

// Watch returns what the stream is, and a channel that is closed when that
// changes.
func (s *Stream) Watch() (Snapshot, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Snapshot{State: s.state, Since: s.since, Publications: s.count, Tracks: s.tracks}, s.changed
}

// Dropped counts the units that no subscription was offered, by reason.
func (s *Stream) Dropped() map[Reason]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[Reason]uint64, len(s.dropped))
	for r, n := range s.dropped {
		out[r] = n
	}
	return out
}

// Publish attaches a publisher. While another one feeds the stream, that one goes
// on until the new one has reached its first random access point; src of the
// other then hears Superseded. A publisher that waits for that point already is
// superseded at once.
func (s *Stream) Publish(src Source) *Publication {
	var do later
	s.mu.Lock()
	p := &Publication{stream: s, src: src, tracks: make(map[media.TrackID]*pubTrack)}
	if old := s.next; old != nil {
		old.over = true
		do.add(old.src.Superseded)
	}
	s.next = p
	s.count++
	s.setState(Live)
	s.mu.Unlock()
	do.run()
	return p
}

// Release ends the hold of a stream whose publisher is gone. It reports whether
// the stream is idle now: it is not if a publisher came back.
func (s *Stream) Release() bool {
	var do later
	s.mu.Lock()
	if s.state == Held {
		s.setIdle(&do)
	}
	idle := s.state == Idle
	s.mu.Unlock()
	do.run()
	return idle
}

func (s *Stream) setState(st State) {
	if s.state != st {
		s.since = time.Now()
	}
	s.state = st
	s.notify()
}

func (s *Stream) setIdle(do *later) {
	s.fed = false
	s.setState(Idle)
	s.setTracks(nil, do)
}

func (s *Stream) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Stream) drop(r Reason) { s.dropped[r]++ }

// newID returns a track id that the stream never used.
func (s *Stream) newID() media.TrackID {
	s.lastID++
	return s.lastID
}

// publisher returns the publication whose tracks the stream shows: the one that
// feeds it, or the one that will if nobody does.
func (s *Stream) publisher() *Publication {
	if s.base != nil {
		return s.base
	}
	return s.next
}

// show makes the tracks of p those of the stream.
func (s *Stream) show(p *Publication, do *later) {
	p.assign()
	list := make([]media.Track, 0, len(p.order)+len(s.derivations))
	for _, pt := range p.order {
		list = append(list, pt.track)
	}
	s.setTracks(s.withDerived(list), do)
}

// withDerived returns the originals of list and, behind them, the derived tracks
// whose original is among them.
func (s *Stream) withDerived(list []media.Track) []media.Track {
	out := make([]media.Track, 0, len(list)+len(s.derivations))
	for _, t := range list {
		if t.DerivedFrom == 0 {
			out = append(out, t)
		}
	}
	for _, d := range s.derivations {
		if _, ok := find(out, d.from); ok && d.track.ID != 0 {
			out = append(out, d.track)
		}
	}
	return out
}

// setTracks replaces the stream's tracks and tells the subscriptions, in the
// order of the units.
func (s *Stream) setTracks(list []media.Track, do *later) {
	if slices.EqualFunc(s.tracks, list, sameTrack) {
		return
	}
	for _, old := range s.tracks {
		t, ok := find(list, old.ID)
		known := len(old.DecoderConfig) > 0
		if !ok || t.Codec != old.Codec || known && !bytes.Equal(t.DecoderConfig, old.DecoderConfig) {
			s.cache.invalidate(old.ID)
		}
	}
	s.tracks = list
	now := time.Now()
	for _, sub := range s.subs {
		sub.rechoose(now, do)
	}
	s.notify()
}

// place gives the unit its place in stream time: u.DTS and u.PTS are in it
// already, but may not rise.
func (s *Stream) place(u *media.AccessUnit) *trackTime {
	tt := s.times[u.Track]
	if tt == nil {
		tt = &trackTime{}
		s.times[u.Track] = tt
	}
	if tt.used && u.DTS <= tt.dts {
		u.DTS = tt.dts + minStep
	}
	u.PTS = max(u.PTS, u.DTS)
	tt.dts = u.DTS
	return tt
}

// deliver hands the unit, placed and immutable from here on, to the cache and to
// every subscription.
func (s *Stream) deliver(u *media.AccessUnit, video bool, now time.Time, do *later) {
	s.cache.add(u, video)
	for _, sub := range s.subs {
		sub.offer(u, video, now, do)
	}
}

// joint is the stream time of a session that begins with a unit received at now:
// the time goes on by what really elapsed.
func (s *Stream) joint(now time.Time) time.Duration {
	if !s.started {
		return 0
	}
	return s.newest + max(time.Millisecond, now.Sub(s.newestAt))
}

// requestKeyframe asks the publisher for a random access point of a track of the
// stream (0: all), at most once per keyframeInterval; a request that comes too
// early is made when the time is up, unless a keyframe came by then.
func (s *Stream) requestKeyframe(id media.TrackID, now time.Time, do *later) {
	p := s.publisher()
	if p == nil || !p.mapped {
		return // it will begin with one
	}
	if p.asked && now.Sub(p.askedAt) < keyframeInterval {
		if p.pending && p.pendingTrack != id {
			id = 0
		}
		p.pending, p.pendingTrack = true, id
		return
	}
	p.ask(p.own(id), now, do)
}
