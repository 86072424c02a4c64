package aaclc

// The bitstream, clause 4.4.2: what is written, and how many bits it takes.

// assemble completes the frame's decisions, books above all, and returns the bits
// of the access unit without filling.
func (e *Encoder) assemble() int {
	bits := 3 // ID_END
	if e.config.Channels == 2 {
		bits += 3 + 4 + 1 + e.infoBits() + 2
		if s := e.sides(); s > 0 && s < e.groups*e.used {
			bits += e.groups * e.used
		}
	} else {
		bits += 3 + 4 + e.infoBits()
	}
	for c := range e.config.Channels {
		bits += e.channelBits(&e.ch[c])
	}
	return bits
}

// sides counts the transmitted bands that are mid and side.
func (e *Encoder) sides() (n int) {
	for g := range e.groups {
		for b := range e.used {
			if e.ms[g*e.sfb+b] {
				n++
			}
		}
	}
	return n
}

func (e *Encoder) infoBits() int {
	if e.sequence == eightShort {
		return 1 + 2 + 1 + 4 + 7
	}
	return 1 + 2 + 1 + 6 + 1
}

func (e *Encoder) lengthBits() int {
	if e.sequence == eightShort {
		return 3
	}
	return 5
}

// channelBits chooses books and returns the bits of individual_channel_stream.
func (e *Encoder) channelBits(ch *channel) int {
	bits := 8 + 3 // global_gain; pulse, TNS and gain control flags
	if ch.filter.on {
		bits += e.filterBits(&ch.filter)
	}
	for g := range e.groups {
		for lo, end := g*e.sfb, g*e.sfb+e.used; lo < end; {
			hi := lo
			for hi < end && ch.instead[hi] == ch.instead[lo] {
				ch.book[hi] = ch.instead[lo]
				if ch.big[hi] == 0 {
					zeroCosts(&ch.cost[hi], e.off[hi+1]-e.off[hi])
				}
				hi++
			}
			if ch.instead[lo] != 0 {
				bits += 4 + e.lengthBits()*(1+(hi-lo)/(1<<e.lengthBits()-1))
			} else {
				bits += e.coder.sections(ch.cost[lo:hi], ch.big[lo:hi], e.lengthBits(), ch.book[lo:hi])
			}
			lo = hi
		}
	}
	bits += e.insteadBits(ch)
	// Scalefactors of bands that have a book and no value repeat the one before.
	last, first := int32(-1), true
	for g := range e.groups {
		for b := g * e.sfb; b < g*e.sfb+e.used; b++ {
			if ch.big[b] > 0 {
				if first {
					last, first = ch.sf[b], false
				}
				bits += int(scalefactorBook[ch.sf[b]-last+maxSfDelta].bits)
				last = ch.sf[b]
			}
		}
	}
	return bits
}

// insteadBits returns the bits of the levels of noise and of the positions of
// intensity, and limits their differences to what the book can say.
func (e *Encoder) insteadBits(ch *channel) (bits int) {
	var level, position int32
	pcm := true
	for g := range e.groups {
		for b := g * e.sfb; b < g*e.sfb+e.used; b++ {
			last := &position
			switch ch.instead[b] {
			case 0:
				continue
			case noiseBook:
				last = &level
				if pcm {
					bits += noisePcmBits
					level, pcm = ch.sf[b], false
					continue
				}
			}
			ch.sf[b] = min(max(ch.sf[b], *last-maxSfDelta), *last+maxSfDelta)
			bits += int(scalefactorBook[ch.sf[b]-*last+maxSfDelta].bits)
			*last = ch.sf[b]
		}
	}
	return bits
}

// zeroCosts fills in what a band of zeros takes in every book, with the one bit of
// a repeated scalefactor.
func zeroCosts(cost *[bookCount]uint16, width int) {
	cost[zeroBook] = 0
	books := spectrumBooksAtZero
	for k := 1; k < bookCount; k++ {
		tuples := width / 2
		if k < 5 {
			tuples = width / 4
		}
		cost[k] = uint16(tuples)*uint16(books[k]) + 1
	}
}

// spectrumBooksAtZero holds the length of the codeword of a tuple of zeros.
var spectrumBooksAtZero = [bookCount]uint8{0, spectrumBook1[40].bits, spectrumBook2[40].bits, spectrumBook3[0].bits,
	spectrumBook4[0].bits, spectrumBook5[40].bits, spectrumBook6[40].bits, spectrumBook7[0].bits, spectrumBook8[0].bits,
	spectrumBook9[0].bits, spectrumBook10[0].bits, spectrumBook11[0].bits}

func (e *Encoder) filterBits(f *tnsFilter) int { return 2 + 1 + 6 + 5 + 1 + 1 + tnsRes*f.order }

// fillCount returns how many bytes after the 7 bits of its header a fill element
// has that must not take more than room bits, room >= 7 (Table 4.11; beyond 14
// the first of them is the escape count).
func fillCount(room int) int {
	n := min((room-7)/8, 270)
	if n == 15 {
		return 14 // 15 bytes cannot be said: count 15 announces the escape count
	}
	return n
}

