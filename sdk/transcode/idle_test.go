package transcode

import (
	"math"
	"testing"
	"time"

	"github.com/thesyncim/gopus"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
)

// idles lets time pass, up to so long after the newest packet, as the SDK does.
func (c *collector) idles(tr sdk.Transformer, quiet time.Duration) {
	c.t.Helper()
	for d := 2 * sdk.IdleInterval; d <= quiet; d += sdk.IdleInterval {
		if err := tr.(sdk.Idler).Idle(d, c.emit); err != nil {
			c.t.Fatal(err)
		}
	}
}

// A publisher who is muted so that nothing comes any more: his targets get silence
// while he is, and what he says next joins on.
func TestSilenceWhileMuted(t *testing.T) {
	tr, c := startQuick(t), &collector{t: t}
	k := newTalker(t, gopus.ApplicationAudio, sine(440, 440))
	for range 50 {
		c.feed(tr, k.next(t))
	}
	const muted = 30 * time.Second
	c.idles(tr, muted)
	complete(t, c.units, time.Second+muted-idleBehind)
	var last *media.AccessUnit
	for range 50 {
		last = k.next(t)
		last.PTS += muted
		last.DTS = last.PTS
		c.feed(tr, last)
	}
	complete(t, c.units, last.PTS+20*time.Millisecond)
	s := tr.audio.stats
	if s.restarts > 0 || s.skipped > 0 || s.concealed > concealAtMost || s.concealed+s.silent < 29*sampleRateHz {
		t.Errorf("stats %+v: want silence after a moment of guessing, and no packet cut", s)
	}
}

// A publisher who was taken for muted and then sends all that he said meanwhile:
// time has gone on without it, so it is cut, and every bit of it is counted.
func TestWhatComesAfterItsSilenceIsCountedAsCut(t *testing.T) {
	for _, stall := range []time.Duration{700 * time.Millisecond, 1300 * time.Millisecond, 3 * time.Second} {
		tr, c := startQuick(t), &collector{t: t}
		k := newTalker(t, gopus.ApplicationAudio, sine(440, 440))
		for range 50 {
			c.feed(tr, k.next(t))
		}
		c.idles(tr, stall)
		for range 250 {
			c.feed(tr, k.next(t))
		}
		for i := 1; i < len(c.units); i++ {
			if step := c.units[i].PTS - c.units[i-1].PTS; step < 10*time.Millisecond || step > 35*time.Millisecond {
				t.Errorf("%v: a step of %v at unit %d", stall, step, i)
			}
		}
		f := tr.Figures()
		cut, madeUp := f["overlapped_seconds_total"], f["concealed_seconds_total"]+f["silent_seconds_total"]
		if madeUp < (stall-2*idleBehind).Seconds() || math.Abs(cut-madeUp) > 0.06 {
			t.Errorf("%v: %.3f s made up and %.3f s cut, want both to be what the stall was", stall, madeUp, cut)
		}
	}
}

// Packets that are late, all of them, are not taken for silence.
func TestLateIsNotMuted(t *testing.T) {
	tr, c := startQuick(t), &collector{t: t}
	k := newTalker(t, gopus.ApplicationAudio, sine(440, 440))
	for range 10 {
		for range 25 {
			c.feed(tr, k.next(t))
		}
		c.idles(tr, mutedAfter-sdk.IdleInterval)
	}
	complete(t, c.units, 5*time.Second)
	if s := tr.audio.stats; s != (stats{}) {
		t.Errorf("stats %+v: want none", s)
	}
}

