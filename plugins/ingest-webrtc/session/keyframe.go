package session

import "time"

const (
	// keyframeEvery is the least distance of two keyframe requests to a publisher;
	// keyframeSlack is what an answer takes beyond a round trip.
	keyframeEvery = 500 * time.Millisecond
	keyframeSlack = 300 * time.Millisecond
	// keyframeTries is how often a request is repeated while no random access
	// point comes: requests get lost, too. Where the publisher offers both kinds, the
	// later half are full intra requests.
	keyframeTries = 6
	// keyframeWithin is how long a video may go on without a random access point.
	// CDNs want one every two seconds, and browsers send none unasked; the rest
	// is for the jitter of those who send them every two seconds by themselves.
	keyframeWithin = 2100 * time.Millisecond
	// A publisher ignores requests if at most keyframeHits of the last
	// keyframeJudged were answered in time: some random access points come just then
	// by themselves. Then one request in keyframeProbe is left, in case it was the
	// network.
	keyframeJudged = 8
	keyframeHits   = 3
	keyframeProbe  = 30 * time.Second
)

// A request is what is sent for a random access point.
type request int

const (
	noRequest    request = iota
	pictureLoss          // PLI, RFC 4585 6.3.1
	intraRequest         // FIR, RFC 5104 4.3.1
)

// keyframes decides when a publisher is asked for a random access point, and how,
// and learns whether he listens. The first request goes out at once, further ones
// are gathered. Not safe for concurrent use; its caller tells it the time.
type keyframes struct {
	intra     bool // the publisher offers full intra requests
	roundTrip time.Duration

	wanted      bool
	wantedSince time.Time
	sent        time.Time // the last request; zero before the first
	tries       int

	open      bool   // the last request is not judged
	answers   uint16 // of the last requests, the newest lowest; 1 is answered in time
	judged    int
	ignored   bool
	lastReply time.Duration // how long the last answer took

	// answered and unanswered count requests.
	answered, unanswered uint64
}

// want notes that somebody needs a random access point. latest is when the last
// one came.
func (k *keyframes) want(now, latest time.Time) {
	if !k.wanted || latest.After(k.wantedSince) {
		k.wanted, k.wantedSince, k.tries = true, now, 0
	}
}

// patience is how long an answer may take.
func (k *keyframes) patience() time.Duration { return max(keyframeEvery, k.roundTrip+keyframeSlack) }

// next returns what to send at now, and otherwise when to ask again (ok: there is
// something to wait for). flowing says that pictures have come since the last
// request: without them silence means nothing.
func (k *keyframes) next(now, latest time.Time, flowing bool) (send request, at time.Time, ok bool) {
	k.judge(now, latest, flowing)
	if k.wanted && (latest.After(k.wantedSince) || k.tries >= keyframeTries) {
		k.wanted = false
	}
	if !k.wanted {
		if k.open {
			return noRequest, k.sent.Add(k.patience()), true
		}
		return noRequest, time.Time{}, false
	}
	every := k.patience()
	if k.ignored {
		every = keyframeProbe
	}
	if at := k.sent.Add(every); !k.sent.IsZero() && now.Before(at) {
		return noRequest, at, true
	}
	send = pictureLoss
	if k.intra && k.tries >= keyframeTries/2 {
		send = intraRequest
	}
	k.sent, k.open = now, true
	k.tries++
	return send, now.Add(k.patience()), true
}

// judge notes whether the last request was answered, once that can be said.
func (k *keyframes) judge(now, latest time.Time, flowing bool) {
	switch {
	case !k.open:
		return
	case latest.After(k.sent):
		k.open = false
		k.lastReply = latest.Sub(k.sent)
		k.note(k.lastReply < k.patience())
	case now.Sub(k.sent) >= k.patience():
		k.open = false
		if flowing {
			k.note(false)
		}
	}
}

func (k *keyframes) note(answered bool) {
	k.answers <<= 1
	if answered {
		k.answers |= 1
		k.answered++
	} else {
		k.unanswered++
	}
	k.judged = min(k.judged+1, keyframeJudged)
	hits := 0
	for i := range k.judged {
		hits += int(k.answers >> i & 1)
	}
	switch {
	case k.ignored && k.answers&3 == 3: // twice in a row
		k.ignored, k.judged = false, 2
	case k.judged == keyframeJudged && hits <= keyframeHits:
		k.ignored = true
	}
}
