package whipclient

import (
	"bytes"
	"testing"
	"time"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/sdk/media/h264"
)

func TestTiming(t *testing.T) {
	want := Timing{Sent: time.Unix(1790000000, 123456789), Posted: time.Unix(1789999999, 0), Frame: 1 << 40}
	n := want.NALU()
	if h264.TypeOf(n) != h264.TypeSEI || bytes.Contains(n, []byte{0, 0}) {
		t.Errorf("% x", n)
	}
	got, ok := FindTiming(append([]byte{0, 0, 0, byte(len(n))}, append(n, 0, 0, 0, 1, 0x65)...))
	if !ok || !got.Sent.Equal(want.Sent) || !got.Posted.Equal(want.Posted) || got.Frame != want.Frame {
		t.Errorf("%+v %v", got, ok)
	}
	for cut := range n {
		if _, ok := FindTiming(n[:cut]); ok && cut < len(n)-1 {
			t.Errorf("found in the first %d bytes", cut)
		}
	}
}

func testPlayer(t *testing.T, shift time.Duration) *player {
	t.Helper()
	c, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	return &player{
		p:         &Publisher{cfg: Config{AudioShift: shift}},
		videoNext: cursor{units: c.Units(clip.VideoTrack), length: clip.Duration},
		audioNext: cursor{units: c.Units(clip.AudioTrack), length: clip.Duration},
	}
}

// The media start again where they end, with time going on.
func TestCursorRepeats(t *testing.T) {
	c := testPlayer(t, 0).videoNext
	for n := range 700 {
		if want := time.Duration(n) * time.Second / 30; (c.content() - want).Abs() > time.Microsecond {
			t.Fatalf("picture %d at %v, want %v", n, c.content(), want)
		}
		c.advance()
	}
}

// After a skip the picture that was due is a key picture, at the time at which
// the other one was due.
func TestSkip(t *testing.T) {
	pl := testPlayer(t, 0)
	for range 45 {
		pl.videoNext.advance()
	}
	due := pl.videoNext.content() - pl.skipped
	pl.skipToRandomAccess()
	if !pl.videoNext.unit().RandomAccess || pl.videoNext.content()-pl.skipped != due || pl.skipped != 500*time.Millisecond {
		t.Errorf("skipped %v, next at %v", pl.skipped, pl.videoNext.content())
	}
	before := pl.skipped
	if pl.skipToRandomAccess(); pl.skipped != before {
		t.Error("skipped although a key picture was due")
	}
}

// Every packet fits, and the order of the units is kept.
func TestPacketize(t *testing.T) {
	units := [][]byte{{0x67, 1, 2}, {0x68, 3}, bytes.Repeat([]byte{0x65}, 5000), {0x41, 9}}
	packets := packetize(nil, units)
	var got []byte
	for _, p := range packets {
		if len(p) > mtu {
			t.Errorf("packet of %d bytes", len(p))
		}
		got = append(got, byte(h264.TypeOf(p)))
	}
	if want := []byte{24, 28, 28, 28, 28, 28, 1}; !bytes.Equal(got, want) {
		t.Errorf("types %v, want %v", got, want)
	}
	if packets[1][1] != 0x85 || packets[5][1] != 0x45 || packets[3][1] != 0x05 {
		t.Error("fragments are not marked right")
	}
}
