package aaclc

import "math"

// The quantiser of clause 4.6.1: q = int(|x|^(3/4) * step^(-3/4) + 0.4054). The
// power law makes steps grow with the value, as masking does; rounding below
// one half suits values that are more often small than large.

const rounding = 0.4054

// loudness prepares the quantiser: it fills mag with |line|^(3/4) for each line of
// a band, and returns the band's form factor, the sum of |line|^(1/2), and its
// largest mag.
func loudness(mag, spec []float32) (form, peak float32) {
	mag = mag[:len(spec)]
	for i, x := range spec {
		r := sqrt32(math.Float32frombits(math.Float32bits(x) &^ (1 << 31)))
		m := r * sqrt32(r)
		mag[i] = m
		form += r
		peak = max(peak, m)
	}
	return form, peak
}

// quantise fills q with a band's quantised lines, signs included, k being
// step^(-3/4); it returns the largest magnitude.
func quantise(q []int16, mag, spec []float32, k float32) (big int32) {
	mag, q = mag[:len(spec)], q[:len(spec)]
	for i, x := range spec {
		v := int32(mag[i]*k + rounding)
		big = max(big, v)
		s := int32(math.Float32bits(x)) >> 31
		q[i] = int16((v ^ s) - s)
	}
	return big
}

// measure does the same and returns the energy of the error as well.
func (t *tables) measure(q []int16, mag, spec []float32, sf int) (big int32, noise float32) {
	mag, q = mag[:len(spec)], q[:len(spec)]
	k, step := t.step34[sf&255], t.step[sf&255]
	for i, x := range spec {
		v := int32(mag[i]*k + rounding)
		big = max(big, v)
		b := math.Float32bits(x)
		s := int32(b) >> 31
		q[i] = int16((v ^ s) - s)
		d := math.Float32frombits(b&^(1<<31)) - t.pow43[v&maxQuant]*step
		noise += d * d
	}
	return big, noise
}
