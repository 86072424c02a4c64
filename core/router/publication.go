package router

import (
	"time"

	"github.com/headgate/gateway/sdk/media"
)

// A Publication is one publisher's session on a stream. Write and SetTracks are
// called from one goroutine, in order.
//
// A session begins at its first random access point, of video if it announced
// any: that point is placed on the stream's timeline at the time that really
// elapsed since the session before, and what came earlier is dropped and
// counted. If the announced video does not come, the session begins with sound.
type Publication struct {
	stream *Stream
	src    Source

	// The fields below are guarded by stream.mu.
	tracks map[media.TrackID]*pubTrack // by the publisher's id
	order  []*pubTrack
	over   bool // ended or superseded

	mapped    bool          // the session has its place on the timeline
	offset    time.Duration // from the session's time to the stream's
	startDTS  time.Duration // of the session, in its own time
	startAt   time.Time
	waiting   bool // units came, and no random access point yet
	waitFrom  time.Time
	sawVideo  bool // while waiting
	seenVideo bool // a unit of video came, ever

	asked        bool // for a keyframe, at askedAt
	askedAt      time.Time
	unanswered   bool // video flowed then, and none came since
	ignores      bool // the last request was not answered in time
	pending      bool // another is due when the interval is over
	pendingTrack media.TrackID
	keyframeAt   time.Time // when the newest one arrived
}

// pubTrack is one track of a publication.
type pubTrack struct {
	own   media.TrackID // the publisher's id
	track media.Track   // with the stream's id, once assigned
	video bool

	needKey     bool // nothing until the next random access point
	dropLeading bool // joined at the last one
	discont     bool // units are missing before the next one
	used        bool // a unit of it was delivered since the session was placed
	seqOffset   uint32
	lastDTS     time.Duration // in the session's time
	lastAt      time.Time
}

// SetTracks announces the tracks, or their change, before the first unit that
// needs them. The tracks carry the publisher's ids; the stream gives them its
// own, the same as before where kind and codec are.
func (p *Publication) SetTracks(tracks []media.Track) {
	var do later
	s := p.stream
	s.mu.Lock()
	if !p.over {
		p.setTracks(tracks)
		// A stream that had media keeps its tracks until the session has reached its
		// first random access point: by then the new ones are known in full.
		if s.base == p || s.base == nil && !s.fed {
			s.show(p, &do)
		}
	}
	s.mu.Unlock()
	do.run()
}

func (p *Publication) setTracks(tracks []media.Track) {
	old := p.tracks
	p.tracks = make(map[media.TrackID]*pubTrack, len(tracks))
	p.order = p.order[:0:0]
	for _, t := range tracks {
		pt := old[t.ID]
		if pt == nil || pt.track.Codec != t.Codec {
			pt = &pubTrack{own: t.ID, video: isVideo(t), needKey: isVideo(t), discont: true}
		}
		id := pt.track.ID // 0: not assigned yet
		pt.track = t
		pt.track.ID, pt.track.DerivedFrom = id, 0
		p.tracks[t.ID] = pt
		p.order = append(p.order, pt)
	}
}

// assign gives stream ids to tracks that have none: that of a track of the same
// codec that the stream had before, if it is free, else a new one.
func (p *Publication) assign() {
	s := p.stream
	taken := make(map[media.TrackID]bool, len(p.order))
	for _, pt := range p.order {
		taken[pt.track.ID] = true
	}
	for _, pt := range p.order {
		if pt.track.ID != 0 {
			continue
		}
		for _, k := range s.known {
			if !taken[k.id] && k.codec == pt.track.Codec {
				pt.track.ID = k.id
				break
			}
		}
		if pt.track.ID == 0 {
			pt.track.ID = s.newID()
			s.known = append(s.known, knownTrack{pt.track.ID, pt.track.Codec})
		}
		taken[pt.track.ID] = true
	}
}

// own translates a stream's track id into the publisher's; 0 stays 0.
func (p *Publication) own(id media.TrackID) media.TrackID {
	for _, pt := range p.order {
		if pt.track.ID == id {
			return pt.own
		}
	}
	return 0
}

// ask sends a keyframe request for one of the publisher's own tracks.
func (p *Publication) ask(own media.TrackID, now time.Time, do *later) {
	p.asked, p.askedAt, p.unanswered, p.pending = true, now, p.seenVideo, false
	src := p.src
	do.add(func() { src.RequestKeyframe(own) })
}

// Write hands over a unit with the publisher's track id and time; it belongs to
// the stream from here on. A unit without Received counts as received now.
func (p *Publication) Write(u *media.AccessUnit) {
	var do later
	s := p.stream
	s.mu.Lock()
	p.write(u, &do)
	s.mu.Unlock()
	do.run()
}

