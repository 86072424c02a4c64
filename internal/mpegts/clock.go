package mpegts

import "time"

// A ClockTime counts [ClockHz].
type ClockTime int64

// A Clock is the program clock of a stream that is sent as it comes. It runs with
// the sender's own clock, so that what a receiver measures between two of its
// samples is the time between them, and follows the source's clock, which is
// another one, so slowly that no receiver minds. The zero value has not started.
//
// Times are handed in: since when does not matter, as long as it is the same for
// all calls.
type Clock struct {
	// Ahead is how far the clock is kept before the decoding time of what is sent
	// now: what the receiver has to wait for sending and network.
	Ahead time.Duration
	// MaxSlew is the part by which the clock may be faster or slower than its own
	// to follow the source.
	MaxSlew float64

	started bool
	begun   time.Duration // own clock, at the first unit
	at      time.Duration // own clock, at the last correction
	value   time.Duration // program clock then
	slew    float64       // how much faster than its own it has been since then
	behind  bool          // what comes is later than the clock says
	since   time.Duration // since when, own clock
	jumped  bool          // and no sample says so yet
}

const (
	// jumpAhead is how far the source may run ahead before the clock jumps: the
	// past of a stream that is joined comes at once.
	jumpAhead = 200 * time.Millisecond
	// jumpBackAfter is for how long what comes may be later than its decoding time
	// before the clock is set back, which a receiver notices.
	jumpBackAfter = time.Second
	// settled is when the past of a stream that is joined has come; a jump after that
	// is told to the receiver.
	settled = 2 * time.Second
)

// Sent notes that a unit with the decoding time dts, as [Muxer.Timestamp] has it,
// is sent at the time now.
func (c *Clock) Sent(dts, now time.Duration) {
	want := dts - c.Ahead
	if !c.started {
		c.started, c.begun, c.at, c.value = true, now, now, want
		return
	}
	value, slew := c.read(now), 0.0
	off := want - value
	switch {
	case off > jumpAhead:
		value, c.behind = want, false
		c.jumped = c.jumped || now-c.begun > settled
	case off < -c.Ahead:
		// Late: a receiver that waits as long as it was told has nothing to show.
		if !c.behind {
			c.behind, c.since = true, now
		} else if now-c.since > jumpBackAfter {
			value, c.behind, c.jumped = want, false, true
		}
	default:
		c.behind = false
		slew = min(max(off.Seconds(), -c.MaxSlew), c.MaxSlew) // half of what is missing in 0.7 s
	}
	c.at, c.value, c.slew = now, value, slew
}

// read returns the program clock at the time now.
func (c *Clock) read(now time.Duration) time.Duration {
	elapsed := now - c.at
	return c.value + elapsed + time.Duration(float64(elapsed)*c.slew)
}

// Started reports whether there is a clock.
func (c *Clock) Started() bool { return c.started }

// Sample returns the program clock at the time now, and whether it has jumped
// since the last sample.
func (c *Clock) Sample(now time.Duration) (at ClockTime, discontinuity bool) {
	d := c.read(now)
	discontinuity, c.jumped = c.jumped, false
	// 27 MHz is 27 per microsecond.
	us, ns := d/time.Microsecond, d%time.Microsecond
	return ClockTime(int64(us)*27 + int64(ns)*27/1000), discontinuity
}
