package router

import "github.com/headgate/gateway/sdk/media"

// cache keeps the units since the newest random access point of each video track,
// those of all tracks in the order of their arrival, within gopMax and
// gopMaxBytes. It is used under the lock of its stream.
type cache struct {
	units ring[*media.AccessUnit]
	// first is the arrival number of the unit at the front.
	first uint64
	bytes int
	// start is the arrival number of the newest random access point of a video
	// track; absent if its group is not whole.
	start map[media.TrackID]uint64
	// valid is the first arrival number that fits the track's present description.
	valid map[media.TrackID]uint64
}

func newCache() cache {
	return cache{start: make(map[media.TrackID]uint64), valid: make(map[media.TrackID]uint64)}
}

func (c *cache) next() uint64 { return c.first + uint64(c.units.len()) }

// add keeps u if it belongs to a group that is kept.
func (c *cache) add(u *media.AccessUnit, video bool) {
	if video && u.RandomAccess {
		c.start[u.Track] = c.next()
	}
	if len(c.start) == 0 {
		return
	}
	c.units.push(u)
	c.bytes += len(u.Payload)
	c.trim()
	for c.units.len() > 0 && (c.bytes > gopMaxBytes || u.DTS-c.units.at(0).DTS > gopMax) {
		c.pop()
		for id, n := range c.start {
			if n < c.first {
				delete(c.start, id)
			}
		}
		c.trim()
	}
}

// trim lets go of what no group needs.
func (c *cache) trim() {
	need := c.next()
	for _, n := range c.start {
		need = min(need, n)
	}
	for c.first < need {
		c.pop()
	}
}

func (c *cache) pop() {
	c.bytes -= len(c.units.pop().Payload)
	c.first++
}

// invalidate forgets what was kept of a track: its description changed.
func (c *cache) invalidate(id media.TrackID) {
	delete(c.start, id)
	c.valid[id] = c.next()
	c.trim()
}

func (c *cache) clear() {
	clear(c.start)
	clear(c.valid)
	c.trim()
}

// group returns the arrival number of the random access point that the kept group
// of a video track begins with, and that unit; nil if there is none.
func (c *cache) group(id media.TrackID) (uint64, *media.AccessUnit) {
	n, ok := c.start[id]
	if !ok {
		return 0, nil
	}
	return n, c.units.at(int(n - c.first))
}
