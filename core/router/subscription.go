package router

import (
	"slices"
	"time"

	"github.com/headgate/gateway/sdk/media"
)

// A Choose picks the tracks that a subscription wants from those of the stream.
// It must be pure and quick; it is called under the stream's lock whenever the
// tracks change. An empty answer means: nothing yet.
type Choose func(tracks []media.Track) []media.Track

// A SubscriptionConfig says how a subscription behaves.
type SubscriptionConfig struct {
	// MaxLag is how far the reader may be behind.
	MaxLag time.Duration
	// NoVideo: the reader wants no pictures; no keyframe is asked for.
	NoVideo bool
	// Wake is called when there is something to pull, without a lock of this
	// package held. It must not block.
	Wake func()
}

// A Subscription is one reader's queue. Between Subscribe and Start it holds
// nothing of its own: the stream keeps the group that Start begins with.
//
// Lag is how long ago the oldest unit arrived that the network has not taken: queued,
// pulled and not credited, or credited and still in the sink's socket. What the reader
// was behind when it joined is not lag. When it is about to exceed half of MaxLag,
// disposable units are dropped; MaxLag, video, up to the newest random access point or to
// the next one, which is asked for, as another is where the newest is old; sound last.
// What is left can always be decoded, and the first unit of a track after a gap says so.
type Subscription struct {
	stream *Stream
	conf   SubscriptionConfig

	// The fields below are guarded by stream.mu.
	attached time.Time // Subscribe
	choose   Choose    // nil before Start
	chosen   []media.Track
	closed   bool
	tracks   map[media.TrackID]*subTrack

	queue  ring[entry]
	queued int         // bytes in queue
	flight ring[entry] // pulled, not yet written
	flying int         // bytes in flight
	credit int         // bytes credited beyond what has left flight

	joined    time.Time     // when media began to flow
	holdAudio bool          // until the first video unit
	began     bool          // media begins at beganDTS: with a picture
	beganDTS  time.Duration // of the first picture
	unsentAge time.Duration // how long the oldest byte has waited in the sink's socket
	unsentLag time.Duration // how late the unit is that it belongs to
	unsentAt  time.Time     // when both were told
	past      past
	pace      pace

	// asked is what was credited when this reader last asked for a keyframe:
	// while nothing moves it does not ask again, but remembers that it wants to.
	askedOnce bool
	asked     uint64
	wantKey   bool

	units    uint64 // written
	credited uint64 // bytes written
	dropped  map[Reason]uint64
	video    meter
	audio    meter
}

// entry is one queued item.
type entry struct {
	unit   *media.AccessUnit
	tracks []media.Track
	at     time.Time // when its lag begins
	disc   bool
	video  bool
}

// subTrack is what a subscription knows of one chosen track.
type subTrack struct {
	video       bool
	needKey     bool
	why         Reason // why needKey; empty: joining, which is no drop
	fresh       bool   // no unit of it was queued so far
	dropLeading bool   // began at the newest random access point
	gap         bool   // the next unit to be queued follows a gap
	hole        bool   // used by remove
}

// Subscribe attaches a reader and asks the publisher for a keyframe, unless the
// newest one has only just come.
func (s *Stream) Subscribe(c SubscriptionConfig) *Subscription {
	var do later
	s.mu.Lock()
	now := time.Now()
	sub := &Subscription{
		stream: s, conf: c, attached: now,
		tracks: make(map[media.TrackID]*subTrack), dropped: make(map[Reason]uint64),
	}
	s.subs = append(s.subs, sub)
	if p := s.publisher(); p != nil && !c.NoVideo && slices.ContainsFunc(s.tracks, isVideo) &&
		(p.keyframeAt.IsZero() || now.Sub(p.keyframeAt) > freshKeyframe) {
		s.requestKeyframe(0, now, &do)
	}
	s.mu.Unlock()
	do.run()
	return sub
}

