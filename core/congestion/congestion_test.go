package congestion

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/gateway/core/config"
)

const step = 10 * time.Millisecond

// world is a publisher who follows limits after a while, and a line with a queue.
type world struct {
	wants float64 // bits per second of the publisher
	obeys bool

	limit    uint64
	told     []uint64 // the limit at each step: it arrives later
	now      time.Duration
	sends    float64
	received float64 // bytes
}

func (w *world) Received() uint64            { return uint64(w.received) }
func (w *world) SetTargetBitrate(bps uint64) { w.limit = bps }

func (w *world) run() {
	const delay = 70 // steps
	w.told = append(w.told, w.limit)
	want := w.wants
	if n := len(w.told) - delay; n > 0 && w.obeys && w.told[n-1] > 0 {
		want = min(want, float64(w.told[n-1]))
	}
	if want > w.sends && w.sends > 0 { // up takes longer than down
		want = min(want, w.sends*1.01)
	}
	w.sends = want
	w.received += w.sends / 8 * step.Seconds()
}

// line is a target behind a line of some rate. What the peer took is known once a second.
type line struct {
	rate          float64
	queue, taken  float64
	reported      float64
	reportedAt    time.Duration
	live          bool
	worstLag, lag time.Duration
}

func (l *line) run(now time.Duration, in float64) {
	l.queue += in / 8 * step.Seconds()
	out := min(l.queue, l.rate/8*step.Seconds())
	l.queue -= out
	l.taken += out
	if now-l.reportedAt >= time.Second {
		l.reported, l.reportedAt = l.taken, now
	}
	if l.queue*8/l.rate > 2 { // the gateway drops up to the newest keyframe
		l.queue = l.rate / 8 / 2
	}
	l.lag = time.Duration(l.queue * 8 / l.rate * float64(time.Second))
	l.worstLag = max(l.worstLag, l.lag)
}

func (l *line) Load() Load {
	return Load{Live: l.live, Lag: l.lag, MaxLag: 2 * time.Second, Taken: uint64(l.reported)}
}

func play(loop *Loop, w *world, d time.Duration, lines ...*line) {
	for end := w.now + d; w.now < end; w.now += step {
		w.run()
		for _, l := range lines {
			l.run(w.now, w.sends)
		}
		if w.now%interval == 0 {
			if bps := loop.step(time.Unix(1000, 0).Add(w.now)); bps != w.limit {
				w.SetTargetBitrate(bps)
			}
		}
	}
}

func follow(f config.Follow, floor uint64) config.Congestion {
	return config.Congestion{Follow: f, FloorBPS: floor}
}

func these(t ...Target) func() []Target { return func() []Target { return t } }

// A target that is throttled to 400 kb/s brings the publisher under that within
// 5 s, does not fall behind by more than it may, and lets go within 15 s.
func TestThrottledTarget(t *testing.T) {
	w := &world{wants: 2.5e6, obeys: true}
	slow, quick := &line{rate: 1e8, live: true}, &line{rate: 1e8, live: true}
	l := New(follow(config.FollowSlowest, 100_000), w, these(quick, slow))
	play(l, w, 10*time.Second, quick, slow)
	if w.limit != 0 {
		t.Fatalf("limited to %d while all is well", w.limit)
	}
	slow.rate = 400_000
	play(l, w, 5*time.Second, quick, slow)
	if w.limit == 0 || w.sends >= 400_000 {
		t.Errorf("after 5 s the publisher sends %.0f, limited to %d", w.sends, w.limit)
	}
	play(l, w, 20*time.Second, quick, slow)
	slow.worstLag = 0
	play(l, w, 60*time.Second, quick, slow)
	if slow.worstLag > 700*time.Millisecond {
		t.Errorf("settled, it lags by up to %v", slow.worstLag)
	}
	if w.sends < 250_000 || w.sends > 480_000 {
		t.Errorf("settled at %.0f", w.sends)
	}
	slow.rate = 1e8
	play(l, w, 15*time.Second, quick, slow)
	if w.limit != 0 {
		t.Errorf("15 s after the line is free the limit is %d", w.limit)
	}
}

func TestWhoIsFollowed(t *testing.T) {
	f := func(p config.Congestion, slowIsFirst bool, want bool) {
		t.Helper()
		w := &world{wants: 2.5e6, obeys: true}
		slow, quick := &line{rate: 400_000, live: true}, &line{rate: 1e8, live: true}
		targets := these(quick, slow)
		if slowIsFirst {
			targets = these(slow, quick)
		}
		play(New(p, w, targets), w, 6*time.Second, slow, quick)
		if limited := w.limit != 0; limited != want {
			t.Errorf("%+v, the slow one first %v: limit %d", p, slowIsFirst, w.limit)
		}
	}
	f(follow(config.FollowSlowest, 0), false, true)
	f(follow(config.FollowPrimary, 0), false, false)
	f(follow(config.FollowPrimary, 0), true, true)
}

// The floor holds, whatever a target takes; a publisher who does not follow is
// asked for the floor in the end, and one whose target is gone is let go.
func TestFloor(t *testing.T) {
	w := &world{wants: 2.5e6}
	slow := &line{rate: 100_000, live: true}
	l := New(follow(config.FollowSlowest, 500_000), w, these(slow))
	play(l, w, 20*time.Second, slow)
	if w.limit != 500_000 {
		t.Errorf("limit %d", w.limit)
	}
	slow.live = false
	play(l, w, 20*time.Second, slow)
	if w.limit != 0 {
		t.Errorf("the target is gone, and the limit is %d", w.limit)
	}
}

// A rate is what lies between changes of the count, however often it is read.
func TestMeter(t *testing.T) {
	var m meter
	at := time.Unix(1000, 0)
	if _, ok := m.rate(at, 1000); ok {
		t.Error("a rate of one sample")
	}
	for i := 1; i <= 40; i++ {
		at = at.Add(interval)
		r, ok := m.rate(at, 1000+uint64(i/4)*100_000)
		if ok != (i >= 4) || ok && r != 800_000 {
			t.Errorf("sample %d: %v %v", i, r, ok)
		}
	}
	if len(m.samples) > 8 {
		t.Errorf("%d samples are kept", len(m.samples))
	}
	if r, _ := m.rate(at.Add(2*time.Second), 1_001_000); r != 0 {
		t.Errorf("%v of a count that does not change", r)
	}
	if _, ok := m.rate(at.Add(3*time.Second), 10); ok {
		t.Error("a rate over two sessions")
	}
}

// shared is a world that two goroutines look at.
type shared struct {
	mu sync.Mutex
	*world
	slow *line
}

func (s *shared) Received() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.world.Received()
}

func (s *shared) SetTargetBitrate(bps uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.world.SetTargetBitrate(bps)
}

func (s *shared) Load() Load {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slow.Load()
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shared{world: &world{wants: 2e6, sends: 2e6}, slow: &line{rate: 400_000, live: true}}
		if err := New(follow(config.FollowNone, 0), s, these(s)).Run(t.Context()); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- New(follow(config.FollowSlowest, 0), s, these(s)).Run(ctx) }()
		for range 1000 {
			time.Sleep(step) // synctest
			s.mu.Lock()
			s.run()
			s.slow.run(s.now, s.sends)
			s.now += step
			s.mu.Unlock()
		}
		cancel()
		if err := <-done; err != nil || s.limit == 0 {
			t.Errorf("%v, limit %d", err, s.limit)
		}
	})
}
