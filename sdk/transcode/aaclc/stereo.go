package aaclc

// Two channels, three ways to code a band of them; the one that takes the fewest
// bits wins.
//
//  1. Left and right, each by itself.
//  2. Mid/side, clause 4.6.8.1 and TS 26.403, clause 5.4.6: (L+R)/2 and (L-R)/2. The
//     decoder's L and R are sum and difference, so each gets the error of both; and
//     error that is placed otherwise than the sound is heard more easily (Blauert
//     1997: binaural unmasking), so both get half of the lower of the two masks.
//  3. Intensity, clause 4.6.8.2: one set of lines, which the decoder scales for the
//     right channel. What is merely alike in both channels would lose its phases so;
//     many encoders accept that at high frequencies, where ears hear envelopes. Here
//     nothing is lost: it is used, at any frequency and any bitrate, where all that it
//     gets wrong is below the masks. That is sound which a mixing desk placed by its
//     level alone, as voices mostly are.

const (
	intensityBook = 15 // the right channel's lines have the left one's signs
	oppositeBook  = 14 // or the others

	positionBits = 3 // what a position takes, about
	mostPosition = maxSfDelta
)

// pairBands decides for each band, and replaces the lines of L and R by those of M
// and S, or of L by the common ones, where that wins. cut is the present distance, as
// log2, between error and mask.
func (e *Encoder) pairBands(cut float32) {
	l, r := &e.ch[0], &e.ch[1]
	for b := range e.bands {
		if l.instead[b] != 0 || r.instead[b] != 0 {
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
		above := max(l.energy[b]-l.mask[b], r.energy[b]-r.mask[b]) + 1
		if demand(above-cut)+2*positionBits/float32(len(x)) < min(apart, joint) && e.fuse(b, mid, side, cut) {
			l.mask[b] = l.energy[b] - above
			continue
		}
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

// fuse makes one set of lines of both channels' in band b, of L's energy, if the
// error of that is masked in both, and reports whether it is. mid and side are the
// energies of the channels' sum and difference.
func (e *Encoder) fuse(b int, mid, side, cut float32) bool {
	if e.sequence != eightShort && b >= e.coded {
		return false
	}
	l, r := &e.ch[0], &e.ch[1]
	book, sign, common := uint8(intensityBook), float32(1), mid
	if side > mid {
		book, sign, common = oppositeBook, -1, side
	}
	// R is L times 2^(-position/4).
	position := min(max(int32(2*(l.energy[b]-r.energy[b])+1000.5)-1000, -mostPosition), mostPosition)
	toL := exp2((l.energy[b] - log2(common+1e-20)) / 2)
	toR := toL * sign * exp2(float32(position)/-4)
	x, y := l.spec[e.off[b]:e.off[b+1]], r.spec[e.off[b]:e.off[b+1]]
	y = y[:len(x)]
	var errorL, errorR float32
	for i, a := range x {
		m := a + sign*y[i]
		dl, dr := a-toL*m, y[i]-toR*m
		errorL += dl * dl
		errorR += dr * dr
	}
	if log2(errorL+1e-20) > l.mask[b]+cut-1 || log2(errorR+1e-20) > r.mask[b]+cut-1 {
		return false
	}
	for i, a := range x {
		x[i] = toL * (a + sign*y[i])
	}
	r.instead[b], r.sf[b] = book, position
	return true
}

// demand is twice the bits per line that energy over error (log2) calls for.
func demand(d float32) float32 {
	if d > 10 {
		return d
	}
	return log2(1 + exp2(d))
}
