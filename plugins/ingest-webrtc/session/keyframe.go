package session

import "time"

const (
	// keyframeEvery is the least distance of two keyframe requests to a publisher.
	keyframeEvery = 500 * time.Millisecond
	// keyframeTries is how often a request is repeated while no random access
	// point comes: requests get lost, too, and some publishers ignore them.
	keyframeTries = 3
	// keyframeWithin is how long a video may go on without a random access point.
	// CDNs want one every two seconds, and browsers send none unasked; the rest
	// is for the jitter of those who send them every two seconds by themselves.
	keyframeWithin = 2100 * time.Millisecond
)

// keyframes decides when a publisher is asked for a random access point. The
// first request goes out at once, further ones are gathered. Not safe for
// concurrent use; its caller tells it the time.
type keyframes struct {
	wanted      bool
	wantedSince time.Time
	sent        time.Time // the last request; zero before the first
	tries       int
}

// want notes that somebody needs a random access point. latest is when the last
// one came.
func (k *keyframes) want(now, latest time.Time) {
	if !k.wanted || latest.After(k.wantedSince) {
		k.wanted, k.wantedSince, k.tries = true, now, 0
	}
}

// next returns whether to send a request at now, and otherwise when to ask again
// (ok: there is something to wait for).
func (k *keyframes) next(now, latest time.Time) (send bool, at time.Time, ok bool) {
	if k.wanted && (latest.After(k.wantedSince) || k.tries >= keyframeTries) {
		k.wanted = false
	}
	if !k.wanted {
		return false, time.Time{}, false
	}
	if at := k.sent.Add(keyframeEvery); !k.sent.IsZero() && now.Before(at) {
		return false, at, true
	}
	k.sent = now
	k.tries++
	return true, now.Add(keyframeEvery), true
}
