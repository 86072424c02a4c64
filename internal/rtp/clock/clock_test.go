package clock_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/rtp/clock"
)

const ms = time.Millisecond

var epoch = time.Unix(5000, 0)

// An event is one unit, or one sender report, of a simulated publisher.
type event struct {
	arrival time.Duration
	capture time.Duration
	video   bool
	key     bool
	report  bool
}

// A sender simulates a publisher: what it captures when, and how late it arrives.
type sender struct {
	length                 time.Duration
	audioDelay, videoDelay func(at time.Duration) time.Duration // beyond the least one
	videoFrom, audioFrom   time.Duration
	reportsFrom            time.Duration // 0: none
	drift                  float64       // of the video clock against the audio clock
}

func (s sender) events() []event {
	var out []event
	zero := func(time.Duration) time.Duration { return 0 }
	if s.audioDelay == nil {
		s.audioDelay = zero
	}
	if s.videoDelay == nil {
		s.videoDelay = zero
	}
	const least = 30 * ms
	var arrival time.Duration
	for at := s.audioFrom; at < s.length; at += 20 * ms {
		arrival = max(arrival, at+least+s.audioDelay(at)) // in order, as reorder leaves them
		out = append(out, event{arrival: arrival, capture: at})
	}
	arrival = 0
	for i := 0; ; i++ {
		at := s.videoFrom + time.Duration(i)*time.Second/30
		if at >= s.length {
			break
		}
		arrival = max(arrival, at+least+s.videoDelay(at))
		out = append(out, event{arrival: arrival, capture: at, video: true, key: i%60 == 0})
	}
	if s.reportsFrom > 0 {
		for at := s.reportsFrom; at < s.length; at += time.Second {
			out = append(out, event{arrival: at + least, capture: at, video: true, report: true},
				event{arrival: at + least + 200*ms, capture: at + 200*ms, report: true})
		}
	}
	slices.SortStableFunc(out, func(a, b event) int { return int(a.arrival - b.arrival) })
	return out
}

// play runs the events through a clock and calls check with the skew of the
// picture against the sound: by how much it is late.
func play(t *testing.T, s sender, firstVideo, firstAudio uint32, check func(at, skew time.Duration)) {
	t.Helper()
	c := clock.New(epoch)
	audio, video := c.AddTrack(48000, true), c.AddTrack(90000, false)
	var audioLate time.Duration
	heard := false
	last := map[bool]time.Duration{true: math.MinInt64, false: math.MinInt64}
	wall := time.Unix(1700000000, 0)
	for _, e := range s.events() {
		rtp := firstAudio + uint32(int64(e.capture)*48/int64(ms))
		track := audio
		if e.video {
			rtp = firstVideo + uint32(int64(float64(e.capture)*(1+s.drift))*90/int64(ms))
			track = video
		}
		if e.report {
			track.SenderReport(wall.Add(e.capture), rtp)
			continue
		}
		at := track.Stamp(rtp, epoch.Add(e.arrival), e.key || !e.video)
		if at.Jumped || at.DTS <= last[e.video] || at.PTS < at.DTS {
			t.Fatalf("at %v: %+v after %v", e.arrival, at, last[e.video])
		}
		last[e.video] = at.DTS
		late := at.PTS - e.capture
		if !e.video {
			if heard && (late-audioLate).Abs() > 50*time.Microsecond {
				t.Fatalf("at %v: the sound was moved by %v", e.arrival, late-audioLate)
			}
			heard, audioLate = true, late
		} else if heard {
			check(e.arrival, late-audioLate)
		}
	}
}

func within(t *testing.T, from time.Duration, most time.Duration) func(at, skew time.Duration) {
	return func(at, skew time.Duration) {
		t.Helper()
		if at >= from && skew.Abs() > most {
			t.Fatalf("at %v the picture is late by %v, at most %v is allowed", at, skew, most)
		}
	}
}

