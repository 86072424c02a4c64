package aaclc

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	goaac "github.com/tphakala/go-aac"
	"github.com/tphakala/go-aac/pcm"
)

// A signal is a sound as a function of the sample's number and the channel.
type signal struct {
	name string
	make func() func(i, ch int) float32
}

func sine(step, amplitude float64) func() func(i, ch int) float32 {
	return func() func(i, ch int) float32 {
		return func(i, _ int) float32 { return float32(amplitude * math.Sin(step*float64(i))) }
	}
}

func noise(f func(v float32, i, ch int) float32) func() func(i, ch int) float32 {
	return func() func(i, ch int) float32 {
		r := rand.New(rand.NewPCG(1, 2))
		return func(i, ch int) float32 { return f(r.Float32()*2-1, i, ch) }
	}
}

func plain(f func(i, ch int) float32) func() func(i, ch int) float32 {
	return func() func(i, ch int) float32 { return f }
}

func hostileSignals() []signal {
	inf := float32(math.Inf(1))
	nan := float32(math.NaN())
	return []signal{
		{"silence", plain(func(int, int) float32 { return 0 })},
		{"dc", plain(func(int, int) float32 { return 0.9 })},
		{"white", noise(func(v float32, _, _ int) float32 { return v })},
		{"one bit noise", noise(func(v float32, _, _ int) float32 { return float32(math.Copysign(1, float64(v))) })},
		{"square", plain(func(i, ch int) float32 { return float32(i/(24+ch*5)%2)*2 - 1 })},
		{"impulse", plain(func(i, _ int) float32 {
			if i%4801 == 0 {
				return 1
			}
			return 0
		})},
		{"12 dB over", sine(0.05, 4)},
		{"far over", sine(0.05, 1e30)},
		{"denormal", plain(func(i, _ int) float32 { return 1e-39 * float32(i%7) })},
		{"last bit", noise(func(v float32, _, _ int) float32 { return float32(math.Round(float64(v))) / 32768 })},
		{"20 kHz", sine(2*math.Pi*20000/48000, 0.99)},
		{"half the rate", plain(func(i, _ int) float32 { return float32(1 - i%2*2) })},
		{"antiphase", plain(func(i, ch int) float32 { return float32(1-2*ch) * 0.9 * float32(math.Sin(0.1*float64(i))) })},
		{"bursts", noise(func(v float32, i, _ int) float32 { return v * float32(i/2400%2) })},
		{"one channel", noise(func(v float32, _, ch int) float32 { return v * float32(ch) })},
		{"loud and faint", noise(func(v float32, i, ch int) float32 {
			return v*1e-5 + float32(1-ch)*0.99*float32(math.Sin(0.07*float64(i)))
		})},
		{"sweep", plain(func(i, _ int) float32 { return 0.8 * float32(math.Sin(float64(i)*float64(i)*2e-5)) })},
		{"not numbers", plain(func(i, _ int) float32 { return []float32{nan, inf, -inf, 0.3, -1e38, 3e38}[i%6] })},
		{"some not a number", noise(func(v float32, i, _ int) float32 {
			if i%997 == 0 {
				return nan
			}
			return v / 2
		})},
		{"steps", plain(func(i, _ int) float32 { return float32(i/3000%5)/2.5 - 0.8 })},
	}
}

// encode makes units of so many frames and what Flush adds.
func encode(t testing.TB, c Config, at func(i, ch int) float32, frames int) (units [][]byte, e *Encoder) {
	t.Helper()
	return encodeWith(t, c, at, frames, func(int) bool { return false })
}

// encodeWith is encode with an effort that is chosen for each frame.
func encodeWith(t testing.TB, c Config, at func(i, ch int) float32, frames int, fast func(n int) bool) (units [][]byte, e *Encoder) {
	t.Helper()
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	planar := make([][]float32, c.Channels)
	for ch := range planar {
		planar[ch] = make([]float32, FrameSamples)
	}
	for n := range frames {
		for i := range FrameSamples {
			for ch := range planar {
				planar[ch][i] = at(n*FrameSamples+i, ch)
			}
		}
		e.SetFast(fast(n))
		unit, err := e.Encode(nil, planar)
		if err != nil {
			t.Fatal(err)
		}
		units = append(units, unit)
	}
	for {
		unit := e.Flush(nil)
		if len(unit) == 0 {
			return units, e
		}
		units = append(units, unit)
	}
}

