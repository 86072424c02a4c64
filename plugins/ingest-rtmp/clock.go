package ingestrtmp

import "time"

// A clock turns a publisher's timestamps, milliseconds modulo 2^32 that start
// anywhere, into times of one session: from 0, over the wrap, and on where they were
// when the publisher's own clock jumps. The zero value is ready. Not safe for
// concurrent use.
type clock struct {
	begun bool
	stamp uint32        // of the message before
	raw   time.Duration // of it, without wrap, since the first

	running bool
	shift   time.Duration // added to what the publisher says, since it jumped
	newest  time.Duration // the highest DTS so far
	at      time.Time     // when the last unit came
	jumps   uint64
}

const (
	// maxJump is by how much timestamps may step, beside the time that passed,
	// before the publisher's clock has jumped; maxBack by how much those of one track
	// may fall.
	maxJump = 10 * time.Second
	maxBack = 500 * time.Millisecond
	// onePicture is how far the time goes on at a jump.
	onePicture = 40 * time.Millisecond
)

// time returns a timestamp without wrap, since the first.
func (c *clock) time(stamp uint32) time.Duration {
	if !c.begun {
		c.begun, c.stamp = true, stamp
	}
	c.raw += time.Duration(int32(stamp-c.stamp)) * time.Millisecond
	c.stamp = stamp
	return c.raw
}

// settle returns the DTS of a unit of t: it rises strictly on each track.
func (c *clock) settle(t *track, raw time.Duration, now time.Time) time.Duration {
	if !c.running {
		c.running, c.shift, c.at = true, -raw, now
	}
	dts := raw + c.shift
	step, passed := dts-c.newest, now.Sub(c.at)
	if step > maxJump+passed || step < -maxJump || t.timed && dts < t.last-maxBack {
		c.jumps++
		c.shift += c.newest + onePicture - dts
		dts = raw + c.shift
	}
	if t.timed && dts <= t.last {
		dts = t.last + time.Millisecond
	}
	t.last, t.timed = dts, true
	c.newest, c.at = max(c.newest, dts), now
	return dts
}
