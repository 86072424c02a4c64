package transcode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/cmplx"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/thesyncim/gopus"
	aacpcm "github.com/tphakala/go-aac/pcm"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/aac"
)

// An hour of a publisher whose clock is fast by 100 ppm: 2 % of his packets are lost,
// he pauses, and he is muted now and then. AUDIO_SOAK makes it the whole hour, the
// default is the beginning of it.
//
// His sound is a sweep, the other way round on the right. Every sample of what comes
// out is compared with what the sweep makes of the two before it: a click, or a sample
// too few, does not pass. Its loudness swings, which tells each second how far sound is
// from the publisher's time.
func TestHour(t *testing.T) {
	length := hourShort
	if os.Getenv("AUDIO_SOAK") != "" {
		length = time.Hour
	}
	tr, c := start(t, sdk.TransformSettings{}), &collector{t: t}
	s := newSweeper(t, length)
	off := time.Duration(0)
	for s.at() < length {
		u, idle := s.next(t)
		if u == nil {
			if idle > 0 {
				if err := tr.Idle(idle, c.emit); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		c.feed(tr, u)
		off = max(off, (tr.units.clock.at(tr.units.pos) - u.PTS - samplesToTime(960)).Abs())
	}
	steady(t, c.units)
	complete(t, c.units, length)
	if off > 20*time.Millisecond {
		t.Errorf("the writer is off by up to %v, want 20 ms", off)
	}
	st := tr.audio.stats
	drifted := st.added > 0 || length < 4*time.Minute
	if st.concealed == 0 || st.comfort == 0 || st.silent == 0 || !drifted || st.skipped+st.restarts+st.errors > 0 {
		t.Errorf("stats %+v: want loss, pauses, silence and drift in the test, and nothing cut", st)
	}
	n := newNotch(s)
	eachSample(t, c.units, n.take)
	t.Logf("%v: %.1f %% of samples compared, the largest step %.4f at %v; time off by up to %v by count, %v by ear in %d seconds; stats %+v",
		length, 100*float64(n.compared)/float64(n.total), n.worst, n.worstAt, off, n.late.Round(time.Microsecond), n.seconds, st)
	if n.compared < n.total/2 || n.seconds < int(length.Seconds())/10 {
		t.Errorf("only %d of %d samples and %d seconds were compared", n.compared, n.total, n.seconds)
	}
	if n.worst > stepLimit {
		t.Errorf("a step of %.4f at %v, want at most %.3f", n.worst, n.worstAt, stepLimit)
	}
	if n.late > 20*time.Millisecond {
		t.Errorf("sound is off by up to %v, want 20 ms", n.late)
	}

	// The check itself: two samples that are missing are found, and sound that is 25 ms late.
	short, i := newNotch(s), 0
	late, shift := newNotch(s), make([][2]float64, 0, 1200)
	eachSample(t, c.units[:min(len(c.units), 2000)], func(at time.Duration, l, r float64) {
		if i++; i%48000 < 2 {
			return
		}
		short.take(at-samplesToTime(int64(2*(i/48000))), l, r)
	})
	eachSample(t, c.units[:min(len(c.units), 2000)], func(at time.Duration, l, r float64) {
		if shift = append(shift, [2]float64{l, r}); len(shift) > 1200 {
			late.take(at, shift[0][0], shift[0][1])
			shift = shift[1:]
		}
	})
	if short.worst < 2*stepLimit {
		t.Errorf("two missing samples make a step of %.4f, and the limit is %.3f", short.worst, stepLimit)
	}
	if late.late < 22*time.Millisecond {
		t.Errorf("sound that is late by 25 ms more is measured late by %v", late.late)
	}
}

// stepLimit is how far a sample may be from what the two before it and the sweep
// make of it, full scale being 1: the noise of two codecs.
const stepLimit = 0.02

const (
	sweepLow, sweepHigh = 150.0, 3000.0 // Hz
	sweepTime           = 30.0          // s, from low to high
	swingHz             = 5.0
	swingDepth          = 0.4
	sweepLevel          = 0.4
	drift               = 1 + 100e-6 // timestamps per sample
)

// sweep is the phase of the sweep at a time, in turns, and its frequency.
func sweep(t float64) (turns, hz float64) {
	k := math.Log(sweepHigh/sweepLow) / sweepTime
	whole := math.Floor(t / (2 * sweepTime))
	u := t - whole*2*sweepTime
	up := func(u float64) float64 { return sweepLow * (math.Exp(k*u) - 1) / k }
	turns = 2 * up(sweepTime) * whole
	if u <= sweepTime {
		return turns + up(u), sweepLow * math.Exp(k*u)
	}
	u = 2*sweepTime - u
	return turns + 2*up(sweepTime) - up(u), sweepLow * math.Exp(k*u)
}

// A span is a stretch of the publisher's time, in packets of his.
type span struct{ from, to int }

// A sweeper is the publisher.
type sweeper struct {
	talker *talker
	quiet  []span // he says nothing
	muted  []span // of those, nothing is sent
	lost   []bool
	n      int // packets
	seq    uint32
	queue  []time.Duration // how quiet it has been, to be told to the transform
	spoken int             // packet after the newest that came
}

func newSweeper(t testing.TB, length time.Duration) *sweeper {
	s := &sweeper{}
	count := int(length/(20*time.Millisecond)) + 2
	s.lost = make([]bool, count)
	rnd := rand.New(rand.NewPCG(5, 6))
	for i := 150; i+500 < count; i += 250 + rnd.IntN(700) {
		if s.isCalm(i + 500) {
			continue
		}
		p := span{i, i + 20*(2+rnd.IntN(4))} // a pause of 0.8 to 2 s
		if len(s.quiet)%2 == 1 {
			p.to = i + 50 + rnd.IntN(350) // muted for 1 to 8 s
			s.muted = append(s.muted, p)
		}
		s.quiet = append(s.quiet, p)
		i = p.to
	}
	for i := range s.lost {
		// Single ones, some in a row; what frames a pause comes.
		s.lost[i] = i > 10 && !s.isCalm(i) && !s.isQuiet(i) && !s.isQuiet(i+1) && !s.isQuiet(i-1) && (rnd.IntN(60) == 0 || s.lost[i-1] && rnd.IntN(6) == 0)
	}
	s.talker = newTalker(t, gopus.ApplicationAudio, s.wave)
	return s
}

func in(list []span, n int) bool {
	i, found := slices.BinarySearchFunc(list, n, func(p span, n int) int {
		switch {
		case n < p.from:
			return 1
		case n >= p.to:
			return -1
		}
		return 0
	})
	return found && i >= 0
}

// isCalm reports whether all is well with packet n: for two and a half minutes out of
// ten, or what is made up would hide what the clock does.
func (s *sweeper) isCalm(n int) bool { return n%30000 >= 5000 && n%30000 < 12500 }

func (s *sweeper) isQuiet(n int) bool { return in(s.quiet, n) }

// wave is what he says, by his own clock: faded out in the packet before he falls quiet
// and in again in the packet after.
func (s *sweeper) wave(t float64) (float64, float64) {
	n := int(t * 50)
	if s.isQuiet(n) {
		return 0, 0
	}
	g := sweepLevel * (1 - swingDepth*(1+math.Cos(2*math.Pi*swingHz*t))/2)
	in := t*50 - float64(n)
	if s.isQuiet(n + 1) {
		g *= 0.5 + 0.5*math.Cos(math.Pi*in)
	}
	if s.isQuiet(n - 1) {
		g *= 0.5 - 0.5*math.Cos(math.Pi*in)
	}
	l, _ := sweep(t)
	r, _ := sweep(t + sweepTime)
	return g * math.Sin(2*math.Pi*(l-math.Floor(l))), g * math.Sin(2*math.Pi*(r-math.Floor(r)))
}

func (s *sweeper) time(n int) time.Duration {
	return time.Duration(float64(n) * 20e6 * drift)
}

// at is the publisher's time.
func (s *sweeper) at() time.Duration { return s.time(s.n) }

// next is his next packet, or nil and for how long none has come.
func (s *sweeper) next(t testing.TB) (*media.AccessUnit, time.Duration) {
	if len(s.queue) > 0 {
		d := s.queue[0]
		s.queue = s.queue[1:]
		return nil, d
	}
	u := s.talker.next(t)
	n := s.n
	s.n++
	u.PTS = s.time(n)
	u.DTS = u.PTS
	quiet, muted := s.isQuiet(n), in(s.muted, n)
	if quiet && !muted && (n%20 == 0 || !s.isQuiet(n-1)) {
		u.Payload = u.Payload[:1] // a pause: he says that there is nothing to hear, every 400 ms
		muted, quiet = false, false
	}
	if quiet || muted {
		if d := s.time(n+1) - s.time(s.spoken); d >= 2*sdk.IdleInterval {
			return nil, d
		}
		return nil, 0
	}
	u.Seq = s.seq
	s.seq++
	if s.lost[n] {
		return nil, 0
	}
	s.spoken = n + 1
	return u, 0
}

// marred reports whether the sound at a time of the stream is not what he said there:
// made up, or still under the influence of that in either codec.
func (s *sweeper) marred(at time.Duration) bool {
	n := int(float64(at) / 20e6 / drift)
	for i := max(n-marredAfter, 0); i <= n+marredBefore && i < len(s.lost); i++ {
		if s.lost[i] || s.isQuiet(i) {
			return true
		}
	}
	return n < marredAfter
}

// In packets: decoders need some to recover, and an AAC window spans two.
const marredBefore, marredAfter = 3, 6

// eachSample decodes units and calls f with each pair of samples and their time.
func eachSample(t testing.TB, units []*media.AccessUnit, f func(at time.Duration, l, r float64)) {
	t.Helper()
	var stream []byte
	for _, u := range units {
		var err error
		if stream, err = aac.AppendADTSHeader(stream, aac.Config{ObjectType: aac.LC, SampleRateHz: 48000, Channels: 2}, len(u.Payload)); err != nil {
			t.Fatal(err)
		}
		stream = append(stream, u.Payload...)
	}
	dec, err := aacpcm.NewDecoder(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4*frameSamples)
	for n := int64(0); ; {
		got, err := io.ReadFull(dec, buf)
		for b := buf[:got]; len(b) >= 4; b = b[4:] {
			l := float64(int16(binary.LittleEndian.Uint16(b))) / 32768
			r := float64(int16(binary.LittleEndian.Uint16(b[2:]))) / 32768
			f(units[0].PTS+samplesToTime(n), l, r)
			n++
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A notch takes what came out: what of each sample does not follow from the two
// before it by the frequency that the sweep has there, and once a second, how late
// the swing of the loudness is.
type notch struct {
	s        *sweeper
	last     [2][2]float64
	total    int
	compared int
	worst    float64
	worstAt  time.Duration

	good    bool // of the 10 ms at hand
	block   complex128
	inBlock int
	swing   fit
	blocks  int
	late    time.Duration
	seconds int
}

func newNotch(s *sweeper) *notch { return &notch{s: s} }

func (n *notch) take(at time.Duration, l, r float64) {
	const blockSamples = 480
	t := at.Seconds() / drift
	turns, hz := sweep(t)
	_, hzRight := sweep(t + sweepTime)
	if n.total%blockSamples == 0 {
		n.good = !n.s.marred(at)
	}
	n.total++
	for ch, f := range [2]float64{hz, hzRight} {
		x := [2]float64{l, r}[ch]
		last := &n.last[ch]
		if n.good {
			if e := math.Abs(x - 2*math.Cos(2*math.Pi*f/48000)*last[0] + last[1]); e > n.worst {
				n.worst, n.worstAt = e, at
			}
		}
		last[1], last[0] = last[0], x
	}
	if n.good {
		n.compared++
	}

	// How loud it is on the left, in blocks of 10 ms.
	n.block += complex(l, 0) * cmplx.Rect(1, -2*math.Pi*(turns-math.Floor(turns)))
	if n.inBlock++; n.inBlock < blockSamples {
		return
	}
	mid := t - blockSamples/48000./2
	loud := cmplx.Abs(n.block) / blockSamples
	n.block, n.inBlock = 0, 0
	if n.good {
		n.swing.add(mid, loud)
	}
	if n.blocks++; n.blocks == 100 {
		if n.swing.n >= 60 {
			n.late = max(n.late, n.swing.late().Abs())
			n.seconds++
		}
		n.blocks, n.swing = 0, fit{}
	}
}

// A fit finds the swing in the loudness of some blocks: the mean, the cosine and the
// sine that are nearest to it.
type fit struct {
	n   int
	sum [3][4]float64 // normal equations
}

func (f *fit) add(t, loud float64) {
	f.n++
	s, c := math.Sincos(2 * math.Pi * swingHz * t)
	row := [4]float64{1, c, s, loud}
	for i := range f.sum {
		for j, v := range row {
			f.sum[i][j] += row[i] * v
		}
	}
}

// late is by how much the swing is behind the publisher's.
func (f *fit) late() time.Duration {
	m := f.sum
	for i := range m { // Gauss and Jordan
		for j := range m {
			if j != i {
				k := m[j][i] / m[i][i]
				for c := range m[j] {
					m[j][c] -= k * m[i][c]
				}
			}
		}
	}
	// It is at its least where the publisher's cosine is 1.
	phase := math.Atan2(-m[2][3]/m[2][2], -m[1][3]/m[1][1])
	return time.Duration(phase / (2 * math.Pi * swingHz) * 1e9)
}
