package session

import (
	"testing"
	"time"
)

// The first request goes at once, those within half a second are gathered into
// one, an answer settles it, and silence is not asked for ever.
func TestKeyframes(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	k := keyframes{intra: true}
	var latest time.Time
	check := func(ms int, want request, wantWait int) {
		t.Helper()
		send, next, ok := k.next(at(ms), latest, true)
		if send != want || ok != (wantWait >= 0) || ok && !next.Equal(at(wantWait)) {
			t.Errorf("at %d ms: send %v, next %v %v; want %v, %d", ms, send, next.Sub(start), ok, want, wantWait)
		}
	}
	check(0, noRequest, -1) // nobody wants anything
	k.want(at(10), latest)
	check(10, pictureLoss, 510)
	k.want(at(20), latest)
	check(20, noRequest, 510)
	latest = at(60) // answered
	check(510, noRequest, -1)
	k.want(at(520), latest)
	check(520, pictureLoss, 1020)
	latest = at(540)
	k.want(at(600), latest) // wanted anew after the answer: gathered
	check(600, noRequest, 1020)
	check(1020, pictureLoss, 1520)
	check(1520, pictureLoss, 2020)
	check(2020, pictureLoss, 2520)
	check(2520, intraRequest, 3020)
	check(3020, intraRequest, 3520)
	check(3520, intraRequest, 4020)
	check(4020, noRequest, -1) // six times in vain
	if k.answered != 2 || k.unanswered != 6 || k.lastReply != 20*time.Millisecond {
		t.Errorf("%+v", k)
	}
}

// play lets a publisher with its own keyframes every gop run for a minute, while
// somebody needs one every three seconds; answers says that it listens to requests.
func play(k *keyframes, gop, answer time.Duration) (sent int) {
	start := time.Unix(1000, 0)
	latest, due := start, time.Time{}
	for ms := range 60_000 {
		now := start.Add(time.Duration(ms) * time.Millisecond)
		if ms%3000 == 1500 {
			k.want(now, latest)
		}
		if now.Sub(latest) >= gop || !due.IsZero() && now.After(due) {
			latest, due = now, time.Time{}
		}
		if send, _, _ := k.next(now, latest, true); send != noRequest {
			sent++
			if answer > 0 {
				due = now.Add(answer)
			}
		}
	}
	return sent
}

// A publisher who does not listen is recognised, whether keyframes come by
// themselves or not, and left alone; one who does is not mistaken for one.
func TestKeyframesIgnored(t *testing.T) {
	for _, gop := range []time.Duration{2 * time.Second, 4 * time.Second, 10 * time.Second, time.Hour} {
		var k keyframes
		if sent := play(&k, gop, 0); !k.ignored || sent > 30 {
			t.Errorf("keyframes every %v: ignored %v, %d requests", gop, k.ignored, sent)
		}
	}
	for _, gop := range []time.Duration{2 * time.Second, 10 * time.Second, time.Hour} {
		var k keyframes
		if play(&k, gop, 100*time.Millisecond); k.ignored {
			t.Errorf("keyframes every %v and when asked: taken for one who ignores requests", gop)
		}
	}
	// Who listens again is noticed.
	k := keyframes{}
	play(&k, time.Hour, 0)
	if !k.ignored {
		t.Fatal("not recognised")
	}
	k.note(true)
	k.note(true)
	if k.ignored {
		t.Error("two answers did not change it")
	}
	// No picture at all says nothing.
	k = keyframes{}
	for ms := range 20_000 {
		now := time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond)
		k.want(now, time.Time{})
		k.next(now, time.Time{}, false)
	}
	if k.ignored || k.unanswered != 0 {
		t.Errorf("silence is taken for no: %+v", k)
	}
}

func TestNTPTime(t *testing.T) {
	got := ntpTime(uint64(2208988800+1700000000)<<32 | 1<<31)
	if want := time.Unix(1700000000, 500_000_000); !got.Equal(want) {
		t.Errorf("%v, want %v", got, want)
	}
}
