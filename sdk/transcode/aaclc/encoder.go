package aaclc

import (
	"errors"
	"fmt"
	"math"
)

// Config is what an encoder is made for.
type Config struct {
	SampleRate int // Hz: 48000, 44100, 32000, 24000, 22050 or 16000
	Channels   int // 1 or 2
	Bitrate    int // bit/s, of all channels together, access units without framing
}

// FrameSamples is how many samples of each channel make one access unit.
const FrameSamples = frameLines

// Delay in samples between the input and a decoder's output.
const delay = frameLines + lookahead

const history = delay // samples kept from call to call

// An Encoder makes AAC-LC access units of PCM. It is not safe for concurrent
// use. It owns 85 KB, allocates nothing after New, and can be pooled: see
// [Encoder.Reset].
type Encoder struct {
	config Config
	fast   bool // see SetFast
	rate   *rateTable
	asc    [2]byte
	t      *tables

	model [2]bandModel // of long and short windows
	coded int          // bands of a long window that may be coded as lines
	// Bands of a long window that may become noise; none if noiseEnd is 0.
	noiseBegin, noiseEnd int
	tns                  tnsModel
	ch                   [maxChannels]channel
	sequence             windowSequence // of the last frame
	shape                windowShape    // of the last frame's right slopes
	attack               bool           // in the frame to be coded next
	draining             int            // units still to come from Flush; 0 when not draining
	drained              bool

	// The frame at hand. Bands are counted in coding order: the bands of the first
	// group of windows, then those of the second and so on; a long window is a
	// group of its own. All channels share the layout.
	groups  int
	length  [shortCount]int // windows in each group
	sfb     int             // bands in each group
	used    int             // of them, those that are transmitted
	bands   int             // groups * sfb
	off     [maxBands + 1]int
	ms      [maxBands]bool
	uncoded int // bands that the last frame left out, in all channels

	budget  budget
	coder   coder
	z       [frameLines / 2]c64
	white   [frameLines]float32
	windows [2][shortCount][shortLines]float32
	fill    int // bits of filling in this frame
}

// A channel is one channel's samples, spectrum and decisions.
type channel struct {
	pcm   [history + frameLines]float32
	onset onset

	spec   [frameLines]float32
	mag    [frameLines]float32 // |spec|^(3/4)
	q      [frameLines]int16
	filter tnsFilter
	before [maxSfbLong]float32 // masks of the last long frame, log2
	fresh  bool                // before is not of the last frame

	// By band. energy, mask and target are log2.
	energy [maxBands]float32
	mask   [maxBands]float32
	want   [maxBands]float32 // scalefactor, real, for an error as large as the mask
	lines  [maxBands]float32 // lines that matter
	floor  [maxBands]int32   // bounds of the scalefactor
	ceil   [maxBands]int32
	sf     [maxBands]int32 // of noise, its level; of intensity, its position
	big    [maxBands]int32
	cost   [maxBands][bookCount]uint16
	book   [maxBands]uint8
	// What stands for the lines of a band that has none of its own: noiseBook, or of the
	// right channel intensityBook or oppositeBook. 0 elsewhere.
	instead [maxBands]uint8

	maskShort   [shortCount][maxSfbShort]float32
	energyShort [shortCount][maxSfbShort]float32
}

// coder is scratch of the searches.
type coder struct {
	scale  scaleTables
	active []scaleBand // capacity maxBands
	base   [maxBands]int32
	path   [maxBands][sfCandidates]uint8
	from   [maxBands][bookCount]uint8
}

// New returns an encoder, or an error that says what is wrong with c.
func New(c Config) (*Encoder, error) {
	rate, index, ok := rateOf(c.SampleRate)
	if !ok {
		return nil, fmt.Errorf("aaclc: sample rate %d Hz: want 48000, 44100, 32000, 24000, 22050 or 16000", c.SampleRate)
	}
	if c.Channels < 1 || c.Channels > maxChannels {
		return nil, fmt.Errorf("aaclc: %d channels: want 1 or 2", c.Channels)
	}
	most := unitBits * c.Channels * c.SampleRate / frameLines
	least := 8000 * c.Channels
	if c.Bitrate < least || c.Bitrate > most {
		return nil, fmt.Errorf("aaclc: bitrate %d bit/s for %d channels at %d Hz: want %d to %d",
			c.Bitrate, c.Channels, c.SampleRate, least, most)
	}
	e := &Encoder{config: c, rate: rate, t: sharedTables()}
	// AudioSpecificConfig, clause 1.6.2.1: object type 2 (LC), rate, channels, and
	// zeros: 1024 samples, no core coder, no extension.
	e.asc = [2]byte{2<<3 | byte(index>>1), byte(index<<7) | byte(c.Channels<<3)}
	hz := bandwidth(c)
	long := bandsBelow(rate.long, frameLines, c.SampleRate, hz)
	short := bandsBelow(rate.short, shortLines, c.SampleRate, hz)
	e.coded = long
	if hz := noiseBandwidth(c); hz > 0 {
		e.noiseBegin = bandsBelow(rate.long, frameLines, c.SampleRate, noiseLowestHz)
		e.noiseEnd = bandsBelow(rate.long, frameLines, c.SampleRate, min(hz, float64(c.SampleRate)*0.48))
		long = max(long, e.noiseEnd)
	}
	e.model[0].fill(rate.long, long, frameLines, c.SampleRate)
	e.model[1].fill(rate.short, short, shortLines, c.SampleRate)
	e.tns.fill(rate, e.coded, c.SampleRate)
	e.coder.scale.fill()
	e.coder.active = make([]scaleBand, 0, maxBands)
	e.Reset()
	return e, nil
}

