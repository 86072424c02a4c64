package transcode

import (
	"fmt"
	"math"
)

// An upsampler makes sound of 48 kHz of sound of a lower rate: a low-pass filter over
// its samples with zeros in between, as many as there are to a rate of which both are
// parts. Of the filter only the taps are computed that do not meet a zero, and of what it
// gives only the samples of 48 kHz.
type upsampler struct {
	taps  [][]float32 // one set for each place between two samples that are taken
	step  int         // from a sample that comes out to the next, in places
	place int         // of the next one
	past  []float32   // the newest samples taken, oldest first
	out   []float32
}

// The filter: it passes what lies below seven eighths of half of the lower rate and stops
// its images by 80 dB. It is centred on that half; beta is that of a Kaiser window.
const (
	upsampleTaps = 40
	upsampleBeta = 7.9
	minRateHz    = 8000
	maxPlaces    = 640 // of 11025 Hz
)

// newUpsampler makes one for sound of rateHz.
func newUpsampler(rateHz int) (*upsampler, error) {
	whole := gcd(rateHz, sampleRateHz)
	if rateHz < minRateHz || rateHz > sampleRateHz || sampleRateHz/whole > maxPlaces {
		return nil, fmt.Errorf("sound of %d Hz: want 48000, 44100, 32000 or a half or a quarter of these, or 8000", rateHz)
	}
	factor := sampleRateHz / whole
	u := &upsampler{taps: make([][]float32, factor), step: rateHz / whole, past: make([]float32, upsampleTaps), out: make([]float32, 0, sampleRateHz/rateHz+1)}
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

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// push takes a sample and returns those that come of it; they are valid until the next
// call. They are late by half as many of what is taken as there are taps: 2.5 ms at
// 8 kHz.
func (u *upsampler) push(v float32) []float32 {
	copy(u.past, u.past[1:])
	u.past[len(u.past)-1] = v
	u.out = u.out[:0]
	for ; u.place < len(u.taps); u.place += u.step {
		var sum float32
		for i, p := range u.past {
			sum += p * u.taps[u.place][i]
		}
		u.out = append(u.out, sum)
	}
	u.place -= len(u.taps)
	return u.out
}

// reset forgets what was taken.
func (u *upsampler) reset() {
	clear(u.past)
	u.place = 0
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
