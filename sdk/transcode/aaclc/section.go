package aaclc

// Sectioning, clause 4.6.3: neighbouring bands that use the same codebook form a
// section, which costs 4 bits for the book and 5 (long) or 3 (short windows) for
// the length, and as much again where the length runs over. Which book each
// band should use is a shortest path: for every band and book, either stay in
// the book or open a section, from the cheapest way to have come so far. That is
// twelve states per band, a few hundred steps, and optimal, where the greedy
// merging of TS 26.403, clause 5.8, is nearly so. (Exact where no length runs
// over; otherwise within the bits of one length field.)

// sections chooses books for n bands of one group, whose costs by book are given.
// big is each band's largest magnitude, lengthBits the size of the length
// field. It fills books and returns the bits for section headers and spectrum.
func (c *coder) sections(costs [][bookCount]uint16, big []int32, lengthBits int, books []uint8) int {
	const never = 1 << 24
	n := len(books)
	costs, big = costs[:n], big[:n]
	limit := int32(1)<<lengthBits - 1
	header := int32(4 + lengthBits)

	var total, run [bookCount]int32
	for k := range total {
		total[k] = never
	}
	bestBook, best := uint8(0), int32(0)
	for b := range n {
		from := &c.from[b]
		enter := best + header
		row := &costs[b]
		first := uint8(zeroBook)
		if big[b] > 0 {
			first = escapeBook
			if big[b] <= 12 {
				first = firstBook[big[b]]
			}
		}
		nextBook, next := uint8(0), int32(never)
		for k := range uint8(bookCount) {
			if k < first {
				total[k] = never
				continue
			}
			stay := total[k]
			if run[k] == limit-1 {
				stay += int32(lengthBits)
			}
			if stay <= enter && b > 0 {
				from[k] = k
				run[k]++
				if run[k] == limit {
					run[k] = 0
				}
			} else {
				stay = enter
				from[k] = bestBook
				run[k] = 1
			}
			stay += int32(row[k])
			total[k] = stay
			if stay < next {
				nextBook, next = k, stay
			}
		}
		bestBook, best = nextBook, next
	}
	for b := n - 1; b >= 0; b-- {
		books[b] = bestBook
		bestBook = c.from[b][bestBook]
	}
	return int(best)
}
