package transcode

import "time"

// Under overload the encoder does less work per frame, before any sound is lost:
// packets that arrive ever later than they were received say so.
const (
	lateFrom   = 100 * time.Millisecond // older than any jitter of a healthy process
	lateFor    = 2 * time.Second
	calmFor    = time.Minute
	onTimeUpTo = 50 * time.Millisecond
)

// A steppable encoder has more than one way to spend its time.
type steppable interface {
	// SetFast chooses between the best sound and the least work, from the next frame
	// on.
	SetFast(bool)
}

// effort decides how much work the encoder may do.
type effort struct {
	enc   AACEncoder
	asked bool // for little work, whatever the load
	fast  bool

	since time.Time // when the age of the packets passed the limit that counts now
}

func (e *effort) set(fast bool) {
	if s, ok := e.enc.(steppable); ok {
		s.SetFast(fast)
		e.fast = fast
	}
}

// watch looks at a packet that the gateway received at one time, zero if unknown,
// and that is decoded now.
func (e *effort) watch(received, now time.Time) {
	if e.asked || received.IsZero() {
		return
	}
	age := now.Sub(received)
	if !e.fast && age < lateFrom || e.fast && age > onTimeUpTo {
		e.since = now
		return
	}
	if e.since.IsZero() {
		e.since = now
	}
	wait := lateFor
	if e.fast {
		wait = calmFor
	}
	if now.Sub(e.since) >= wait {
		e.set(!e.fast)
		e.since = now
	}
}
