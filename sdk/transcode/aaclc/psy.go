package aaclc

import "math"

// Psychoacoustics on the MDCT lines, as in TS 26.403, clause 5.4: how much error
// each band may hide.
//
//  1. The energy of each band, compressed by the power 0.4 (loudness adds in that
//     domain: Lutfi 1983; ITU-R BS.1387, clause 2.1.7), is spread to its neighbours:
//     27 dB per Bark downwards, 15 dB upwards, as sounds of medium level mask.
//  2. The mask lies below that excitation by 6 dB and a quarter of a dB per Bark.
//  3. What is below the threshold in quiet (Terhardt 1979) is not heard at all.
//  4. Pre-echo control: the mask of a band must not rise faster than a factor of
//     two per frame, lest the error of a loud moment spread over the silence
//     before it; but never below 1 % of itself.
//
// When bits are short, the sum over all cells of hearing of error over mask is to be
// as small as the bits allow. A cell with few lines is cheap to code well; by
// Lagrange's rule the error over the mask is in proportion to the lines in the
// cell. That tilt is part of the masks here, so the rest of the encoder need only
// keep one distance between error and mask.
//
// Bands are of unequal width in Bark. The model is as if the energy of each were
// even in cells of half a Bark, the loudness of a cell decaying exponentially to
// both sides; the integrals of that over bands separate, so a running sum upwards
// and one downwards do for all pairs of bands.

const (
	spreadDown  = 27.0 // dB per Bark
	spreadUp    = 15.0
	compression = 0.4
	cellBark    = 0.5
)

// A bandModel holds the constants of the bands of a window of one length.
type bandModel struct {
	n      int                 // bands that are coded
	off    []int               // first lines, n+1 of them
	up     [maxSfbLong]flow    // spreading to higher bands
	down   [maxSfbLong]flow    // to lower ones
	own    [maxSfbLong]float32 // the excitation of a band by itself
	cells  [maxSfbLong]float32 // log2 of the band's width in cells
	offset [maxSfbLong]float32 // log2 of mask over excitation, all cells together
	quiet  [maxSfbLong]float32 // log2 of the threshold in quiet
	tilt   [maxSfbLong]float32 // log2 of what offset has for the lines per cell
}

// A flow says how excitation crosses a band: what is added at its far edge by the
// band's own loudness, what is left there of that at its near edge, and what the
// mean over the band is of the latter.
type flow struct{ add, keep, mean float32 }

func bark(hz float64) float64 { return 7 * math.Asinh(hz/650) }

// fill prepares the model of windows of so many lines, the first n bands of off.
func (m *bandModel) fill(off []int, n, lines, sampleRate int) {
	m.n, m.off = n, off[:n+1]
	hz := func(line float64) float64 { return line * float64(sampleRate) / float64(2*lines) }
	for b := range n {
		lo, hi := hz(float64(off[b])), hz(float64(off[b+1]))
		centre := (bark(lo) + bark(hi)) / 2
		cells := (bark(hi) - bark(lo)) / cellBark
		width := float64(off[b+1] - off[b])
		// Lines per cell, all windows of a frame together, on the scale of ten.
		crowd := float64((off[b+1]-off[b])*frameLines/lines) / cells / 10
		m.cells[b], m.tilt[b] = float32(math.Log2(cells)), float32(math.Log2(crowd))
		m.offset[b] = float32(math.Log2(cells) - (6+0.25*centre)/10*math.Log2(10) + math.Log2(crowd))
		own := 0.0
		cross := func(slope float64) flow {
			a := compression * slope * cellBark / 10 * math.Ln10
			rest := math.Exp(-a * cells)
			mean := (1 - rest) / (a * cells)
			own += (1 - mean) / a
			return flow{float32((1 - rest) / a), float32(rest), float32(mean)}
		}
		m.up[b], m.down[b] = cross(spreadUp), cross(spreadDown)
		m.own[b] = float32(own)
		// Terhardt's curve, 0 dB being a sine of one 16-bit step; of the band the most
		// sensitive of a few points. The energy of a sine of amplitude 1 in the lines
		// of one window is the square of their number.
		quiet := math.Inf(1)
		for i := range 5 {
			k := max(hz(float64(off[b])+width*float64(i)/4), 20) / 1000
			quiet = min(quiet, 3.64*math.Pow(k, -0.8)-6.5*math.Exp(-0.6*(k-3.3)*(k-3.3))+1e-3*k*k*k*k)
		}
		m.quiet[b] = float32(quiet/10*math.Log2(10) + 2*math.Log2(float64(lines)) + min(0, math.Log2(cells)))
	}
}

// masks computes from the log2 of the band energies the log2 of the masks.
func (m *bandModel) masks(energy, mask []float32) {
	var loud, excitation [maxSfbLong]float32
	n := m.n
	energy, mask = energy[:n], mask[:n]
	acc := float32(0)
	for b, e := range energy {
		l := exp2(compression * (e - m.cells[b]))
		loud[b] = l
		f := &m.up[b]
		excitation[b] = l*m.own[b] + acc*f.mean
		acc = acc*f.keep + l*f.add
	}
	acc = 0
	for b := n - 1; b >= 0; b-- {
		f := &m.down[b]
		x := excitation[b] + acc*f.mean
		acc = acc*f.keep + loud[b]*f.add
		mask[b] = max(log2(x)/compression+m.offset[b], m.quiet[b])
	}
}

// bandEnergies fills log2 of the energies of the bands off of spec.
func bandEnergies(spec []float32, off []int, energy []float32) {
	for b := range len(off) - 1 {
		var e0, e1 float32
		s := spec[off[b]:off[b+1]]
		for len(s) >= 4 {
			e0 += s[0]*s[0] + s[2]*s[2]
			e1 += s[1]*s[1] + s[3]*s[3]
			s = s[4:]
		}
		energy[b] = log2(e0 + e1 + 1e-20)
	}
}
