package aaclc

import (
	"fmt"
	"math"
	"sync"
)

// A parser reads access units back, from the syntax of clause 4.4.2 and not from
// the writer's code. Whatever the standard forbids is an error.
type parser struct {
	*lookup
	config Config
	table  *rateTable
}

// lookup finds what a codeword stands for.
type lookup struct {
	books  [bookCount]map[codeword]int
	scales map[codeword]int
}

var sharedLookup = sync.OnceValue(func() *lookup {
	l := &lookup{scales: map[codeword]int{}}
	for k, book := range spectrumBooks() {
		l.books[k] = map[codeword]int{}
		for i, w := range book {
			l.books[k][w] = i
		}
	}
	for i, w := range scalefactorBook {
		l.scales[w] = i - 60
	}
	return l
})

func newParser(c Config) *parser {
	p := &parser{lookup: sharedLookup(), config: c}
	p.table, _, _ = rateOf(c.SampleRate)
	return p
}

// A parsedChannel is an individual_channel_stream: lines in coding order.
type parsedChannel struct {
	q         [frameLines]int16
	tns       *parsedFilter
	books     []uint8
	noise     int // bands of substituted noise
	intensity int // bands that are the left channel's, scaled
}

type parsedFilter struct {
	begin, end int
	a          []float64
}

type parsedUnit struct {
	sequence windowSequence
	shape    windowShape
	maxSfb   int
	groups   []int
	ms       []bool
	ch       []parsedChannel
	fill     int // bits of fill elements
}

// illegal is what the parser panics with; unit turns it into an error.
type illegal string

func (p *parser) unit(unit []byte) (u parsedUnit, err error) {
	r := &bitReader{data: unit}
	defer func() {
		if x := recover(); x != nil {
			what, ok := x.(illegal)
			if !ok {
				panic(x)
			}
			err = fmt.Errorf("bit %d of %d: %s", r.pos, 8*len(unit), string(what))
		}
	}()
	if len(unit) > unitBytes*p.config.Channels {
		panic(illegal("larger than a decoder's buffer"))
	}
	u.ch = make([]parsedChannel, p.config.Channels)
	if p.config.Channels == 2 {
		r.want(1, 3, "ID_CPE")
		r.want(0, 4, "element_instance_tag")
		r.want(1, 1, "common_window")
		p.info(r, &u)
		u.ms = make([]bool, len(u.groups)*u.maxSfb)
		present := r.take(2)
		for i := range u.ms {
			u.ms[i] = present == 2 || present == 1 && r.take(1) == 1
		}
		if present == 3 {
			panic(illegal("ms_mask_present 3"))
		}
		p.stream(r, &u, &u.ch[0], false)
		p.stream(r, &u, &u.ch[1], false)
	} else {
		r.want(0, 3, "ID_SCE")
		r.want(0, 4, "element_instance_tag")
		p.stream(r, &u, &u.ch[0], true)
	}
	for {
		begin := r.pos
		switch id := r.take(3); id {
		case 6:
			n := r.take(4)
			if n == 15 {
				n += r.take(8) - 1
			}
			for range n {
				r.take(8)
			}
			u.fill += r.pos - begin
		case 7:
			if len(unit) != (r.pos+7)/8 {
				panic(illegal("bytes after the end"))
			}
			return u, nil
		default:
			panic(illegal(fmt.Sprint("element ", id)))
		}
	}
}

func (p *parser) info(r *bitReader, u *parsedUnit) {
	r.want(0, 1, "ics_reserved_bit")
	u.sequence = windowSequence(r.take(2))
	u.shape = windowShape(r.take(1))
	if u.sequence == eightShort {
		u.maxSfb = r.take(4)
		u.groups = []int{1}
		for range 7 {
			if r.take(1) == 1 {
				u.groups[len(u.groups)-1]++
			} else {
				u.groups = append(u.groups, 1)
			}
		}
		if u.maxSfb >= len(p.table.short) {
			panic(illegal("max_sfb"))
		}
		return
	}
	u.groups = []int{1}
	u.maxSfb = r.take(6)
	r.want(0, 1, "predictor_data_present")
	if u.maxSfb >= len(p.table.long) {
		panic(illegal("max_sfb"))
	}
}

