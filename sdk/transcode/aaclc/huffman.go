package aaclc

import "math/bits"

// Noiseless coding, clause 4.6.3: quantised lines are coded in tuples of four or
// two by one of eleven Huffman books. Books 1, 2, 5 and 6 code signed values;
// the others code magnitudes, a sign bit following for each that is not zero.
//
//	book            1 2   3 4   5 6   7 8   9 10   11
//	tuple            4     4     2     2     2      2
//	largest value    1     2     4     7     12     8191 (above 15 by an escape)
//	signed           yes   no    yes   no    no     no

const (
	zeroBook   = 0
	escapeBook = 11
	bookCount  = 12
)

// bookLimit is the largest magnitude that a book can code.
var bookLimit = [bookCount]int32{0, 1, 1, 2, 2, 4, 4, 7, 7, 12, 12, maxQuant}

// firstBook is the lowest book that codes a largest magnitude of up to 12.
var firstBook = [13]uint8{0, 1, 3, 5, 5, 7, 7, 7, 9, 9, 9, 9, 9}

// costTables tell how many bits a tuple takes in every book at once, four books
// side by side in the 16-bit lanes of one word, so that a band's costs in all
// books are two or three sums.
type costTables struct {
	quad  [625]uint64   // books 1 to 4; values -2..2 each; books 1 and 2 hold for -1..1
	pairs [33 * 33]pair // values -16..16, 16 being an escape
}

// pair holds the lanes of books 5, 6, 7, 8 and of 9, 10, 11. A lane whose book
// cannot code the values is zero: the caller knows the largest magnitude.
type pair struct{ low, high uint64 }

func abs32(v int32) int32 {
	s := v >> 31
	return (v ^ s) - s
}

// spectrumBooks returns the books by number.
func spectrumBooks() [bookCount][]codeword {
	return [bookCount][]codeword{nil, spectrumBook1[:], spectrumBook2[:], spectrumBook3[:], spectrumBook4[:],
		spectrumBook5[:], spectrumBook6[:], spectrumBook7[:], spectrumBook8[:], spectrumBook9[:], spectrumBook10[:],
		spectrumBook11[:]}
}

func (t *costTables) fill() {
	books := spectrumBooks()
	for i := range t.quad {
		v := [4]int32{int32(i/125) - 2, int32(i/25%5) - 2, int32(i/5%5) - 2, int32(i%5) - 2}
		big, signs := int32(0), uint64(0)
		for _, x := range v {
			big = max(big, abs32(x))
			if x != 0 {
				signs++
			}
		}
		if big <= 1 {
			n := ((v[0]*3+v[1])*3+v[2])*3 + v[3] + 40
			t.quad[i] = uint64(books[1][n].bits) | uint64(books[2][n].bits)<<16
		}
		n := ((abs32(v[0])*3+abs32(v[1]))*3+abs32(v[2]))*3 + abs32(v[3])
		t.quad[i] |= (uint64(books[3][n].bits)+signs)<<32 | (uint64(books[4][n].bits)+signs)<<48
	}
	for i := range t.pairs {
		a, b := int32(i/33)-16, int32(i%33)-16
		x, y := abs32(a), abs32(b)
		signs := uint64(0)
		if a != 0 {
			signs++
		}
		if b != 0 {
			signs++
		}
		p := &t.pairs[i]
		big := max(x, y)
		if big <= 4 {
			n := a*9 + b + 40
			p.low = uint64(books[5][n].bits) | uint64(books[6][n].bits)<<16
		}
		if big <= 7 {
			n := x*8 + y
			p.low |= (uint64(books[7][n].bits)+signs)<<32 | (uint64(books[8][n].bits)+signs)<<48
		}
		if big <= 12 {
			n := x*13 + y
			p.high = uint64(books[9][n].bits) + signs | (uint64(books[10][n].bits)+signs)<<16
		}
		p.high |= (uint64(books[11][x*17+y].bits) + signs) << 32
	}
}

// escapeBits is the length of the escape sequence of a magnitude of 16 or more
// (clause 4.6.3.3): n ones, a zero, then n+4 bits.
func escapeBits(v int32) int {
	n := bits.Len32(uint32(v)) - 5
	return 2*n + 5
}

