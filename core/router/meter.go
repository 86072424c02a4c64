package router

import "time"

// MediaStats are what a subscription wrote of one kind of media.
type MediaStats struct {
	Units, Bytes uint64
	// KeyframeInterval is the media time between the two newest random access
	// points, or since the newest one if that is longer; 0 before there was one.
	// Where units were left out in between it is not measured.
	KeyframeInterval time.Duration
	// Reordered counts the units that are shown before one that was written
	// earlier: there are B-frames.
	Reordered uint64
}

// A meter measures the units of one kind as they leave flight. The subscription's
// stream guards it.
type meter struct {
	units, bytes, reordered uint64

	keyed    bool          // key is the DTS of a random access point without a gap since
	key      time.Duration // of the newest random access point
	interval time.Duration // between the two before
	last     time.Duration // DTS of the newest unit
	shown    time.Duration // the greatest PTS since the last random access point
}

func (m *meter) count(e *entry) {
	u := e.unit
	m.units++
	m.bytes += uint64(len(u.Payload))
	if e.disc || u.Discontinuity {
		m.keyed = false
	}
	switch {
	case u.RandomAccess:
		if m.keyed {
			m.interval = u.DTS - m.key
		}
		m.keyed, m.key = true, u.DTS
		m.shown = u.PTS
	case u.PTS < m.shown:
		m.reordered++
	default:
		m.shown = max(m.shown, u.PTS)
	}
	m.last = u.DTS
}

func (m *meter) stats() MediaStats {
	st := MediaStats{Units: m.units, Bytes: m.bytes, Reordered: m.reordered, KeyframeInterval: m.interval}
	if m.keyed {
		st.KeyframeInterval = max(m.interval, m.last-m.key)
	}
	return st
}

// paceSpan is over how long the pace of a reader is measured: once to twice that.
const paceSpan = 250 * time.Millisecond

// A pace is how fast a reader takes bytes. The zero value has seen none.
type pace struct {
	from         time.Time // when the present span began
	bytes, since int       // in the one before, and since then
}

func (p *pace) count(now time.Time, bytes int) {
	p.turn(now)
	p.since += bytes
}

// rate is bytes per second; zero if it takes nothing.
func (p *pace) rate(now time.Time) float64 {
	p.turn(now)
	return float64(p.bytes+p.since) / (paceSpan + now.Sub(p.from)).Seconds()
}

// turn ends the spans that are over.
func (p *pace) turn(now time.Time) {
	switch since := now.Sub(p.from); {
	case since < paceSpan:
	case since < 2*paceSpan:
		*p = pace{from: p.from.Add(paceSpan), bytes: p.since}
	default:
		*p = pace{from: now}
	}
}

// How many credits a past remembers, and how close together at most: enough for what a
// socket holds of a stream.
const (
	pastLen  = 64
	pastStep = 50 * time.Millisecond
)

// A past is how late a reader's units were when they were written. The zero value
// remembers nothing.
type past struct {
	at   [pastLen]time.Time
	lags [pastLen]time.Duration
	n    int // so far
}

func (p *past) note(now time.Time, lag time.Duration) {
	if p.n > 0 && now.Sub(p.at[(p.n-1)%pastLen]) < pastStep {
		return
	}
	p.at[p.n%pastLen], p.lags[p.n%pastLen] = now, lag
	p.n++
}

// lag is how late what was written at that time was; zero if that was not seen.
func (p *past) lag(at time.Time) time.Duration {
	for i := p.n - 1; i >= max(0, p.n-pastLen); i-- {
		if !p.at[i%pastLen].After(at) {
			return p.lags[i%pastLen]
		}
	}
	return 0
}
