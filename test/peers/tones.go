package peers

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/cmplx"
	"slices"
	"testing"
	"time"
)

// A Tone is what is heard on one channel while the other may sound too.
type Tone struct {
	Hz    float64
	Level float64 // amplitude, full scale being 1
	Other float64 // amplitude at the frequency of the other channel
}

// Tones are those of the beeps of a recording, left and right: medians over all.
type Tones struct {
	Channels [2]Tone
	Beeps    int
}

// String describes t for a message.
func (t Tones) String() string {
	s := fmt.Sprintf("%d beeps", t.Beeps)
	for i, name := range []string{"left", "right"} {
		c := t.Channels[i]
		s += fmt.Sprintf(", %s %.1f Hz at %.3f and %.4f of the other", name, c.Hz, c.Level, c.Other)
	}
	return s
}

// The middle of a beep is looked at, from a begin that is loud for so long.
const (
	toneRateHz   = 48000
	toneLoud     = 0.05
	toneSkip     = toneRateHz / 50 // 20 ms
	toneLength   = toneRateHz / 20 // 50 ms
	toneLowestHz = 200
	toneMostHz   = 4000
)

// MeasureTones decodes the sound of a recording of beeps with ffmpeg and says what
// they sound like on either channel.
func MeasureTones(t testing.TB, file string) Tones {
	t.Helper()
	raw := runOrFail(t, "ffmpeg", "-nostdin", "-hide_banner", "-v", "error", "-i", file, "-vn", "-ac", "2", "-ar", fmt.Sprint(toneRateHz), "-f", "f32le", "-")
	var pcm [2][]float64
	for i := 0; i+8 <= len(raw); i += 8 {
		for ch := range pcm {
			pcm[ch] = append(pcm[ch], float64(math.Float32frombits(binary.LittleEndian.Uint32(raw[i+4*ch:]))))
		}
	}
	var hz, level, other [2][]float64
	n := 0
	for i := 0; i+toneSkip+toneLength < len(pcm[0]); i++ {
		if math.Abs(pcm[0][i]) < toneLoud && math.Abs(pcm[1][i]) < toneLoud {
			continue
		}
		from := i + toneSkip
		i = from + toneLength + toneRateHz/5 // on to the next
		if !sounds(pcm, from) {
			continue
		}
		n++
		var at [2]float64
		var beep [2][]float64
		for ch := range pcm {
			beep[ch] = windowed(pcm[ch][from : from+toneLength])
			at[ch] = strongest(beep[ch])
			hz[ch] = append(hz[ch], at[ch])
		}
		for ch := range beep {
			level[ch] = append(level[ch], amplitude(beep[ch], at[ch]))
			other[ch] = append(other[ch], amplitude(beep[ch], at[1-ch]))
		}
	}
	if n == 0 {
		t.Fatalf("no beep in %s, of %v", file, time.Duration(len(pcm[0]))*time.Second/toneRateHz)
	}
	tones := Tones{Beeps: n}
	for ch := range tones.Channels {
		tones.Channels[ch] = Tone{median(hz[ch]), median(level[ch]), median(other[ch])}
	}
	return tones
}

// sounds reports whether it is loud all through the stretch from a sample on: what
// is cut off, or clicks, is no beep.
func sounds(pcm [2][]float64, from int) bool {
	const part = toneLength / 10
	for i := from; i+part <= from+toneLength; i += part {
		top := 0.0
		for ch := range pcm {
			for _, v := range pcm[ch][i : i+part] {
				top = max(top, math.Abs(v))
			}
		}
		if top < toneLoud {
			return false
		}
	}
	return true
}

// strongest is the frequency that a stretch of windowed sound has most of, to a quarter of a Hz.
func strongest(pcm []float64) float64 {
	best, most := 0.0, 0.0
	try := func(hz float64) {
		if a := amplitude(pcm, hz); a > most {
			best, most = hz, a
		}
	}
	for hz := float64(toneLowestHz); hz < toneMostHz; hz += 10 {
		try(hz)
	}
	for from, hz := best, best-10; hz <= from+10; hz += 0.25 {
		try(hz)
	}
	return best
}

// windowed is sound under a Hann window, of the same mean loudness.
func windowed(pcm []float64) []float64 {
	out := make([]float64, len(pcm))
	for i, v := range pcm {
		out[i] = v * (1 - math.Cos(2*math.Pi*(float64(i)+0.5)/float64(len(pcm))))
	}
	return out
}

// amplitude is that of a frequency in windowed sound.
func amplitude(pcm []float64, hz float64) float64 {
	var sum complex128
	step := cmplx.Rect(1, -2*math.Pi*hz/toneRateHz)
	turn := complex(1, 0)
	for _, v := range pcm {
		sum += complex(v, 0) * turn
		turn *= step
	}
	return 2 * cmplx.Abs(sum) / float64(len(pcm))
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// CheckTones returns an error unless there are at least beeps of them, each channel
// has its own frequency and little of the other's, and both are about as loud as
// they were played.
func CheckTones(t Tones, beeps int, left, right, level float64) error {
	if t.Beeps < beeps {
		return fmt.Errorf("want at least %d beeps: %v", beeps, t)
	}
	for ch, want := range []float64{left, right} {
		c := t.Channels[ch]
		if math.Abs(c.Hz-want) > want/250 {
			return fmt.Errorf("want %.0f Hz on the left and %.0f on the right: %v", left, right, t)
		}
		if c.Level < level*0.7 || c.Level > level*1.3 {
			return fmt.Errorf("want a level of %.2f: %v", level, t)
		}
		if c.Other > level/10 {
			return fmt.Errorf("left and right are mixed: %v", t)
		}
	}
	return nil
}