// bandwidth returns the highest frequency to code, in Hz: as much as the bitrate
// can code well.
func bandwidth(c Config) float64 {
	points := [...][2]float64{{8, 4000}, {16, 7000}, {24, 9500}, {32, 12000}, {48, 15000}, {64, 16500}, {80, 18000}, {96, 19000},
		{128, 20000}}
	kbps := float64(c.Bitrate) / float64(c.Channels) / 1000
	last := points[0]
	for _, p := range points {
		if kbps <= p[0] {
			if p[0] == last[0] {
				return p[1]
			}
			return last[1] + (p[1]-last[1])*(kbps-last[0])/(p[0]-last[0])
		}
		last = p
	}
	return last[1]
}

// bandsBelow returns how many bands begin below hz.
func bandsBelow(off []int, lines, sampleRate int, hz float64) int {
	n := 1
	for n < len(off)-1 && float64(off[n])*float64(sampleRate)/float64(2*lines) < hz {
		n++
	}
	return n
}

// Reset makes e as new, for another stream of the same configuration.
func (e *Encoder) Reset() {
	e.ch = [maxChannels]channel{}
	for c := range e.ch {
		e.ch[c].fresh = true
	}
	e.sequence, e.shape, e.attack, e.uncoded = onlyLong, sineShape, false, 0
	e.draining, e.drained = 0, false
	e.budget.reset(e.config)
}

// SetFast chooses, from the next frame on, between the best sound (false, as after
// New) and less work: no temporal noise shaping, scalefactors as each band would
// have them alone, and one quantisation where there are two or more, so that error is
// where the model puts it and not where it was measured. What is always true stays
// true. Reset does not change it.
func (e *Encoder) SetFast(fast bool) { e.fast = fast }

// Config returns the AudioSpecificConfig (ISO/IEC 14496-3, clause 1.6.2.1) that a
// decoder needs. It is the caller's.
func (e *Encoder) Config() []byte { return append([]byte(nil), e.asc[:]...) }

// Delay returns by how many samples a decoder's output is late: the access unit
// of the n-th call, counted from 0, decodes to the samples that begin at
// n*1024-Delay() of the input.
func (e *Encoder) Delay() int { return delay }

var errShape = errors.New("aaclc: want 1024 samples of each channel")

// Encode appends to dst the next access unit, made with the help of the next
// 1024 samples of each channel, full scale being -1 to 1, and returns the
// extended slice. Every call appends one unit; see [Encoder.Delay] for the
// samples that it holds. Values that are not numbers count as silence, infinite
// and excessive ones are limited. The only error is a planar of another shape.
func (e *Encoder) Encode(dst []byte, planar [][]float32) ([]byte, error) {
	if len(planar) != e.config.Channels {
		return dst, errShape
	}
	for _, p := range planar {
		if len(p) != frameLines {
			return dst, errShape
		}
	}
	for c, p := range planar {
		e.ch[c].feed(p)
	}
	e.draining, e.drained = 0, false
	return e.unit(dst), nil
}

// Flush appends the next of the access units that are still to come after the
// last call of Encode. It appends nothing when there is none; the stream is
// complete then.
func (e *Encoder) Flush(dst []byte) []byte {
	const units = (delay + frameLines - 1) / frameLines
	if e.drained {
		return dst
	}
	if e.draining == 0 {
		e.draining = units
	}
	for c := range e.config.Channels {
		e.ch[c].feed(nil)
	}
	e.draining--
	e.drained = e.draining == 0
	return e.unit(dst)
}

// feed moves the channel's samples up by a frame; nil is silence.
func (c *channel) feed(samples []float32) {
	copy(c.pcm[:history], c.pcm[frameLines:])
	in := c.pcm[history:]
	if samples == nil {
		clear(in)
		return
	}
	samples = samples[:len(in)]
	const limit = 8 // 18 dB above full scale
	for i, v := range samples {
		if a := math.Float32frombits(math.Float32bits(v) &^ (1 << 31)); !(a > 1e-9 && a < limit) {
			switch {
			case v >= limit:
				v = limit
			case v <= -limit:
				v = -limit
			default:
				v = 0 // too small for any ear, and for a fast computation; or not a number
			}
		}
		in[i] = v * inputScale
	}
}