// writeFill writes fill elements of room bits, less than 7 short of it.
func writeFill(w *bitWriter, room int) {
	for room >= 7 {
		n := fillCount(room)
		w.put(6, 3) // ID_FIL
		room -= 7 + 8*n
		if n >= 16 {
			// esc_count: the payload has count + esc_count - 1 bytes.
			w.put(15, 4)
			n--
			w.put(uint32(n-14), 8)
		} else {
			w.put(uint32(n), 4)
		}
		for i := range n {
			if i == 0 {
				w.put(0, 8) // EXT_FILL, fill_nibble
			} else {
				w.put(0xa5, 8)
			}
		}
	}
}

// write appends the access unit to dst.
func (e *Encoder) write(dst []byte) []byte {
	w := bitWriter{buf: dst}
	if e.config.Channels == 2 {
		w.put(1, 3) // ID_CPE
		w.put(0, 4) // element_instance_tag
		w.put(1, 1) // common_window
		e.writeInfo(&w)
		s := e.sides()
		switch s {
		case 0:
			w.put(0, 2)
		case e.groups * e.used:
			w.put(2, 2)
		default:
			w.put(1, 2)
			for g := range e.groups {
				for b := range e.used {
					if e.ms[g*e.sfb+b] {
						w.put(1, 1)
					} else {
						w.put(0, 1)
					}
				}
			}
		}
		e.writeChannel(&w, &e.ch[0], false)
		e.writeChannel(&w, &e.ch[1], false)
	} else {
		w.put(0, 3) // ID_SCE
		w.put(0, 4)
		e.writeChannel(&w, &e.ch[0], true)
	}
	writeFill(&w, e.fill)
	w.put(7, 3) // ID_END
	return w.align()
}

func (e *Encoder) writeInfo(w *bitWriter) {
	w.put(0, 1) // ics_reserved_bit
	w.put(uint32(e.sequence), 2)
	w.put(uint32(e.shape), 1)
	if e.sequence != eightShort {
		w.put(uint32(e.used), 6)
		w.put(0, 1) // predictor_data_present
		return
	}
	w.put(uint32(e.used), 4)
	for g := range e.groups {
		for i := range e.length[g] {
			switch {
			case i > 0:
				w.put(1, 1)
			case g > 0:
				w.put(0, 1)
			}
		}
	}
}

func (e *Encoder) writeChannel(w *bitWriter, ch *channel, info bool) {
	gain := int32(0)
	for b := e.groups*e.sfb - 1; b >= 0; b-- {
		if b%e.sfb < e.used && ch.big[b] > 0 {
			gain = ch.sf[b]
		}
	}
	w.put(uint32(gain), 8)
	if info {
		e.writeInfo(w)
	}
	// section_data
	n := uint(e.lengthBits())
	escape := 1<<n - 1
	for g := range e.groups {
		books := ch.book[g*e.sfb : g*e.sfb+e.used]
		for len(books) > 0 {
			k := 1
			for k < len(books) && books[k] == books[0] {
				k++
			}
			w.put(uint32(books[0]), 4)
			for l := k; ; l -= escape {
				if l < escape {
					w.put(uint32(l), n)
					break
				}
				w.put(uint32(escape), n)
			}
			books = books[k:]
		}
	}
	// scale_factor_data
	last, level, pcm, position := gain, gain-noiseOffset, true, int32(0)
	for g := range e.groups {
		for b := g * e.sfb; b < g*e.sfb+e.used; b++ {
			switch {
			case ch.book[b] == zeroBook:
				continue
			case ch.book[b] == noiseBook && pcm:
				w.put(uint32(ch.sf[b]-level+noisePcmZero), noisePcmBits)
				level, pcm = ch.sf[b], false
				continue
			case ch.book[b] >= oppositeBook:
				c := &scalefactorBook[ch.sf[b]-position+maxSfDelta]
				w.put(c.code, uint(c.bits))
				position = ch.sf[b]
				continue
			case ch.book[b] == noiseBook:
				c := &scalefactorBook[ch.sf[b]-level+maxSfDelta]
				w.put(c.code, uint(c.bits))
				level = ch.sf[b]
				continue
			}
			sf := last
			if ch.big[b] > 0 {
				sf = ch.sf[b]
			}
			c := &scalefactorBook[sf-last+maxSfDelta]
			w.put(c.code, uint(c.bits))
			last = sf
		}
	}
	w.put(0, 1) // pulse_data_present
	if f := &ch.filter; f.on {
		w.put(1, 1)
		w.put(1, 2) // one filter
		w.put(1, 1) // coef_res: 4 bits
		w.put(uint32(f.length), 6)
		w.put(uint32(f.order), 5)
		w.put(0, 2) // upwards; coefficients not compressed
		for _, k := range f.index[:f.order] {
			w.put(uint32(k)&15, tnsRes)
		}
	} else {
		w.put(0, 1)
	}
	w.put(0, 1) // gain_control_data_present
	for g := range e.groups {
		for b := g * e.sfb; b < g*e.sfb+e.used; b++ {
			if ch.book[b] != zeroBook && ch.book[b] < noiseBook {
				q := ch.q[e.off[b]:e.off[b+1]]
				if ch.big[b] == 0 {
					clear(q)
				}
				writeSpectrum(w, ch.book[b], q)
			}
		}
	}
}
