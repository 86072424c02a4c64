package mpegts

import (
	"bytes"
	"testing"
	"time"

	"github.com/bluenviron/mediacommon/v2/pkg/formats/mpegts"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/mpegts/codecs"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h264"
)

var (
	avcC   = []byte{1, 0x42, 0xc0, 0x0d, 0xff, 0xe1, 0, 10, 0x67, 0x42, 0xc0, 0x0d, 0xd9, 0x01, 0x41, 0xfb, 0x01, 0x10, 1, 0, 4, 0x68, 0xce, 0x38, 0x80}
	head   = []byte{'O', 'p', 'u', 's', 'H', 'e', 'a', 'd', 1, 2, 0x38, 1, 0x80, 0xbb, 0, 0, 0, 0, 0}
	tracks = []media.Track{
		{ID: 1, Codec: media.H264, DecoderConfig: avcC},
		{ID: 2, Codec: media.AAC, DecoderConfig: []byte{0x11, 0x90}},
		{ID: 3, Codec: media.Opus, DecoderConfig: head},
	}
)

func picture(n int, at time.Duration, bytes int) *media.AccessUnit {
	kind := byte(0x41)
	if n%30 == 0 {
		kind = 0x65
	}
	nalu := make([]byte, bytes)
	nalu[0] = kind
	for i := 1; i < len(nalu); i++ {
		nalu[i] = byte(1 + (i*7+n)%250)
	}
	return &media.AccessUnit{Track: 1, DTS: at, PTS: at + 40*time.Millisecond, RandomAccess: kind == 0x65, Payload: h264.AppendLengthPrefixed(nil, nalu)}
}

func sound(track media.TrackID, n int, at time.Duration) *media.AccessUnit {
	b := bytes.Repeat([]byte{byte(n)}, 100+n%500)
	if track == 3 {
		b[0] = 0xfc // 20 ms, stereo
	}
	return &media.AccessUnit{Track: track, DTS: at, PTS: at, RandomAccess: true, Payload: b}
}

// TestOtherReader: an independent reader finds every unit as it was written, of all
// sizes, at its time, over the wrap of the timestamps.
func TestOtherReader(t *testing.T) {
	m, err := NewMuxer(tracks)
	if err != nil {
		t.Fatal(err)
	}
	var ts []byte
	var in [4][]*media.AccessUnit
	write := func(u *media.AccessUnit) {
		if ts, err = m.AppendUnit(ts, u); err != nil {
			t.Fatal(err)
		}
		in[u.Track] = append(in[u.Track], u)
	}
	// The first unit stands at 0; the rest just before the wrap after 26.5 hours.
	const wrap = time.Duration((1<<33)/9*100_000) - epoch // to the tick
	start := 3 * time.Hour
	for n := range 400 {
		at := start + time.Duration(n)*33*time.Millisecond
		if n > 100 {
			at += wrap - 6*time.Second
		}
		write(picture(n, at, 1+n*97%400*100))
		write(sound(2, n, at))
		write(sound(3, n, at+5*time.Millisecond))
	}
	checkPackets(t, ts)
	r := &mpegts.Reader{R: bytes.NewReader(ts)}
	if err := r.Initialize(); err != nil {
		t.Fatal(err)
	}
	r.OnDecodeError(func(err error) { t.Error(err) })
	var got [4]int
	check := func(id int, pts, dts int64, payload []byte) {
		u := in[id][got[id]]
		got[id]++
		if !bytes.Equal(payload, u.Payload) {
			t.Fatalf("unit %d of track %d: %d bytes, want %d", got[id], id, len(payload), len(u.Payload))
		}
		if want := Ticks(m.Timestamp(u.PTS)) & timestampMask; pts != want {
			t.Fatalf("unit %d of track %d at %d, want %d", got[id], id, pts, want)
		}
		if want := Ticks(m.Timestamp(u.DTS)) & timestampMask; dts != want {
			t.Fatalf("unit %d of track %d: DTS %d, want %d", got[id], id, dts, want)
		}
	}
	for _, track := range r.Tracks() {
		switch track.Codec.(type) {
		case *codecs.H264:
			r.OnDataH264(track, func(pts, dts int64, au [][]byte) error {
				var p h264.Picture
				if err := p.Normalize(au); err != nil {
					return err
				}
				if p.RandomAccess != (len(p.SPS) == 1 && len(p.PPS) == 1) {
					t.Errorf("parameter sets in picture %d: %v", got[1], p.RandomAccess)
				}
				check(1, pts, dts, h264.AppendLengthPrefixed(nil, p.NALUs...))
				return nil
			})
		case *codecs.MPEG4Audio:
			r.OnDataMPEG4Audio(track, func(pts int64, aus [][]byte) error {
				check(2, pts, pts, aus[0])
				return nil
			})
		case *codecs.Opus:
			r.OnDataOpus(track, func(pts int64, packets [][]byte) error {
				check(3, pts, pts, packets[0])
				return nil
			})
		default:
			t.Errorf("a track of %T", track.Codec)
		}
	}
	for r.Read() == nil {
	}
	if got[1] < 399 || got[2] < 399 || got[3] < 399 {
		t.Errorf("%v units, want 400 each", got[1:])
	}
}