// unit codes one frame of the samples at hand.
func (e *Encoder) unit(dst []byte) []byte {
	next := false
	for c := range e.config.Channels {
		ch := &e.ch[c]
		if ch.onset.watch(ch.pcm[history:]) {
			next = true
		}
	}
	left := e.shape
	sequence := nextSequence(e.sequence, e.attack, next)
	e.attack, e.sequence = next, sequence
	e.shape = e.nextShape()
	if sequence == eightShort {
		e.analyseShort(left, e.shape)
	} else {
		e.analyseLong(sequence, left, e.shape)
	}
	e.substitute(e.budget.cut)
	if e.config.Channels == 2 {
		e.pairBands(e.budget.cut)
	}
	for c := range e.config.Channels {
		e.prepare(&e.ch[c])
	}
	e.allot()
	return e.write(dst)
}

// nextShape chooses the slopes after this frame. The side lobes of the KBD window
// fall to where tones far above a faint neighbourhood do not leak into it; the
// sine window has the narrower main lobe, which serves all other sounds. The
// frame before tells: a steep spectrum has many bands that need no coding.
func (e *Encoder) nextShape() windowShape {
	if e.uncoded*3 > e.bands*e.config.Channels {
		return kbdShape
	}
	return sineShape
}

// analyseLong transforms a long frame and computes energies and masks.
func (e *Encoder) analyseLong(sequence windowSequence, left, right windowShape) {
	m := &e.model[0]
	e.groups, e.length[0], e.sfb, e.bands = 1, 1, m.n, m.n
	copy(e.off[:], m.off)
	rise, fall := e.t.bank.slopes(sequence, left, right)
	for c := range e.config.Channels {
		ch := &e.ch[c]
		e.t.bank.transformLong(&ch.spec, ch.pcm[:2*frameLines], rise, fall, &e.z)
		bandEnergies(ch.spec[:], m.off, ch.energy[:])
		m.masks(ch.energy[:], ch.mask[:])
		if !ch.fresh {
			for b := range m.n {
				mask := ch.mask[b]
				ch.mask[b] = max(min(mask, ch.before[b]+1), mask-6.6)
				ch.before[b] = mask
			}
		} else {
			copy(ch.before[:m.n], ch.mask[:])
			ch.fresh = false
		}
		ch.filter.on = false
		if !e.fast && ch.onset.peaky() && e.tns.design(&ch.filter, ch.spec[:], m.off, ch.energy[:], &e.white) {
			ch.filter.apply(ch.spec[e.tns.begin:e.tns.end])
			amplified := tnsShare * log2(ch.filter.gain)
			for b := e.tns.firstBand; b < e.tns.endBand; b++ {
				ch.mask[b] -= amplified
				bandEnergies(ch.spec[:], m.off[b:b+2], ch.energy[b:])
			}
		}
	}
}

// analyseShort transforms a frame of eight short windows, groups them and brings
// the lines in coding order: band by band, and within a band window by window.
func (e *Encoder) analyseShort(left, right windowShape) {
	m := &e.model[1]
	var masks [maxChannels]*[shortCount][maxSfbShort]float32
	for c := range e.config.Channels {
		ch := &e.ch[c]
		ch.filter.on = false
		ch.fresh = true
		masks[c] = &ch.maskShort
		shape := left
		for w := range shortCount {
			x := ch.pcm[flat+w*shortLines:][:2*shortLines]
			e.t.bank.transformShort(&e.windows[c][w], x, &e.t.bank.short[shape], &e.t.bank.short[right], (*[shortLines / 2]c64)(e.z[:]))
			shape = right
			bandEnergies(e.windows[c][w][:], m.off, ch.energyShort[w][:])
			m.masks(ch.energyShort[w][:], ch.maskShort[w][:])
		}
	}
	e.groups = group(masks[:e.config.Channels], m.off, m.n, &e.length)
	e.sfb, e.bands = m.n, m.n*e.groups
	for c := range e.config.Channels {
		ch := &e.ch[c]
		at, first := 0, 0
		for g := range e.groups {
			n := e.length[g]
			for b := range m.n {
				k := g*m.n + b
				e.off[k] = at
				energy, low, sum := float32(0), float32(1e9), float32(0)
				for w := first; w < first+n; w++ {
					at += copy(ch.spec[at:], e.windows[c][w][m.off[b]:m.off[b+1]])
					energy += exp2(ch.energyShort[w][b])
					low = min(low, ch.maskShort[w][b])
					sum += exp2(ch.maskShort[w][b])
				}
				ch.energy[k] = log2(energy + 1e-20)
				// Between the sum of the windows' masks and what the most sensitive allows.
				ch.mask[k] = (log2(sum) + low + log2(float32(n))) / 2
			}
			first += n
		}
		e.off[e.bands] = at
	}
}
