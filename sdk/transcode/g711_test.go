package transcode

import (
	"math"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
)

// TestG711Expands: the ends and the middle of both laws (ITU-T G.711, tables 1 and 2,
// in 16 bits).
func TestG711Expands(t *testing.T) {
	a, mu := expanded(media.PCMA), expanded(media.PCMU)
	for b, want := range map[byte]int16{0xd5: 8, 0x55: -8, 0xaa: 32256, 0x2a: -32256, 0x80: 5504} {
		if a[b] != want {
			t.Errorf("A-law %#x: %d, want %d", b, a[b], want)
		}
	}
	for b, want := range map[byte]int16{0xff: 0, 0x7f: 0, 0x80: 32124, 0x00: -32124, 0xf0: 120} {
		if mu[b] != want {
			t.Errorf("mu-law %#x: %d, want %d", b, mu[b], want)
		}
	}
}

// power is how strong a frequency is in samples of 48 kHz, in dB of full scale.
func power(samples []float64, hz float64) float64 {
	var re, im float64
	for i, v := range samples {
		w := 0.5 - 0.5*math.Cos(2*math.Pi*float64(i)/float64(len(samples)))
		s, c := math.Sincos(2 * math.Pi * hz * float64(i) / sampleRateHz)
		re, im = re+v*w*c, im+v*w*s
	}
	return 20 * math.Log10(4*math.Hypot(re, im)/float64(len(samples))+1e-12)
}

// TestUpsample: a tone keeps its level, and none of its images is heard.
func TestUpsample(t *testing.T) {
	f := func(rateHz int, hz float64) {
		t.Helper()
		u, err := newUpsampler(rateHz)
		if err != nil {
			t.Fatal(err)
		}
		var out []float64
		for i := range rateHz {
			for _, v := range u.push(float32(math.Sin(2 * math.Pi * hz * float64(i) / float64(rateHz)))) {
				out = append(out, float64(v))
			}
		}
		if len(out) != sampleRateHz {
			t.Fatalf("%d samples", len(out))
		}
		out = out[4800:]
		if p := power(out, hz); math.Abs(p) > 0.1 {
			t.Errorf("%d Hz: the tone of %v Hz is at %.2f dB, want 0", rateHz, hz, p)
		}
		for k := 1; k*rateHz < sampleRateHz; k++ {
			for _, image := range []float64{float64(k*rateHz) - hz, float64(k*rateHz) + hz} {
				if image > sampleRateHz/2 {
					if image = math.Abs(image - sampleRateHz); sampleRateHz%rateHz == 0 {
						continue // it is the tone, or an image that is looked at anyhow
					}
				}
				if p := power(out, image); p > -75 {
					t.Errorf("%d Hz: an image of %v Hz at %v Hz is at %.1f dB", rateHz, hz, image, p)
				}
			}
		}
	}
	f(8000, 300)
	f(8000, 1000)
	f(8000, 3000)
	f(8000, 3400)
	f(16000, 6500)
	f(24000, 10000)
	f(48000, 1000)
	f(44100, 1000)
	f(44100, 15000)
	f(44100, 19000)
	f(32000, 13000)
	f(22050, 9000)
	f(11025, 4500)
	for _, hz := range []int{0, -1, 7999, 44101, 96000} {
		if _, err := newUpsampler(hz); err == nil {
			t.Errorf("%d Hz was taken", hz)
		}
	}
}

// TestG711Decodes: mono is heard on both sides, stereo stays apart.
func TestG711Decodes(t *testing.T) {
	pcm := make([]float32, channels*maxPacketSamples)
	f := func(track media.Track, payload []byte, left, right float32) {
		t.Helper()
		g, err := newG711(track)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		for range 10 {
			if n, err = g.Decode(payload, pcm); err != nil {
				t.Fatal(err)
			}
		}
		if d, err := g.duration(payload); err != nil || int(timeToSamples(d)) != n {
			t.Errorf("%d samples, %v %v", n, d, err)
		}
		l, r := pcm[channels*(n-1)], pcm[channels*(n-1)+1]
		if math.Abs(float64(l-left)) > 0.01 || math.Abs(float64(r-right)) > 0.01 {
			t.Errorf("%v %v, want %v %v", l, r, left, right)
		}
	}
	const half, none = 0xd5 ^ 0x7f, 0xd5 // of A-law
	mono := make([]byte, 160)
	for i := range mono {
		mono[i] = half
	}
	level := float32(expanded(media.PCMA)[half]) / 32768
	f(media.Track{Codec: media.PCMA, SampleRateHz: 8000, Channels: 1}, mono, level, level)
	stereo := make([]byte, 320)
	for i := range stereo {
		stereo[i] = none
		if i%2 == 0 {
			stereo[i] = half
		}
	}
	f(media.Track{Codec: media.PCMA, SampleRateHz: 8000, Channels: 2}, stereo, level, 0)
	if _, err := newG711(media.Track{Codec: media.PCMU, SampleRateHz: 8000, Channels: 3}); err == nil {
		t.Error("three channels were taken")
	}
}

// TestG711ToAAC: a tone keeps its pitch, its level and its place, and a packet that is
// lost costs its own time.
func TestG711ToAAC(t *testing.T) {
	const hz, amplitude = 700, 0.5
	track := media.Track{ID: 2, Codec: media.PCMU, SampleRateHz: 8000, Channels: 1}
	tr, err := open(t.Context(), track, sdk.TransformSettings{})
	if err != nil {
		t.Fatal(err)
	}
	table := expanded(media.PCMU)
	nearest := func(v float64) byte { // by search: there are 256
		best, off := byte(0), math.Inf(1)
		for b, value := range table {
			if d := math.Abs(float64(value)/32768 - v); d < off {
				best, off = byte(b), d
			}
		}
		return best
	}
	c := &collector{t: t}
	const lost = 60
	for n := range 100 {
		u := &media.AccessUnit{Track: 2, Seq: uint32(n), PTS: time.Duration(n) * 20 * time.Millisecond, Duration: 20 * time.Millisecond, Payload: make([]byte, 160)}
		u.DTS = u.PTS
		for i := range u.Payload {
			u.Payload[i] = nearest(amplitude * math.Sin(2*math.Pi*hz*float64(160*n+i)/8000))
		}
		if n != lost {
			c.feed(tr, u)
		}
	}
	s := decode(t, c.units)
	part := func(from, to float64) []float64 { return s.left[int(from*sampleRateHz):int(to*sampleRateHz)] }
	for _, p := range [][]float64{part(0.2, 1.1), part(1.3, 1.9)} {
		if l := level(p, hz); math.Abs(l-amplitude) > 0.03 {
			t.Errorf("the tone has an amplitude of %.3f, want %v", l, amplitude)
		}
	}
	if r := rms(part(1.208, 1.216)); r > 0.05 {
		t.Errorf("where a packet was lost the sound is as loud as %.3f", r)
	}
	if l, r := level(part(0.2, 1.1), hz), level(s.right[int(0.2*sampleRateHz):int(1.1*sampleRateHz)], hz); math.Abs(l-r) > 0.01 {
		t.Errorf("left %.3f, right %.3f", l, r)
	}
}