func adts(t testing.TB, c Config, units [][]byte) (stream []byte) {
	t.Helper()
	_, index, _ := rateOf(c.SampleRate)
	for _, u := range units {
		// ISO/IEC 14496-3, clause 1.A.2.2.1, without CRC.
		n := len(u) + 7
		stream = append(stream, 0xff, 0xf1, byte(1<<6|index<<2), byte(c.Channels<<6|n>>11), byte(n>>3), byte(n<<5|0x1f), 0xfc)
		stream = append(stream, u...)
	}
	return stream
}

// decode returns what the library's decoder makes of the units, by channel.
func decode(t testing.TB, c Config, units [][]byte) [][]float32 {
	t.Helper()
	d, err := pcm.NewDecoder(bytes.NewReader(adts(t, c, units)))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(d)
	if err != nil {
		t.Fatal(err)
	}
	out := make([][]float32, c.Channels)
	for i := 0; i+1 < len(raw); i += 2 {
		ch := i / 2 % c.Channels
		out[ch] = append(out[ch], float32(int16(uint16(raw[i])|uint16(raw[i+1])<<8))/32768)
	}
	if len(out[0]) != len(units)*FrameSamples {
		t.Fatalf("%d units decode to %d samples", len(units), len(out[0]))
	}
	return out
}

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []struct {
		c    Config
		want string
	}{
		{Config{SampleRate: 48000, Channels: 2, Bitrate: 576001}, "576000"},
		{Config{SampleRate: 48000, Channels: 1, Bitrate: 288001}, "288000"},
		{Config{SampleRate: 16000, Channels: 1, Bitrate: 100000}, "96000"},
		{Config{SampleRate: 48000, Channels: 2, Bitrate: 0}, "bitrate"},
		{Config{SampleRate: 48000, Channels: 3, Bitrate: 96000}, "channels"},
		{Config{SampleRate: 8000, Channels: 1, Bitrate: 32000}, "sample rate"},
		{Config{}, "sample rate"},
	} {
		if _, err := New(c.c); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%+v): %v, want an error that says %s", c.c, err, c.want)
		}
	}
}

func TestAudioSpecificConfig(t *testing.T) {
	for _, c := range []Config{{48000, 2, 128000}, {44100, 2, 128000}, {32000, 1, 64000}, {24000, 2, 64000}, {22050, 1, 32000}, {16000, 1, 32000}} {
		e, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		index := map[int]int{48000: 3, 44100: 4, 32000: 5, 24000: 6, 22050: 7, 16000: 8}[c.SampleRate]
		want := 2<<11 | index<<7 | c.Channels<<3
		if got := e.Config(); len(got) != 2 || int(got[0])<<8|int(got[1]) != want {
			t.Errorf("%+v: config %x, want %x", c, got, want)
		}
	}
}

func TestEncodeWantsWholeFrames(t *testing.T) {
	e, _ := New(Config{48000, 2, 128000})
	for _, planar := range [][][]float32{nil, {make([]float32, 1024)}, {make([]float32, 1024), make([]float32, 1023)}} {
		if unit, err := e.Encode(nil, planar); err == nil || len(unit) > 0 {
			t.Errorf("%d channels: unit of %d bytes, error %v", len(planar), len(unit), err)
		}
	}
}

// Every sound, however hostile, makes legal units within the limits, at either effort.
func TestHostileSoundMakesLegalUnits(t *testing.T) {
	const frames = 24
	for _, s := range hostileSignals() {
		for _, c := range []Config{
			{48000, 1, 8000}, {48000, 1, 64000}, {48000, 1, 288000}, {48000, 2, 16000}, {48000, 2, 64000}, {48000, 2, 128000},
			{48000, 2, 320000}, {48000, 2, 576000}, {44100, 2, 128000}, {44100, 1, 32000}, {32000, 2, 96000}, {24000, 2, 48000},
			{22050, 1, 24000}, {16000, 2, 32000}, {16000, 1, 96000},
		} {
			units, e := encodeWith(t, c, s.make(), frames, func(n int) bool { return n/4%2 == 1 })
			checkUnits(t, s.name, c, units)
			if len(units) != frames+2 {
				t.Fatalf("%s %+v: %d units of %d frames", s.name, c, len(units), frames)
			}
			if e.budget.level < 0 || e.budget.level > e.budget.size+7 {
				t.Fatalf("%s %+v: reservoir at %d of %d", s.name, c, e.budget.level, e.budget.size)
			}
		}
	}
}

