package aaclc

import (
	"math"
	"math/rand/v2"
	"testing"
)

// direct is the MDCT as the standard writes it (clause 4.6.11.3.1, with the
// encoder's factor 2).
func direct(x []float64) []float64 {
	n := len(x)
	n0 := float64(n/2+1) / 2
	out := make([]float64, n/2)
	for k := range out {
		for i, v := range x {
			out[k] += 2 * v * math.Cos(2*math.Pi/float64(n)*(float64(i)+n0)*(float64(k)+0.5))
		}
	}
	return out
}

// inverse is the decoder's transform of the same clause, without windows.
func inverse(spec []float32) []float64 {
	n := 2 * len(spec)
	out := make([]float64, n)
	// The argument is a multiple of pi/(2n), and the cosine has 4n of those.
	cos := make([]float64, 4*n)
	for i := range cos {
		cos[i] = math.Cos(math.Pi / float64(2*n) * float64(i))
	}
	for i := range out {
		for k, v := range spec {
			out[i] += 2 / float64(n) * float64(v) * cos[(2*i+n/2+1)*(2*k+1)%(4*n)]
		}
	}
	return out
}

func TestTransformEqualsDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	f := sharedTables()
	x := make([]float32, 2048)
	for i := range x {
		x[i] = r.Float32()*2 - 1
	}
	for _, seq := range []windowSequence{onlyLong, longStart, longStop} {
		rise, fall := f.bank.slopes(seq, kbdShape, sineShape)
		windowed := make([]float64, 2048)
		for i := range 1024 {
			windowed[i] = float64(x[i] * rise[i])
			windowed[1024+i] = float64(x[1024+i] * fall[1023-i])
		}
		want := direct(windowed)
		var got [1024]float32
		var z [512]c64
		f.bank.transformLong(&got, x, rise, fall, &z)
		for k := range want {
			if math.Abs(want[k]-float64(got[k])) > 1e-3 {
				t.Fatalf("sequence %d line %d: got %g, want %g", seq, k, got[k], want[k])
			}
		}
	}
	rise, fall := &f.bank.short[sineShape], &f.bank.short[kbdShape]
	windowed := make([]float64, 256)
	for i := range 128 {
		windowed[i] = float64(x[i] * rise[i])
		windowed[128+i] = float64(x[128+i] * fall[127-i])
	}
	want := direct(windowed)
	var got [128]float32
	var z [64]c64
	f.bank.transformShort(&got, x, rise, fall, &z)
	for k := range want {
		if math.Abs(want[k]-float64(got[k])) > 1e-3 {
			t.Fatalf("short line %d: got %g, want %g", k, got[k], want[k])
		}
	}
}

// Any lawful sequence of windows and shapes gives the samples back.
func TestWindowsReconstruct(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	f := sharedTables()
	const frames = 14
	x := make([]float32, (frames+1)*1024)
	for i := range x {
		x[i] = r.Float32()*2 - 1
	}
	y := make([]float64, len(x)+1024)
	sequence, left, attack := onlyLong, sineShape, false
	seen := map[windowSequence]bool{}
	for n := range frames {
		next := r.IntN(3) == 0
		sequence = nextSequence(sequence, attack, next)
		attack = next
		seen[sequence] = true
		right := windowShape(r.IntN(2))
		in, out := x[n*1024:], y[n*1024:]
		if sequence == eightShort {
			shape := left
			for w := range shortCount {
				var lines [shortLines]float32
				var z [shortLines / 2]c64
				at := flat + w*shortLines
				rise, fall := &f.bank.short[shape], &f.bank.short[right]
				f.bank.transformShort(&lines, in[at:], rise, fall, &z)
				for i, v := range inverse(lines[:]) {
					if i < shortLines {
						out[at+i] += v * float64(rise[i])
					} else {
						out[at+i] += v * float64(fall[2*shortLines-1-i])
					}
				}
				shape = right
			}
		} else {
			var lines [frameLines]float32
			var z [frameLines / 2]c64
			rise, fall := f.bank.slopes(sequence, left, right)
			f.bank.transformLong(&lines, in, rise, fall, &z)
			for i, v := range inverse(lines[:]) {
				if i < frameLines {
					out[i] += v * float64(rise[i])
				} else {
					out[i] += v * float64(fall[2*frameLines-1-i])
				}
			}
		}
		left = right
	}
	for i := 1024; i < frames*1024; i++ {
		if math.Abs(y[i]-float64(x[i])) > 1e-5 {
			t.Fatalf("sample %d: %g comes back as %g", i, x[i], y[i])
		}
	}
	if len(seen) != 4 {
		t.Errorf("only sequences %v were tried", seen)
	}
}
