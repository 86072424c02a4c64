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
	var k keyframes
	var latest time.Time
	check := func(ms int, wantSend bool, wantWait int) {
		t.Helper()
		send, next, ok := k.next(at(ms), latest)
		if send != wantSend || ok != (wantWait >= 0) || ok && !next.Equal(at(wantWait)) {
			t.Errorf("at %d ms: send %v, next %v %v; want %v, %d", ms, send, next.Sub(start), ok, wantSend, wantWait)
		}
	}
	check(0, false, -1) // nobody wants anything
	k.want(at(10), latest)
	check(10, true, 510)
	k.want(at(20), latest)
	check(20, false, 510)
	latest = at(60) // answered
	check(510, false, -1)
	k.want(at(520), latest)
	check(520, true, 1020)
	latest = at(540)
	k.want(at(600), latest) // wanted anew after the answer: gathered
	check(600, false, 1020)
	check(1020, true, 1520)
	check(1520, true, 2020)
	check(2020, true, 2520)
	check(2520, false, -1) // three times in vain
	k.want(at(3000), latest)
	check(3000, true, 3500)
}

func TestNTPTime(t *testing.T) {
	got := ntpTime(uint64(2208988800+1700000000)<<32 | 1<<31)
	if want := time.Unix(1700000000, 500_000_000); !got.Equal(want) {
		t.Errorf("%v, want %v", got, want)
	}
}
