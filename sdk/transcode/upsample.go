package transcode

import (
	"fmt"
	"math"
)

// An upsampler makes several samples of 48 kHz of each sample that it takes: a
// low-pass filter over the samples with zeros in between, of which only the taps are
// computed that do not meet a zero.
type upsampler struct {
	taps [][]float32 // one set for each sample that comes out of one
	past []float32   // the newest samples taken, oldest first
	out  []float32
}

// The filter: it passes what telephone sound has and stops its images by 80 dB. It is
// centred on half of the lower rate; beta is that of a Kaiser window.
const (
	upsampleTaps = 40
	upsampleBeta = 7.9
	maxUpsample  = 6
)

// newUpsampler makes one for sound of rateHz, of which 48 kHz is a multiple.
func newUpsampler(rateHz int) (*upsampler, error) {
	if rateHz <= 0 || sampleRateHz%rateHz != 0 || sampleRateHz/rateHz > maxUpsample {
		return nil, fmt.Errorf("sound of %d Hz: want 8000, 9600, 12000, 16000, 24000 or 48000", rateHz)
	}
	factor := sampleRateHz / rateHz
	u := &upsampler{taps: make([][]float32, factor), past: make([]float32, upsampleTaps), out: make([]float32, factor)}
	length := upsampleTaps * factor
	middle := float64(length) / 2
	for phase := range u.taps {
		set := make([]float32, upsampleTaps)
		sum := 0.0
		for i := range set {
			// The newest sample is the last one and meets the earliest tap.
			x := float64((upsampleTaps-1-i)*factor+phase) - middle
			v := sinc(x/float64(factor)) * kaiser(x/middle)
			set[i] = float32(v)
			sum += v
		}
		for i := range set {
			set[i] /= float32(sum) // each phase alone leaves a constant what it is
		}
		u.taps[phase] = set
	}
	return u, nil
}

// push takes a sample and returns those that come of it; they are valid until the next
// call. They are late by half as many of what is taken as there are taps: 2.5 ms at
// 8 kHz.
func (u *upsampler) push(v float32) []float32 {
	copy(u.past, u.past[1:])
	u.past[len(u.past)-1] = v
	for phase, taps := range u.taps {
		var sum float32
		for i, p := range u.past {
			sum += p * taps[i]
		}
		u.out[phase] = sum
	}
	return u.out
}

func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	return math.Sin(math.Pi*x) / (math.Pi * x)
}

// kaiser is the window at x, from -1 to 1.
func kaiser(x float64) float64 {
	return bessel(upsampleBeta*math.Sqrt(max(0, 1-x*x))) / bessel(upsampleBeta)
}

// bessel is the modified Bessel function of the first kind and order 0.
func bessel(x float64) float64 {
	sum, term := 1.0, 1.0
	for k := 1; k < 40; k++ {
		term *= (x / 2) / float64(k) * (x / 2) / float64(k)
		sum += term
	}
	return sum
}
