package clock

import (
	"slices"
	"time"
)

const (
	// maxReorder is how many pictures of reordering an order can follow.
	maxReorder = 4
	// minStep is the least distance of two decoding times: one millisecond, the
	// resolution of RTMP, so that they still differ there.
	minStep = time.Millisecond
)

// An order gives the units of one track their decoding times: strictly rising,
// never after the presentation time. Without B-frames they are equal.
type order struct {
	depth   int             // pictures that may follow one in decoding order and precede it in output
	waiting []time.Duration // presentation times not yet used as decoding times, sorted
	started bool
	frame   time.Duration // the last distance of two presentation times
	lastPTS time.Duration
	lastDTS time.Duration
}

// grow sets the depth. It never shrinks: what was promised to receivers stays true.
func (o *order) grow(depth int) { o.depth = max(o.depth, min(depth, maxReorder)) }

// stamp returns the times of the next unit. behind says that by the sender's own
// time it comes before one that went ahead: the sender uses B-frames.
func (o *order) stamp(want time.Duration, behind bool) (pts, dts time.Duration) {
	if !o.started {
		o.started, o.frame, o.lastPTS = true, 33*time.Millisecond, want
		o.lastDTS = want - time.Duration(maxReorder+1)*time.Second
	}
	if d := want - o.lastPTS; d > minStep && d < time.Second {
		o.frame = d
	}
	o.lastPTS = want
	if behind && want < o.lastDTS+minStep {
		o.grow(o.depth + 1)
	}
	dts = want
	if o.depth > 0 {
		dts = o.take(want)
	}
	dts = max(dts, o.lastDTS+minStep)
	o.lastDTS = dts
	return max(want, dts), dts
}

// take puts pts to those waiting and returns the lowest of them, which pictures
// still to come cannot undercut; at the start, where there are too few, a time
// before all of them.
func (o *order) take(pts time.Duration) time.Duration {
	i, _ := slices.BinarySearch(o.waiting, pts)
	o.waiting = slices.Insert(o.waiting, i, pts)
	if missing := o.depth + 1 - len(o.waiting); missing > 0 {
		return o.waiting[0] - time.Duration(missing)*o.frame
	}
	o.waiting = slices.Delete(o.waiting, 0, len(o.waiting)-o.depth-1)
	return o.waiting[0]
}