// checkUnits parses units, and follows the reservoir: a decoder's buffer that is
// filled at a constant rate must neither run dry nor overflow.
func checkUnits(t testing.TB, name string, c Config, units [][]byte) {
	t.Helper()
	p := newParser(c)
	var b budget
	b.reset(c)
	level, most := float64(b.level), unitBits*c.Channels
	mean := float64(c.Bitrate) * FrameSamples / float64(c.SampleRate)
	for i, u := range units {
		if _, err := p.unit(u); err != nil {
			t.Fatalf("%s %+v: unit %d: %v", name, c, i, err)
		}
		if len(u)*8 > most {
			t.Fatalf("%s %+v: unit %d has %d bits", name, c, i, len(u)*8)
		}
		level += mean - float64(len(u)*8)
		if level < -1 || level > float64(b.size)+8 {
			t.Fatalf("%s %+v: reservoir at %g of %d bits after unit %d", name, c, level, b.size, i)
		}
	}
}

// The bitrate holds over any second and any ten.
func TestBitrate(t *testing.T) {
	configs := []Config{{48000, 2, 128000}, {48000, 1, 64000}, {48000, 2, 24000}, {44100, 2, 160000}}
	for k, s := range hostileSignals() {
		for _, c := range configs[k%4 : k%4+1] {
			units, _ := encodeWith(t, c, s.make(), 500, func(n int) bool { return n >= 250 })
			for _, window := range []struct {
				seconds, within float64
			}{{1, 0.1}, {10, 0.02}} {
				n := int(window.seconds * float64(c.SampleRate) / FrameSamples)
				want := float64(n) * FrameSamples * float64(c.Bitrate) / float64(c.SampleRate)
				sum := 0
				for i, u := range units {
					sum += 8 * len(u)
					if i >= n {
						sum -= 8 * len(units[i-n])
					}
					if i >= n-1 && math.Abs(float64(sum)-want) > window.within*want {
						t.Fatalf("%s %+v: %d bits in %g s up to unit %d, want %g", s.name, c, sum, window.seconds, i, want)
					}
				}
			}
		}
	}
}

// Decoders written by others take every unit, without a word.
func TestOtherDecodersAgree(t *testing.T) {
	dir := t.TempDir()
	ffmpeg, faad := peer(t, "ffmpeg", "ffmpeg"), peer(t, "faad", "faad")
	configs := []Config{{48000, 2, 128000}, {48000, 1, 32000}, {44100, 2, 320000}, {32000, 1, 64000}, {24000, 2, 48000}, {22050, 2, 64000}, {16000, 1, 24000}}
	for i, s := range hostileSignals() {
		c := configs[i%len(configs)]
		units, _ := encode(t, c, s.make(), 40)
		stream := adts(t, c, units)
		if c.SampleRate >= 44100 {
			decode(t, c, units)
		}
		file := filepath.Join(dir, fmt.Sprint(i, ".aac"))
		if err := os.WriteFile(file, stream, 0o644); err != nil {
			t.Fatal(err)
		}
		if ffmpeg != "" {
			run(t, s.name, c, ffmpeg, "-v", "warning", "-xerror", "-i", file, "-f", "null", "-")
		}
		if faad != "" {
			run(t, s.name, c, faad, "-q", "-w", file)
		}
	}
}

// peer finds a program of another package, which is required where peers are.
func peer(t *testing.T, program, pkg string) string {
	path, err := exec.LookPath(program)
	if err != nil && os.Getenv("HEADGATE_TEST_PEERS") == "required" {
		t.Fatalf("%s is not installed: apt-get install %s", program, pkg)
	}
	if err != nil {
		t.Logf("without %s: apt-get install %s", program, pkg)
	}
	return path
}

func run(t *testing.T, name string, c Config, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	var said strings.Builder
	cmd.Stderr = &said
	err := cmd.Run()
	text := strings.ReplaceAll(said.String(), "Estimating duration from bitrate, this may be inaccurate", "")
	lower := strings.ToLower(text)
	for _, word := range []string{"error", "invalid", "illegal", "warning", "exceed", "over"} {
		if err == nil && strings.Contains(lower, word) {
			err = fmt.Errorf("said %q", text)
		}
	}
	if err != nil {
		t.Fatalf("%s %+v: %s: %v: %s", name, c, filepath.Base(program), err, text)
	}
}

