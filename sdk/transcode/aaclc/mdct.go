package aaclc

import "math"

// The filterbank: ISO/IEC 14496-3, subpart 4, clause 4.6.11. A frame's window
// covers 2048 samples and overlaps its neighbours by half; the MDCT makes 1024
// lines of it, critically sampled, and the aliasing of two neighbours cancels
// (Princen and Bradley 1986) because the squares of a falling and the next
// rising slope add up to one.
//
//	ONLY_LONG    ___/‾‾‾\___    one slope of 1024 up, one down
//	LONG_START   ___/‾‾‾‾‾|_    long up; flat, then 128 down
//	EIGHT_SHORT  ____^^^^^^^^   eight windows of 256, 128 apart
//	LONG_STOP    _|‾‾‾‾‾\___    128 up, flat; long down
//
// The lines are on the scale of the standard's decoder with 16-bit samples: its
// inverse transform of them, without quantisation, yields the input.

// A windowSequence says how a frame's samples are windowed (Table 4.44).
type windowSequence uint8

const (
	onlyLong windowSequence = iota
	longStart
	eightShort
	longStop
)

// A windowShape is the form of the slopes (clause 4.6.11.3.2).
type windowShape uint8

const (
	sineShape windowShape = iota
	kbdShape              // Kaiser-Bessel-derived, alpha 4 (long) and 6 (short)
)

// filterbank holds the constant tables of the transform. Each slope is stored
// rising; a falling one is read backwards.
type filterbank struct {
	fft        fftTables
	long       [2][frameLines]float32 // by shape
	startStop  [2][frameLines]float32 // 448 zeros, a short slope, 448 ones
	short      [2][shortLines]float32
	pre, post  [frameLines / 2]c64 // twiddle factors around the FFT
	pre8, pst8 [shortLines / 2]c64
}

const flat = (frameLines - shortLines) / 2 // 448: constant parts of START and STOP

func (f *filterbank) fill() {
	f.fft.fill()
	sine := func(w []float32) {
		for n := range w {
			w[n] = float32(math.Sin(math.Pi / float64(2*len(w)) * (float64(n) + 0.5)))
		}
	}
	sine(f.long[sineShape][:])
	sine(f.short[sineShape][:])
	kaiserBesselDerived(f.long[kbdShape][:], 4)
	kaiserBesselDerived(f.short[kbdShape][:], 6)
	for shape := range f.startStop {
		w := &f.startStop[shape]
		copy(w[flat:], f.short[shape][:])
		for n := flat + shortLines; n < frameLines; n++ {
			w[n] = 1
		}
	}
	twiddle := func(pre, post []c64) {
		m := float64(2 * len(pre))
		for n := range pre {
			s, c := math.Sincos(-math.Pi * (float64(n) + 0.125) / m)
			pre[n] = c64{float32(c), float32(s)}
			post[n] = c64{float32(2 * c), float32(2 * s)} // the standard's transform has a factor of 2
		}
	}
	twiddle(f.pre[:], f.post[:])
	twiddle(f.pre8[:], f.pst8[:])
}

// kaiserBesselDerived fills w with a rising slope: the root of the running sum
// of a Kaiser window over its total.
func kaiserBesselDerived(w []float32, alpha float64) {
	n := len(w)
	kaiser := make([]float64, n+1)
	total := 0.0
	for p := range kaiser {
		r := 2*float64(p)/float64(n) - 1
		kaiser[p] = besselI0(math.Pi * alpha * math.Sqrt(1-r*r))
		total += kaiser[p]
	}
	sum := 0.0
	for p := range w {
		sum += kaiser[p]
		w[p] = float32(math.Sqrt(sum / total))
	}
}

// besselI0 is the modified Bessel function of the first kind, order 0, by its
// power series.
func besselI0(x float64) float64 {
	sum, term := 1.0, 1.0
	for k := 1.0; term > 1e-12*sum; k++ {
		term *= x / 2 / k * (x / 2 / k)
		sum += term
	}
	return sum
}

// slopes returns the rising half and the falling half (stored rising) of a long
// window.
func (f *filterbank) slopes(seq windowSequence, left, right windowShape) (rise, fall *[frameLines]float32) {
	rise, fall = &f.long[left], &f.long[right]
	switch seq {
	case longStart:
		fall = &f.startStop[right]
	case longStop:
		rise = &f.startStop[left]
	case onlyLong, eightShort:
	}
	return rise, fall
}

// transformLong writes the 1024 lines of the 2048 samples x to out.
//
// With x = (a, b, c, d) in quarters, the MDCT is a DCT-IV of (-c'-d, a-b'),
// where ' reverses; the DCT-IV of M values is a complex FFT of M/2 between two
// rotations.
func (f *filterbank) transformLong(out *[frameLines]float32, x []float32, rise, fall *[frameLines]float32, z *[frameLines / 2]c64) {
	const m, q = frameLines, frameLines / 2
	a, b, c, d := x[0:q:q], x[q:m:m], x[m:m+q:m+q], x[m+q:2*m:2*m]
	fold(z[:], f.pre[:], a, b, c, d, rise[:q], rise[q:], fall[q:], fall[:q])
	f.fft.fft512(z)
	at := &f.fft.at512
	for k := range q {
		y, w := z[at[k]&511], f.post[k]
		out[2*k] = y.r*w.r - y.i*w.i
		out[m-1-2*k] = -(y.r*w.i + y.i*w.r)
	}
}

// transformShort writes the 128 lines of the 256 samples x to out.
func (f *filterbank) transformShort(out *[shortLines]float32, x []float32, rise, fall *[shortLines]float32, z *[shortLines / 2]c64) {
	const m, q = shortLines, shortLines / 2
	a, b, c, d := x[0:q:q], x[q:m:m], x[m:m+q:m+q], x[m+q:2*m:2*m]
	fold(z[:], f.pre8[:], a, b, c, d, rise[:q], rise[q:], fall[q:], fall[:q])
	f.fft.fft64(z)
	at := &f.fft.at64
	for k := range q {
		y, w := z[at[k]&63], f.pst8[k]
		out[2*k] = y.r*w.r - y.i*w.i
		out[m-1-2*k] = -(y.r*w.i + y.i*w.r)
	}
}

// fold windows the quarters a, b, c, d, folds them to len(a)*2 values u and
// leaves the rotated pairs u[2n] + i*u[2M-1-2n] in z. The windows of c and d
// are read backwards: wc and wd are the halves of the rising slope.
func fold(z, pre []c64, a, b, c, d, wa, wb, wc, wd []float32) {
	q := len(a)
	pre = pre[:len(z)]
	b, c, d = b[:q], c[:q], d[:q]
	wa, wb, wc, wd = wa[:q], wb[:q], wc[:q], wd[:q]
	h := q / 2
	for n := range h {
		i, j := 2*n, q-1-2*n
		// u[2n] = -c'[2n] - d[2n]; u[2M-1-2n] = a[q-1-2n] - b[2n]
		re := -c[j]*wc[i] - d[i]*wd[j]
		im := a[j]*wa[j] - b[i]*wb[i]
		w := pre[n]
		z[n] = c64{re*w.r - im*w.i, re*w.i + im*w.r}
	}
	for n := range h {
		i, j := 2*n, q-1-2*n
		// u[q+2n] = a[2n] - b[q-1-2n]; u[q-1-2n] = -c[2n] - d[q-1-2n]
		re := a[i]*wa[i] - b[j]*wb[j]
		im := -c[i]*wc[j] - d[j]*wd[i]
		w := pre[h+n]
		z[h+n] = c64{re*w.r - im*w.i, re*w.i + im*w.r}
	}
}