// jitter is a delay that is mostly small.
func jitter(seed uint64, most time.Duration) func(time.Duration) time.Duration {
	r := rand.New(rand.NewPCG(seed, 4))
	return func(time.Duration) time.Duration {
		x := r.Float64()
		return time.Duration(x * x * x * float64(most))
	}
}

func TestTogether(t *testing.T) {
	t.Run("no delays", func(t *testing.T) {
		play(t, sender{length: 20 * time.Second}, 1, 1, within(t, 0, ms))
	})
	t.Run("both clocks wrap", func(t *testing.T) {
		play(t, sender{length: 20 * time.Second}, math.MaxUint32, math.MaxUint32-48000*3, within(t, 0, ms))
	})
	t.Run("video first, sound 2 s later", func(t *testing.T) {
		play(t, sender{length: 20 * time.Second, audioFrom: 2 * time.Second}, 7, 9, within(t, 0, 2*ms))
	})
	t.Run("sound first", func(t *testing.T) {
		play(t, sender{length: 20 * time.Second, videoFrom: 3 * time.Second}, 7, 9, within(t, 0, 2*ms))
	})
	t.Run("jitter without reports", func(t *testing.T) {
		for seed := range uint64(20) {
			s := sender{length: 20 * time.Second, audioDelay: jitter(seed, 60*ms), videoDelay: jitter(seed+100, 60*ms)}
			play(t, s, 7, 9, within(t, 0, 60*ms))
			play(t, s, 7, 9, within(t, 3*time.Second, 12*ms))
		}
	})
	t.Run("first key picture arrives late", func(t *testing.T) {
		s := sender{length: 20 * time.Second, videoDelay: func(at time.Duration) time.Duration {
			if at == 0 {
				return 70 * ms
			}
			return 0
		}}
		play(t, s, 7, 9, within(t, 5*time.Second, 12*ms))
	})
	t.Run("constant encoder delay, told by reports", func(t *testing.T) {
		s := sender{length: 30 * time.Second, reportsFrom: 400 * ms, videoDelay: func(time.Duration) time.Duration { return 60 * ms }}
		play(t, s, 7, 9, within(t, 0, 61*ms))
		play(t, s, 7, 9, within(t, 6*time.Second, 12*ms))
	})
	t.Run("large delay is stepped over at a key picture", func(t *testing.T) {
		s := sender{length: 30 * time.Second, reportsFrom: 400 * ms, videoDelay: func(time.Duration) time.Duration { return 400 * ms }}
		play(t, s, 7, 9, within(t, 3*time.Second, 12*ms))
	})
	t.Run("encoder delay, told by reports before the first unit", func(t *testing.T) {
		c := clock.New(epoch)
		audio, video := c.AddTrack(48000, true), c.AddTrack(90000, false)
		wall := time.Unix(1700000000, 0)
		audio.SenderReport(wall, 1000)
		video.SenderReport(wall, 5000)
		a := audio.Stamp(1000, epoch.Add(30*ms), true)
		v := video.Stamp(5000, epoch.Add(330*ms), true) // captured with it, and long on the way
		if d := v.PTS - a.PTS; d.Abs() > ms {
			t.Errorf("the picture is off by %v", d)
		}
	})
	t.Run("drift", func(t *testing.T) {
		s := sender{length: 10 * time.Minute, reportsFrom: time.Second, drift: 200e-6}
		// The video's RTP clock runs 200 ppm fast against what the reports say.
		play(t, s, 7, 9, within(t, 0, 20*ms))
	})
}

