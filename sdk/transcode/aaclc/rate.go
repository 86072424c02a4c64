package aaclc

import "math"

// Rate control, TS 26.403, clause 5.6, in another form. Access units may differ in
// size as long as a decoder's buffer of 6144 bits per channel neither overflows
// nor runs dry (clause 4.5.3.1): a frame may take from the bit reservoir what
// earlier frames left in it.
//
// The error in every band is put at a common distance from its mask, the *cut*;
// the reference cut moves slowly to where the mean frame takes the mean number
// of bits, so quality is steady and the reservoir serves the hard frames. How
// many bits a cut takes is measured, not guessed: the frame is quantised once at
// the present cut, and since the error's energy changes by 2^(3/8) and the rate
// by 3/16 bit per line with every step of the scalefactors, the steps to the
// wanted size follow in closed form. That measurement also corrects each band's
// scalefactor by the error that it really made.

// A budget is the state of rate control.
type budget struct {
	size      int     // bits that the reservoir can hold
	level     int     // bits in it
	rest      int     // of the division of bits among frames
	mean      int     // bits due to this frame
	cut       float32 // log2 of error over mask
	reference float32
	side      [2]float32 // bits per group that are not spectrum, running means: long, short
	config    Config
}

const (
	startCut  = -4
	lowestCut = -13
	highCut   = 8

	// How fast the reference follows a frame that took more than the mean, one that
	// took less, and one so easy that bits would be wasted.
	quicker  = 0.1
	slower   = 0.06
	spending = 0.1
)

func (b *budget) reset(c Config) {
	*b = budget{config: c, cut: startCut, reference: startCut}
	mean := c.Bitrate * frameLines / c.SampleRate
	// The reservoir is no larger than the decoder's buffer, nor than a tenth of a second,
	// so that the rate over any second stays within 10 %.
	b.size = max(min(unitBits*c.Channels-mean-8, c.Bitrate*9/100), 0)
	b.level = b.size / 2
	b.side = [2]float32{float32(120 * c.Channels), float32(50 * c.Channels)}
}

// begin computes the bits due to the next frame.
func (b *budget) begin() {
	n := b.config.Bitrate*frameLines + b.rest
	b.mean = n / b.config.SampleRate
	b.rest = n % b.config.SampleRate
}

// limits returns how many bits the frame may and must have, multiples of 8.
func (b *budget) limits() (most, least int) {
	most = min(unitBits*b.config.Channels, b.mean+b.level) &^ 7
	least = min((max(b.mean+b.level-b.size, 0)+7)&^7, most)
	return most, least
}

// end takes the frame's bits from the reservoir.
func (b *budget) end(bits int) { b.level += b.mean - bits }

// A hole, a band that is dropped in one frame and coded in the next, is heard more
// easily than error of a constant kind. So bands whose energy is within holeReach of
// the error that they might have keep a little precision (TS 26.403, clause
// 5.6.1.1: avoidance of holes). Both are log2.
const (
	holeReach = 3
	holeKeep  = 1
)

// prepare computes what each band's scalefactor depends on.
func (e *Encoder) prepare(ch *channel) {
	quiet := &e.model[0].quiet
	if e.sequence == eightShort {
		quiet = &e.model[1].quiet
	}
	for b := range e.bands {
		lo, hi := e.off[b], e.off[b+1]
		above := ch.energy[b] - ch.mask[b] - e.budget.cut
		if above > -holeReach && above < holeKeep && ch.energy[b] > quiet[b%e.sfb] {
			ch.mask[b] = ch.energy[b] - holeKeep - e.budget.cut
		}
		form, peak := loudness(ch.mag[lo:hi], ch.spec[lo:hi])
		logForm, logPeak := log2(form), log2(peak)
		width := float32(hi - lo)
		ch.want[b] = zeroGain + 8./3*(2.7548875+ch.mask[b]-logForm)
		ch.lines[b] = min(exp2(logForm-0.25*(ch.energy[b]-log2(width))), width)
		// No value above maxQuant; at least one above zero.
		ch.floor[b] = max(int32(math.Ceil(float64(zeroGain-16./3*(12.995-logPeak)))), 0)
		ch.ceil[b] = min(int32(math.Floor(float64(zeroGain+16./3*(logPeak+0.7498)))), maxSf)
	}
}

// silent reports whether band b of ch is not coded as lines at a cut: its sound is
// less than the error it may have, or something stands for it.
func (e *Encoder) silent(ch *channel, b int, cut float32) bool {
	return ch.instead[b] != 0 || e.sequence != eightShort && b >= e.coded || ch.energy[b] <= ch.mask[b]+cut || ch.ceil[b] < ch.floor[b]
}

