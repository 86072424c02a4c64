// Package clock maps the RTP timestamps of a session's tracks onto one epoch,
// so that picture and sound stay together from the first unit on.
//
// Until the sender has said in RTCP sender reports how its tracks belong
// together, the packets that arrived with the least delay say it; afterwards the
// reports do. The sound is the master: its times follow its own sample clock
// exactly. The picture is moved towards it slowly, or by one step at a random
// access point. Times of a track never go back.
//
// Some senders stop the RTP time of a track while it is muted. What comes then looks
// held up for as long as the pause was; what really was held up comes faster than it
// was sent, and soon is not late any more. A track that stays late, while the others
// are not, has stood still and goes on where it belongs.
//
// The package knows nothing of packets or codecs; its caller tells it the time.
package clock

import (
	"sync"
	"time"
)

const (
	// window is half of the time over which the least delay is looked for.
	window = 5 * time.Second
	// A difference below deadband is left alone; one above step is put right at
	// the next random access point. In between the times of a track are moved by
	// slew per second until the difference is below settled.
	deadband = 10 * time.Millisecond
	settled  = 2 * time.Millisecond
	step     = 80 * time.Millisecond
	// 2 % of speed is not seen, and it takes 4 s to put 80 ms right, of which people
	// notice more than 45 (ITU-R BT.1359).
	slew = 20 * time.Millisecond
	// jump is how far RTP time and arrival may drift apart between two units
	// before the track is taken to have begun anew.
	jump = 3 * time.Second
	// pauseLeast is how long nothing must have come, and how much later than that its
	// RTP time says a unit must be, for the RTP time to be suspected of having stood
	// still; pauseTest is how long what follows is watched then.
	pauseLeast = 500 * time.Millisecond
	pauseTest  = 200 * time.Millisecond
	// plausible is how far sender reports may contradict the arrivals.
	plausible = 2 * time.Second
	// reportJitter and the slope of 1 % bound the error of a sender report
	// against the one before it.
	reportJitter = 20 * time.Millisecond
)

// A Clock is the time of one session. Safe for concurrent use.
type Clock struct {
	epoch time.Time

	mu     sync.Mutex // guards the fields below and all tracks
	tracks []*Track
}

// New returns a Clock whose times count from epoch.
func New(epoch time.Time) *Clock { return &Clock{epoch: epoch} }

// A Track is the time of one track. Units must be stamped in decoding order.
// Safe for concurrent use.
type Track struct {
	clock  *Clock
	rateHz int64
	master bool

	started    bool
	lastRTP    uint32
	ticks      int64 // unwrapped RTP time of the last unit, from 0 at the first
	lastAt     time.Duration
	offset     time.Duration // PTS = media time + offset
	slewing    bool
	slewedAt   time.Duration // media time at which offset was last moved
	wanted     time.Duration // presentation time of the last unit, before order
	highest    int64         // the highest of ticks
	order      order
	least      [2]time.Duration // least arrival - media time: of this window and the one before
	leastSince time.Duration
	late       time.Duration // arrival - media time of the last unit
	pause      pause

	early     *earlyReport  // came before the first unit
	report    report        // the last one accepted
	suspect   report        // the last one that contradicted report
	reference time.Duration // of the sender: its clock at media time 0
	reported  bool          // reference is known
}

// A pause is one in which the RTP time may have stood still.
type pause struct {
	suspected bool
	since     time.Duration // arrival of the first unit behind it
	before    time.Duration // least delay until then
	least     time.Duration // least delay since
}

// A report is a sender report: the sender's clock and the media time it goes with.
type report struct {
	set   bool
	ntp   time.Time
	media time.Duration
}

// An earlyReport is a sender report whose media time is not known yet.
type earlyReport struct {
	ntp time.Time
	rtp uint32
}

// AddTrack adds a track with an RTP clock of rateHz. The first track added as
// master leads the others; without one, the first that is stamped does.
func (c *Clock) AddTrack(rateHz int, master bool) *Track {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &Track{clock: c, rateHz: int64(rateHz), master: master}
	c.tracks = append(c.tracks, t)
	return t
}

// A Time is when a unit is presented and decoded, from the epoch of the session.
type Time struct {
	// PTS is never before DTS; DTS rises strictly.
	PTS, DTS time.Duration
	// Jumped: the RTP time broke off, and the track began anew behind its last unit.
	Jumped bool
}

