package transcode

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/thesyncim/gopus"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/opus"
)

// quick is an encoder that codes nothing, with the delay of the real one.
type quick struct{}

func (quick) Config() []byte { return []byte{0x11, 0x90} }
func (quick) Delay() int     { return 1472 }
func (quick) Reset() error   { return nil }
func (quick) Encode(dst []byte, _ [][]float32) ([]byte, error) {
	return append(dst, 0x21, 0, 0, 0), nil
}

func startQuick(t testing.TB) *transformer {
	t.Helper()
	tr, err := newTransformer(opusTrack(), quick{}, channels, defaultBitsPerSecond, false)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// steady checks that units follow each other without a gap.
func steady(t *testing.T, units []*media.AccessUnit) {
	t.Helper()
	for i := 1; i < len(units); i++ {
		if d := units[i].PTS - units[i-1].PTS - samplesToTime(1024); d.Abs() > time.Nanosecond || units[i].Discontinuity {
			t.Fatalf("unit %d at %v follows one at %v, discontinuity %v", i, units[i].PTS, units[i-1].PTS, units[i].Discontinuity)
		}
	}
}

// complete checks that units cover the time from 0 to end but for what the frame
// being filled and the encoder hold.
func complete(t *testing.T, units []*media.AccessUnit, end time.Duration) {
	t.Helper()
	steady(t, units)
	want := int(timeToSamples(end))/1024 - 2
	if got := len(units); got < want-1 || got > want+1 {
		t.Errorf("%d units for %v, want %d", got, end, want)
	}
}

// Loses lost packets in the middle of a tone, and looks at what is heard there.
func TestLossIsConcealed(t *testing.T) {
	check := func(lost int, wantStart, wantEnd float64) {
		t.Helper()
		tr, c := start(t, sdk.TransformSettings{}), &collector{t: t}
		k := newTalker(t, gopus.ApplicationAudio, sine(440, 440))
		for i := range 200 {
			u := k.next(t)
			if i >= 50 && i < 50+lost {
				continue
			}
			u.Discontinuity = i == 50+lost
			c.feed(tr, u)
		}
		complete(t, c.units, 4*time.Second)
		s := decode(t, c.units)
		at, end := 48000, 48000+960*lost
		heard := func(what string, from int, want float64) {
			t.Helper()
			if got := rms(s.left[from : from+480]); got < want*0.5 || got > want*1.5+0.02 {
				t.Errorf("%d lost: level %s %.3f, want about %.3f", lost, what, got, want)
			}
		}
		const full = 0.28
		heard("before", at-4800, full)
		heard("at the beginning of the gap", at+100, wantStart)
		heard("before the last frame of the gap", end-960-480, wantEnd)
		heard("after", end+4800, full)
		if d := delay(s, sine(440, 440), end+9600, 9600); d%109 > 3 && d%109 < 106 { // a period is 109 samples
			t.Errorf("%d lost: %d samples late afterwards", lost, d)
		}
	}
	check(2, 0.28, 0.28)
	check(20, 0.28, 0)
	check(90, 0.28, 0)
}

// The encoder repeats each frame coarsely in the next packet: the sound of a
// single lost packet comes back from there, rather than being made up.
func TestLastLostFrameComesFromForwardErrorCorrection(t *testing.T) {
	// A voice that starts in the lost packet cannot be guessed.
	onset := func(t float64) (float64, float64) {
		if t < 1.02 {
			return 0, 0
		}
		v := 0.0
		for h := 1.0; h < 8; h++ {
			v += 0.15 / h * math.Sin(2*math.Pi*140*h*t)
		}
		return v, v
	}
	during := func(fec bool) float64 {
		tr, c := start(t, sdk.TransformSettings{}), &collector{t: t}
		k := newTalker(t, gopus.ApplicationVoIP, onset)
		for _, err := range []error{k.enc.SetBitrate(16000), k.enc.SetPacketLoss(25), k.enc.SetSignal(gopus.SignalVoice)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		k.enc.SetFEC(fec)
		for i := range 100 {
			u := k.next(t)
			if i == 51 {
				continue
			}
			c.feed(tr, u)
		}
		s := decode(t, c.units)
		return rms(s.left[51*960+100 : 52*960-100])
	}
	if with, without := during(true), during(false); with < 0.1 || with < 2*without {
		t.Errorf("level in the lost packet %.3f with FEC, %.3f without", with, without)
	}
}

// A sender that has nothing to say sends a tiny packet every 400 ms, in sequence.
func TestPausesAreFilled(t *testing.T) {
	tr, c := startQuick(t), &collector{t: t}
	k := newTalker(t, gopus.ApplicationVoIP, func(t float64) (float64, float64) {
		if math.Mod(t, 8) > 3 {
			return 0, 0
		}
		return sine(300, 300)(t)
	})
	k.enc.SetDTX(true)
	if err := k.enc.SetBitrate(24000); err != nil {
		t.Fatal(err)
	}
	seq, idle, skipped := uint32(0), 0, 0
	var end time.Duration
	for range 1200 { // 24 s
		u := k.next(t)
		if len(u.Payload) <= dtxBytes {
			if idle++; idle%20 != 1 {
				skipped++
				continue
			}
		} else {
			idle = 0
		}
		u.Seq = seq
		seq++
		c.feed(tr, u)
		end = u.PTS + 20*time.Millisecond
	}
	if skipped < 300 {
		t.Fatalf("the encoder paused for %d packets only", skipped)
	}
	complete(t, c.units, end)
	if s := tr.audio.stats; s.comfort < 300*960 || s.concealed > 0 || s.restarts > 0 {
		t.Errorf("stats %+v: want comfort noise alone", s)
	}
}

func TestLongGapsStartAnew(t *testing.T) {
	tr, c := startQuick(t), &collector{t: t}
	k := newTalker(t, gopus.ApplicationAudio, sine(440, 440))
	shift := func(d time.Duration) {
		for range 50 {
			u := k.next(t)
			u.PTS += d
			c.feed(tr, u)
		}
	}
	shift(0)
	shift(5 * time.Second)  // forward: 4 s to 6 s are missing
	shift(20 * time.Second) // and again
	jumps := 0
	for i := 1; i < len(c.units); i++ {
		step := c.units[i].PTS - c.units[i-1].PTS
		if step <= 0 {
			t.Fatalf("time goes from %v to %v", c.units[i-1].PTS, c.units[i].PTS)
		}
		if long := step > samplesToTime(1024)+time.Nanosecond; long != c.units[i].Discontinuity {
			t.Errorf("step of %v, discontinuity %v", step, c.units[i].Discontinuity)
		} else if long {
			jumps++
		}
	}
	if jumps != 2 || tr.audio.stats.restarts != 2 || tr.audio.stats.silent > 0 {
		t.Errorf("%d jumps, stats %+v", jumps, tr.audio.stats)
	}
	if last := c.units[len(c.units)-1].PTS; last < 22*time.Second+900*time.Millisecond {
		t.Errorf("last unit at %v", last)
	}
}

// Time that steps back yields no unit until it has passed where it was.
func TestTimeNeverGoesBack(t *testing.T) {
	tr, c := startQuick(t), &collector{t: t}
	k := newTalker(t, gopus.ApplicationAudio, sine(440, 440))
	for range 150 {
		c.feed(tr, k.next(t))
	}
	for range 150 {
		u := k.next(t)
		u.PTS -= 4 * time.Second // from -1 s on
		c.feed(tr, u)
	}
	n := len(c.units)
	for range 150 {
		u := k.next(t)
		u.PTS -= 4 * time.Second
		c.feed(tr, u)
	}
	for i := 1; i < len(c.units); i++ {
		if c.units[i].PTS <= c.units[i-1].PTS {
			t.Fatalf("time goes from %v to %v", c.units[i-1].PTS, c.units[i].PTS)
		}
	}
	if len(c.units) == n {
		t.Error("nothing after time had passed where it was")
	}
}

// A publisher's clock that runs at another speed is followed, and nothing else changes.
func TestFollowsThePublishersClock(t *testing.T) {
	packets := clipPackets(t)
	check := func(name string, speed float64, jitter time.Duration, most time.Duration) {
		t.Helper()
		tr, c := startQuick(t), &collector{t: t}
		rnd := rand.New(rand.NewPCG(1, 2))
		worst := time.Duration(0)
		const count = 1000
		for i := range count {
			pts := time.Duration(float64(i) * 20e6 * speed)
			u := &media.AccessUnit{Seq: uint32(i), PTS: pts, DTS: pts, Payload: packets[i%len(packets)]}
			if jitter > 0 {
				u.PTS += time.Duration(rnd.Int64N(int64(jitter)))
			}
			c.feed(tr, u)
			off := tr.units.clock.at(tr.units.pos) - pts - 20*time.Millisecond
			worst = max(worst, off.Abs())
		}
		complete(t, c.units, time.Duration(count*20e6*speed))
		if worst > most {
			t.Errorf("%s: off by up to %v, want at most %v", name, worst, most)
		}
		if s := tr.audio.stats; s.concealed+s.comfort+s.silent+s.skipped+s.restarts > 0 {
			t.Errorf("%s: stats %+v, want samples added or removed only", name, s)
		}
	}
	check("same speed", 1, 0, time.Millisecond)
	check("milliseconds", 1, time.Millisecond, 2*time.Millisecond)
	check("clock too fast", 1-1e-3, 0, 11*time.Millisecond)
	check("clock too slow", 1+1e-3, 0, 11*time.Millisecond)
	check("slewed forward", 1.005, 0, 25*time.Millisecond)
	check("slewed back", 0.995, 0, 25*time.Millisecond)
	check("jittery", 1+1e-3, 8*time.Millisecond, 20*time.Millisecond)
}

// An ingest that does not count its units is not taken for one that loses each.
func TestUnitsWithoutNumbers(t *testing.T) {
	packets := clipPackets(t)
	tr, c := startQuick(t), &collector{t: t}
	for i := range 200 {
		late := time.Duration(i%3) * 4 * time.Millisecond
		c.feed(tr, &media.AccessUnit{PTS: time.Duration(i)*20*time.Millisecond + late, Payload: packets[i]})
	}
	complete(t, c.units, 4*time.Second)
	if s := tr.audio.stats; s.concealed+s.comfort+s.silent > 0 {
		t.Errorf("stats %+v: want nothing made up", s)
	}
}

func TestOverlapLosesItsBeginning(t *testing.T) {
	tr, c := startQuick(t), &collector{t: t}
	k := newTalker(t, gopus.ApplicationAudio, sine(440, 440))
	for i := range 100 {
		u := k.next(t)
		if i >= 50 {
			u.PTS -= 200 * time.Millisecond
		}
		c.feed(tr, u)
	}
	complete(t, c.units, 2*time.Second-200*time.Millisecond)
	if got := tr.audio.stats.skipped; got != 9600 {
		t.Errorf("%d samples skipped, want 9600", got)
	}
}

// Adding and removing samples is not heard: a tone stays clean.
func TestStretchIsSmooth(t *testing.T) {
	check := func(count int) {
		t.Helper()
		var in []float32
		for i := range 960 {
			l, r := sine(440, 880)(float64(i) / 48000)
			in = append(in, float32(l), float32(r))
		}
		out := stretch(nil, in, count)
		if len(out) != 2*count {
			t.Fatalf("%d samples, want %d", len(out)/2, count)
		}
		if out[0] != in[0] || out[1] != in[1] || out[2*count-2] != in[1918] || out[2*count-1] != in[1919] {
			t.Error("the ends moved")
		}
		for i := range count {
			l, _ := sine(440, 880)(float64(i) * 959 / float64(count-1) / 48000)
			if d := math.Abs(float64(out[2*i]) - l); d > 0.001 {
				t.Fatalf("sample %d of %d is off by %v", i, count, d)
			}
		}
	}
	check(960)
	check(958)
	check(962)
	check(952)
}

// A packet that cannot be decoded is an error of its own, and its time is filled.
func TestDamagedPacketsAreFilled(t *testing.T) {
	tr, c := startQuick(t), &collector{t: t}
	k := newTalker(t, gopus.ApplicationAudio, sine(440, 440))
	errs := 0
	for i := range 100 {
		u := k.next(t)
		switch i {
		case 20:
			u.Payload = nil
		case 40:
			u.Payload = []byte{0xff, 0} // no frames
		case 60:
			u.Payload = []byte{0xfd, 1, 2, 3} // two equal frames in three bytes
		}
		if err := tr.Transform(u, c.emit); err != nil {
			errs++
		}
	}
	if errs != 3 {
		t.Errorf("%d errors, want 3", errs)
	}
	complete(t, c.units, 2*time.Second)
}

func clipPackets(t testing.TB) [][]byte {
	t.Helper()
	card, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	var packets [][]byte
	for _, u := range card.Audio {
		packets = append(packets, u.Payload)
	}
	return packets
}

// Ten minutes (one with the race detector) with everything that a publisher does: loss single and in bursts,
// pauses, mono and stereo, speech and music coders, packets of all lengths. There
// is a unit for every 21.33 ms, and time is right to the end.
func TestMinutesOfTrouble(t *testing.T) {
	kinds := troubleKinds(t)
	tr, c := startQuick(t), &collector{t: t}
	rnd := rand.New(rand.NewPCG(3, 4))
	at, seq := time.Duration(0), uint32(0)
	kind := kinds[0]
	worst := time.Duration(0)
	for i := 0; at < troubleMinutes*time.Minute; i++ {
		if i%100 == 0 {
			kind = kinds[i/100%len(kinds)]
		}
		p := kind.packets[i%len(kind.packets)]
		lost := rnd.IntN(20) == 0
		if i%1000 > 990 {
			lost = true // a burst of 200 ms and more
		}
		if i%1500 == 1499 { // a pause of up to 1.6 s
			u := &media.AccessUnit{Seq: seq, PTS: at, DTS: at, Payload: []byte{p[0] &^ 3}}
			c.feed(tr, u)
			frame, err := opus.FrameDuration(p)
			if err != nil {
				t.Fatal(err)
			}
			at += frame + time.Duration(rnd.IntN(4))*400*time.Millisecond
			seq++
			continue
		}
		if !lost {
			c.feed(tr, &media.AccessUnit{Seq: seq, PTS: at, DTS: at, Payload: p})
			off := tr.units.clock.at(tr.units.pos) - at - kind.length
			worst = max(worst, off.Abs())
		}
		at += kind.length
		seq++
	}
	complete(t, c.units, at)
	if worst > 20*time.Millisecond {
		t.Errorf("off by up to %v", worst)
	}
	if s := tr.audio.stats; s.restarts > 0 || s.skipped > 0 {
		t.Errorf("stats %+v", s)
	}
	t.Logf("off by up to %v, %d units, stats %+v", worst, len(c.units), tr.audio.stats)
}

type packetKind struct {
	packets [][]byte
	length  time.Duration
}

// troubleKinds codes two seconds in each of the ways that Opus knows.
func troubleKinds(t testing.TB) []packetKind {
	t.Helper()
	make1 := func(app gopus.Application, ch, frame, bitrate int) packetKind {
		enc, err := gopus.NewEncoder(gopus.EncoderConfig{SampleRate: 48000, Channels: 2, Application: app})
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{enc.SetBitrate(bitrate), enc.SetForceChannels(ch), enc.SetFrameSize(frame)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		enc.SetFEC(app == gopus.ApplicationVoIP)
		k := packetKind{length: samplesToTime(int64(frame))}
		buf := make([]byte, 4000)
		for pos := 0; pos < 96000; pos += frame {
			pcm := make([]float32, 2*frame)
			for i := range frame {
				l, r := chord(float64(pos+i) / 48000)
				pcm[2*i], pcm[2*i+1] = float32(l), float32(r)
			}
			n, err := enc.Encode(pcm, buf)
			if err != nil {
				t.Fatal(err)
			}
			k.packets = append(k.packets, bytes.Clone(buf[:n]))
		}
		return k
	}
	return []packetKind{
		make1(gopus.ApplicationAudio, 2, 960, 96000),
		make1(gopus.ApplicationAudio, 1, 960, 48000),
		make1(gopus.ApplicationVoIP, 1, 960, 16000),
		make1(gopus.ApplicationVoIP, 2, 960, 32000),
		make1(gopus.ApplicationAudio, 2, 480, 96000),
		make1(gopus.ApplicationVoIP, 1, 2880, 20000),
		make1(gopus.ApplicationLowDelay, 2, 120, 128000),
	}
}

// FuzzSequence takes packets and times as they come, and idles in between: nothing
// panics, hangs or lets time go back, whatever is in them.
func FuzzSequence(f *testing.F) {
	card, err := clip.Load()
	if err != nil {
		f.Fatal(err)
	}
	record := func(step int32, flags byte, p []byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(step))
		return append(append(b, flags, byte(len(p))), p...)
	}
	var plain, rough []byte
	for i, u := range card.Audio[:30] {
		p := u.Payload[:min(len(u.Payload), 255)]
		plain = append(plain, record(20000, 0, p)...)
		rough = append(rough, record(int32(i*13577-40000), byte(i%4), p)...)
	}
	f.Add(append(record(20000, 0, []byte{0xfc, 0xff, 0xfe}), append(record(1300000, 4, []byte{0x08}), record(20000, 4, []byte{0xfc, 0xff, 0xfe})...)...))
	f.Add(plain)
	f.Add(rough)
	f.Add(record(-2000000, 1, []byte{0xfc}))
	f.Add(append(record(20000, 0, []byte{0x08}), record(900000, 0, []byte{0xff, 0x30, 1})...))
	f.Fuzz(func(t *testing.T, data []byte) {
		tr := startQuick(t)
		last := time.Duration(math.MinInt64)
		emit := func(u *media.AccessUnit) {
			if u.PTS <= last {
				t.Fatalf("time goes from %v to %v", last, u.PTS)
			}
			last = u.PTS
		}
		at, seq := time.Duration(0), uint32(0)
		idleLeft := 4 * time.Second // or an input would take too long
		for n := 0; len(data) >= 6 && n < 200; n++ {
			step := time.Duration(int32(binary.BigEndian.Uint32(data))) * time.Microsecond
			flags, size := data[4], min(int(data[5]), len(data)-6)
			payload := data[6 : 6+size]
			data = data[6+size:]
			seq++
			if flags&2 != 0 {
				seq++
			}
			u := &media.AccessUnit{Seq: seq, PTS: at, DTS: at, Discontinuity: flags&1 != 0, Payload: payload}
			at += step
			err := tr.Transform(u, emit)
			if tr.audio.panics.count+tr.units.guard.panics.count > 0 {
				t.Fatal("a codec panicked")
			}
			if p := tr.units.pos; err == nil && tr.units.clock.at(p)-u.PTS > 3*time.Second+120*time.Millisecond {
				t.Fatalf("sound runs %v ahead", tr.units.clock.at(p)-u.PTS)
			}
			// As long as the SDK waits for the next packet; of a longer time no more is to be seen.
			if flags&4 != 0 {
				end := min(max(step, 0), idleLeft)
				idleLeft -= end
				for quiet := 2 * sdk.IdleInterval; quiet <= end; quiet += sdk.IdleInterval {
					if err := tr.Idle(quiet, emit); err != nil {
						t.Fatal(err)
					}
				}
				if ahead := tr.units.clock.at(tr.units.pos) - u.PTS - end; err == nil && ahead > 3*time.Second+120*time.Millisecond {
					t.Fatalf("after %v without a packet sound runs %v ahead", end, ahead)
				}
			}
		}
	})
}
