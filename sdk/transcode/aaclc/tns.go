package aaclc

import "math"

// Temporal noise shaping, clause 4.6.9 and TS 26.403, clause 5.5. Linear
// prediction along frequency is to the time envelope within a frame what
// prediction along time is to the spectrum (Herre and Johnston 1996): the
// residual of the lines is coded, and the decoder's synthesis filter gives its
// error the envelope of the signal, louder where the signal is loud. That helps
// speech, whose glottal pulses come faster than windows can be switched.

const (
	tnsOrder    = 12   // the most that LC allows in a long window
	tnsLowestHz = 1300 // below, the filter would smear tones
	tnsGain     = 1.4  // prediction gain that is worth a filter
	tnsPeak     = 3    // loudest block over the mean that makes a frame a candidate
	tnsRes      = 4    // bits per coefficient
	tnsNoise    = 0.2  // white noise added to the envelope, which bounds the filter's gain
	tnsShare    = 0.5  // of the gain for errors, in log2, that is taken off the masks
)

// A tnsFilter is what the bitstream says about a filter, one per frame and
// channel here.
type tnsFilter struct {
	on     bool
	order  int
	length int // bands, counted down from the top
	index  [tnsOrder]int8
	// a are the coefficients of the analysis filter 1 + a[0] z^-1 + ...
	a [tnsOrder]float32
	// gain is the power gain of the synthesis filter for the coding error.
	gain float32
}

// A tnsModel knows where filters of one rate begin and end.
type tnsModel struct {
	firstBand, endBand int
	begin, end         int                   // lines
	length             int                   // as the bitstream counts: bands from firstBand to the last there is
	lag                [tnsOrder + 1]float64 // smooths the envelope: a window on the autocorrelation
	value              [1 << tnsRes]float32  // of a coefficient by index + 8
}

func (m *tnsModel) fill(r *rateTable, bands, sampleRate int) {
	m.endBand = min(bands, r.tnsLong)
	for m.firstBand < m.endBand && r.long[m.firstBand]*sampleRate/(2*frameLines) < tnsLowestHz {
		m.firstBand++
	}
	m.length = len(r.long) - 1 - m.firstBand
	m.begin, m.end = r.long[m.firstBand], r.long[m.endBand]
	// A Gaussian lag window stands for a resolution of some 1.5 ms in time.
	for k := range m.lag {
		x := math.Pi * 0.0025 * float64(sampleRate) / frameLines * float64(k) / 2
		m.lag[k] = math.Exp(-0.5 * x * x)
	}
	for i := range m.value {
		k := float64(i - 8)
		d := 7.5
		if k < 0 {
			d = 8.5
		}
		m.value[i] = float32(math.Sin(k / d * math.Pi / 2))
	}
}

// design finds a filter for the lines of spec, whose band energies are given as
// log2. It reports whether it is worth using.
func (m *tnsModel) design(f *tnsFilter, spec []float32, off []int, energy []float32, white *[frameLines]float32) bool {
	f.on = false
	n := m.end - m.begin
	if n <= 4*tnsOrder {
		return false
	}
	// Every band counts alike: the envelope is that of all frequencies, not that of
	// the loudest.
	for b := m.firstBand; b < m.endBand; b++ {
		lo, hi := off[b], off[b+1]
		g := exp2(-0.5 * (energy[b] - log2(float32(hi-lo))))
		if energy[b] < 0 {
			g = 0
		}
		w := white[lo-m.begin : hi-m.begin]
		for i, x := range spec[lo:hi] {
			w[i] = x * g
		}
	}
	w := white[:n]
	var r [tnsOrder + 1]float64
	for k := 0; k <= tnsOrder; k++ {
		r[k] = float64(correlate(w, k)) * m.lag[k]
	}
	if r[0] < 1 {
		return false
	}
	// Levinson and Durbin, with the reflection coefficients quantised as they come,
	// so that the filter used is the filter sent.
	var a, b [tnsOrder]float64
	e := r[0] * (1 + tnsNoise)
	r[0] = e
	order := 0
	for i := range tnsOrder {
		acc := r[i+1]
		for j := range i {
			acc += a[j] * r[i-j]
		}
		k := -acc / e
		idx := quantiseReflection(k)
		f.index[i] = int8(idx)
		kq := float64(m.value[idx+8])
		copy(b[:i], a[:i])
		for j := range i {
			a[j] = b[j] + kq*b[i-1-j]
		}
		a[i] = kq
		e *= 1 - kq*kq
		if idx != 0 {
			order = i + 1
		}
		if e <= 0 {
			return false
		}
	}
	if r[0] < tnsGain*e || order == 0 {
		return false
	}
	f.on, f.order, f.length = true, order, m.length
	f.gain = float32(r[0] / e)
	for i := range f.a {
		f.a[i] = float32(a[i])
	}
	return true
}

// correlate returns the sum of w[i]*w[i+k].
func correlate(w []float32, k int) float32 {
	var s0, s1 float32
	u := w[k:]
	v := w[:len(u)]
	for len(u) >= 4 && len(v) >= 4 {
		s0 += u[0]*v[0] + u[2]*v[2]
		s1 += u[1]*v[1] + u[3]*v[3]
		u, v = u[4:], v[4:]
	}
	for i := range u {
		s0 += u[i] * v[i]
	}
	return s0 + s1
}

// quantiseReflection returns the index -8..7 of a reflection coefficient
// (clause 4.6.9.3: uniform in its arc sine).
func quantiseReflection(k float64) int {
	k = min(max(k, -0.999), 0.999)
	d := 7.5
	if k < 0 {
		d = 8.5
	}
	return int(math.Round(math.Asin(k) * d * 2 / math.Pi))
}

// apply replaces lines begin..end of spec by the residual, in place, from the
// top down so that every line is predicted from original ones.
func (f *tnsFilter) apply(spec []float32) {
	a := &f.a
	for i := len(spec) - 1; i >= tnsOrder; i-- {
		x := spec[i-tnsOrder : i+1 : i+1]
		_ = x[tnsOrder]
		s0 := a[0]*x[11] + a[1]*x[10] + a[2]*x[9] + a[3]*x[8]
		s1 := a[4]*x[7] + a[5]*x[6] + a[6]*x[5] + a[7]*x[4]
		s2 := a[8]*x[3] + a[9]*x[2] + a[10]*x[1] + a[11]*x[0]
		spec[i] = x[12] + s0 + s1 + s2
	}
	for i := tnsOrder - 1; i >= 0; i-- {
		s := spec[i]
		for j := range i {
			s += a[j] * spec[i-1-j]
		}
		spec[i] = s
	}
}
