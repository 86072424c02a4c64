package router

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/gateway/sdk/media"
)

// TestSlowReader: a reader that suddenly takes 400 kb/s of 1 Mb/s, with as much under
// way as its window allows, lags by no more than it may: what would be written too late
// is dropped while it can be. One that stands still and then catches up loses nothing.
func TestSlowReader(t *testing.T) {
	const (
		window     = 64 << 10
		healthy    = 10 << 20 // bytes per second
		pictures   = 30
		pictureLen = 1_000_000 / 8 / pictures
	)
	// run plays for a while at each of the paces, and returns the greatest lag and what
	// was dropped.
	run := func(t *testing.T, paces ...int) (worst time.Duration, dropped uint64) {
		synctest.Test(t, func(t *testing.T) {
			s := NewStream(1, "a")
			want := true
			p := s.Publish(source(func() { want = true }))
			p.SetTracks([]media.Track{{ID: 1, Codec: media.H264, DecoderConfig: []byte("c")}})
			sub := s.Subscribe(SubscriptionConfig{MaxLag: 2 * time.Second, Wake: func() {}})
			sub.Start(func(t []media.Track) []media.Track { return t })
			const tick = time.Second / pictures / 4
			var flight []int
			at, inFlight, can := time.Duration(0), 0, 0.0
			for _, pace := range paces {
				for i := range int(1500 * time.Millisecond / tick) {
					if i%4 == 0 {
						u := &media.AccessUnit{Track: 1, DTS: at, PTS: at, Payload: make([]byte, pictureLen), RandomAccess: want}
						if at += time.Second / pictures; want {
							u.Payload, want = make([]byte, 3*pictureLen), false
						}
						p.Write(u)
					}
					if can += float64(pace) * tick.Seconds(); len(flight) == 0 {
						can = float64(pace) * tick.Seconds()
					}
					for again := true; again; {
						again = false
						if inFlight < window {
							for _, it := range sub.Pull(nil, window-inFlight) {
								if it.Unit != nil {
									flight = append(flight, len(it.Unit.Payload))
									inFlight += len(it.Unit.Payload)
								}
							}
						}
						for len(flight) > 0 && float64(flight[0]) <= can {
							can -= float64(flight[0])
							inFlight -= flight[0]
							sub.Credited(flight[0])
							flight, again = flight[1:], true
						}
					}
					worst = max(worst, sub.Stats().Lag)
					time.Sleep(tick)
				}
			}
			dropped = sub.Stats().Dropped[DroppedLag]
		})
		return worst, dropped
	}
	slow := 400_000 / 8
	if worst, dropped := run(t, healthy, slow, slow, slow, slow); worst > 2*time.Second || dropped == 0 {
		t.Errorf("a slow reader lags by %v, and %d pictures were dropped", worst, dropped)
	}
	if worst, dropped := run(t, healthy, 0, healthy, healthy); worst < time.Second || dropped > 0 {
		t.Errorf("a reader that stood still lagged by %v, and %d pictures were dropped", worst, dropped)
	}
}
