package aaclc

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// mixed returns sound that changes its kind every now and then: chords, speech-like
// pulses, noise, pauses, clicks, and all that is hostile.
func mixed(seed uint64) func(i, ch int) float32 {
	r := rand.New(rand.NewPCG(seed, 17))
	hostile := hostileSignals()
	var now func(i, ch int) float32
	until := 0
	return func(i, ch int) float32 {
		if i >= until && ch == 0 {
			until = i + 2000 + r.IntN(100000)
			gain := float32(math.Exp2(-8 * r.Float64()))
			step, depth := 0.005+0.05*r.Float64(), r.Float64()
			switch r.IntN(6) {
			case 0:
				f := hostile[r.IntN(len(hostile))].make()
				now = func(i, ch int) float32 { return gain * f(i, ch) }
			case 1:
				now = func(i, ch int) float32 {
					x := 0.0
					for h := 1.0; h < 16; h++ {
						x += math.Sin(float64(i)*step*h+float64(ch)*depth) / h
					}
					return gain * float32(x) / 2
				}
			case 2:
				now = func(i, ch int) float32 {
					t := math.Mod(float64(i)*step/6, 1)
					return gain * float32(math.Exp(-8*t)*math.Sin(60*t)+0.02*(r.Float64()-0.5))
				}
			case 3:
				now = func(int, int) float32 { return gain * (r.Float32() - 0.5) }
			case 4:
				now = func(int, int) float32 { return 0 }
			default:
				now = func(i, ch int) float32 {
					if i%(3000+ch*700) < 200 {
						return gain * (r.Float32() - 0.5)
					}
					return 0
				}
			}
		}
		return now(i, ch)
	}
}

// Minutes of mixed sound decode everywhere. AUDIO_SOAK says how long the sound is, in
// all: 10h in make soak, otherwise 5m, of which every decoder takes every unit.
func TestSoak(t *testing.T) {
	length := soakShort
	if s := os.Getenv("AUDIO_SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		length = d
	}
	configs := []Config{{48000, 2, 128000}, {48000, 2, 64000}, {48000, 1, 64000}, {44100, 2, 160000}, {48000, 2, 48000}, {32000, 2, 96000},
		{24000, 1, 24000}, {22050, 2, 64000}, {16000, 1, 16000}, {48000, 2, 320000}, {48000, 1, 12000}, {48000, 2, 576000}}
	ffmpeg, faad := peer(t, "ffmpeg", "ffmpeg"), peer(t, "faad", "faad")
	chunk := max(length/time.Duration(len(configs)), time.Second)
	chunk = min(chunk, 5*time.Minute)
	file := filepath.Join(t.TempDir(), "soak.aac")
	done := time.Duration(0)
	for n := 0; done < length; n++ {
		c := configs[n%len(configs)]
		frames := int(chunk.Seconds() * float64(c.SampleRate) / FrameSamples)
		units, _ := encodeWith(t, c, mixed(uint64(n)), frames, func(i int) bool { return i/500%4 == 3 })
		checkUnits(t, "mixed sound", c, units)
		if err := os.WriteFile(file, adts(t, c, units), 0o644); err != nil {
			t.Fatal(err)
		}
		if c.SampleRate >= 44100 {
			decode(t, c, units)
		}
		if ffmpeg != "" {
			run(t, "mixed sound", c, ffmpeg, "-v", "warning", "-xerror", "-i", file, "-f", "null", "-")
		}
		if faad != "" {
			run(t, "mixed sound", c, faad, "-q", "-w", file)
		}
		done += chunk
	}
	t.Logf("%v of sound", done)
}
