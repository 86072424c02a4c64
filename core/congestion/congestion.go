// Package congestion decides what a publisher may send so that its targets keep
// up: it watches how far targets lag and how much they really take, and turns that
// into a limit. It knows figures and time, and nothing of streams, plugins or how
// a publisher is told.
package congestion

import (
	"context"
	"slices"
	"time"

	"github.com/headgate/gateway/core/config"
)

// The pace and the measures of the control loop.
const (
	interval = 250 * time.Millisecond
	// span is over how long rates are measured at least: plugins report about once a
	// second what their peers took.
	span = 750 * time.Millisecond
	// A target is congested when it lags by a quarter of what it may, within these
	// bounds; below a quarter of that nothing of it is left.
	leastLag, mostLag = 250 * time.Millisecond, time.Second
	// A limit is this share of what the target takes: what waits must go as well.
	decrease = 0.85
	// again is the least time between two decreases: a publisher takes about a second
	// to follow, and what was sent before has to pass.
	again = 1500 * time.Millisecond
	// holdFor is how long a limit stays after the congestion is over. Then it rises:
	// fast to where the target was last congested, slowly to a little beyond, where it
	// waits whether that shows again, and fast from there.
	holdFor  = 2500 * time.Millisecond
	fast     = 1.60 // per second
	slowly   = 1.15
	near     = 0.90
	beyond   = 1.15
	probeFor = 1500 * time.Millisecond
	// A limit never rises further than this above what comes: nobody knows whether the
	// target would take that. One that is so high for a while, or above what came
	// without a limit, limits nothing and is lifted.
	room    = 2
	liftFor = 2 * time.Second
)

// A Load is how one target is doing.
type Load struct {
	// Live: the target has a session that takes media.
	Live bool
	// Lag and MaxLag are as of its queue.
	Lag, MaxLag time.Duration
	// Taken counts the bytes that its peer has really taken, or as near to that as
	// the plugin can tell. It may go down when a session begins.
	Taken uint64
}

// A Target tells its load. Targets are compared with ==.
type Target interface {
	Load() Load
}

// A Source is where the media come from and can be told to send less.
type Source interface {
	// Received counts the bytes that have come.
	Received() uint64
	// SetTargetBitrate limits the source to so many bits per second; 0 is no limit.
	SetTargetBitrate(bps uint64)
}

// A Loop controls one source. Make it with [New].
type Loop struct {
	policy  config.Congestion
	source  Source
	targets func() []Target

	limit    float64 // bits per second; 0 for none
	knee     float64 // what the congested target took
	before   float64 // what came before there was a limit
	lowered  time.Time
	over     time.Time     // when the congestion was last seen
	lag      time.Duration // of the worst target when the limit was last lowered
	idle     time.Time     // since when the limit has room; zero if it has none
	probing  time.Time     // since when the limit is beyond the knee; zero if it is not
	stepped  time.Time
	received meter
	taken    map[Target]*meter
}

// New makes a loop over the targets that there are at any moment, in the order of
// the configuration. It starts nothing.
func New(policy config.Congestion, source Source, targets func() []Target) *Loop {
	return &Loop{policy: policy, source: source, targets: targets, taken: make(map[Target]*meter)}
}

// followed are the targets that matter. Of those that are gone nothing is kept.
func (l *Loop) followed() []Target {
	list := l.targets()
	if l.policy.Follow == config.FollowPrimary && len(list) > 1 {
		list = list[:1]
	}
	for t := range l.taken {
		if !slices.Contains(list, t) {
			delete(l.taken, t)
		}
	}
	return list
}

// Run controls the source until ctx ends. It returns at once if the policy follows
// nobody.
func (l *Loop) Run(ctx context.Context) error {
	if l.policy.Follow == config.FollowNone {
		return nil
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	last := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if bps := l.step(time.Now()); bps != last {
			l.source.SetTargetBitrate(bps)
			last = bps
		}
	}
}

