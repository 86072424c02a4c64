package aaclc

// Block switching, TS 26.403, clause 5.2. A long window has the finest resolution
// in frequency, but spreads the error of a sudden sound over the 40 ms around
// it, and the ear hears it before the sound: pre-echo. So the encoder looks 448
// samples ahead for attacks. The eight blocks of 128 samples that a call adds
// are those in which the next frame's short windows begin, so the frame before
// an attack has still time to end with a short slope. Of the last short window the
// second half is not seen yet; an attack there finds the frame ending in a short
// slope, which leaves little of it, and 128 samples less of delay are worth that.

const (
	lookahead   = 448
	blockLines  = frameLines / 8
	attackRatio = 10
	attackFloor = 1e6 // energy of a block below which nothing is an attack
)

// An onset watches the high-passed energy of a channel for sudden rises.
type onset struct {
	x, y  float32 // state of the filter
	past  float32 // running mean of the energy of earlier blocks
	block [2 * 8]float32
}

// watch takes the 1024 newest samples and reports an attack among them.
func (o *onset) watch(pcm []float32) (attack bool) {
	copy(o.block[:8], o.block[8:])
	x, y := o.x, o.y
	for i := range 8 {
		e := float32(0)
		for _, v := range pcm[i*blockLines : (i+1)*blockLines] {
			y = 0.7548*(v-x) + 0.5095*y
			x = v
			e += y * y
		}
		o.block[8+i] = e
		if e > attackFloor && e > attackRatio*o.past {
			attack = true
		}
		o.past = 0.7*o.past + 0.3*e
	}
	if y < 1e-15 && y > -1e-15 {
		y = 0 // no denormals
	}
	o.x, o.y = x, y
	return attack
}

// peaky reports whether the energy of the frame at hand is uneven enough in time
// for temporal noise shaping to be worth a look.
func (o *onset) peaky() bool {
	sum, top := float32(0), float32(0)
	for _, e := range o.block[:12] {
		sum += e
		top = max(top, e)
	}
	return top > tnsPeak/12.*sum
}

// nextSequence returns the window sequence of a frame from that of the one
// before, and from whether this frame and the next contain attacks.
func nextSequence(last windowSequence, attack, next bool) windowSequence {
	switch {
	case attack, next && last == eightShort: // START cannot follow a short frame
		return eightShort
	case next:
		return longStart
	case last == eightShort:
		return longStop
	default:
		return onlyLong
	}
}

// group chooses which neighbouring short windows share scalefactors (clause
// 4.5.2.3.4): the partition of the eight windows that costs the fewest bits. A
// group costs side information; a window in it pays for every band whose mask
// alone would have allowed more error than the group's. masks are log2, those of
// n bands for each window of each channel. The lengths of the groups are filled
// in, and their number returned.
func group(masks []*[shortCount][maxSfbShort]float32, off []int, n int, lengths *[shortCount]int) (count int) {
	const groupBits = 45 // of one channel
	var best [shortCount + 1]float32
	var from [shortCount + 1]int
	var loss [shortCount][shortCount + 1]float32 // of the group begin..end
	for _, mask := range masks {
		for end := 1; end <= shortCount; end++ {
			low := mask[end-1]
			sum := float32(0)
			for begin := end - 2; begin >= 0; begin-- {
				inside := float32(end - begin - 1)
				for b := range n {
					m, half := mask[begin][b], 0.5*float32(off[b+1]-off[b])
					if m < low[b] {
						sum += half * inside * (low[b] - m)
						low[b] = m
					} else {
						sum += half * (m - low[b])
					}
				}
				loss[begin][end] += sum
			}
		}
	}
	for end := 1; end <= shortCount; end++ {
		best[end] = 1e30
		for begin := range end {
			if v := best[begin] + groupBits*float32(len(masks)) + loss[begin][end]; v < best[end] {
				best[end], from[end] = v, begin
			}
		}
	}
	var ends [shortCount]int
	for e := shortCount; e > 0; e = from[e] {
		ends[count] = e - from[e]
		count++
	}
	for i := range count {
		lengths[i] = ends[count-1-i]
	}
	return count
}
