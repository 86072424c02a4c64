// Package router moves access units from one publisher to many subscribers of a
// stream: the stream's timeline, the last group of pictures for who joins, and
// for each subscription a queue that is bounded in media time and drops so that
// what remains can be decoded.
//
// It is pure memory. It knows tracks, units and time; it opens nothing, starts no
// goroutine, sets no timer and never looks into a payload. Who may publish, where
// a subscription leads, and how long a stream is held without a publisher is
// decided by its callers.
package router

import (
	"bytes"
	"time"

	"github.com/headgate/gateway/sdk/media"
)

// Bounds and patience. The ones that a user can set come with the subscription.
const (
	// gopMax and gopMaxBytes bound the group of pictures that is kept for who
	// joins; a longer one is not kept at all.
	gopMax      = 4 * time.Second
	gopMaxBytes = 16 << 20
	// freshGOP is how old the start of the kept group may be for who joins, if a
	// new keyframe can be had instead.
	freshGOP = time.Second
	// freshKeyframe is how young the newest keyframe must be for who joins not to
	// ask for another.
	freshKeyframe = 200 * time.Millisecond
	// keyframeInterval is the least time between two keyframe requests to one
	// publisher.
	keyframeInterval = 2 * time.Second
	// answerTime is how soon a keyframe must follow a request to count as its
	// answer. It is short: one that comes by itself every two seconds must rarely
	// pass for an answer, while to take a slow answer for none costs little.
	answerTime = 500 * time.Millisecond
	// queueMaxBytes bounds what one subscription has queued.
	queueMaxBytes = 16 << 20
	// noVideoPatience is how long sound waits for an announced video of which
	// nothing was seen; noKeyframePatience, for the first keyframe of a video that
	// does arrive.
	noVideoPatience    = 2 * time.Second
	noKeyframePatience = 10 * time.Second
	// jumpBack and jumpAhead are how far a publisher's time may stray between two
	// units of a track, in excess of real time, before the session is placed anew.
	// A server that sends its backlog at connect runs ahead for a good reason.
	jumpBack  = time.Second
	jumpAhead = 30 * time.Second
	// minStep keeps DTS rising: more than one tick of any container's clock, and
	// so little that a burst of equal times is soon caught up with.
	minStep = 100 * time.Microsecond
	// unsentFresh is how long a sink's report on its socket is believed, and unsentStep
	// how often one is made while bytes wait.
	unsentFresh = 3 * time.Second
	unsentStep  = 200 * time.Millisecond
)

// A Reason says why units were dropped. The names are stable: they are labels of
// metrics.
type Reason string

// Reasons for which a subscription drops.
const (
	// DroppedDisposable: the target lags by half of what it may; pictures that no
	// other refers to were left out.
	DroppedDisposable Reason = "disposable"
	// DroppedLag: the target lags by more than it may; video up to a random access
	// point, or old sound, was left out.
	DroppedLag Reason = "lag"
	// DroppedMemory: the queue held too many bytes.
	DroppedMemory Reason = "memory"
	// DroppedUndecodable: the unit refers to pictures that were left out.
	DroppedUndecodable Reason = "undecodable"
)

// Reasons for which a stream drops what a publisher sent, for all subscriptions.
const (
	// DroppedBeforeStart: before the first random access point of the session.
	DroppedBeforeStart Reason = "before_start"
	// DroppedSuperseded: another publisher feeds the stream.
	DroppedSuperseded Reason = "superseded"
	// DroppedUnknownTrack: of a track that was not announced.
	DroppedUnknownTrack Reason = "unknown_track"
	// DroppedBadTime: of a time that does not fit that of the other tracks.
	DroppedBadTime Reason = "bad_time"
)

// A State says whether a stream has a publisher.
type State string

// The states of a stream.
const (
	Idle State = "idle"    // no publisher, and nothing to hold for one
	Live State = "live"    // a publisher is attached, with or without media so far
	Held State = "holding" // he is gone; subscriptions stay for the next one
)

// A Snapshot is what a stream is at one moment.
type Snapshot struct {
	State State
	Since time.Time
	// Publications counts those that were ever attached; a change says that
	// another publisher came.
	Publications uint64
	// Tracks as subscriptions see them; nobody may change the slice.
	Tracks []media.Track
}

// An Item is one step of a subscription: new tracks, or a unit.
type Item struct {
	Tracks []media.Track     // set: the tracks from here on
	Unit   *media.AccessUnit // else this
	// Discontinuity: this subscription left out units of the track before this
	// one; beside the unit's own flag, which is for all.
	Discontinuity bool
}

// A Source is the way back to a publisher. The methods must not block; they are
// called without a lock of this package held.
type Source interface {
	// RequestKeyframe asks for a random access point on one of the publisher's own
	// tracks, or on every video track (0).
	RequestKeyframe(track media.TrackID)
	// Superseded says that another publisher feeds the stream from now on.
	Superseded()
}

// later collects what must be called after the stream's lock is released. Wakes
// of up to eight subscriptions cost no allocation.
type later struct {
	fns  [8]func()
	n    int
	more []func()
}

func (l *later) add(f func()) {
	if f == nil {
		return
	}
	if l.n < len(l.fns) {
		l.fns[l.n] = f
		l.n++
		return
	}
	l.more = append(l.more, f)
}

func (l *later) run() {
	for _, f := range l.fns[:l.n] {
		f()
	}
	for _, f := range l.more {
		f()
	}
}

// sameTrack reports whether two descriptions of a track are equal.
func sameTrack(a, b media.Track) bool {
	if !bytes.Equal(a.DecoderConfig, b.DecoderConfig) {
		return false
	}
	return a.ID == b.ID && a.Codec == b.Codec && a.Width == b.Width && a.Height == b.Height &&
		a.FrameRate == b.FrameRate && a.SampleRateHz == b.SampleRateHz && a.Channels == b.Channels &&
		a.BitrateBitsPerSecond == b.BitrateBitsPerSecond && a.Language == b.Language &&
		a.Group == b.Group && a.Rank == b.Rank && a.DerivedFrom == b.DerivedFrom && a.DerivedAs == b.DerivedAs
}

func isVideo(t media.Track) bool { return t.Codec.Kind() == media.Video }

// find returns the track of that id in list.
func find(list []media.Track, id media.TrackID) (media.Track, bool) {
	for _, t := range list {
		if t.ID == id {
			return t, true
		}
	}
	return media.Track{}, false
}
