package transcode

import (
	"context"
	"errors"
	"math"
	"math/cmplx"
	"slices"
	"testing"
	"time"

	"github.com/thesyncim/gopus"
	aacpcm "github.com/tphakala/go-aac/pcm"

	"bytes"
	"encoding/binary"
	"io"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/aac"
)

const sampleTime = time.Second / sampleRateHz

// opusTrack is what an ingest announces.
func opusTrack() media.Track {
	return media.Track{ID: 7, Codec: media.Opus, SampleRateHz: 48000, Channels: 2, Language: "de"}
}

func start(t testing.TB, s sdk.TransformSettings) *transformer {
	t.Helper()
	tr, err := OpusToAAC().Open(context.Background(), opusTrack(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	return tr.(*transformer)
}

// A talker makes Opus packets of 20 ms out of a function of time.
type talker struct {
	enc  *gopus.Encoder
	wave func(t float64) (left, right float64)
	seq  uint32
	pos  int // samples coded
	buf  []byte

	frame int // samples per packet
}

func newTalker(t testing.TB, app gopus.Application, wave func(float64) (float64, float64)) *talker {
	t.Helper()
	enc, err := gopus.NewEncoder(gopus.EncoderConfig{SampleRate: 48000, Channels: 2, Application: app})
	if err != nil {
		t.Fatal(err)
	}
	if err := enc.SetBitrate(96000); err != nil {
		t.Fatal(err)
	}
	return &talker{enc: enc, wave: wave, buf: make([]byte, 4000), frame: 960}
}

// next returns the next packet, stamped so that the sound decoded from it is that
// of its PTS: the encoder's look-ahead is taken off. It does not say when it was
// received, or how fast the machine is would decide how much work the encoder does.
func (k *talker) next(t testing.TB) *media.AccessUnit {
	t.Helper()
	pcm := make([]float32, 2*k.frame)
	for i := range k.frame {
		l, r := k.wave(float64(k.pos+i+k.enc.Lookahead()) / 48000)
		pcm[2*i], pcm[2*i+1] = float32(l), float32(r)
	}
	n, err := k.enc.Encode(pcm, k.buf)
	if err != nil {
		t.Fatal(err)
	}
	u := &media.AccessUnit{
		Seq: k.seq, PTS: samplesToTime(int64(k.pos)), DTS: samplesToTime(int64(k.pos)), RandomAccess: true,
		Payload: bytes.Clone(k.buf[:n]),
	}
	k.seq++
	k.pos += k.frame
	return u
}

func sine(leftHz, rightHz float64) func(float64) (float64, float64) {
	return func(t float64) (float64, float64) {
		return 0.4 * math.Sin(2*math.Pi*leftHz*t), 0.4 * math.Sin(2*math.Pi*rightHz*t)
	}
}

// sound is what a listener gets: samples with the time of the first one.
type sound struct {
	left, right []float64
}

// collector gathers what a transformer emits.
type collector struct {
	t     testing.TB
	units []*media.AccessUnit
}

func (c *collector) emit(u *media.AccessUnit) { c.units = append(c.units, u) }

func (c *collector) feed(tr sdk.Transformer, units ...*media.AccessUnit) {
	c.t.Helper()
	for _, u := range units {
		if err := tr.Transform(u, c.emit); err != nil {
			c.t.Fatal(err)
		}
	}
}

// decode decodes the units one after the other, which it checks that they are.
// Sample i of the result is that of i/48000 s: a raw decoder puts out each unit's
// 1024 samples in place, the first of them overlapping with silence.
func decode(t testing.TB, units []*media.AccessUnit) sound {
	t.Helper()
	return decodeChannels(t, units, 2)
}

// decodeChannels decodes units of so many channels; of mono right is left.
func decodeChannels(t testing.TB, units []*media.AccessUnit, channels int) sound {
	t.Helper()
	var stream []byte
	for i, u := range units {
		if i > 0 {
			if d := u.PTS - units[i-1].PTS - samplesToTime(1024); d.Abs() > time.Nanosecond {
				t.Fatalf("unit %d at %v follows one at %v", i, u.PTS, units[i-1].PTS)
			}
		}
		var err error
		cfg := aac.Config{ObjectType: aac.LC, SampleRateHz: 48000, Channels: channels}
		if stream, err = aac.AppendADTSHeader(stream, cfg, len(u.Payload)); err != nil {
			t.Fatal(err)
		}
		stream = append(stream, u.Payload...)
	}
	dec, err := aacpcm.NewDecoder(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(dec)
	if err != nil {
		t.Fatal(err)
	}
	before := make([]float64, max(0, timeToSamples(units[0].PTS)))
	s := sound{left: before, right: slices.Clone(before)}
	for i := 0; i+2*channels <= len(raw); i += 2 * channels {
		s.left = append(s.left, float64(int16(binary.LittleEndian.Uint16(raw[i:])))/32768)
		s.right = append(s.right, float64(int16(binary.LittleEndian.Uint16(raw[i+2*(channels-1):])))/32768)
	}
	return s
}

// level is the amplitude of a tone in samples.
func level(s []float64, hz float64) float64 {
	var sum complex128
	for i, v := range s {
		sum += complex(v, 0) * cmplx.Rect(1, -2*math.Pi*hz*float64(i)/48000)
	}
	return 2 * cmplx.Abs(sum) / float64(len(s))
}

func rms(s []float64) float64 {
	e := 0.0
	for _, v := range s {
		e += v * v
	}
	return math.Sqrt(e / float64(len(s)))
}

func TestTrackIsWhatRTMPWants(t *testing.T) {
	tr := start(t, sdk.TransformSettings{})
	got := tr.Track()
	if got.Codec != media.AAC || got.SampleRateHz != 48000 || got.Channels != 2 || got.BitrateBitsPerSecond != 160000 {
		t.Errorf("track %+v", got)
	}
	if got.Language != "de" || got.DerivedFrom != 7 {
		t.Errorf("language %q, derived from %d", got.Language, got.DerivedFrom)
	}
	if !bytes.Equal(got.DecoderConfig, []byte{0x11, 0x90}) {
		t.Errorf("config %x, want 1190", got.DecoderConfig)
	}
}

func TestPitchAndChannelsSurvive(t *testing.T) {
	tr, k, c := start(t, sdk.TransformSettings{}), newTalker(t, gopus.ApplicationAudio, sine(440, 1250)), &collector{t: t}
	for range 100 {
		c.feed(tr, k.next(t))
	}
	s := decode(t, c.units)
	mid := func(x []float64) []float64 { return x[24000 : 24000+24000] }
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 0.02 {
			t.Errorf("%s: amplitude %.3f, want %.3f", what, got, want)
		}
	}
	near("left 440 Hz", level(mid(s.left), 440), 0.4)
	near("left 1250 Hz", level(mid(s.left), 1250), 0)
	near("right 1250 Hz", level(mid(s.right), 1250), 0.4)
	near("right 440 Hz", level(mid(s.right), 440), 0)
}

// burst is loud for 5 ms from every full fifth of a second on.
func burst(t float64) (float64, float64) {
	if math.Mod(t, 0.2) < 0.005 && t >= 0.1 {
		v := 0.6 * math.Sin(2*math.Pi*3000*t)
		return v, v
	}
	return 0, 0
}

// delay finds by how much the sound in s lies behind wave, in samples, by
// correlation within +-20 ms, on the samples from from to from+n.
func delay(s sound, wave func(float64) (float64, float64), from, n int) int {
	const most = 960
	want := make([]float64, n+2*most)
	for i := range want {
		want[i], _ = wave(float64(from-most+i) / 48000)
	}
	best, at := 0.0, 0
	for d := -most; d <= most; d++ {
		sum := 0.0
		for i, v := range s.left[from : from+n] {
			sum += want[i-d+most] * v
		}
		if sum > best {
			best, at = sum, d
		}
	}
	return at
}

// firstUnit is where the first whole unit of the encoder begins: at the first
// multiple of 1024 samples, less its delay of 1472, that is not before the sound.
const firstUnit = 576 * time.Second / 48000

func TestDelayIsTakenOff(t *testing.T) {
	check := func(bitrate int, offset time.Duration) {
		t.Helper()
		tr, k, c := start(t, sdk.TransformSettings{Bitrate: bitrate}), newTalker(t, gopus.ApplicationAudio, burst), &collector{t: t}
		for range 60 {
			u := k.next(t)
			u.PTS, u.DTS = u.PTS+offset, u.DTS+offset
			c.feed(tr, u)
		}
		if got := c.units[0].PTS; got != offset+firstUnit {
			t.Errorf("first unit at %v, want %v", got, offset+firstUnit)
		}
		for _, u := range c.units {
			u.PTS -= offset
		}
		if d := delay(decode(t, c.units), burst, 9600, 28800); max(d, -d) > 24 {
			t.Errorf("%d b/s: sound is %d samples late, want 0 +- 24 (0.5 ms)", bitrate, d)
		}
	}
	check(0, 0)
	check(96000, 1234567891*time.Nanosecond)
}

// The whole path for the clip's beeps.
func TestClipBeepsStayInPlace(t *testing.T) {
	card, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	tr, c := start(t, sdk.TransformSettings{}), &collector{t: t}
	c.feed(tr, card.Units(clip.AudioTrack)...)
	s := decode(t, c.units)
	for at := clip.FlashOffset; at < 9*time.Second; at += clip.FlashEvery {
		i := int(timeToSamples(at))
		if before, after := rms(s.left[i-960:i-240]), rms(s.left[i+48:i+960]); before > 0.02 || after < 0.3 {
			t.Errorf("beep at %v: %.3f before, %.3f after", at, before, after)
		}
		mid := i + 960
		if l, r := level(s.left[mid:mid+960], clip.BeepLeftHz), level(s.right[mid:mid+960], clip.BeepRightHz); l < 0.4 || r < 0.4 {
			t.Errorf("beep at %v: left %.2f right %.2f", at, l, r)
		}
	}
}

func TestUnitsAreWhatTheyShouldBe(t *testing.T) {
	tr, k, c := start(t, sdk.TransformSettings{}), newTalker(t, gopus.ApplicationAudio, sine(300, 300)), &collector{t: t}
	received := map[*media.AccessUnit]time.Time{}
	for range 50 {
		in := k.next(t)
		in.Received, in.Captured = time.Unix(1000, 0).Add(in.PTS), time.Unix(5000, 0).Add(in.PTS)
		before := len(c.units)
		c.feed(tr, in)
		for _, u := range c.units[before:] {
			received[u] = in.Received
		}
	}
	for i, u := range c.units {
		if u.PTS != u.DTS || u.PTS != firstUnit+samplesToTime(int64(i)*1024) || u.Seq != uint32(i) {
			t.Errorf("unit %d: PTS %v DTS %v seq %d", i, u.PTS, u.DTS, u.Seq)
		}
		if !u.RandomAccess || u.Discontinuity || u.Disposable || u.Duration != samplesToTime(1024) {
			t.Errorf("unit %d: %+v", i, u)
		}
		if !u.Received.Equal(received[u]) {
			t.Errorf("unit %d received at %v, want %v", i, u.Received, received[u])
		}
		if got := u.Captured.Sub(time.Unix(5000, 0)); (got - u.PTS).Abs() > sampleTime {
			t.Errorf("unit %d captured at %v, want %v", i, got, u.PTS)
		}
	}
	// 50 packets are 46.9 frames: 46 went in, the encoder keeps two.
	if len(c.units) != 44 {
		t.Errorf("%d units, want 44", len(c.units))
	}
}

func TestSettings(t *testing.T) {
	rate := func(ask, want int) {
		t.Helper()
		if got := start(t, sdk.TransformSettings{Bitrate: ask}).Track().BitrateBitsPerSecond; got != want {
			t.Errorf("asked for %d: %d, want %d", ask, got, want)
		}
	}
	rate(0, 160000)
	rate(1, 64000)
	rate(128000, 128000)
	rate(1e9, 256000)
	refused := func(in media.Track, s sdk.TransformSettings) {
		t.Helper()
		if _, err := OpusToAAC().Open(context.Background(), in, s); err == nil {
			t.Errorf("%+v %+v: no error", in, s)
		}
	}
	refused(opusTrack(), sdk.TransformSettings{Channels: 6})
	refused(media.Track{Codec: media.AAC}, sdk.TransformSettings{})
	surround := []byte("OpusHead\x01\x06\x00\x00\x80\xbb\x00\x00\x00\x00\x01\x04\x02\x00\x04\x01\x02\x03\x05")
	refused(media.Track{Codec: media.Opus, DecoderConfig: surround}, sdk.TransformSettings{})
	refused(media.Track{Codec: media.Opus, DecoderConfig: []byte("OpusHead")}, sdk.TransformSettings{})
}

// failing is an encoder that refuses some frames and then stays broken until it
// is reset.
type failing struct {
	AACEncoder
	calls  int
	refuse func(call int) bool
	panics bool // instead of an error
	broken bool
}

func (f *failing) Encode(dst []byte, planar [][]float32) ([]byte, error) {
	f.calls++
	if f.broken || f.refuse(f.calls) {
		if f.panics && !f.broken {
			f.broken = true
			panic("index out of range")
		}
		f.broken = true
		return dst, errors.New("no")
	}
	return f.AACEncoder.Encode(dst, planar)
}

func (f *failing) Reset() error {
	f.broken = false
	return f.AACEncoder.Reset()
}

// An encoder that fails costs the sound of single units and nothing else: their
// number, their time and the sound after them stay right.
func TestEncoderErrorsBecomeSilence(t *testing.T) {
	inner, err := newAACEncoder(channels, 160000)
	if err != nil {
		t.Fatal(err)
	}
	enc := &failing{AACEncoder: inner, refuse: func(int) bool { return false }}
	tr, err := newTransformer(opusTrack(), enc, channels, 160000, false)
	if err != nil {
		t.Fatal(err)
	}
	enc.calls = 0
	enc.refuse = func(call int) bool { return call == 1 || call == 20 || call == 60 || call == 61 }
	k, c := newTalker(t, gopus.ApplicationAudio, burst), &collector{t: t}
	for range 100 {
		c.feed(tr, k.next(t))
	}
	if got := tr.units.guard.errors; got != 3 {
		t.Errorf("%d errors counted, want 3", got)
	}
	if len(c.units) != 100*960/1024-2 {
		t.Errorf("%d units, want %d", len(c.units), 100*960/1024-2)
	}
	if d := delay(decode(t, c.units), burst, 9600, len(c.units)*1024-9600-2048); max(d, -d) > 24 {
		t.Errorf("sound is %d samples late after the errors", d)
	}
}

// A codec that panics costs that unit, as one that fails does: what comes after it
// is right, and every time is counted.
func TestPanicsCostAUnit(t *testing.T) {
	inner, err := newAACEncoder(channels, 160000)
	if err != nil {
		t.Fatal(err)
	}
	enc := &failing{AACEncoder: inner, refuse: func(int) bool { return false }, panics: true}
	tr, err := newTransformer(opusTrack(), enc, channels, 160000, false)
	if err != nil {
		t.Fatal(err)
	}
	enc.calls = 0
	enc.refuse = func(call int) bool { return call == 20 || call == 60 }
	dec := &fragile{decoder: tr.audio.dec, panics: func(call int) bool { return call == 30 || call == 70 }}
	tr.audio.dec = dec
	k, c := newTalker(t, gopus.ApplicationAudio, burst), &collector{t: t}
	bad := 0
	for range 100 {
		u := k.next(t)
		if k.seq == 45 {
			continue // the decoder panics as it reads what the next packet repeats of this one
		}
		if err := tr.Transform(u, c.emit); err != nil {
			bad++
		}
	}
	if bad != 2 || dec.resets != 3 {
		t.Errorf("%d units failed and %d resets, want 2, of which the packets could not be read, and 3", bad, dec.resets)
	}
	if got := tr.Figures()["codec_panics_total"]; got != 5 {
		t.Errorf("%v panics counted, want 5", got)
	}
	if len(c.units) != 100*960/1024-2 {
		t.Errorf("%d units, want %d", len(c.units), 100*960/1024-2)
	}
	if d := delay(decode(t, c.units), burst, 9600, len(c.units)*1024-9600-2048); max(d, -d) > 24 {
		t.Errorf("sound is %d samples late after the panics", d)
	}
}

// fragile is a decoder that panics at some packets, and at all that is repeated.
type fragile struct {
	decoder
	calls, resets int
	panics        func(call int) bool
}

func (f *fragile) Decode(packet []byte, pcm []float32) (int, error) {
	if packet != nil {
		if f.calls++; f.panics(f.calls) {
			panic("index out of range")
		}
	}
	return f.decoder.Decode(packet, pcm)
}

func (f *fragile) DecodeWithFEC([]byte, []float32, bool) (int, error) { panic("index out of range") }

func (f *fragile) Reset() {
	f.resets++
	f.decoder.Reset()
}

func TestSanitisesSamples(t *testing.T) {
	check := func(in, want float32) {
		t.Helper()
		if got := clean(in); got != want {
			t.Errorf("%v: %v, want %v", in, got, want)
		}
	}
	check(0.5, 0.5)
	check(1.7, 1)
	check(-9, -1)
	check(float32(math.Inf(1)), 1)
	check(float32(math.Inf(-1)), -1)
	check(float32(math.NaN()), 0)
}

func TestClockDoesNotDrift(t *testing.T) {
	check := func(n int64, want time.Duration) {
		t.Helper()
		if got := samplesToTime(n); got != want {
			t.Errorf("%d samples: %v, want %v", n, got, want)
		}
		if got := timeToSamples(want); got != n {
			t.Errorf("%v: %d samples, want %d", want, got, n)
		}
	}
	check(0, 0)
	check(1, 20833)
	check(-1, -20833)
	check(48000, time.Second)
	check(48000*86400*3650, 3650*24*time.Hour) // ten years
	check(48000*86400*3650+1, 3650*24*time.Hour+20833)
}

// What the transform adds to the way of sound, in media time: from the packet that
// holds the last sample of a unit to the unit, and from the one that holds the first.
//
// A unit can be made when its 1024 samples are there and the 1472 of the encoder's delay
// behind them: 52 ms after its first sample. Packets bring samples 20 ms at a time, so that is
// 40 ms after the packet of the first sample or 60, and 52 on average; without any look-ahead
// (2048 samples, the window of AAC) it would be 40 or 60 as well.
func TestLatency(t *testing.T) {
	const most = 52 * time.Millisecond
	check := func(frame int) {
		t.Helper()
		tr := start(t, sdk.TransformSettings{})
		k := newTalker(t, gopus.ApplicationLowDelay, chord)
		if err := k.enc.SetFrameSize(frame); err != nil {
			t.Fatal(err)
		}
		k.frame = frame
		length := samplesToTime(int64(frame))
		came := func(at time.Duration) time.Duration { // the end of the packet that holds the sound of a time
			return (at/length + 1) * length
		}
		var first, last, sum time.Duration
		n := 0
		for range 4 * sampleRateHz / frame {
			u := k.next(t)
			if err := tr.Transform(u, func(o *media.AccessUnit) {
				first = max(first, u.PTS+length-came(o.PTS))
				last = max(last, u.PTS+length-came(o.PTS+o.Duration-time.Microsecond))
				sum += u.PTS + length - came(o.PTS)
				n++
			}); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("packets of %v: at most %v for the first sample of a unit, %v on average, %v for the last", length, first, sum/time.Duration(n), last)
		if sum/time.Duration(n) > most || first > most+length || last > most {
			t.Errorf("packets of %v: %v for the first sample, %v on average, %v for the last, want %v and at most a packet more",
				length, first, sum/time.Duration(n), last, most)
		}
	}
	check(120)
	check(960)
}

func BenchmarkSecond(b *testing.B) {
	card, err := clip.Load()
	if err != nil {
		b.Fatal(err)
	}
	bench := func(name string, s sdk.TransformSettings, units []*media.AccessUnit) {
		b.Run(name, func(b *testing.B) {
			tr := start(b, s)
			b.ReportAllocs()
			n := 0
			for i := 0; b.Loop(); i++ {
				for range 50 {
					u := units[n%len(units)].Clone()
					u.PTS = time.Duration(n) * 20 * time.Millisecond
					u.Seq = uint32(n)
					n++
					if err := tr.Transform(u, func(*media.AccessUnit) {}); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
	k := newTalker(b, gopus.ApplicationAudio, chord)
	var music []*media.AccessUnit
	for range 200 {
		music = append(music, k.next(b))
	}
	bench("clip-160k", sdk.TransformSettings{}, card.Units(clip.AudioTrack))
	bench("chord-160k", sdk.TransformSettings{}, music)
	bench("chord-128k", sdk.TransformSettings{Bitrate: 128_000}, music)
	bench("chord-128k-fast", sdk.TransformSettings{Bitrate: 128_000, Quality: fastQuality}, music)
	bench("chord-mono", sdk.TransformSettings{Channels: 1}, music)
}

// chord is dense enough to keep an encoder busy.
func chord(t float64) (float64, float64) {
	var l, r float64
	for i, hz := range []float64{110, 220.5, 331, 445, 660.3, 1320, 2500, 5000, 9001} {
		a := 0.3 / float64(i+2)
		l += a * math.Sin(2*math.Pi*hz*t+math.Sin(3*t))
		r += a * math.Cos(2*math.Pi*hz*1.01*t)
	}
	return l, r
}
