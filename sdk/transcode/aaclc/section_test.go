package aaclc

import (
	"math/rand/v2"
	"testing"
)

// headerBits is the size of the section headers of books.
func headerBits(books []uint8, lengthBits int) int {
	bits, escape := 0, 1<<lengthBits-1
	for i := 0; i < len(books); {
		n := 1
		for i+n < len(books) && books[i+n] == books[i] {
			n++
		}
		bits += 4 + lengthBits*(1+n/escape)
		i += n
	}
	return bits
}

// bruteForce is the cheapest way to choose books, all of them tried.
func bruteForce(costs [][bookCount]uint16, big []int32, lengthBits int, books []uint8) int {
	b := len(books)
	if b == len(costs) {
		bits := headerBits(books, lengthBits)
		for i, k := range books {
			bits += int(costs[i][k])
		}
		return bits
	}
	best := 1 << 30
	for k := range uint8(bookCount) {
		if bookLimit[k] >= big[b] {
			best = min(best, bruteForce(costs, big, lengthBits, append(books, k)))
		}
	}
	return best
}

func TestSectionsAreOptimal(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	var c coder
	for range 300 {
		n := 1 + r.IntN(5)
		costs, big := make([][bookCount]uint16, n), make([]int32, n)
		for b := range n {
			big[b] = []int32{0, 1, 2, 4, 7, 12, 30}[r.IntN(7)]
			for k := range costs[b] {
				costs[b][k] = uint16(r.IntN(40))
			}
			if big[b] == 0 {
				costs[b][0] = 0
			}
		}
		books := make([]uint8, n)
		for _, lengthBits := range []int{3, 5} {
			got := c.sections(costs, big, lengthBits, books)
			bits := headerBits(books, lengthBits)
			for b, k := range books {
				if bookLimit[k] < big[b] {
					t.Fatalf("book %d for a value of %d", k, big[b])
				}
				bits += int(costs[b][k])
			}
			if got != bits {
				t.Fatalf("%d bits said, %d by the books chosen", got, bits)
			}
			if want := bruteForce(costs, big, lengthBits, nil); got != want {
				t.Fatalf("%d bits, the best is %d", got, want)
			}
		}
	}
}

// Long runs take a second length field; what is said is what is written.
func TestSectionsCountLongRuns(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	var c coder
	for range 300 {
		n := 1 + r.IntN(51)
		costs, big := make([][bookCount]uint16, n), make([]int32, n)
		for b := range n {
			big[b] = 1
			for k := range costs[b] {
				costs[b][k] = 3
				if r.IntN(20) == 0 {
					costs[b][k] = uint16(r.IntN(9))
				}
			}
		}
		for _, lengthBits := range []int{3, 5} {
			books := make([]uint8, n)
			got := c.sections(costs, big, lengthBits, books)
			bits := headerBits(books, lengthBits)
			for b, k := range books {
				bits += int(costs[b][k])
			}
			if got != bits {
				t.Fatalf("%d bands: %d bits said, %d by the books chosen", n, got, bits)
			}
		}
	}
}
