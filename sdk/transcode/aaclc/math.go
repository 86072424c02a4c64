package aaclc

import "math"

// log2 returns the binary logarithm of x > 0 within 2e-5; of zero and below,
// a large negative number. A polynomial does where a model is no better than a
// tenth of a decibel.
func log2(x float32) float32 {
	b := math.Float32bits(x)
	if b-0x00800000 >= 0x7f000000 {
		return -126 // zero, denormal, negative, infinite
	}
	m := math.Float32frombits(b&0x007fffff|0x3f800000) - 1
	p := 0.04392863*m - 0.18983244
	p = p*m + 0.41156148
	p = p*m - 0.70725343
	p = p*m + 1.4415921
	return float32(int32(b>>23)-127) + p*m + 1.44e-5
}

// exp2 returns 2^x within 4e-6, x clamped to -126..126.
func exp2(x float32) float32 {
	x = min(max(x, -126), 126)
	n := int32(x + 128)
	m := x - float32(n-128)
	p := 0.013683983*m + 0.051717736
	p = p*m + 0.24162132
	p = p*m + 0.69296955
	p = p*m + 1.0000036
	return p * math.Float32frombits(uint32(n-1)<<23)
}

func sqrt32(x float32) float32 { return float32(math.Sqrt(float64(x))) }