// Reports that contradict the arrivals by seconds are not believed, nor are
// single ones that contradict their predecessors.
func TestImplausibleReports(t *testing.T) {
	c := clock.New(epoch)
	audio, video := c.AddTrack(48000, true), c.AddTrack(90000, false)
	wall := time.Unix(1700000000, 0)
	var a, v clock.Time
	for i := range 600 {
		at := time.Duration(i) * 20 * ms
		a = audio.Stamp(uint32(i)*960, epoch.Add(at), true)
		v = video.Stamp(uint32(i)*1800, epoch.Add(at), i%50 == 0)
		if i%50 == 49 {
			audio.SenderReport(wall.Add(at), uint32(i)*960)
			video.SenderReport(wall.Add(at+time.Hour), uint32(i)*1800)
		}
		if skew := v.PTS - a.PTS; skew.Abs() > ms {
			t.Fatalf("at %v apart by %v", at, skew)
		}
	}
	for i := range 10 {
		video.SenderReport(wall.Add(time.Duration(i*7919%13)*time.Minute), 0)
	}
	a = audio.Stamp(600*960, epoch.Add(12*time.Second), true)
	v = video.Stamp(600*1800, epoch.Add(12*time.Second), true)
	if skew := v.PTS - a.PTS; skew.Abs() > ms {
		t.Errorf("apart by %v", skew)
	}
}

// When the sender's RTP time breaks off, the track goes on where it was.
func TestJump(t *testing.T) {
	c := clock.New(epoch)
	tr := c.AddTrack(90000, false)
	tr.Stamp(1000, epoch, true)
	before := tr.Stamp(4000, epoch.Add(33*ms), false)
	after := tr.Stamp(3_000_000_000, epoch.Add(66*ms), true)
	if !after.Jumped || after.DTS <= before.DTS || after.PTS-before.PTS > 40*ms {
		t.Errorf("%+v after %+v", after, before)
	}
	next := tr.Stamp(3_000_003_000, epoch.Add(99*ms), false)
	if d := next.PTS - after.PTS; next.Jumped || (d-33*ms).Abs() > ms {
		t.Errorf("%+v after %+v", next, after)
	}
	// A pause that the RTP time shares is none.
	paused := tr.Stamp(3_000_003_000+90000*20, epoch.Add(99*ms+20*time.Second), true)
	if d := paused.PTS - next.PTS; paused.Jumped || (d-20*time.Second).Abs() > ms {
		t.Errorf("%+v after %+v", paused, next)
	}
}

// A track whose RTP time stood still while it was muted goes on where it belongs; one
// that was held up on the way, alone or with all others, does not move.
func TestRTPTimeStandsStill(t *testing.T) {
	type unit struct {
		arrival, capture time.Duration
		rtp              time.Duration
		video            bool
	}
	const from = 5 * time.Second
	// f plays 15 s in which from 5 s on the sound pauses for length.
	f := func(name string, length time.Duration, jumps int, change func(u *unit)) {
		t.Run(name, func(t *testing.T) {
			var units []unit
			for at := time.Duration(0); at < 15*time.Second; at += 20 * ms {
				u := unit{arrival: at + 30*ms, capture: at, rtp: at}
				v := unit{arrival: at + 30*ms, capture: at, rtp: at, video: true}
				change(&u)
				change(&v)
				if u.arrival >= 0 {
					units = append(units, u)
				}
				units = append(units, v)
			}
			slices.SortStableFunc(units, func(a, b unit) int { return int(a.arrival - b.arrival) })
			c := clock.New(epoch)
			audio, video := c.AddTrack(48000, true), c.AddTrack(90000, false)
			var heard time.Duration // PTS - capture of the sound
			jumped, settled := 0, time.Duration(0)
			for i, u := range units {
				tr, rate := audio, time.Duration(48)
				if u.video {
					tr, rate = video, 90
				}
				at := tr.Stamp(uint32(u.rtp*rate/ms), epoch.Add(u.arrival), i%100 == 0)
				if at.Jumped {
					if u.video {
						t.Errorf("the picture jumped at %v", u.arrival)
					}
					jumped, settled = jumped+1, u.arrival
				}
				if !u.video {
					heard = at.PTS - u.capture
				} else if skew := at.PTS - u.capture - heard; skew.Abs() > 20*ms && (u.arrival < from || settled > 0) {
					t.Fatalf("at %v apart by %v", u.arrival, skew)
				}
			}
			if jumped != jumps {
				t.Errorf("jumped %d times, want %d", jumped, jumps)
			}
			if behind := from + length; jumps > 0 && (settled < behind || settled > behind+300*ms) {
				t.Errorf("the sound came back at %v and was put right at %v", behind, settled)
			}
		})
	}
	for _, length := range []time.Duration{time.Second, 2 * time.Second, 2900 * ms} {
		f("stands still for "+length.String(), length, 1, func(u *unit) {
			switch {
			case u.video || u.capture < from:
			case u.capture < from+length:
				u.arrival = -1
			default:
				u.rtp -= length - 20*ms
			}
		})
		f("held up for "+length.String(), length, 0, func(u *unit) {
			if !u.video && u.capture >= from {
				u.arrival = max(u.arrival, from+length)
			}
		})
		f("goes on for "+length.String(), length, 0, func(u *unit) {
			if !u.video && u.capture >= from && u.capture < from+length {
				u.arrival = -1
			}
		})
		f("everything late from now on by "+length.String(), length, 0, func(u *unit) {
			if u.capture >= from {
				u.arrival += length
			}
		})
	}
}