// Start lets media flow: the tracks first, then the kept group if it may be used,
// then what comes. Called again it changes the choice.
func (sub *Subscription) Start(choose Choose) {
	var do later
	s := sub.stream
	s.mu.Lock()
	sub.choose = choose
	sub.rechoose(time.Now(), &do)
	s.mu.Unlock()
	do.run()
}

// Chosen returns the tracks that the reader gets; nobody may change the slice.
func (sub *Subscription) Chosen() []media.Track {
	sub.stream.mu.Lock()
	defer sub.stream.mu.Unlock()
	return sub.chosen
}

// Close detaches the reader and drops its queue.
func (sub *Subscription) Close() {
	s := sub.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.closed {
		return
	}
	sub.closed = true
	s.subs = slices.DeleteFunc(slices.Clone(s.subs), func(o *Subscription) bool { return o == sub })
	sub.queue, sub.flight, sub.queued, sub.flying = ring[entry]{}, ring[entry]{}, 0, 0
}

// rechoose applies the choice to the stream's tracks.
func (sub *Subscription) rechoose(now time.Time, do *later) {
	if sub.choose == nil || sub.closed {
		return
	}
	chosen := sub.choose(sub.stream.tracks)
	if len(chosen) == 0 || slices.EqualFunc(chosen, sub.chosen, sameTrack) {
		return
	}
	first := sub.chosen == nil
	sub.chosen = slices.Clone(chosen)
	sub.pushTracks(now)
	for id := range sub.tracks {
		if _, ok := find(chosen, id); !ok {
			delete(sub.tracks, id)
			sub.remove("", func(_ int, e *entry) bool { return e.unit.Track == id })
		}
	}
	var fresh []media.TrackID
	for _, t := range chosen {
		if sub.tracks[t.ID] == nil {
			sub.tracks[t.ID] = &subTrack{video: isVideo(t), needKey: isVideo(t), fresh: true}
			fresh = append(fresh, t.ID)
		}
	}
	if first {
		sub.joined = now
		sub.join(now, do)
	} else {
		for _, id := range fresh {
			if sub.tracks[id].needKey {
				sub.stream.requestKeyframe(id, now, do)
			}
		}
	}
	do.add(sub.conf.Wake)
}

// pushTracks queues the chosen tracks, in the place of a change right before it.
func (sub *Subscription) pushTracks(now time.Time) {
	if n := sub.queue.len(); n > 0 && sub.queue.at(n-1).unit == nil {
		sub.queue.ref(n - 1).tracks = sub.chosen
		return
	}
	sub.queue.push(entry{tracks: sub.chosen, at: now})
}

// join begins with the kept group, if its start is young enough, arrived since
// the reader attached, or nothing better can be had; else with the next keyframe.
func (sub *Subscription) join(now time.Time, do *later) {
	s := sub.stream
	video, from := false, s.cache.next()
	begin := make(map[media.TrackID]uint64, len(sub.tracks))
	for id, st := range sub.tracks {
		if !st.video {
			continue
		}
		video = true
		n, key := s.cache.group(id)
		if p := s.base; key != nil && p != nil &&
			(p.ignores || now.Sub(key.Received) <= freshGOP || !key.Received.Before(sub.attached)) {
			begin[id] = n
			from = min(from, n)
			continue
		}
		s.requestKeyframe(id, now, do)
	}
	if video && len(begin) == 0 {
		sub.holdAudio = true
		return
	}
	for n := from; n < s.cache.next(); n++ {
		u := s.cache.units.at(int(n - s.cache.first))
		st := sub.tracks[u.Track]
		if st == nil || n < s.cache.valid[u.Track] {
			continue
		}
		if start, ok := begin[u.Track]; st.video && (!ok || n < start) {
			continue
		}
		if sub.decodable(st, u) {
			sub.push(u, st, now)
		}
	}
}

