package aaclc

import "math"

// Scalefactors. A band whose error is to have energy T wants the step size that
// the quantiser's error energy, 4/27 * form * step^(3/2), gives (TS 26.403,
// clause 5.6.2): a real number s. Scalefactors are integers and cost bits by
// their differences; near the optimum a band gains or loses little by a step up
// or down, in bits and error together:
//
//	J(d) = lines * (-0.1875 d + 0.7213 (2^(0.375 d) - 1)) bits
//
// (a step of d changes the rate by 0.1875 bits per line and the error by
// 2^(0.375 d); 0.7213 makes d = 0 the minimum). So the sequence that minimises
// the sum of J and the bits of the differences is sought, by dynamic
// programming over a few candidates per band; most of the wiggle goes, and the
// bits with it.

const (
	sfCandidates = 7
	sfReach      = sfCandidates / 2
	sfFine       = 8 // entries of the deviation table per step
	sfSpan       = 12
)

// scaleTables are the constants of the search.
type scaleTables struct {
	deviation  [2*sfSpan*sfFine + 1]float32 // J(d) per line
	difference [2*maxSfDelta + 1]float32    // bits of a difference
}

func (t *scaleTables) fill() {
	for i := range t.deviation {
		d := float64(i)/sfFine - sfSpan
		t.deviation[i] = float32(-0.1875*d + 0.7213*(math.Exp2(0.375*d)-1))
	}
	for i := range t.difference {
		t.difference[i] = float32(scalefactorBook[i].bits)
	}
}

// A scaleBand is a band that takes part in the search.
type scaleBand struct {
	band     int32
	want     float32 // s, the scalefactor of the wanted error
	lines    float32 // lines that matter
	min, max int32   // bounds: no value above maxQuant, not all values zero
}

// smooth chooses the scalefactors of the bands in c.active, and fills sf.
func (c *coder) smooth(sf []int32) {
	t := &c.scale
	active := c.active
	if len(active) == 0 {
		return
	}
	var cost [sfCandidates]float32
	base := int32(0)
	for i := range active {
		a := &active[i]
		centre := min(max(int32(a.want+0.5), a.min), a.max)
		lo := min(max(centre-sfReach, a.min), max(a.max-sfCandidates+1, a.min))
		var own [sfCandidates]float32
		for k := range own {
			s := lo + int32(k)
			if s > a.max {
				own[k] = 1e9
				continue
			}
			d := (float32(s) - a.want) * sfFine
			own[k] = a.lines * t.deviation[min(max(int32(d+sfSpan*sfFine+0.5), 0), 2*sfSpan*sfFine)]
		}
		if i == 0 {
			cost, base = own, lo
			c.base[0] = lo
			continue
		}
		var next [sfCandidates]float32
		from := &c.path[i]
		shift := lo - base // difference = k - j + shift
		if shift < -maxSfDelta+sfReach*2 || shift > maxSfDelta-sfReach*2 {
			c.far(&cost, &own, &next, from, shift)
		} else {
			d := (*[2*sfCandidates - 1]float32)(t.difference[shift+maxSfDelta-sfCandidates+1:])
			for k := range next {
				best, at := cost[0]+d[k+sfCandidates-1], uint8(0)
				for j := 1; j < sfCandidates; j++ {
					if v := cost[j] + d[k-j+sfCandidates-1]; v < best {
						best, at = v, uint8(j)
					}
				}
				next[k], from[k] = best+own[k], at
			}
		}
		cost, base = next, lo
		c.base[i] = lo
	}
	at := uint8(0)
	for k := range cost {
		if cost[k] < cost[at] {
			at = uint8(k)
		}
	}
	for i := len(active) - 1; i >= 0; i-- {
		sf[active[i].band] = c.base[i] + int32(at)
		at = c.path[i][at]
	}
}

// round is smooth for a hurry: each band gets what it wants.
func (c *coder) round(sf []int32) {
	for i := range c.active {
		a := &c.active[i]
		sf[a.band] = min(max(int32(a.want+0.5), a.min), a.max)
	}
}

// far is the step of smooth where differences may leave the range of the
// standard.
func (c *coder) far(cost, own, next *[sfCandidates]float32, from *[sfCandidates]uint8, shift int32) {
	for k := range next {
		best, at := float32(2e9), uint8(0)
		for j := range cost {
			d := int32(k) - int32(j) + shift
			v := cost[j] + 1e8 // not allowed: repaired by legalise
			if d >= -maxSfDelta && d <= maxSfDelta {
				v = cost[j] + c.scale.difference[d+maxSfDelta]
			}
			if v < best {
				best, at = v, uint8(j)
			}
		}
		next[k], from[k] = best+own[k], at
	}
}

// legalise raises scalefactors until no two neighbours differ by more than the
// book of differences can say. Raising loses precision where it is masked by
// some 60 dB; it never makes a value too large.
func (c *coder) legalise(sf []int32) {
	a := c.active
	for i := 1; i < len(a); i++ {
		sf[a[i].band] = max(sf[a[i].band], sf[a[i-1].band]-maxSfDelta)
	}
	for i := len(a) - 2; i >= 0; i-- {
		sf[a[i].band] = max(sf[a[i].band], sf[a[i+1].band]-maxSfDelta)
	}
}
