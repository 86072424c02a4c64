package aaclc

import "math"

// A c64 is a complex number. It is not complex64, because the compiler
// multiplies those in double precision.
type c64 struct{ r, i float32 }

// fftTables holds the twiddle factors exp(-2*pi*i*k*m/n) of the radix-8 stages:
// for each m the factors of k = 1..7, in the order in which the loop reads them.
type fftTables struct {
	w512 [64][7]c64
	w64  [8][7]c64
	// at512[k] is where line k of a 512-point transform lies; likewise at64.
	at512 [512]uint16
	at64  [64]uint16
}

func (t *fftTables) fill() {
	fill := func(w [][7]c64, n int) {
		for m := range w {
			for k := range w[m] {
				s, c := math.Sincos(-2 * math.Pi * float64((k+1)*m) / float64(n))
				w[m][k] = c64{float32(c), float32(s)}
			}
		}
	}
	fill(t.w512[:], 512)
	fill(t.w64[:], 64)
	for p := range 512 {
		t.at512[p>>6+p>>3&7<<3+p&7<<6] = uint16(p)
	}
	for p := range 64 {
		t.at64[p>>3+p&7<<3] = uint16(p)
	}
}

// fft512 transforms x in place: decimation in frequency, three stages of radix
// 8 (Cooley and Tukey 1965; Bergland 1969). Nothing is permuted: the output is
// in digit-reversed order, read through at512.
func (t *fftTables) fft512(x *[512]c64) {
	radix8(x[:], t.w512[:])
	for b := 0; b < 512; b += 64 {
		t.fft64((*[64]c64)(x[b:]))
	}
}

// fft64 transforms x in place, the output read through at64.
func (t *fftTables) fft64(x *[64]c64) {
	radix8(x[:], t.w64[:])
	for b := 0; b < 64; b += 8 {
		last8((*[8]c64)(x[b:]))
	}
}

const rootHalf = math.Sqrt2 / 2

// radix8 is one stage: butterflies over the eight eighths of x, each output
// turned by its twiddle factor.
func radix8(x []c64, w [][7]c64) {
	q := len(w)
	x0, x1, x2, x3 := x[:q:q], x[q:][:q:q], x[2*q:][:q:q], x[3*q:][:q:q]
	x4, x5, x6, x7 := x[4*q:][:q:q], x[5*q:][:q:q], x[6*q:][:q:q], x[7*q:][:q:q]
	for m := range w {
		v := &w[m]
		a, b := x0[m], x4[m]
		s0r, s0i, d0r, d0i := a.r+b.r, a.i+b.i, a.r-b.r, a.i-b.i
		a, b = x2[m], x6[m]
		s2r, s2i, d2r, d2i := a.r+b.r, a.i+b.i, a.r-b.r, a.i-b.i
		a, b = x1[m], x5[m]
		s1r, s1i, d1r, d1i := a.r+b.r, a.i+b.i, a.r-b.r, a.i-b.i
		a, b = x3[m], x7[m]
		s3r, s3i, d3r, d3i := a.r+b.r, a.i+b.i, a.r-b.r, a.i-b.i

		t0r, t0i, t1r, t1i := s0r+s2r, s0i+s2i, s0r-s2r, s0i-s2i
		t2r, t2i, t3r, t3i := s1r+s3r, s1i+s3i, s1r-s3r, s1i-s3i
		x0[m] = c64{t0r + t2r, t0i + t2i}
		x4[m] = turn(t0r-t2r, t0i-t2i, v[3])
		x2[m] = turn(t1r+t3i, t1i-t3r, v[1])
		x6[m] = turn(t1r-t3i, t1i+t3r, v[5])

		e1r, e1i := (d1r+d1i)*rootHalf, (d1i-d1r)*rootHalf
		e3r, e3i := (d3i-d3r)*rootHalf, -(d3r+d3i)*rootHalf
		u0r, u0i, u1r, u1i := d0r+d2i, d0i-d2r, d0r-d2i, d0i+d2r
		u2r, u2i, u3r, u3i := e1r+e3r, e1i+e3i, e1r-e3r, e1i-e3i
		x1[m] = turn(u0r+u2r, u0i+u2i, v[0])
		x5[m] = turn(u0r-u2r, u0i-u2i, v[4])
		x3[m] = turn(u1r+u3i, u1i-u3r, v[2])
		x7[m] = turn(u1r-u3i, u1i+u3r, v[6])
	}
}

func turn(r, i float32, w c64) c64 { return c64{r*w.r - i*w.i, r*w.i + i*w.r} }

// last8 is the stage without twiddle factors.
func last8(x *[8]c64) {
	s0r, s0i, d0r, d0i := x[0].r+x[4].r, x[0].i+x[4].i, x[0].r-x[4].r, x[0].i-x[4].i
	s2r, s2i, d2r, d2i := x[2].r+x[6].r, x[2].i+x[6].i, x[2].r-x[6].r, x[2].i-x[6].i
	s1r, s1i, d1r, d1i := x[1].r+x[5].r, x[1].i+x[5].i, x[1].r-x[5].r, x[1].i-x[5].i
	s3r, s3i, d3r, d3i := x[3].r+x[7].r, x[3].i+x[7].i, x[3].r-x[7].r, x[3].i-x[7].i

	t0r, t0i, t1r, t1i := s0r+s2r, s0i+s2i, s0r-s2r, s0i-s2i
	t2r, t2i, t3r, t3i := s1r+s3r, s1i+s3i, s1r-s3r, s1i-s3i
	x[0] = c64{t0r + t2r, t0i + t2i}
	x[4] = c64{t0r - t2r, t0i - t2i}
	x[2] = c64{t1r + t3i, t1i - t3r}
	x[6] = c64{t1r - t3i, t1i + t3r}

	e1r, e1i := (d1r+d1i)*rootHalf, (d1i-d1r)*rootHalf
	e3r, e3i := (d3i-d3r)*rootHalf, -(d3r+d3i)*rootHalf
	u0r, u0i, u1r, u1i := d0r+d2i, d0i-d2r, d0r-d2i, d0i+d2r
	u2r, u2i, u3r, u3i := e1r+e3r, e1i+e3i, e1r-e3r, e1i-e3i
	x[1] = c64{u0r + u2r, u0i + u2i}
	x[5] = c64{u0r - u2r, u0i - u2i}
	x[3] = c64{u1r + u3i, u1i - u3r}
	x[7] = c64{u1r - u3i, u1i + u3r}
}
