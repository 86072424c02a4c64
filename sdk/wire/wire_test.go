package wire

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/headgate/gateway/sdk/media"
)

func TestUnitRoundTrip(t *testing.T) {
	now := time.Now()
	f := func(track, seq uint32, dts, pts int64, duration uint32, flags uint8, ageMS uint16, captured int64, payload []byte) bool {
		in := &media.AccessUnit{
			Track: media.TrackID(track), Seq: seq, DTS: time.Duration(dts), PTS: time.Duration(pts), Duration: time.Duration(duration),
			RandomAccess: flags&1 != 0, Leading: flags&2 != 0, Disposable: flags&4 != 0, Discontinuity: flags&8 != 0,
			Received: now.Add(-time.Duration(ageMS) * time.Millisecond), Captured: time.Unix(0, captured), Payload: payload,
		}
		b, err := proto.Marshal(FromUnit(in, []uint32{3}, false, now))
		if err != nil {
			t.Fatal(err)
		}
		var m AccessUnit
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		out := ToUnit(&m, now, math.MaxInt64)
		if len(payload) == 0 {
			in.Payload, out.Payload = nil, nil
		}
		if captured == 0 {
			in.Captured = time.Time{}
		}
		return reflect.DeepEqual(in.Clone(), out.Clone())
	}
	if err := quick.Check(f, nil); err != nil {
		t.Error(err)
	}
}

func TestAge(t *testing.T) {
	now := time.Now()
	f := func(received time.Time, maxAge, want time.Duration) {
		t.Helper()
		m := FromUnit(&media.AccessUnit{Received: received}, nil, false, now)
		if got := now.Sub(ToUnit(m, now, maxAge).Received); got != want {
			t.Errorf("received %v before: got %v, want %v", now.Sub(received), got, want)
		}
	}
	f(time.Time{}, MaxAge, 0)                      // not stamped
	f(now.Add(time.Second), MaxAge, 0)             // in the future
	f(now.Add(-time.Second), MaxAge, time.Second)  //
	f(now.Add(-time.Hour), MaxAge, MaxAge)         // older than is believed
	f(now.Add(-time.Hour), time.Hour*2, time.Hour) //
	if got := ToUnit(&AccessUnit{AgeNs: math.MaxUint64}, now, MaxAge).Received; now.Sub(got) != MaxAge {
		t.Errorf("an impossible age gives %v", now.Sub(got))
	}
}

func TestTrackRoundTrip(t *testing.T) {
	in := media.Track{
		ID: 7, Codec: media.H265, DecoderConfig: []byte{1, 2}, Width: 1920, Height: 1080, FrameRate: 59.94,
		SampleRateHz: 48000, Channels: 2, BitrateBitsPerSecond: 6e6, Language: "de", Group: "cam", Rank: 1, DerivedFrom: 3,
	}
	if out := ToTracks(FromTracks([]media.Track{in}))[0]; !reflect.DeepEqual(in, out) {
		t.Errorf("got %+v", out)
	}
	if got := ToTrack(&Track{Width: math.MaxUint32}).Width; got != math.MaxInt32 {
		t.Errorf("width %d", got)
	}
}

// source is a queue of items of 1000 bytes each, or what was given.
type source struct{ items []Item }

func (s *source) Pull(maxBytes int) []Item {
	n, bytes := 0, 0
	for n < len(s.items) {
		size := 0
		if u := s.items[n].Unit; u != nil {
			size = len(u.Payload)
		}
		if n > 0 && bytes+size > maxBytes {
			break
		}
		n, bytes = n+1, bytes+size
	}
	out := s.items[:n:n]
	s.items = s.items[n:]
	return out
}

func some(n, size int) []Item {
	items := make([]Item, n)
	for i := range items {
		items[i].Unit = &media.AccessUnit{Seq: uint32(i), Payload: make([]byte, size)}
	}
	return items
}

// next returns what the outbox sends as text: control messages, then per step
// its sessions and T or the unit's number.
func next(t *testing.T, o *Outbox[string]) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	control, steps, err := o.Next(ctx)
	if err != nil {
		return "nothing"
	}
	out := control
	for _, s := range steps {
		name := "T"
		if s.Unit != nil {
			name = fmt.Sprint(s.Unit.Seq)
			if s.Discontinuity {
				name += "!"
			}
		}
		out = append(out, fmt.Sprint(s.Sessions)+name)
	}
	return strings.Join(out, " ")
}