// checkPackets checks what every receiver asks of packets.
func checkPackets(t *testing.T, ts []byte) {
	t.Helper()
	if len(ts)%PacketBytes != 0 {
		t.Fatalf("%d bytes", len(ts))
	}
	last := map[uint16]byte{}
	for ; len(ts) > 0; ts = ts[PacketBytes:] {
		pid := PID(ts)
		if ts[0] != syncByte {
			t.Fatal("no sync byte")
		}
		if ts[3]&0x10 == 0 || pid == nullPID {
			continue
		}
		if before, ok := last[pid]; ok && Counter(ts) != (before+1)&0xf {
			t.Fatalf("pid %d: counter %d after %d", pid, Counter(ts), before)
		}
		last[pid] = Counter(ts)
	}
}

// TestTables: the program map is there before the first unit, before each random
// access point and at least every 500 ms, and its version changes with the tracks.
func TestTables(t *testing.T) {
	m, err := NewMuxer(tracks[:1])
	if err != nil {
		t.Fatal(err)
	}
	versions := map[byte]int{}
	write := func(u *media.AccessUnit) (tables bool) {
		ts, err := m.AppendUnit(nil, u)
		if err != nil {
			t.Fatal(err)
		}
		for ; len(ts) > 0; ts = ts[PacketBytes:] {
			if PID(ts) == pmtPID {
				tables = true
				versions[ts[10]>>1&31]++
			}
		}
		return tables
	}
	since := 0
	for n := range 90 {
		if write(picture(n, time.Duration(n)*40*time.Millisecond, 500)) {
			since = 0
		} else if since++; since > 12 {
			t.Fatalf("no tables for %d pictures", since)
		} else if n%30 == 0 {
			t.Errorf("no tables before picture %d", n)
		}
	}
	if err := m.SetTracks(tracks[:2]); err != nil {
		t.Fatal(err)
	}
	if !write(picture(91, 91*40*time.Millisecond, 500)) || len(versions) != 2 {
		t.Errorf("after a change of tracks: versions %v", versions)
	}
	if err := m.SetTracks(tracks[:2]); err != nil || write(picture(92, 92*40*time.Millisecond, 500)) {
		t.Error("the same tracks bring new tables")
	}
}

func TestIncomplete(t *testing.T) {
	m, err := NewMuxer([]media.Track{{ID: 1, Codec: media.H264}, tracks[1]})
	if err != nil {
		t.Fatal(err)
	}
	if ts, err := m.AppendUnit(nil, picture(0, 0, 500)); err != nil || len(ts) != 0 {
		t.Errorf("%d bytes, %v", len(ts), err)
	}
	if m.ClockPID() != firstPID {
		t.Errorf("clock on %d", m.ClockPID())
	}
	if _, err := NewMuxer([]media.Track{{ID: 1, Codec: media.VP8}}); err == nil {
		t.Error("no error for vp8")
	}
	if err := m.SetTracks(tracks); err != nil || m.ClockPID() == firstPID {
		t.Errorf("%v, clock on %d: the PID of the sound shall stay what it was", err, m.ClockPID())
	}
	bad := picture(0, 0, 500)
	bad.Payload = bad.Payload[:100]
	if _, err := m.AppendUnit(nil, bad); err == nil {
		t.Error("no error for a unit that is cut off")
	}
}