// step takes in how things are at now and returns the limit; 0 for none.
func (l *Loop) step(now time.Time) uint64 {
	in, _ := l.received.rate(now, l.source.Received())
	if l.limit == 0 {
		l.before = max(in, l.before*0.98)
	}
	since := now.Sub(l.stepped)
	if l.stepped.IsZero() {
		since = 0
	}
	l.stepped = now
	slowest, worst, congested := 0.0, time.Duration(0), false
	for _, t := range l.followed() {
		load := t.Load()
		if !load.Live {
			delete(l.taken, t)
			continue
		}
		if l.taken[t] == nil {
			l.taken[t] = &meter{}
		}
		taken, known := l.taken[t].rate(now, load.Taken)
		trigger := min(max(load.MaxLag/4, leastLag), mostLag)
		if load.Lag >= trigger/4 && l.limit > 0 {
			l.over = now // what waits is still on its way
		}
		if l.limit > l.knee {
			trigger /= 2 // it is asked for more than it took before: be alert
		}
		if load.Lag < trigger || !known {
			continue
		}
		if !congested || taken < slowest {
			slowest = taken
		}
		congested, worst = true, max(worst, load.Lag)
	}
	switch {
	case congested:
		l.lower(slowest, worst, now)
	case l.limit > 0 && now.Sub(l.over) >= holdFor && now.Sub(l.lowered) >= holdFor:
		l.raise(in, since, now)
	}
	return uint64(l.limit)
}

// lower limits the source to what the slowest target takes, less what it takes to
// get rid of what waits.
func (l *Loop) lower(taken float64, lag time.Duration, now time.Time) {
	l.over, l.idle = now, time.Time{}
	if now.Sub(l.lowered) < again {
		return
	}
	limit := taken * decrease
	if l.limit > 0 && limit >= l.limit && lag > l.lag {
		limit = l.limit * decrease // it is in force, and the lag still grows
	}
	limit = max(limit, float64(l.policy.FloorBPS))
	if l.limit > 0 && limit >= l.limit {
		l.lag = lag
		return
	}
	l.limit, l.knee, l.lowered, l.lag, l.probing = limit, max(taken, limit), now, lag, time.Time{}
}

// raise lets the limit grow, and lifts it when it limits nothing any more. in is
// what comes.
func (l *Loop) raise(in float64, since time.Duration, now time.Time) {
	perSecond := fast
	switch {
	case l.limit < l.knee*near:
	case l.limit < l.knee*beyond:
		perSecond = slowly
	case l.probing.IsZero():
		l.probing = now
		return
	case now.Sub(l.probing) < probeFor:
		return
	}
	l.limit = max(l.limit, min(l.limit*(1+(perSecond-1)*since.Seconds()), max(in*room, l.knee*beyond)))
	switch roomy := l.limit >= in*room*0.99 && l.limit >= l.knee*beyond; {
	case !roomy:
		l.idle = time.Time{}
	case l.idle.IsZero():
		l.idle = now
	}
	if l.limit >= l.before*1.2 || !l.idle.IsZero() && now.Sub(l.idle) >= liftFor {
		l.limit, l.knee, l.probing, l.idle = 0, 0, time.Time{}, time.Time{}
	}
}

// A meter makes a rate of a count that is read again and again, and that changes
// in steps.
type meter struct {
	samples []sample
	last    float64
	known   bool
}

type sample struct {
	at    time.Time
	count uint64
}

// stale is when a count that does not change says that nothing comes.
const stale = 1500 * time.Millisecond

// rate takes in count and returns bits per second between its last changes; false
// until that can be said.
func (m *meter) rate(now time.Time, count uint64) (float64, bool) {
	n := len(m.samples)
	if n > 0 && count < m.samples[n-1].count {
		*m = meter{samples: m.samples[:0]} // it began anew
		n = 0
	}
	if n > 0 && count == m.samples[n-1].count && now.Sub(m.samples[n-1].at) < stale {
		return m.last, m.known
	}
	m.samples = append(m.samples, sample{now, count})
	from := 0
	for from+1 < len(m.samples) && now.Sub(m.samples[from+1].at) >= span {
		from++
	}
	m.samples = append(m.samples[:0], m.samples[from:]...)
	if d := now.Sub(m.samples[0].at); d >= span {
		m.last, m.known = float64(count-m.samples[0].count)*8/d.Seconds(), true
	}
	return m.last, m.known
}