// allot chooses the frame's scalefactors and codebooks within the limits.
func (e *Encoder) allot() {
	bud := &e.budget
	bud.begin()
	most, least := bud.limits()
	kind := 0
	if e.sequence == eightShort {
		kind = 1
	}
	press := float32(0)
	if bud.size > 0 {
		press = 3 * (0.6 - float32(bud.level)/float32(bud.size))
	}
	cut := bud.reference + press
	var bits, slope float32
	if e.fast {
		bits, slope = e.first(cut)
	} else {
		bits = bud.side[kind] * float32(e.groups)
		for c := range e.config.Channels {
			n, s := e.trial(&e.ch[c], cut)
			bits += float32(n)
			slope += s
		}
	}
	slope++
	mean := float32(bud.mean)
	// The reference follows the cut at which this frame would have had the mean.
	balance := 0.375 * min(max((bits-mean)/slope, -8), 8)
	switch {
	case balance > 0:
		bud.reference += balance * quicker
	case bits < float32(least):
		bud.reference -= spending // what is not used now is lost
	default:
		bud.reference += balance * slower
	}
	bud.reference = min(max(bud.reference, lowestCut), highCut)
	// Quality stays where it is, unless the reservoir would overflow or be emptied.
	ample := mean + 0.85*float32(most-bud.mean)
	wish := min(max(bits, float32(least)), ample)
	shift := min(max((bits-wish)/slope, -12), 60)
	total, tries := int(bits), 1
	if !e.fast {
		tries = 4
	}
	if !e.fast || shift != 0 {
		total = e.settle(cut, shift)
	}
	for range tries {
		over := float32(total) > ample
		under := total < least*9/10 && cut+0.375*shift > lowestCut && e.used > 0
		if !over && !under {
			break
		}
		// The rate is not as straight as the model has it: go on along the secant.
		step := min(max((float32(total)-wish)/slope, -8), 16)
		if over {
			step = max(step, 0.5)
		}
		before := total
		shift += step
		total = e.settle(cut, shift)
		if secant := float32(before-total) / step; secant > slope/4 {
			slope = secant
		}
	}
	for total > most && shift < 100 {
		shift += 6
		total = e.settle(cut, shift)
	}
	for total > most && e.used > 0 {
		total = e.shed()
	}
	bud.cut = cut + 0.375*shift
	sum := 0
	for c := range e.config.Channels {
		sum += e.ch[c].spectrumBits(e.bands)
	}
	bud.side[kind] += (float32(total-sum)/float32(e.groups) - bud.side[kind]) / 8
	e.fill = max(least-total, 0)
	bud.end(max(least, (total+7)&^7))
}

// first is what takes the place of the trials in a hurry: the frame as it would be at
// a cut, and mostly will be. It returns its bits and by how many they fall per step.
func (e *Encoder) first(cut float32) (bits, slope float32) {
	bits = float32(e.settle(cut, 0))
	for c := range e.config.Channels {
		ch := &e.ch[c]
		for b := range e.bands {
			if ch.big[b] > 0 {
				slope += ch.lines[b] * 0.1875
			}
		}
	}
	return bits, slope
}

// trial quantises a channel at a cut, corrects want by the errors found, and
// returns the bits of the spectrum and by how many they fall per step.
func (e *Encoder) trial(ch *channel, cut float32) (bits int, slope float32) {
	steps := cut * 8 / 3
	for b := range e.bands {
		if e.silent(ch, b, cut) {
			continue
		}
		lo, hi := e.off[b], e.off[b+1]
		sf := min(max(int32(ch.want[b]+steps+0.5), ch.floor[b]), ch.ceil[b])
		big, noise := e.t.measure(ch.q[lo:hi], ch.mag[lo:hi], ch.spec[lo:hi], int(sf))
		if big == 0 {
			continue
		}
		best := e.t.cost.count(ch.q[lo:hi], big, &ch.cost[b])
		bits += int(ch.cost[b][best])
		slope += ch.lines[b] * 0.1875
		ratio := ch.mask[b] + cut - log2(noise+1e-20)
		correction := 8./3*ratio + float32(sf) - (ch.want[b] + steps)
		ch.want[b] += min(max(0.7*correction, -4), 4)
	}
	return bits, slope
}

// settle fixes scalefactors at a cut and a number of steps beyond it, quantises,
// chooses codebooks, and returns the bits of the access unit.
func (e *Encoder) settle(cut, shift float32) int {
	steps := cut*8/3 + shift
	e.used, e.uncoded = 0, 0
	for c := range e.config.Channels {
		ch := &e.ch[c]
		active := e.coder.active[:0]
		for b := range e.bands {
			ch.big[b] = 0
			if e.silent(ch, b, cut+0.375*shift) {
				if ch.instead[b] != 0 {
					e.used = max(e.used, b%e.sfb+1)
				}
				if ch.instead[b] == 0 || ch.instead[b] == noiseBook {
					e.uncoded++
				}
				continue
			}
			active = append(active, scaleBand{int32(b), ch.want[b] + steps, ch.lines[b], ch.floor[b], ch.ceil[b]})
			e.used = max(e.used, b%e.sfb+1)
		}
		e.coder.active = active
		if e.fast {
			e.coder.round(ch.sf[:])
		} else {
			e.coder.smooth(ch.sf[:])
		}
		e.coder.legalise(ch.sf[:])
		for i := range active {
			b := active[i].band
			lo, hi := e.off[b], e.off[b+1]
			big := quantise(ch.q[lo:hi], ch.mag[lo:hi], ch.spec[lo:hi], e.t.step34[ch.sf[b]&255])
			// A band of zeros keeps a codebook, or a difference could grow too large.
			ch.big[b] = max(big, 1)
			e.t.cost.count(ch.q[lo:hi], ch.big[b], &ch.cost[b])
		}
	}
	return e.assemble()
}

// shed drops the highest band that is coded. It ends with an empty frame, which
// always fits.
func (e *Encoder) shed() int {
	e.used--
	for c := range e.config.Channels {
		for g := range e.groups {
			e.ch[c].big[g*e.sfb+e.used] = 0
			e.ch[c].instead[g*e.sfb+e.used] = 0
		}
	}
	return e.assemble()
}

// idle reports whether band b has nothing to code in any channel.
func (e *Encoder) idle(b int) bool {
	for c := range e.config.Channels {
		if e.ch[c].energy[b] > 0 {
			return false
		}
	}
	return true
}

func (ch *channel) spectrumBits(bands int) int {
	n := 0
	for b := range bands {
		if ch.big[b] > 0 {
			n += int(ch.cost[b][ch.book[b]])
		}
	}
	return n
}