// An impulse comes out Delay samples after it went in, to the sample.
func TestDelayIsExact(t *testing.T) {
	for _, c := range []Config{{48000, 2, 256000}, {44100, 1, 128000}} {
		const at = 20*FrameSamples + 137
		units, e := encode(t, c, func(i, _ int) float32 {
			if i == at {
				return 0.9
			}
			return 0
		}, 40)
		for ch, out := range decode(t, c, units) {
			top := 0
			for i, v := range out {
				if math.Abs(float64(v)) > math.Abs(float64(out[top])) {
					top = i
				}
			}
			if top-at != e.Delay() {
				t.Errorf("%+v channel %d: impulse of sample %d at %d, delay %d, want %d", c, ch, at, top, top-at, e.Delay())
			}
		}
	}
	if delay > 1600 {
		t.Errorf("delay %d, want at most 1600", delay)
	}
}

// Flush completes the stream: the last sample that went in comes out.
func TestFlushCompletes(t *testing.T) {
	c := Config{48000, 1, 128000}
	const frames = 10
	at := func(i, _ int) float32 { return 0.5 * float32(math.Sin(0.3*float64(i))) }
	units, e := encode(t, c, at, frames)
	out := decode(t, c, units)[0]
	if len(out) < frames*FrameSamples+e.Delay() {
		t.Fatalf("%d samples come out, the last that went in would be at %d", len(out), frames*FrameSamples+e.Delay())
	}
	if snr := signalToNoise(at, 0, out, e.Delay(), 4000, frames*FrameSamples-600); snr < 20 {
		t.Errorf("SNR up to the end %.1f dB", snr)
	}
	if again := e.Flush(nil); len(again) != 0 {
		t.Errorf("Flush after the end: %d bytes", len(again))
	}
}

// Reset forgets everything.
func TestResetIsAsNew(t *testing.T) {
	c := Config{48000, 2, 96000}
	s := hostileSignals()[13]
	want, e := encode(t, c, s.make(), 20)
	e.Reset()
	planar := [][]float32{make([]float32, 1024), make([]float32, 1024)}
	at := s.make()
	for n := range 20 {
		for i := range 1024 {
			for ch := range planar {
				planar[ch][i] = at(n*1024+i, ch)
			}
		}
		unit, err := e.Encode(nil, planar)
		if err != nil || !bytes.Equal(unit, want[n]) {
			t.Fatalf("unit %d differs after Reset (error %v)", n, err)
		}
	}
}

func signalToNoise(at func(i, ch int) float32, ch int, out []float32, delay, from, to int) float64 {
	var s, n float64
	for i := from; i < to; i++ {
		x := float64(at(i, ch))
		d := float64(out[i+delay]) - x
		s += x * x
		n += d * d
	}
	return 10 * math.Log10(s/(n+1e-12))
}

// Golden figures: how near the decoded sound is, not which bytes say so, since a
// compiler may fuse a multiplication and an addition where another does not, and
// rate control carries a bit of difference on.
func TestGoldenQuality(t *testing.T) {
	tones := func(i, ch int) float32 {
		x := 0.0
		for h := 1; h < 12; h++ {
			x += math.Sin(float64(i)*0.031*float64(h)+float64(ch*h)) / float64(h)
		}
		return float32(0.3 * x)
	}
	r := rand.New(rand.NewPCG(11, 12))
	var samples [2][60 * FrameSamples]float32
	for i := range samples[0] {
		a, b := r.Float32()-0.5, r.Float32()-0.5
		samples[0][i], samples[1][i] = 0.4*a+0.2*b, 0.4*b+0.2*a
	}
	noise := func(i, ch int) float32 { return samples[ch][i] }
	for _, g := range []struct {
		name string
		at   func(i, ch int) float32
		c    Config
		want float64 // dB
	}{
		{"tones", tones, Config{48000, 2, 128000}, goldenTones},
		{"tones mono", tones, Config{48000, 1, 64000}, goldenTonesMono},
		{"tones 44.1", tones, Config{44100, 2, 160000}, goldenTones44},
		{"noise", noise, Config{48000, 2, 192000}, goldenNoise},
	} {
		units, e := encode(t, g.c, g.at, 60)
		got := signalToNoise(g.at, 0, decode(t, g.c, units)[0], e.Delay(), 8*1024, 56*1024)
		t.Logf("%s: %.2f dB", g.name, got)
		if math.Abs(got-g.want) > 1 {
			t.Errorf("%s: SNR %.2f dB, golden %.2f", g.name, got, g.want)
		}
	}
}

