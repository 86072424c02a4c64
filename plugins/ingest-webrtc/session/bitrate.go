package session

import "time"

const (
	// unlimitedBPS lifts a limit: publishers keep the last one that they were told.
	unlimitedBPS = 100_000_000
	// releaseFor is how long a lifted limit is repeated, in case packets are lost.
	releaseFor = 10 * time.Second
	// A publisher that follows is under its limit within obeyWithin, but for what
	// retransmissions and a key picture add.
	obeyWithin = 4 * time.Second
	obeyTimes  = 1.3
)

// bitrate is what the publisher is told about the rate of its media, and whether
// it listens. Not safe for concurrent use; its caller tells it the time.
type bitrate struct {
	target   uint64 // zero: no limit
	since    time.Time
	released time.Time // when the limit was lifted; zero if there was none
	over     int       // seconds in a row above the limit
	ignored  bool
	told     bool
}

// set changes the limit; 0 lifts it.
func (b *bitrate) set(bps uint64, now time.Time) {
	if bps == b.target {
		return
	}
	if bps == 0 {
		b.released, b.ignored, b.told = now, false, false
	}
	// Only a lower limit is news to who is above it.
	if b.target == 0 || bps < b.target {
		b.since, b.over = now, 0
	}
	b.target = bps
}

// observe takes in the rate at which media came during the last second.
func (b *bitrate) observe(bps float64, now time.Time) {
	switch {
	case b.target == 0 || now.Sub(b.since) < obeyWithin:
		return
	case bps <= float64(b.target)*obeyTimes:
		b.over, b.ignored, b.told = 0, false, false
	default:
		if b.over++; b.over >= 3 {
			b.ignored = true
		}
	}
}

// news reports, once, that the publisher does not listen.
func (b *bitrate) news() bool {
	news := b.ignored && !b.told
	b.told = b.told || news
	return news
}

// tell returns the limit to repeat to the publisher; false if none is to be told.
func (b *bitrate) tell(now time.Time) (bps uint64, ok bool) {
	switch {
	case b.target != 0:
		return b.target, true
	case !b.released.IsZero() && now.Sub(b.released) < releaseFor:
		return unlimitedBPS, true
	}
	return 0, false
}
