package aaclc

// Mid/side stereo, clause 4.6.8.1 and TS 26.403, clause 5.4.6: per band, code
// (L+R)/2 and (L-R)/2 where that takes fewer bits. The decoder's L and R are sum and
// difference, so each gets the error of both; and error that is placed otherwise
// than the sound is heard more easily (Blauert 1997: binaural unmasking), so both
// get half of the lower of the two masks.

// pairBands decides for each band and replaces the lines of L and R by those of
// M and S where that wins. cut is the present distance, as log2, between error
// and mask.
func (e *Encoder) pairBands(cut float32) {
	l, r := &e.ch[0], &e.ch[1]
	for b := range e.bands {
		if l.noise[b] || r.noise[b] {
			continue // substitute has decided
		}
		e.ms[b] = false
		if e.idle(b) {
			continue
		}
		lo, hi := e.off[b], e.off[b+1]
		x, y := l.spec[lo:hi], r.spec[lo:hi]
		y = y[:len(x)]
		var mid, side float32
		for i, a := range x {
			m, s := a+y[i], a-y[i]
			mid += m * m
			side += s * s
		}
		energyM, energyS := log2(mid/4+1e-20), log2(side/4+1e-20)
		both := min(l.mask[b], r.mask[b]) - 1
		apart := demand(l.energy[b]-l.mask[b]-cut) + demand(r.energy[b]-r.mask[b]-cut)
		joint := demand(energyM-both-cut) + demand(energyS-both-cut)
		if joint >= apart {
			continue
		}
		e.ms[b] = true
		for i, a := range x {
			x[i], y[i] = (a+y[i])*0.5, (a-y[i])*0.5
		}
		l.energy[b], r.energy[b] = energyM, energyS
		l.mask[b], r.mask[b] = both, both
	}
}

// demand is twice the bits per line that energy over error (log2) calls for.
func demand(d float32) float32 {
	if d > 10 {
		return d
	}
	return log2(1 + exp2(d))
}