// decodable reports whether a unit of a chosen track is of use to the reader, given
// what it has of the track. One that is not because of a drop is counted.
func (sub *Subscription) decodable(st *subTrack, u *media.AccessUnit) bool {
	if !st.video {
		// Sound of before the first picture has nothing to go with: one that is
		// derived comes late.
		if st.fresh && sub.began && u.DTS < sub.beganDTS {
			return false
		}
		st.fresh = false
		return true
	}
	switch {
	case u.RandomAccess:
		if !sub.began {
			sub.began, sub.beganDTS = true, u.DTS
		}
		st.dropLeading = st.needKey
		st.needKey = false
	case st.needKey:
		if st.why != "" {
			sub.dropped[st.why]++
		}
		return false
	case u.Leading && st.dropLeading:
		if st.why != "" {
			sub.dropped[DroppedUndecodable]++
		}
		st.gap = true
		return false
	}
	return true
}

func (sub *Subscription) push(u *media.AccessUnit, st *subTrack, at time.Time) {
	sub.queue.push(entry{unit: u, at: at, disc: st.gap, video: st.video})
	sub.queued += len(u.Payload)
	st.gap = false
}

// offer queues a unit that was delivered to the stream, or drops it.
func (sub *Subscription) offer(u *media.AccessUnit, video bool, now time.Time, do *later) {
	st := sub.tracks[u.Track]
	if st == nil {
		return
	}
	if sub.holdAudio {
		p := sub.stream.base
		if !video && now.Sub(sub.joined) < noVideoPatience && (p == nil || p.seenVideo) {
			return
		}
		sub.holdAudio = video && !u.RandomAccess
	}
	if !sub.decodable(st, u) {
		if st.video && st.needKey {
			sub.ask(u.Track, now, do)
		}
		return
	}
	at := u.Received
	if at.Before(sub.joined) {
		at = sub.joined
	}
	sub.push(u, st, at)
	sub.relieve(now, do)
	if sub.queue.len() > 0 {
		do.add(sub.conf.Wake)
	}
}

// ask requests a keyframe for a chosen track. A reader that got stuck asks once,
// and again when it moves: the publisher's bits are the other readers' too.
func (sub *Subscription) ask(id media.TrackID, now time.Time, do *later) {
	if sub.askedOnce && sub.flight.len() > 0 && sub.credited == sub.asked {
		sub.wantKey = true
		return
	}
	sub.askedOnce, sub.asked, sub.wantKey = true, sub.credited, false
	sub.stream.requestKeyframe(id, now, do)
}

// lag is how far the reader is behind.
func (sub *Subscription) lag(now time.Time) time.Duration {
	lag := sub.waiting(now)
	if now.Sub(sub.unsentAt) < unsentFresh {
		lag = max(lag, sub.unsentLag)
	}
	return lag
}

// waiting is how long ago the oldest unit arrived that is not credited.
func (sub *Subscription) waiting(now time.Time) time.Duration {
	if sub.flight.len() > 0 {
		return max(0, now.Sub(sub.flight.ref(0).at))
	}
	for i := range min(2, sub.queue.len()) { // tracks never stand twice in a row
		if e := sub.queue.ref(i); e.unit != nil {
			return max(0, now.Sub(e.at))
		}
	}
	return 0
}

// comingLag is how far the reader will be behind if it goes on as it does: what is not
// credited has yet to pass the sink's socket, and what is queued, what was pulled before
// it. What is pulled cannot be dropped any more: that it is late would show too late.
func (sub *Subscription) comingLag(now time.Time) time.Duration {
	lag, socket := sub.waiting(now), time.Duration(0)
	if since := now.Sub(sub.unsentAt); since < unsentFresh && sub.unsentAge > 0 {
		socket = sub.unsentAge + min(since, unsentStep) // it has waited on since it was told
	}
	// A reader that stands still may be about to catch up with all of it.
	if perSecond := sub.pace.rate(now); lag+socket > sub.conf.MaxLag/2 && perSecond > 0 && sub.flight.len() > 0 && sub.queue.len() > 0 {
		left := time.Duration(float64(sub.flying-sub.credit) / perSecond * float64(time.Second))
		lag = max(lag, now.Sub(sub.queue.ref(0).at)+left)
	}
	return lag + socket
}