// SetReorder says how many pictures may follow one in decoding order and precede
// it in output, as the stream itself tells. Where it does not tell, the track
// learns it from the times.
func (t *Track) SetReorder(pictures int) {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	t.order.grow(pictures)
}

// Stamp returns the times of the unit with the RTP timestamp rtp whose first
// packet arrived at arrival. A large error is put right at a random access point.
func (t *Track) Stamp(rtp uint32, arrival time.Time, randomAccess bool) Time {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	at := arrival.Sub(t.clock.epoch)
	jumped := false
	if !t.started {
		t.start(rtp, at)
	} else if d := t.duration(int64(int32(rtp-t.lastRTP))) - (at - t.lastAt); d > jump || d < -jump {
		t.restart(rtp, at)
		jumped = true
	} else {
		t.suspectPause(rtp, at)
		t.move(rtp, at, randomAccess)
		jumped = t.stoodStill(at)
	}
	t.highest = max(t.highest, t.ticks)
	pts, dts := t.order.stamp(t.wanted, t.ticks < t.highest)
	return Time{PTS: pts, DTS: dts, Jumped: jumped}
}

func (t *Track) move(rtp uint32, at time.Duration, randomAccess bool) {
	t.ticks += int64(int32(rtp - t.lastRTP))
	t.lastRTP, t.lastAt = rtp, max(t.lastAt, at)
	m := t.media()
	t.observe(at, m)
	t.correct(m, randomAccess)
	t.wanted = m + t.offset
}

// suspectPause notes a unit that is as late as the pause before it was long.
func (t *Track) suspectPause(rtp uint32, at time.Duration) {
	gap := at - t.lastAt
	if gap >= pauseLeast && gap-t.duration(int64(int32(rtp-t.lastRTP))) >= pauseLeast && !t.pause.suspected {
		t.pause = pause{suspected: true, since: at, before: t.leastDelay(), least: 1<<63 - 1}
	}
}

// stoodStill decides, once enough has come behind a pause, whether the RTP time stood
// still in it, and moves the track then.
func (t *Track) stoodStill(at time.Duration) bool {
	p := &t.pause
	if !p.suspected {
		return false
	}
	p.least = min(p.least, t.late)
	stood := p.least - p.before
	switch {
	case stood < pauseLeast || t.clock.othersLate(t, stood/2):
		p.suspected = false // held up on the way
	case at-p.since >= pauseTest:
		p.suspected = false
		t.offset += stood
		t.wanted = max(t.wanted+stood, t.order.lastDTS+minStep)
		t.order.waiting = nil
		t.least, t.leastSince = [2]time.Duration{p.least, p.least}, at
		t.slewing = false
		// What was reported is of the time before.
		t.report, t.suspect, t.reported = report{}, report{}, false
		return true
	}
	return false
}

// othersLate reports whether what came last of another track was later than usual by
// more than d: the network is to blame then.
func (c *Clock) othersLate(t *Track, d time.Duration) bool {
	for _, o := range c.tracks {
		if o != t && o.started && o.late-o.leastDelay() > d {
			return true
		}
	}
	return false
}

// duration converts a difference of RTP time.
func (t *Track) duration(ticks int64) time.Duration {
	s := ticks / t.rateHz
	return time.Duration(s)*time.Second + time.Duration((ticks-s*t.rateHz)*int64(time.Second)/t.rateHz)
}

func (t *Track) media() time.Duration { return t.duration(t.ticks) }

// start puts the first unit where the other tracks say it belongs.
func (t *Track) start(rtp uint32, at time.Duration) {
	t.anchor(rtp, at)
	t.offset = at
	if e := t.early; e != nil {
		t.early = nil
		t.accept(t.reportOf(e.ntp, e.rtp))
	}
	if o := t.clock.other(t); o != nil {
		t.offset = o.offset + t.offsetFrom(o)
	}
	t.wanted = t.offset
}

// restart goes on after the last time by what has passed since.
func (t *Track) restart(rtp uint32, at time.Duration) {
	pts := max(t.wanted, t.order.lastDTS) + max(0, at-t.lastAt)
	t.anchor(rtp, at)
	t.offset, t.wanted = pts, pts
	t.order.waiting = nil
}