// count fills cost with the bits that the band q takes in each book that can
// code its largest magnitude big > 0; other books are left as they are. It
// returns the cheapest book.
func (t *costTables) count(q []int16, big int32, cost *[bookCount]uint16) (best uint8) {
	var low, high uint64
	first := uint8(escapeBook)
	if big <= 12 {
		first = firstBook[big]
	}
	switch {
	case big <= 2:
		var quads uint64
		for len(q) >= 4 {
			a, b, c, d := int32(q[0]), int32(q[1]), int32(q[2]), int32(q[3])
			quads += t.quad[((a*5+b)*5+c)*5+d+312]
			m := &t.pairs[uint32(a*33+b+544)]
			n := &t.pairs[uint32(c*33+d+544)]
			low += m.low + n.low
			high += m.high + n.high
			q = q[4:]
		}
		cost[1], cost[2], cost[3], cost[4] = uint16(quads), uint16(quads>>16), uint16(quads>>32), uint16(quads>>48)
	case big <= 15:
		for len(q) >= 2 {
			m := &t.pairs[uint32(int32(q[0])*33+int32(q[1])+544)]
			low += m.low
			high += m.high
			q = q[2:]
		}
	default:
		escapes := 0
		for len(q) >= 2 {
			a, b := int32(q[0]), int32(q[1])
			if x := abs32(a); x > 15 {
				escapes += escapeBits(x)
				a = 16
			}
			if x := abs32(b); x > 15 {
				escapes += escapeBits(x)
				b = 16
			}
			high += t.pairs[uint32(a*33+b+544)].high
			q = q[2:]
		}
		high += uint64(escapes) << 32
	}
	cost[5], cost[6], cost[7], cost[8] = uint16(low), uint16(low>>16), uint16(low>>32), uint16(low>>48)
	cost[9], cost[10], cost[11] = uint16(high), uint16(high>>16), uint16(high>>32)
	best = first
	for k := first + 1; k < bookCount; k++ {
		if cost[k] < cost[best] {
			best = k
		}
	}
	return best
}

// writeSpectrum writes the lines q of a section by its book.
func writeSpectrum(w *bitWriter, book uint8, q []int16) {
	switch book {
	case 1:
		writeSignedQuads(w, &spectrumBook1, q)
	case 2:
		writeSignedQuads(w, &spectrumBook2, q)
	case 3:
		writeQuads(w, &spectrumBook3, q)
	case 4:
		writeQuads(w, &spectrumBook4, q)
	case 5:
		writeSignedPairs(w, &spectrumBook5, q)
	case 6:
		writeSignedPairs(w, &spectrumBook6, q)
	case 7:
		writePairs(w, spectrumBook7[:], 8, q)
	case 8:
		writePairs(w, spectrumBook8[:], 8, q)
	case 9:
		writePairs(w, spectrumBook9[:], 13, q)
	case 10:
		writePairs(w, spectrumBook10[:], 13, q)
	case escapeBook:
		writePairs(w, spectrumBook11[:], 17, q)
	}
}

func writeSignedQuads(w *bitWriter, book *[81]codeword, q []int16) {
	for ; len(q) >= 4; q = q[4:] {
		c := &book[((int(q[0])*3+int(q[1]))*3+int(q[2]))*3+int(q[3])+40]
		w.put(c.code, uint(c.bits))
	}
}

func writeQuads(w *bitWriter, book *[81]codeword, q []int16) {
	for ; len(q) >= 4; q = q[4:] {
		index, code, n := 0, uint32(0), uint(0)
		for _, v := range q[:4] {
			if v != 0 {
				code = code<<1 | uint32(uint16(v)>>15)
				n++
			}
			index = index*3 + int(abs32(int32(v)))
		}
		c := &book[index]
		w.put(c.code<<n|code, uint(c.bits)+n)
	}
}

func writeSignedPairs(w *bitWriter, book *[81]codeword, q []int16) {
	for ; len(q) >= 2; q = q[2:] {
		c := &book[int(q[0])*9+int(q[1])+40]
		w.put(c.code, uint(c.bits))
	}
}

func writePairs(w *bitWriter, book []codeword, side int32, q []int16) {
	for ; len(q) >= 2; q = q[2:] {
		a, b := int32(q[0]), int32(q[1])
		x, y := abs32(a), abs32(b)
		signs, n := uint32(0), uint(0)
		if a != 0 {
			signs = uint32(a) >> 31
			n++
		}
		if b != 0 {
			signs = signs<<1 | uint32(b)>>31
			n++
		}
		c := &book[min(x, 16)*side+min(y, 16)]
		w.put(c.code<<n|signs, uint(c.bits)+n)
		if side == 17 {
			if x > 15 {
				writeEscape(w, uint32(x))
			}
			if y > 15 {
				writeEscape(w, uint32(y))
			}
		}
	}
}

func writeEscape(w *bitWriter, v uint32) {
	n := uint(bits.Len32(v)) - 5
	w.put(1<<(n+1)-2, n+1)
	w.put(v&(1<<(n+4)-1), n+4)
}