const (
	goldenTones     = 42.2
	goldenTonesMono = 41.0
	goldenTones44   = 48.5
	goldenNoise     = 5.1
)

func TestNoAllocation(t *testing.T) {
	e, _ := New(Config{48000, 2, 128000})
	planar := benchSound()
	dst := make([]byte, 0, 2048)
	n := 0
	if a := testing.AllocsPerRun(100, func() {
		var err error
		if dst, err = e.Encode(dst[:0], planar[n%len(planar)]); err != nil {
			t.Fatal(err)
		}
		n++
	}); a != 0 {
		t.Errorf("%g allocations per frame", a)
	}
	if size := unsafe.Sizeof(*e) + maxBands*unsafe.Sizeof(scaleBand{}); size > 512<<10 {
		t.Errorf("an encoder takes %d bytes", size)
	}
}

// benchSound is a second of something like music: gliding chords, noise, clicks.
func benchSound() [][][]float32 {
	r := rand.New(rand.NewPCG(13, 14))
	out := make([][][]float32, 47)
	for n := range out {
		out[n] = [][]float32{make([]float32, 1024), make([]float32, 1024)}
		for i := range 1024 {
			k := float64(n*1024 + i)
			x := 0.0
			for h := 1; h < 20; h++ {
				x += math.Sin(k*0.02*float64(h)*(1+k*1e-7)) / float64(h)
			}
			click := 0.0
			if m := math.Mod(k, 9000); m < 800 {
				click = math.Exp(-m/100) * (r.Float64() - 0.5)
			}
			a, b := 0.05*(r.Float64()-0.5), 0.05*(r.Float64()-0.5)
			out[n][0][i] = float32(0.2*x + a + click)
			out[n][1][i] = float32(0.15*x + b + 0.6*click)
		}
	}
	return out
}

func BenchmarkEncode(b *testing.B) {
	for _, kbps := range []int{64, 128, -128, 192} { // negative: fast
		b.Run(fmt.Sprint(kbps), func(b *testing.B) {
			e, _ := New(Config{48000, 2, max(kbps, -kbps) * 1000})
			e.SetFast(kbps < 0)
			sound := benchSound()
			dst := make([]byte, 0, 2048)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				dst, _ = e.Encode(dst[:0], sound[n%len(sound)])
			}
		})
	}
}

func BenchmarkLibrary(b *testing.B) {
	for name, coder := range map[string]goaac.Coder{"fast": goaac.CoderFast, "nmr": goaac.CoderNMR} {
		b.Run(name, func(b *testing.B) {
			e, err := goaac.NewEncoder(goaac.EncoderConfig{SampleRate: 48000, Channels: 2, Bitrate: 128000, Coder: coder})
			if err != nil {
				b.Fatal(err)
			}
			sound := benchSound()
			dst := make([]byte, 0, 2048)
			for n := 0; b.Loop(); n++ {
				dst, _ = e.EncodeFrame(dst[:0], sound[n%len(sound)])
			}
		})
	}
}

func FuzzSound(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 255, 127, 128}, uint8(1), uint32(64000))
	f.Add(bytes.Repeat([]byte{0x7f, 0x80, 0, 0x80, 0x7f}, 99), uint8(2), uint32(128000))
	rates := []int{48000, 44100, 32000, 24000, 22050, 16000}
	f.Fuzz(func(t *testing.T, data []byte, kind uint8, bitrate uint32) {
		c := Config{rates[int(kind/2)%len(rates)], 1 + int(kind)%2, int(bitrate)}
		if _, err := New(c); err != nil || len(data) == 0 {
			return
		}
		at := func(i, ch int) float32 {
			// Four bytes of data are a sample as its bits, or two as an amplitude.
			k := (i + 7*ch) % len(data)
			if kind > 128 {
				v := uint32(0)
				for j := range 4 {
					v = v<<8 | uint32(data[(k+j)%len(data)])
				}
				return math.Float32frombits(v)
			}
			return float32(int8(data[k])) / 100
		}
		units, _ := encodeWith(t, c, at, 6, func(n int) bool { return kind&64 != 0 != (n == 3) })
		checkUnits(t, "fuzz", c, units)
	})
}