func (t *Track) anchor(rtp uint32, at time.Duration) {
	t.started, t.lastRTP, t.ticks, t.highest, t.lastAt = true, rtp, 0, 0, at
	t.least, t.leastSince, t.late, t.pause = [2]time.Duration{at, at}, at, at, pause{}
	t.slewing, t.slewedAt = false, 0
	t.report, t.suspect, t.reported = report{}, report{}, false
}

// observe takes in how late a unit was.
func (t *Track) observe(at, media time.Duration) {
	late := at - media
	t.late = late
	if at-t.leastSince > window {
		t.least[1], t.least[0], t.leastSince = t.least[0], late, at
		return
	}
	t.least[0] = min(t.least[0], late)
}

func (t *Track) leastDelay() time.Duration { return min(t.least[0], t.least[1]) }

// leader returns the track that the others follow; nil if none has begun.
func (c *Clock) leader() *Track {
	var first *Track
	for _, t := range c.tracks {
		if !t.started {
			continue
		}
		if t.master {
			return t
		}
		if first == nil {
			first = t
		}
	}
	return first
}

// other returns the track that t is placed by when it begins; nil if it is the first.
func (c *Clock) other(t *Track) *Track {
	if l := c.leader(); l != nil && l != t {
		return l
	}
	for _, o := range c.tracks {
		if o != t && o.started {
			return o
		}
	}
	return nil
}

// offsetFrom returns by how much the offset of t should exceed that of o.
func (t *Track) offsetFrom(o *Track) time.Duration {
	byArrival := t.leastDelay() - o.leastDelay()
	if t.reported && o.reported {
		byReport := t.reference - o.reference
		if d := byReport - byArrival; d < plausible && d > -plausible {
			return byReport
		}
	}
	return byArrival
}

// correct moves t towards the leader.
func (t *Track) correct(media time.Duration, randomAccess bool) {
	l := t.clock.leader()
	since := media - t.slewedAt
	if since > 0 {
		t.slewedAt = media
	}
	if l == t {
		return
	}
	err := l.offset + t.offsetFrom(l) - t.offset
	size := max(err, -err)
	if size > step && randomAccess {
		t.offset += err
		t.slewing = false
		return
	}
	if size > deadband {
		t.slewing = true
	} else if size < settled {
		t.slewing = false
	}
	if !t.slewing || since <= 0 {
		return
	}
	most := min(since, time.Second) * slew / time.Second
	t.offset += max(-most, min(most, err))
}

// SenderReport takes in what an RTCP sender report says: at ntp, a wall clock
// that the session's tracks share, the RTP time of the track was rtp. Reports
// that cannot be true are ignored.
func (t *Track) SenderReport(ntp time.Time, rtp uint32) {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	if !t.started {
		t.early = &earlyReport{ntp, rtp} // some senders say it before all else
		return
	}
	r := t.reportOf(ntp, rtp)
	switch {
	case !t.report.set:
		t.accept(r)
	case r.follows(t.report):
		t.accept(r)
	case t.suspect.set && r.follows(t.suspect):
		// Two in a row agree with each other: the sender's clock was set.
		t.reported = false
		t.accept(r)
	default:
		t.suspect = r
	}
}

func (t *Track) reportOf(ntp time.Time, rtp uint32) report {
	return report{set: true, ntp: ntp, media: t.duration(t.ticks + int64(int32(rtp-t.lastRTP)))}
}

func (t *Track) accept(r report) {
	// Any origin will do as long as all tracks have the same.
	reference := r.ntp.Sub(t.clock.epoch) - r.media
	if t.reported {
		reference = t.reference + (reference-t.reference)/4
	}
	t.report, t.suspect, t.reference, t.reported = r, report{}, reference, true
}

// follows reports whether r can come after o: the RTP time runs as fast as the
// clock does, within 1 %.
func (r report) follows(o report) bool {
	wall, media := r.ntp.Sub(o.ntp), r.media-o.media
	if wall < 0 {
		return false
	}
	diff := max(wall-media, media-wall)
	return diff <= wall/100+reportJitter
}

// Offset returns by how much the picture is away from where it belongs beside the
// sound, as far as is known: positive if it is shown too late. ok is false while
// there are not two tracks.
func (c *Clock) Offset() (d time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.leader()
	if l == nil {
		return 0, false
	}
	for _, t := range c.tracks {
		if t != l && t.started {
			return t.offset - l.offset - t.offsetFrom(l), true
		}
	}
	return 0, false
}