// relieve drops what the reader's lag, or the memory it holds, asks for.
func (sub *Subscription) relieve(now time.Time, do *later) {
	lag, limit := sub.comingLag(now), sub.conf.MaxLag
	tight := sub.queued > queueMaxBytes
	if lag <= limit/2 && !tight {
		return
	}
	sub.remove(DroppedDisposable, func(_ int, e *entry) bool { return e.video && e.unit.Disposable && !e.unit.RandomAccess })
	if lag <= limit && !tight {
		return
	}
	reason := DroppedLag
	if lag <= limit {
		reason = DroppedMemory
	}
	hasVideo := false
	for id, st := range sub.tracks {
		if st.video {
			hasVideo = true
			sub.cut(id, st, reason, now, do)
		}
	}
	over, keep := limit, limit/2
	if hasVideo { // sound goes last
		over, keep = 2*limit, limit
	}
	if lag > over {
		sub.remove(reason, func(_ int, e *entry) bool { return !e.video && now.Sub(e.at) > keep })
	}
	if sub.queued > queueMaxBytes {
		sub.remove(DroppedMemory, func(_ int, e *entry) bool { return !e.video })
	}
}

// cut drops the queued video of a track up to its newest random access point; or
// all of it, and what comes until the next one, if there is none that is young
// and small enough to be of use.
func (sub *Subscription) cut(id media.TrackID, st *subTrack, reason Reason, now time.Time, do *later) {
	newest, size, queued := -1, 0, false
	for i := range sub.queue.len() {
		e := sub.queue.ref(i)
		if e.unit == nil || e.unit.Track != id {
			continue
		}
		queued = true
		size += len(e.unit.Payload)
		if e.unit.RandomAccess {
			newest, size = i, len(e.unit.Payload)
		}
	}
	if !queued {
		return // what is late is under way, or sound
	}
	if newest >= 0 && size <= queueMaxBytes && now.Sub(sub.queue.ref(newest).at) <= sub.conf.MaxLag {
		age := now.Sub(sub.queue.ref(newest).at)
		if sub.remove(reason, func(i int, e *entry) bool { return i < newest && e.unit.Track == id }) > 0 {
			st.why, st.dropLeading = reason, true
			sub.remove(DroppedUndecodable, func(_ int, e *entry) bool { return e.unit.Track == id && e.unit.Leading })
			if age > keyframeInterval { // a younger one is as good as what would be asked for
				sub.ask(id, now, do)
			}
		}
		return
	}
	sub.remove(reason, func(_ int, e *entry) bool { return e.unit.Track == id })
	st.needKey, st.why = true, reason
	sub.ask(id, now, do)
}

// remove takes the queued units for which gone is true out of the queue, counts
// them (unless reason is empty) and marks what follows each gap. gone is not
// asked about changes of tracks: they stay.
func (sub *Subscription) remove(reason Reason, gone func(i int, e *entry) bool) int {
	removed := 0
	sub.queue.keep(func(i int, e *entry) bool {
		if e.unit == nil {
			return true
		}
		st := sub.tracks[e.unit.Track]
		if !gone(i, e) {
			if st != nil && st.hole {
				e.disc, st.hole = true, false
			}
			return true
		}
		removed++
		sub.queued -= len(e.unit.Payload)
		if st != nil {
			st.hole = true
		}
		return false
	})
	if removed == 0 {
		return 0
	}
	for _, st := range sub.tracks {
		st.gap, st.hole = st.gap || st.hole, false
	}
	if reason != "" {
		sub.dropped[reason] += uint64(removed)
	}
	// Of changes of tracks that no unit stands between, the last one tells all.
	n := sub.queue.len()
	sub.queue.keep(func(i int, e *entry) bool {
		return e.unit != nil || i == n-1 || sub.queue.ref(i+1).unit != nil
	})
	return removed
}