func FuzzConfig(f *testing.F) {
	f.Add(48000, 2, 128000)
	f.Add(0, 0, -1)
	f.Fuzz(func(t *testing.T, rate, channels, bitrate int) {
		c := Config{rate, channels, bitrate}
		if _, err := New(c); err != nil {
			return
		}
		r := rand.New(rand.NewPCG(1, uint64(bitrate)))
		units, _ := encode(t, c, func(int, int) float32 { return r.Float32()*2 - 1 }, 8)
		checkUnits(t, "config", c, units)
	})
}

// Noise that is substituted is as loud as the noise that it stands for.
func TestSubstitutedNoiseIsAsLoud(t *testing.T) {
	c := Config{48000, 1, 24000}
	r := rand.New(rand.NewPCG(15, 16))
	x := make([]float32, 60*FrameSamples)
	for i := range x {
		x[i] = r.Float32()*0.4 - 0.2
	}
	at := func(i, _ int) float32 { return x[i] }
	units, e := encode(t, c, at, 60)
	p, bands := newParser(c), 0
	for _, u := range units {
		unit, err := p.unit(u)
		if err != nil {
			t.Fatal(err)
		}
		bands += unit.ch[0].noise
	}
	if bands < 60 {
		t.Fatalf("only %d bands of %d frames of noise are substituted", bands, len(units))
	}
	out := decode(t, c, units)[0]
	// The energy from 6 to 10 kHz, by a resonance in the middle.
	power := func(at func(i int) float32) float64 {
		a, b := 2*0.85*math.Cos(2*math.Pi*8000/48000), -0.85*0.85
		y1, y2, sum := 0.0, 0.0, 0.0
		for i := 8000; i < 55000; i++ {
			y := float64(at(i)-at(i-2)) + a*y1 + b*y2
			y1, y2 = y, y1
			sum += y * y
		}
		return 10 * math.Log10(sum)
	}
	in, got := power(func(i int) float32 { return x[i] }), power(func(i int) float32 { return out[i+e.Delay()] })
	if math.Abs(in-got) > 2 {
		t.Errorf("noise of %.1f dB comes back at %.1f dB", in, got)
	}
}

// Sound that both channels share but for its level takes one set of lines, and comes
// back where it was, in long windows and in short ones.
func TestSoundPlacedByItsLevel(t *testing.T) {
	c := Config{48000, 2, 96000}
	for _, right := range []float32{0.4, -0.4, -2} {
		r := rand.New(rand.NewPCG(17, 18))
		x := make([]float32, 60*FrameSamples)
		for i := range x {
			x[i] = r.Float32()*0.4 - 0.2
			if i/FrameSamples > 30 {
				x[i] *= float32(math.Exp(-float64(i%9600) / 400)) // drums
			}
		}
		units, e := encode(t, c, func(i, ch int) float32 {
			if ch == 1 {
				return x[i] * right
			}
			return x[i]
		}, 60)
		p, long, short := newParser(c), 0, 0
		for _, u := range units {
			unit, err := p.unit(u)
			if err != nil {
				t.Fatal(err)
			}
			if unit.sequence == eightShort {
				short += unit.ch[1].intensity
			} else {
				long += unit.ch[1].intensity
			}
		}
		if long < 500 || short < 20 {
			t.Errorf("right %v: only %d and %d bands of %d frames have one set of lines", right, long, short, len(units))
		}
		out := decode(t, c, units)
		var l, rr, lr float64
		for i := e.Delay(); i < len(out[0]); i++ {
			a, b := float64(out[0][i]), float64(out[1][i])
			l, rr, lr = l+a*a, rr+b*b, lr+a*b
		}
		if got := math.Copysign(math.Sqrt(rr/l), lr); math.Abs(20*math.Log10(got/float64(right))) > 0.5 || lr*lr/l/rr < 0.85 {
			t.Errorf("right channel %v of the left comes back as %.3f, correlation %.3f", right, got, lr/math.Sqrt(l*rr))
		}
	}
}