// In a pause that the sender announced nothing waits for his next packet, which
// may take 400 ms.
func TestPausesAreFilledAsTheyLast(t *testing.T) {
	tr, c := startQuick(t), &collector{t: t}
	k := newTalker(t, gopus.ApplicationAudio, sine(440, 440))
	for range 50 {
		c.feed(tr, k.next(t))
	}
	u := k.next(t)
	u.Payload = u.Payload[:1] // a frame without content: nothing to hear
	c.feed(tr, u)
	c.idles(tr, 300*time.Millisecond)
	complete(t, c.units, u.PTS+20*time.Millisecond+300*time.Millisecond-idleBehind)
	if s := tr.audio.stats; s.comfort == 0 || s.silent > 0 || s.concealed > 0 {
		t.Errorf("stats %+v: want comfort noise alone", s)
	}
}

// Before the first packet there is no time to fill.
func TestIdleBeforeAnything(t *testing.T) {
	tr, c := startQuick(t), &collector{t: t}
	c.idles(tr, time.Second)
	if len(c.units) > 0 {
		t.Errorf("%d units", len(c.units))
	}
}

// fickle is an encoder that remembers how much work it was asked for.
type fickle struct {
	quick
	set *[]bool
}

func (f fickle) SetFast(fast bool) { *f.set = append(*f.set, fast) }

// Under overload the encoder works less, and after a minute of calm as before; one
// packet that comes late decides nothing.
func TestEffortStepsDownUnderOverload(t *testing.T) {
	var set []bool
	e := effort{enc: fickle{set: &set}}
	now := time.Unix(1000, 0)
	packets := func(n int, age time.Duration) {
		for range n {
			now = now.Add(20 * time.Millisecond)
			e.watch(now.Add(-age), now)
		}
	}
	packets(500, 30*time.Millisecond)
	packets(90, 150*time.Millisecond)
	packets(1, 30*time.Millisecond)
	packets(90, 150*time.Millisecond)
	if len(set) != 0 {
		t.Fatalf("%v before two seconds of packets that were all late", set)
	}
	packets(101, 300*time.Millisecond)
	if len(set) != 1 || !set[0] {
		t.Fatalf("%v, want less work", set)
	}
	packets(2990, 20*time.Millisecond)
	packets(1, 80*time.Millisecond)
	packets(2990, 20*time.Millisecond)
	if len(set) != 1 {
		t.Fatalf("%v before a minute of calm", set)
	}
	packets(50, 20*time.Millisecond)
	if len(set) != 2 || set[1] {
		t.Fatalf("%v, want the work of before", set)
	}
	asked := effort{enc: fickle{set: &set}, asked: true}
	for range 200 {
		now = now.Add(20 * time.Millisecond)
		asked.watch(now.Add(-time.Second), now)
	}
	if len(set) != 2 {
		t.Errorf("%v: what was asked for is changed", set)
	}
}

// A target that wants mono gets the mean of both channels.
func TestMono(t *testing.T) {
	tr, c := start(t, sdk.TransformSettings{Channels: 1}), &collector{t: t}
	k := newTalker(t, gopus.ApplicationAudio, sine(440, 1500))
	for range 100 {
		c.feed(tr, k.next(t))
	}
	if tr.Track().Channels != 1 || tr.Track().BitrateBitsPerSecond != defaultMonoBitsPerSecond {
		t.Errorf("track %+v", tr.Track())
	}
	s := decodeChannels(t, c.units, 1)
	for _, hz := range []float64{440, 1500} {
		if l := level(s.left[48000:], hz); l < 0.1 {
			t.Errorf("level of %v Hz is %.3f", hz, l)
		}
	}
}

// What was made up is counted.
func TestFigures(t *testing.T) {
	tr, c := start(t, sdk.TransformSettings{Quality: fastQuality}), &collector{t: t}
	k := newTalker(t, gopus.ApplicationAudio, sine(440, 440))
	for i := range 50 {
		if u := k.next(t); i != 20 {
			c.feed(tr, u)
		}
	}
	f := tr.Figures()
	if v := f["concealed_seconds_total"]; v < 0.015 || v > 0.025 {
		t.Errorf("%v s concealed, want 20 ms", v)
	}
	if f["work_seconds_total"] <= 0 || f["fast"] != 1 {
		t.Errorf("figures %v", f)
	}
}