// Pull appends what is to be sent next to dst and returns it: at most maxBytes of
// payload, but at least one unit if there is any. What was pulled counts as late
// until it is credited.
func (sub *Subscription) Pull(dst []Item, maxBytes int) []Item {
	var do later
	s := sub.stream
	s.mu.Lock()
	sub.relieve(time.Now(), &do)
	taken := 0
	for sub.queue.len() > 0 {
		e := sub.queue.ref(0)
		if e.unit == nil {
			dst = append(dst, Item{Tracks: e.tracks})
			sub.queue.pop()
			continue
		}
		n := len(e.unit.Payload)
		if taken > 0 && taken+n > maxBytes {
			break
		}
		taken += max(n, 1)
		dst = append(dst, Item{Unit: e.unit, Discontinuity: e.disc})
		sub.queued -= n
		sub.flying += n
		sub.flight.push(sub.queue.pop())
	}
	s.mu.Unlock()
	do.run()
	return dst
}

// Credited says that so many bytes of what was pulled are written, in order.
func (sub *Subscription) Credited(n int) {
	var do later
	s := sub.stream
	s.mu.Lock()
	now := time.Now()
	sub.credit += n
	sub.credited += uint64(max(0, n))
	sub.pace.count(now, n)
	for sub.flight.len() > 0 {
		size := len(sub.flight.ref(0).unit.Payload)
		if size > sub.credit {
			break
		}
		sub.credit -= size
		sub.flying -= size
		sub.units++
		e := sub.flight.pop()
		sub.past.note(now, now.Sub(e.at))
		if e.video {
			sub.video.count(&e)
		} else {
			sub.audio.count(&e)
		}
	}
	if sub.wantKey {
		for id, st := range sub.tracks {
			if st.needKey {
				sub.ask(id, now, &do)
			}
		}
		sub.wantKey = false
	}
	s.mu.Unlock()
	do.run()
}

// Behind is by how much the derived tracks that the reader gets are behind what they are
// made of, the last one.
func (sub *Subscription) Behind() (behind time.Duration) {
	s := sub.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range sub.chosen {
		made, of := s.times[t.ID], s.times[t.DerivedFrom]
		if t.DerivedFrom != 0 && made != nil && of != nil {
			behind = max(behind, of.dts-made.dts)
		}
	}
	return behind
}

// ReportUnsent says how long the oldest byte waits that the sink's socket has
// taken and not sent. It counts as lag for the next few seconds.
func (sub *Subscription) ReportUnsent(age time.Duration) {
	sub.stream.mu.Lock()
	defer sub.stream.mu.Unlock()
	now := time.Now()
	sub.unsentAge, sub.unsentLag, sub.unsentAt = max(0, age), 0, now
	if age > 0 {
		sub.unsentLag = age + sub.past.lag(now.Add(-age))
	}
}

// RequestKeyframe passes on the reader's own wish for a random access point on a
// track (0: every video track).
func (sub *Subscription) RequestKeyframe(id media.TrackID) {
	var do later
	s := sub.stream
	s.mu.Lock()
	s.requestKeyframe(id, time.Now(), &do)
	s.mu.Unlock()
	do.run()
}

// SubscriptionStats are the figures of one subscription.
type SubscriptionStats struct {
	Lag         time.Duration
	Units       uint64 // written
	Bytes       uint64 // written
	FlightBytes int    // pulled and not written
	QueuedUnits int
	QueuedBytes int
	Dropped     map[Reason]uint64
	// Video and Audio are what of them was written, all tracks of the kind together.
	Video, Audio MediaStats
}

// Stats returns the figures so far; after Close, the last ones, without lag.
func (sub *Subscription) Stats() SubscriptionStats {
	sub.stream.mu.Lock()
	defer sub.stream.mu.Unlock()
	st := SubscriptionStats{
		Units: sub.units, Bytes: sub.credited,
		FlightBytes: sub.flying, QueuedUnits: sub.queue.len(), QueuedBytes: sub.queued,
		Dropped: make(map[Reason]uint64, len(sub.dropped)),
		Video:   sub.video.stats(), Audio: sub.audio.stats(),
	}
	if !sub.closed {
		st.Lag = sub.lag(time.Now())
	}
	for r, n := range sub.dropped {
		st.Dropped[r] = n
	}
	return st
}