func (p *parser) stream(r *bitReader, u *parsedUnit, c *parsedChannel, info bool) {
	scale := r.take(8)
	if info {
		p.info(r, u)
	}
	bits, off := 5, p.table.long
	if u.sequence == eightShort {
		bits, off = 3, p.table.short
	}
	c.books = make([]uint8, len(u.groups)*u.maxSfb)
	for g := range u.groups {
		for b := 0; b < u.maxSfb; {
			book := r.take(4)
			intensity := book == 14 || book == 15
			if book == 12 || intensity && c != &u.ch[len(u.ch)-1] || intensity && len(u.ch) == 1 {
				panic(illegal(fmt.Sprint("codebook ", book)))
			}
			n := 0
			for {
				l := r.take(bits)
				n += l
				if l < 1<<bits-1 {
					break
				}
			}
			if n == 0 || b+n > u.maxSfb {
				panic(illegal("section length"))
			}
			for range n {
				c.books[g*u.maxSfb+b] = uint8(book)
				b++
			}
		}
	}
	scales := make([]int, len(c.books))
	noise, pcm, position := scale-90, true, 0
	for i, book := range c.books {
		if book == 14 || book == 15 {
			position += r.code(p.scales)
			if position < -250 || position > 250 {
				panic(illegal(fmt.Sprint("intensity position ", position)))
			}
			c.intensity++
			continue
		}
		if book == noiseBook {
			if pcm {
				noise += r.take(9) - 256
			} else {
				noise += r.code(p.scales)
			}
			pcm = false
			if noise < -100 || noise > 155 {
				panic(illegal(fmt.Sprint("noise energy ", noise)))
			}
			c.noise++
			continue
		}
		if book != zeroBook {
			scale += r.code(p.scales)
			if scale < 0 || scale > 255 {
				panic(illegal(fmt.Sprint("scalefactor ", scale)))
			}
			scales[i] = scale
		}
	}
	r.want(0, 1, "pulse_data_present")
	if r.take(1) == 1 {
		c.tns = p.filter(r, u)
	}
	r.want(0, 1, "gain_control_data_present")
	at := 0
	for g, windows := range u.groups {
		for b := range len(off) - 1 {
			n := (off[b+1] - off[b]) * windows
			if b < u.maxSfb {
				i := g*u.maxSfb + b
				p.spectrum(r, int(c.books[i]), c.q[at:at+n])
				at += n
			}
		}
	}
}

func (p *parser) filter(r *bitReader, u *parsedUnit) *parsedFilter {
	if u.sequence == eightShort {
		panic(illegal("TNS in a short frame"))
	}
	r.want(1, 2, "n_filt")
	r.want(1, 1, "coef_res")
	length, order := r.take(6), r.take(5)
	if order == 0 || order > 12 {
		panic(illegal("TNS order"))
	}
	r.want(0, 2, "direction, coef_compress")
	top := len(p.table.long) - 1
	end := min(p.table.tnsLong, u.maxSfb)
	if length > top {
		panic(illegal("TNS length"))
	}
	f := &parsedFilter{begin: p.table.long[min(top-length, end)], end: p.table.long[end]}
	a := []float64{1}
	for m := 1; m <= order; m++ {
		v := r.take(4)
		k := math.Sin(float64(v) * math.Pi / 15)
		if v > 7 {
			k = math.Sin(float64(v-16) * math.Pi / 17)
		}
		next := append(append([]float64(nil), a...), 0)
		for i := 1; i <= m; i++ {
			w := 0.0
			if m-i < len(a) {
				w = a[m-i]
			}
			next[i] += k * w
		}
		a = next
	}
	f.a = a
	return f
}

// spectrum reads the lines of a band (clause 4.6.3.3).
func (p *parser) spectrum(r *bitReader, book int, q []int16) {
	if book == zeroBook || book > escapeBook {
		return
	}
	dim, side, signed := 2, 0, false
	switch book {
	case 1, 2:
		dim, side, signed = 4, 3, true
	case 3, 4:
		dim, side = 4, 3
	case 5, 6:
		side, signed = 9, true
	case 7, 8:
		side = 8
	case 9, 10:
		side = 13
	case 11:
		side = 17
	}
	for len(q) > 0 {
		i := r.code(p.books[book])
		for k := dim - 1; k >= 0; k-- {
			q[k] = int16(i % side)
			if signed {
				q[k] -= int16(side / 2)
			}
			i /= side
		}
		if !signed {
			for k := range dim {
				if q[k] != 0 && r.take(1) == 1 {
					q[k] = -q[k]
				}
			}
		}
		if book == escapeBook {
			for k := range dim {
				if q[k] == 16 || q[k] == -16 {
					n := 0
					for r.take(1) == 1 {
						n++
					}
					if n > 8 {
						panic(illegal("escape"))
					}
					v := int16(1<<(n+4) + r.take(n+4))
					if q[k] < 0 {
						v = -v
					}
					q[k] = v
				}
			}
		}
		q = q[dim:]
	}
}

type bitReader struct {
	data []byte
	pos  int
}

func (r *bitReader) take(n int) (v int) {
	for range n {
		if r.pos >= 8*len(r.data) {
			panic(illegal("the unit ends"))
		}
		v = v<<1 | int(r.data[r.pos/8]>>(7-r.pos%8))&1
		r.pos++
	}
	return v
}

func (r *bitReader) want(v, n int, name string) {
	if got := r.take(n); got != v {
		panic(illegal(fmt.Sprintf("%s is %d, want %d", name, got, v)))
	}
}

func (r *bitReader) code(book map[codeword]int) int {
	var w codeword
	for w.bits < 20 {
		w.code = w.code<<1 | uint32(r.take(1))
		w.bits++
		if i, ok := book[w]; ok {
			return i
		}
	}
	panic(illegal("no such codeword"))
}
