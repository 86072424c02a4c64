package nmr

import (
	"math"
	"math/rand/v2"
	"testing"
)

func tone(delay int, noise float64) []int16 {
	r := rand.New(rand.NewPCG(1, 2))
	s := make([]int16, 2*48000)
	for i := range len(s) / 2 {
		k := float64(i - delay)
		v := 6000*math.Sin(k*0.05) + 3000*math.Sin(k*0.31) + 2000*math.Sin(k*k*1e-5)
		s[2*i] = int16(v + noise*(r.Float64()-0.5))
		s[2*i+1] = int16(v/2 + noise*(r.Float64()-0.5))
	}
	return s
}

func TestEqualSignals(t *testing.T) {
	s := tone(0, 0)
	r, _, err := Compare(s, s)
	if err != nil || r.Delay != 0 || r.NMR > -29.9 || r.Disturbed != 0 || r.LSD > 1e-9 {
		t.Errorf("a signal differs from itself: %+v, %v", r, err)
	}
}

func TestDelayIsFound(t *testing.T) {
	for _, d := range []int{1, 1024, 1600} {
		if r, _, err := Compare(tone(0, 0), tone(d, 0)); err != nil || r.Delay != d {
			t.Errorf("delay %d is measured as %d (%v)", d, r.Delay, err)
		}
	}
}

func TestMoreNoiseIsWorse(t *testing.T) {
	last := math.Inf(-1)
	for _, noise := range []float64{4, 40, 400, 4000} {
		r, _, err := Compare(tone(0, 0), tone(0, noise))
		if err != nil || r.NMR <= last {
			t.Errorf("noise of %g: NMR %g after %g (%v)", noise, r.NMR, last, err)
		}
		last = r.NMR
	}
	if last < 0 {
		t.Errorf("loud noise is masked: NMR %g", last)
	}
}