// order is the decoding order of a group with two B-frames between others, by
// number of the picture in output.
func decoding(pictures int) []int {
	out := []int{0}
	for p := 3; p < pictures; p += 3 {
		out = append(out, p, p-2, p-1)
	}
	return out
}

func TestBFrames(t *testing.T) {
	for _, told := range []bool{true, false} {
		c := clock.New(epoch)
		tr := c.AddTrack(90000, false)
		if told {
			tr.SetReorder(1)
		}
		last := time.Duration(math.MinInt64)
		for i, n := range decoding(90) {
			at := tr.Stamp(uint32(n)*3000, epoch.Add(time.Duration(i)*33*ms), n == 0)
			if at.DTS <= last || at.PTS < at.DTS {
				t.Fatalf("told %v: picture %d: %+v after %v", told, n, at, last)
			}
			last = at.DTS
			// After the first pictures the distances in output are exact.
			want := time.Duration(n) * time.Second / 30
			if d := at.PTS - want; (i > 8 || told) && d.Abs() > 2*ms {
				t.Errorf("told %v: picture %d is off by %v", told, n, d)
			}
			if late := at.PTS - at.DTS; late > 150*ms {
				t.Errorf("told %v: picture %d: DTS %v before PTS", told, n, late)
			}
		}
	}
}

// Whatever a sender claims, times rise and nothing overflows or panics.
func FuzzClock(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 1, 20, 1, 0, 0, 3, 192, 20})
	f.Fuzz(func(t *testing.T, script []byte) {
		c := clock.New(epoch)
		tracks := []*clock.Track{c.AddTrack(48000, true), c.AddTrack(90000, false)}
		last := [2]time.Duration{math.MinInt64, math.MinInt64}
		now := epoch
		for len(script) >= 6 {
			k := int(script[0] & 1)
			rtp := uint32(script[1])<<24 | uint32(script[2])<<16 | uint32(script[3])<<8 | uint32(script[4])
			now = now.Add(time.Duration(script[5]) * ms)
			if script[0]&2 != 0 {
				tracks[k].SenderReport(now.Add(time.Duration(int8(script[0]))*time.Minute), rtp)
			} else {
				at := tracks[k].Stamp(rtp, now, script[0]&4 != 0)
				if at.DTS <= last[k] || at.PTS < at.DTS {
					t.Fatalf("%+v after %v", at, last[k])
				}
				last[k] = at.DTS
			}
			if script[0]&0xf0 == 0xf0 {
				tracks[k].SetReorder(int(script[0] & 3))
			}
			script = script[6:]
		}
	})
}
