package aaclc

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func checkBook(t *testing.T, name string, book []codeword) {
	t.Helper()
	// Kraft: the codewords of a complete prefix code fill the tree exactly.
	sum := 0
	for i, a := range book {
		if a.bits == 0 || a.bits > 19 || a.code>>a.bits != 0 {
			t.Fatalf("%s, index %d: %d bits, code %#x", name, i, a.bits, a.code)
		}
		sum += 1 << (19 - a.bits)
		for j, b := range book {
			if i != j && a.bits <= b.bits && b.code>>(b.bits-a.bits) == a.code {
				t.Fatalf("%s: codeword %d is the beginning of %d", name, i, j)
			}
		}
	}
	if sum != 1<<19 {
		t.Errorf("%s: Kraft sum %d / 2^19, want 1", name, sum)
	}
}

func TestCodebooksAreCompletePrefixCodes(t *testing.T) {
	for k, book := range spectrumBooks() {
		if k > 0 {
			checkBook(t, fmt.Sprint("book ", k), book)
		}
	}
	checkBook(t, "scalefactors", scalefactorBook[:])
}

func TestCodebookSizes(t *testing.T) {
	want := [bookCount]int{0, 81, 81, 81, 81, 81, 81, 64, 64, 169, 169, 289}
	for k, book := range spectrumBooks() {
		if len(book) != want[k] {
			t.Errorf("book %d has %d codewords, want %d", k, len(book), want[k])
		}
	}
}

// What is written in a book is read back, and takes as many bits as counted.
func TestSpectrumRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	tab := sharedTables()
	p := newParser(Config{SampleRate: 48000, Channels: 2})
	for range 4000 {
		q := make([]int16, 4*(1+r.IntN(24)))
		limit := []int32{1, 2, 4, 7, 12, 15, 16, 40, 600, maxQuant}[r.IntN(10)]
		big := int32(0)
		for i := range q {
			v := r.Int32N(2*limit+1) - limit
			if r.IntN(3) == 0 {
				v = 0
			}
			q[i] = int16(v)
			big = max(big, abs32(v))
		}
		if big == 0 {
			continue
		}
		var cost [bookCount]uint16
		best := tab.cost.count(q, big, &cost)
		for book := uint8(1); book < bookCount; book++ {
			if bookLimit[book] < big {
				continue
			}
			var w bitWriter
			writeSpectrum(&w, book, q)
			if n := 8*len(w.buf) + int(w.n); n != int(cost[book]) {
				t.Fatalf("book %d, largest %d: %d bits written, %d counted", book, big, n, cost[book])
			}
			if cost[book] < cost[best] {
				t.Fatalf("book %d takes %d bits, the chosen %d takes %d", book, cost[book], best, cost[best])
			}
			got := make([]int16, len(q))
			p.spectrum(&bitReader{data: w.align()}, int(book), got)
			for i := range q {
				if got[i] != q[i] {
					t.Fatalf("book %d, line %d: wrote %d, read %d", book, i, q[i], got[i])
				}
			}
		}
	}
}

func TestBitWriter(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		var w bitWriter
		type field struct {
			v uint32
			n uint
		}
		var fields []field
		for range r.IntN(60) {
			n := uint(r.IntN(33))
			f := field{uint32(r.Uint64() & (1<<n - 1)), n}
			fields = append(fields, f)
			w.put(f.v, f.n)
		}
		read := &bitReader{data: w.align()}
		for _, f := range fields {
			if got := read.take(int(f.n)); uint32(got) != f.v {
				t.Fatalf("wrote %#x in %d bits, read %#x", f.v, f.n, got)
			}
		}
	}
}
