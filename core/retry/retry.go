// Package retry says when to try again. It knows failures and time, not what
// failed.
package retry

import "time"

// The pace of trying again.
const (
	// Healthy is how long something must have worked for its failure to be the
	// first of a new row: it is tried again at once.
	Healthy = 5 * time.Second

	first     = 250 * time.Millisecond
	early     = time.Minute
	earlyCap  = 2 * time.Second
	steadyCap = 30 * time.Second
)

// A Backoff is a row of failures. The zero value is none. It is used from one
// goroutine.
type Backoff struct {
	failures int
	since    time.Time // of the row
}

// Next counts a failure at now, after the thing had worked for so long, and
// returns how long to wait: nothing after health, else full jitter over a bound
// that doubles from 0.25 s to 2 s within the first minute of the row and to 30 s
// after it. random is within [0, 1).
func (b *Backoff) Next(now time.Time, worked time.Duration, random float64) time.Duration {
	if worked >= Healthy {
		*b = Backoff{}
		return 0
	}
	if b.failures == 0 {
		b.since = now
	}
	b.failures++
	limit := steadyCap
	if now.Sub(b.since) < early {
		limit = earlyCap
	}
	bound := limit
	if n := b.failures - 1; n < 10 {
		bound = min(limit, first<<n)
	}
	return time.Duration(random * float64(bound))
}

// Reset forgets the row.
func (b *Backoff) Reset() { *b = Backoff{} }