func (p *Publication) write(u *media.AccessUnit, do *later) {
	s := p.stream
	if p.over {
		s.drop(DroppedSuperseded)
		return
	}
	pt := p.tracks[u.Track]
	if pt == nil {
		s.drop(DroppedUnknownTrack)
		return
	}
	now := time.Now()
	if u.Received.IsZero() {
		u.Received = now
	}
	p.seenVideo = p.seenVideo || pt.video
	p.keyframeEvidence(pt, u, now, do)

	if p.mapped && pt.used && p.jumped(pt, u) {
		p.unmap()
	}
	if !p.mapped {
		if !p.canStart(pt, u, now, do) {
			s.drop(DroppedBeforeStart)
			return
		}
		p.start(u, do)
	}
	if !pt.used {
		// The session's tracks share one epoch. What strays far from the start is of
		// another, and what lies before it has nothing to go with.
		ahead := u.DTS - p.startDTS
		if ahead < 0 && ahead > -jumpAhead {
			s.drop(DroppedBeforeStart)
			return
		}
		if ahead < 0 || ahead-u.Received.Sub(p.startAt) > jumpAhead {
			s.drop(DroppedBadTime)
			return
		}
	}
	if pt.video {
		switch {
		case u.RandomAccess:
			pt.dropLeading = pt.needKey
			pt.needKey = false
		case pt.needKey:
			// Nobody else asks: no reader has seen this track.
			s.requestKeyframe(pt.track.ID, now, do)
			s.drop(DroppedBeforeStart)
			return
		case u.Leading && pt.dropLeading:
			s.drop(DroppedUndecodable)
			pt.discont = true
			return
		}
	}
	p.deliver(pt, u, now, do)
}

// deliver puts a unit of a session that has its place into the stream.
func (p *Publication) deliver(pt *pubTrack, u *media.AccessUnit, now time.Time, do *later) {
	pt.lastDTS, pt.lastAt = u.DTS, u.Received
	u.Track = pt.track.ID
	u.DTS += p.offset
	u.PTS += p.offset
	tt := p.stream.place(u)
	if !pt.used {
		pt.used = true
		pt.seqOffset = -u.Seq
		if tt.used {
			pt.seqOffset = tt.seq + 1 - u.Seq
		}
	}
	u.Discontinuity = u.Discontinuity || pt.discont && tt.used
	pt.discont = false
	u.Seq += pt.seqOffset
	tt.used, tt.seq = true, u.Seq
	if s := p.stream; !s.started || u.DTS > s.newest {
		s.started, s.newest, s.newestAt = true, u.DTS, u.Received
	}
	p.stream.deliver(u, pt.video, now, do)
}

// keyframeEvidence learns from what arrives whether the publisher answers
// keyframe requests, and makes the request that is due.
func (p *Publication) keyframeEvidence(pt *pubTrack, u *media.AccessUnit, now time.Time, do *later) {
	if p.unanswered && now.Sub(p.askedAt) > answerTime {
		p.unanswered, p.ignores = false, true
	}
	if pt.video && u.RandomAccess {
		p.keyframeAt = u.Received
		if p.unanswered {
			p.unanswered, p.ignores = false, false
		}
		p.pending = false
		return
	}
	if p.pending && now.Sub(p.askedAt) >= keyframeInterval {
		p.ask(p.own(p.pendingTrack), now, do)
	}
}

// canStart reports whether the session can begin with u.
func (p *Publication) canStart(pt *pubTrack, u *media.AccessUnit, now time.Time, do *later) bool {
	video := false
	for _, t := range p.order {
		video = video || t.video
	}
	if !video {
		return true
	}
	if pt.video && u.RandomAccess {
		return true
	}
	if !p.waiting {
		p.waiting, p.waitFrom = true, now
	}
	if pt.video {
		p.sawVideo = true
		if !p.asked || now.Sub(p.askedAt) >= keyframeInterval {
			p.ask(0, now, do)
		}
		return false
	}
	patience := noVideoPatience
	if p.sawVideo {
		patience = noKeyframePatience
	}
	return now.Sub(p.waitFrom) >= patience
}

// start places the session so that u continues the stream, and lets the session
// feed it from here on.
func (p *Publication) start(u *media.AccessUnit, do *later) {
	s := p.stream
	p.mapped, p.waiting, p.sawVideo = true, false, false
	p.offset = s.joint(u.Received) - u.DTS
	p.startDTS, p.startAt = u.DTS, u.Received
	for _, pt := range p.order {
		pt.needKey, pt.used, pt.discont = pt.video, false, true
	}
	s.cache.clear()
	s.fed = true
	if s.base == p {
		return
	}
	if old := s.base; old != nil {
		old.over = true
		do.add(old.src.Superseded)
	}
	s.base, s.next = p, nil
	s.show(p, do)
	s.notify()
}