// TestClock: it runs with its own clock, follows a source that is slower or faster,
// and does not follow jitter.
func TestClock(t *testing.T) {
	run := func(drift float64, jitter time.Duration, limit time.Duration) {
		t.Helper()
		c := Clock{Ahead: 250 * time.Millisecond, MaxSlew: 200e-6}
		var before ClockTime
		var sampled time.Duration
		worst := time.Duration(0)
		for n := range 30 * 600 { // ten minutes
			now := time.Duration(n) * time.Second / 30
			dts := time.Duration(float64(now)*(1+drift)) + epoch
			late := jitter * time.Duration(n%3) / 2
			c.Sent(dts, now+late)
			at, jumped := c.Sample(now + late)
			if jumped {
				t.Fatal("it jumped")
			}
			if n > 0 {
				own := now + late - sampled
				step := time.Duration(at-before) * 1000 / 27
				worst = max(worst, (step - own).Abs())
			}
			before, sampled = at, now+late
			if lead := dts - time.Duration(at)*1000/27; n > 3000 && (lead < limit || lead > 400*time.Millisecond) {
				t.Fatalf("after %v: a lead of %v", now, lead)
			}
		}
		if worst > 20*time.Microsecond {
			t.Errorf("the clock is off by %v between two samples", worst)
		}
	}
	run(0, 0, 249*time.Millisecond)
	run(100e-6, 30*time.Millisecond, 100*time.Millisecond)
	run(-100e-6, 30*time.Millisecond, 100*time.Millisecond)
	// A jump of the source is followed, back only when it stays.
	c := Clock{Ahead: 250 * time.Millisecond, MaxSlew: 200e-6}
	c.Sent(epoch, 0)
	c.Sent(epoch+time.Second, 0)
	if at, jumped := c.Sample(0); at != ClockTime((epoch+750*time.Millisecond)*27/1000) || jumped {
		t.Errorf("after a burst: %d %v", at, jumped)
	}
	for ms := time.Duration(0); ms < 3000; ms += 40 {
		c.Sent(epoch-time.Second+ms*time.Millisecond, ms*time.Millisecond)
	}
	if at, jumped := c.Sample(3 * time.Second); !jumped || (time.Duration(at)*1000/27-(epoch+1750*time.Millisecond)).Abs() > 50*time.Millisecond {
		t.Errorf("after the source has gone back: %v %v", time.Duration(at)*1000/27, jumped)
	}
}

// TestClockWrap: the program clock wraps with the timestamps, 33 bits of 90 kHz and
// what is left of 27 MHz.
func TestClockWrap(t *testing.T) {
	const wrap = ClockTime(1<<33) * 300
	f := func(at ClockTime, base, ext int64) {
		t.Helper()
		b := AppendClock(nil, firstPID, 0, at, false)
		gotBase := int64(b[6])<<25 | int64(b[7])<<17 | int64(b[8])<<9 | int64(b[9])<<1 | int64(b[10])>>7
		gotExt := int64(b[10]&1)<<8 | int64(b[11])
		if len(b) != PacketBytes || gotBase != base || gotExt != ext {
			t.Errorf("%d: %d and %d, want %d and %d", at, gotBase, gotExt, base, ext)
		}
	}
	f(0, 0, 0)
	f(wrap-1, 1<<33-1, 299)
	f(wrap, 0, 0)
	f(wrap+301, 1, 1)
	// A clock that runs over it.
	var c Clock
	end := time.Duration(wrap / 27 * 1000)
	c.Sent(end, 0)
	before, _ := c.Sample(0)
	after, jumped := c.Sample(40 * time.Millisecond)
	if after-before != 40*ClockHz/1000 || jumped {
		t.Errorf("40 ms over the wrap are %d, jumped %v", after-before, jumped)
	}
}

func TestTicks(t *testing.T) {
	for _, d := range []time.Duration{0, time.Second, 100 * time.Hour, 33366667, -time.Second, time.Second / 3} {
		if want := (float64(d) * TimestampHz / 1e9); (float64(Ticks(d))-want) > 0.5001 || want-float64(Ticks(d)) > 0.5001 {
			t.Errorf("%v: %d, want %f", d, Ticks(d), want)
		}
	}
}
