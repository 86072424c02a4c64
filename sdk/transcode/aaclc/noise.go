package aaclc

// Perceptual noise substitution, clause 4.6.13 (Schulz 1996). A band of noise needs
// no lines at all: the decoder makes noise of its own, of the energy that it is
// told. That wins where bits are so short that the band would otherwise be
// dropped, or coded by a few lonely lines that come and go, which is worse to
// hear than noise in their place. It is used at low bitrates, at high frequencies, in
// frames without events, and reaches above what is coded otherwise.

const (
	noiseBook     = 13
	noiseOffset   = 90  // between global_gain and noise energy
	noisePcmBits  = 9   // of the first noise energy of a channel, as it is
	noisePcmZero  = 256 // what stands for zero there
	noiseLowestHz = 5000
	noiseFlat     = 0.7 // share of lines that matter, 0.82 in Gaussian noise
	noiseMargin   = -1  // log2 of energy over mask that noise may have
	noiseKbps     = 56  // per channel, above which there are bits enough
)

// noiseBandwidth returns up to where noise is substituted, in Hz; 0 means not.
func noiseBandwidth(c Config) float64 {
	if c.Bitrate > noiseKbps*1000*c.Channels {
		return 0
	}
	return min(1.4*bandwidth(c), 16000)
}

// substitute chooses the bands that become noise, before left and right are
// paired. cut is the present distance between error and mask, as log2.
func (e *Encoder) substitute(cut float32) {
	for c := range e.config.Channels {
		ch := &e.ch[c]
		clear(ch.instead[:e.bands])
		if e.noiseEnd == 0 || e.sequence == eightShort || ch.filter.on || ch.onset.peaky() {
			continue
		}
		m := &e.model[0]
		for b := e.noiseBegin; b < e.noiseEnd; b++ {
			// Noise errs by twice the energy. Where lines could be coded, that must be
			// below the mask as it is without the tilt.
			over := ch.energy[b] - ch.mask[b]
			if b < e.coded && (over > cut || over > noiseMargin-m.tilt[b]) || ch.energy[b] < m.quiet[b]+1 {
				continue
			}
			lo, hi := e.off[b], e.off[b+1]
			form, _ := loudness(ch.mag[lo:hi], ch.spec[lo:hi])
			width := float32(hi - lo)
			if lines := exp2(log2(form) - 0.25*(ch.energy[b]-log2(width))); lines < noiseFlat*width {
				continue
			}
			ch.instead[b] = noiseBook
			// The standard's scale: energy = 2^(level/2). A decibel less than there was,
			// since the random noise stands out a little.
			ch.sf[b] = min(max(int32(2*ch.energy[b]-0.66+100.5)-100, -100), 155)
		}
	}
	if e.config.Channels < 2 {
		return
	}
	l, r := &e.ch[0], &e.ch[1]
	for b := range e.bands {
		e.ms[b] = false
		if l.instead[b] == 0 || r.instead[b] == 0 {
			continue
		}
		// One noise for both where they are alike.
		lo, hi := e.off[b], e.off[b+1]
		x, y := l.spec[lo:hi], r.spec[lo:hi]
		y = y[:len(x)]
		var dot float32
		for i := range x {
			dot += x[i] * y[i]
		}
		e.ms[b] = dot > 0 && log2(dot+1e-20) > (l.energy[b]+r.energy[b])/2-0.5
	}
}
