package retry

import (
	"testing"
	"time"
)

func TestNext(t *testing.T) {
	var b Backoff
	now := time.Unix(0, 0)
	f := func(after, worked time.Duration, random float64, want time.Duration) {
		t.Helper()
		now = now.Add(after)
		if got := b.Next(now, worked, random); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	f(0, time.Hour, 0.5, 0) // it worked: at once
	f(0, 0, 0.5, 125*time.Millisecond)
	f(0, 0, 0.5, 250*time.Millisecond)
	f(0, time.Second, 0.5, 500*time.Millisecond) // one second is no health
	f(0, 0, 0.5, time.Second)
	f(0, 0, 0.5, time.Second) // the cap of the first minute
	f(0, 0, 0, 0)             // full jitter
	f(time.Minute, 0, 0.5, 8*time.Second)
	f(time.Minute, 0, 0.5, 15*time.Second)
	for range 100 {
		f(time.Minute, 0, 1, 30*time.Second)
	}
	f(0, 5*time.Second, 1, 0)
	f(0, 0, 1, 250*time.Millisecond)
	b.Reset()
	f(0, 0, 1, 250*time.Millisecond)
}
