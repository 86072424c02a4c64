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
// Bands are of unequal width in Bark. The sums are made as if the spectrum were
// cut in cells of half a Bark, each band being so many cells or so many parts
// of a cell.

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
	up     [maxSfbLong]float32 // excitation carried over from the band below
	down   [maxSfbLong]float32 // from the band above
	cells  [maxSfbLong]float32 // log2 of cells^(1-0.4), the weight of the band's own loudness
	offset [maxSfbLong]float32 // log2 of mask over excitation, all cells together
	quiet  [maxSfbLong]float32 // log2 of the threshold in quiet
	tilt   [maxSfbLong]float32 // log2 of the share of error that a band takes when bits are short
}

func bark(hz float64) float64 { return 7 * math.Asinh(hz/650) }

// fill prepares the model of windows of so many lines, the first n bands of off.
func (m *bandModel) fill(off []int, n, lines, sampleRate int) {
	m.n, m.off = n, off[:n+1]
	hz := func(line float64) float64 { return line * float64(sampleRate) / float64(2*lines) }
	var centre [maxSfbLong]float64
	for b := range n {
		lo, hi := hz(float64(off[b])), hz(float64(off[b+1]))
		centre[b] = (bark(lo) + bark(hi)) / 2
		cells := (bark(hi) - bark(lo)) / cellBark
		width := float64(off[b+1] - off[b])
		m.cells[b] = float32((1 - compression) * math.Log2(cells))
		m.offset[b] = float32(math.Log2(cells) - (6+0.25*centre[b])/10*math.Log2(10))
		// Terhardt's curve, 0 dB being a sine of one 16-bit step; of the band the most
		// sensitive of a few points. The energy of a sine of amplitude 1 in the lines
		// of one window is the square of their number.
		quiet := math.Inf(1)
		for i := range 5 {
			k := max(hz(float64(off[b])+width*float64(i)/4), 20) / 1000
			quiet = min(quiet, 3.64*math.Pow(k, -0.8)-6.5*math.Exp(-0.6*(k-3.3)*(k-3.3))+1e-3*k*k*k*k)
		}
		m.quiet[b] = float32(quiet/10*math.Log2(10) + 2*math.Log2(float64(lines)) + min(0, math.Log2(cells)))
		m.tilt[b] = float32(math.Log2(width / cells))
	}
	for b := range n {
		carry := func(from int, slope float64) float32 {
			return float32(math.Pow(10, -compression*slope*math.Abs(centre[b]-centre[from])/10))
		}
		if b > 0 {
			m.up[b] = carry(b-1, spreadUp)
		}
		if b < n-1 {
			m.down[b] = carry(b+1, spreadDown)
		}
	}
}

// masks computes from the log2 of the band energies the log2 of the masks.
func (m *bandModel) masks(energy, mask []float32) {
	var loud [maxSfbLong]float32
	n := m.n
	energy, mask = energy[:n], mask[:n]
	acc := float32(0)
	for b := range n {
		loud[b] = exp2(compression*energy[b] + m.cells[b])
		acc = acc*m.up[b] + loud[b]
		mask[b] = acc
	}
	acc = 0
	for b := n - 1; b >= 0; b-- {
		acc *= m.down[b]
		// The band's own loudness is in mask already.
		excitation := log2(mask[b]+acc) / compression
		acc += loud[b]
		mask[b] = max(excitation+m.offset[b], m.quiet[b])
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