// jumped reports whether u's time is not that of the session as placed.
func (p *Publication) jumped(pt *pubTrack, u *media.AccessUnit) bool {
	step := u.DTS - pt.lastDTS
	return step < -jumpBack || step-u.Received.Sub(pt.lastAt) > jumpAhead
}

// unmap makes the session wait for a random access point to be placed at anew.
func (p *Publication) unmap() {
	p.mapped, p.waiting, p.sawVideo = false, false, false
}

// End detaches the publisher. With hold, a stream that media flowed on waits for
// the next one with its subscriptions; without it is idle at once. The state that
// the stream is left in is returned. To end a publication that was superseded, or
// has ended, changes nothing.
func (p *Publication) End(hold bool) State {
	var do later
	s := p.stream
	s.mu.Lock()
	if !p.over {
		p.end(hold, &do)
	}
	st := s.state
	s.mu.Unlock()
	do.run()
	return st
}

func (p *Publication) end(hold bool, do *later) {
	s := p.stream
	p.over = true
	if s.base == p {
		s.base = nil
		s.cache.clear()
	} else {
		s.next = nil
	}
	switch {
	case s.publisher() != nil:
		s.notify()
	case hold && s.fed:
		s.setState(Held)
	default:
		s.setIdle(do)
	}
}

// Feeding reports whether the stream's media comes from this publication.
func (p *Publication) Feeding() bool {
	p.stream.mu.Lock()
	defer p.stream.mu.Unlock()
	return p.stream.base == p
}

// A Derivation is a track that is made from another one of the stream and
// published into it. Its units are in stream time.
type Derivation struct {
	stream *Stream
	from   media.TrackID

	// The fields below are guarded by stream.mu.
	id    media.TrackID
	track media.Track // ID is 0 until SetTrack
	gap   bool
	over  bool
	base  uint32 // added to the numbers of the present maker
	fresh bool   // the next unit is the first of its maker
}

// Derive makes room for a track that is derived from another. It shows among the
// stream's tracks once it is described, and for as long as the other one does.
func (s *Stream) Derive(from media.TrackID) *Derivation {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := &Derivation{stream: s, from: from, id: s.newID(), fresh: true}
	s.derivations = append(s.derivations, d)
	return d
}

// ID is the id of the derived track.
func (d *Derivation) ID() media.TrackID { return d.id }

// SetTrack describes the derived track.
func (d *Derivation) SetTrack(t media.Track) {
	var do later
	s := d.stream
	s.mu.Lock()
	if !d.over {
		t.ID, t.DerivedFrom = d.id, d.from
		d.track = t
		s.setTracks(s.withDerived(s.tracks), &do)
	}
	s.mu.Unlock()
	do.run()
}

// Restarted says that another maker of the track takes over: units are missing
// before its first one, and it counts them from its own start.
func (d *Derivation) Restarted() {
	d.stream.mu.Lock()
	defer d.stream.mu.Unlock()
	d.gap, d.fresh = true, true
}

// Write hands over a unit of the derived track, in stream time.
func (d *Derivation) Write(u *media.AccessUnit) {
	var do later
	s := d.stream
	s.mu.Lock()
	switch {
	case d.over:
		s.drop(DroppedSuperseded)
	case d.track.ID == 0:
		s.drop(DroppedUnknownTrack)
	default:
		d.write(u, &do)
	}
	s.mu.Unlock()
	do.run()
}

func (d *Derivation) write(u *media.AccessUnit, do *later) {
	s := d.stream
	now := time.Now()
	if u.Received.IsZero() {
		u.Received = now
	}
	u.Track = d.id
	tt := s.place(u)
	if d.fresh {
		d.fresh = false
		d.base = -u.Seq
		if tt.used {
			d.base = tt.seq + 1 - u.Seq
		}
	}
	if d.gap {
		u.Discontinuity = u.Discontinuity || tt.used
		d.gap = false
	}
	u.Seq += d.base
	tt.used, tt.seq = true, u.Seq
	s.deliver(u, isVideo(d.track), now, do)
}

// End removes the derived track from the stream.
func (d *Derivation) End() {
	var do later
	s := d.stream
	s.mu.Lock()
	if !d.over {
		d.over = true
		for i, o := range s.derivations {
			if o == d {
				s.derivations = append(s.derivations[:i:i], s.derivations[i+1:]...)
				break
			}
		}
		delete(s.times, d.id)
		if d.track.ID != 0 {
			s.setTracks(s.withDerived(s.tracks), &do)
		}
	}
	s.mu.Unlock()
	do.run()
}