func expect(t *testing.T, o *Outbox[string], want string) {
	t.Helper()
	if got := next(t, o); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestOutboxShares(t *testing.T) {
	o := NewOutbox[string]()
	u := some(4, 100)
	gap := u[1]
	gap.Discontinuity = true
	tracks := Item{Tracks: []media.Track{{ID: 1}}}
	o.Open(1, &source{items: []Item{u[0], u[1], u[2], u[3]}}, 1000)
	o.Open(2, &source{items: []Item{u[0], u[1], u[3]}}, 1000)        // dropped one
	o.Open(3, &source{items: []Item{gap, u[2]}}, 1000)               // a gap of its own
	o.Open(4, &source{items: []Item{u[2], tracks, u[1], u[3]}}, 150) // another order, less credit
	o.Open(5, &source{items: []Item{u[3], u[2]}}, 1000)              // backwards: its order is kept
	for id := uint32(1); id <= 5; id++ {
		o.Group(id, 1)
	}
	expect(t, o, "[1 2]0 [1 2]1 [1]2 [1 2 5]3 [3]1! [3 4 5]2 [4]T [4]1")
}

// Sessions of one stream are woken one after the other. The sender that runs between
// two of them sends what they have in common to all.
func TestOutboxShareInAGroup(t *testing.T) {
	o := NewOutbox[string]()
	var sources []*source
	for id := uint32(1); id <= 4; id++ {
		s := &source{}
		sources = append(sources, s)
		o.Open(id, s, 1000)
		o.Group(id, uint64(1+id/4)) // the last one is of another stream
	}
	expect(t, o, "nothing")
	u := some(6, 100)
	push := func(n int) {
		for _, s := range sources {
			s.items = append(s.items, u[n])
		}
	}
	push(0)
	o.Wake(2)
	expect(t, o, "[2 1 3]0")
	for id := uint32(1); id <= 4; id++ {
		o.Wake(id)
	}
	expect(t, o, "[4]0")
	o.SetWindow(3, 200) // it has no credit left
	push(1)
	o.Wake(1)
	expect(t, o, "[1 2 3]1")
	push(2)
	o.Wake(1)
	expect(t, o, "[1 2]2")
	o.Mute(2)
	o.Close(1)
	push(3)
	o.Grant(3, 200)
	o.Wake(2)
	expect(t, o, "[3]2 [3]3")
	o.Wake(4)
	expect(t, o, "[4]1 [4]2 [4]3")
	if len(o.groups) != 2 {
		t.Errorf("%d groups", len(o.groups))
	}
	o.Close(3)
	o.Close(4)
	if len(o.groups) != 0 {
		t.Errorf("%d groups", len(o.groups))
	}
}

// A group whose sessions have nothing in common takes no more than a batch.
func TestOutboxGroupIsBounded(t *testing.T) {
	o := NewOutbox[string]()
	for id := uint32(1); id <= 20; id++ {
		o.Open(id, &source{items: some(2, RoundBytes)}, 1<<20)
		o.Group(id, 1)
	}
	_, steps, err := o.Next(t.Context())
	if err != nil || len(steps) != BatchBytes/RoundBytes+1 {
		t.Errorf("%d steps, %v", len(steps), err)
	}
}

func TestMessagesSplit(t *testing.T) {
	var got []string
	steps := []Step{{Sessions: []uint32{1}, Item: Item{Tracks: []media.Track{{ID: 1}}}}}
	for _, size := range []int{100, 200 << 10, 100 << 10, 1 << 20, 10} {
		steps = append(steps, Step{Sessions: []uint32{1}, Item: some(1, size)[0]})
	}
	err := Messages(steps, time.Now(),
		func(m Units) error { got = append(got, fmt.Sprint(len(m.Steps))); return nil },
		func(*TrackSet) error { got = append(got, "T"); return nil })
	if err != nil || strings.Join(got, " ") != "T 2 1 1 1" {
		t.Errorf("%v, %v", got, err)
	}
}

// A Wake or a Grant while Next waits is not lost.
func TestOutboxWakesNext(t *testing.T) {
	o := NewOutbox[string]()
	s := &source{}
	o.Open(1, s, 100)
	expect(t, o, "nothing")
	go func() {
		for range 100 {
			o.Control("tick")
		}
	}()
	for n := 0; n < 100; {
		control, _, err := o.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n += len(control)
	}
}
