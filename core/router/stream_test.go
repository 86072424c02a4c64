package router

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/gateway/sdk/media"
)

// TestAllocations holds the way of a unit through the router to no allocation of
// its own.
func TestAllocations(t *testing.T) {
	s := NewStream(1, "a")
	p := s.Publish(silent{})
	p.SetTracks([]media.Track{{ID: 1, Codec: media.Opus}})
	sub := s.Subscribe(SubscriptionConfig{MaxLag: time.Second, Wake: func() {}})
	sub.Start(func(t []media.Track) []media.Track { return t })
	var items []Item
	units := make([]media.AccessUnit, 2000)
	i := 0
	n := testing.AllocsPerRun(1000, func() {
		u := &units[i]
		u.Track, u.DTS, u.PTS, u.Payload = 1, time.Duration(i)*time.Millisecond, time.Duration(i)*time.Millisecond, []byte{1}
		i++
		p.Write(u)
		items = sub.Pull(items[:0], 100)
		sub.Credited(1)
	})
	if n > 1 { // the payload of this test
		t.Errorf("%v allocations for a unit", n)
	}
}

// TestDecodable throws units of every kind at readers of every pace, and checks
// what each gets: DTS rises per track, a picture that refers to others follows
// them without a gap, and every gap is announced.
func TestDecodable(t *testing.T) {
	for seed := range uint64(16) {
		synctest.Test(t, func(t *testing.T) { decodable(t, seed) })
	}
}

func decodable(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	s := NewStream(1, "a")
	tracks := []media.Track{{ID: 1, Codec: media.H265, DecoderConfig: []byte("c")}, {ID: 2, Codec: media.Opus, DecoderConfig: []byte("h")}}
	type reader struct {
		sub     *Subscription
		flight  []int
		pace    float64
		last    map[media.TrackID]*media.AccessUnit
		key     bool // has a random access point to stand on
		leading bool // may get leading pictures
	}
	var readers []*reader
	var pub *Publication
	var at time.Duration
	var seq [3]uint32
	want := false
	src := source(func() { want = true })
	check := func(rd *reader, it Item) {
		u := it.Unit
		last := rd.last[u.Track]
		rd.last[u.Track] = u
		if last != nil {
			if u.DTS <= last.DTS {
				t.Fatalf("seed %d: track %d: DTS %v after %v", seed, u.Track, u.DTS, last.DTS)
			}
			if u.Seq != last.Seq+1 && !it.Discontinuity && !u.Discontinuity {
				t.Fatalf("seed %d: track %d: a gap from %d to %d that nobody announced", seed, u.Track, last.Seq, u.Seq)
			}
		}
		if u.Track != 1 {
			return
		}
		// Between two pictures that a reader gets, only disposable ones may be missing:
		// Captured says how many came so far that are not.
		n := refsOf(u)
		switch {
		case u.RandomAccess:
			rd.leading = rd.key && n == refsOf(last)+1
			rd.key = true
		case !rd.key:
			t.Fatalf("seed %d: a picture before any random access point", seed)
		case u.Leading && !rd.leading && (last == nil || !last.Leading):
			t.Fatalf("seed %d: leading picture %d after a cut", seed, u.Seq)
		case n != refsOf(last)+1 && (!u.Disposable || n != refsOf(last)):
			t.Fatalf("seed %d: picture %d refers to what was left out (%d after %d)", seed, u.Seq, n, refsOf(last))
		}
	}
	refs, key := int64(0), int64(0)
	for step := range 4000 {
		if pub == nil || r.IntN(1500) == 0 {
			if pub != nil && r.IntN(2) == 0 {
				pub.End(true)
				time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
			}
			pub = s.Publish(src)
			at = time.Duration(r.IntN(1000)) * time.Second
			want = true
			pub.SetTracks(tracks)
		}
		if r.IntN(100) == 0 && len(readers) < 6 {
			rd := &reader{pace: r.Float64() * 1.2, last: map[media.TrackID]*media.AccessUnit{}}
			rd.sub = s.Subscribe(SubscriptionConfig{MaxLag: time.Duration(200+r.IntN(1500)) * time.Millisecond})
			rd.sub.Start(func(t []media.Track) []media.Track { return t })
			readers = append(readers, rd)
		}
		id := media.TrackID(1 + step%2)
		u := &media.AccessUnit{Track: id, Seq: seq[id], DTS: at, PTS: at, Payload: make([]byte, 100+r.IntN(2000))}
		seq[id]++
		if id == 1 {
			switch x := r.IntN(100); {
			case want && r.IntN(3) == 0 || x == 0:
				u.RandomAccess, want = true, false
				refs++
				key = refs
			case refs == key && x < 60:
				u.Leading, u.Disposable = true, true
			case x < 30:
				u.Disposable = true
			default:
				refs++
			}
			u.Captured = time.Unix(0, refs)
			at += 40 * time.Millisecond
			time.Sleep(40 * time.Millisecond)
		}
		pub.Write(u)
		for i, rd := range readers {
			if r.IntN(400) == 0 {
				rd.pace = r.Float64() * 1.2
			}
			for _, n := range rd.flight {
				if r.Float64() < rd.pace {
					rd.sub.Credited(n)
					rd.flight = rd.flight[1:]
					continue
				}
				break
			}
			if len(rd.flight) < 8 {
				for _, it := range rd.sub.Pull(nil, 4000) {
					if it.Unit != nil {
						rd.flight = append(rd.flight, len(it.Unit.Payload))
						check(rd, it)
					}
				}
			}
			if st := rd.sub.Stats(); st.QueuedUnits > 400 {
				t.Fatalf("seed %d: reader %d has %d units queued", seed, i, st.QueuedUnits)
			}
		}
	}
}

func refsOf(u *media.AccessUnit) int64 { return u.Captured.UnixNano() }

type source func()

func (f source) RequestKeyframe(media.TrackID) { f() }
func (f source) Superseded()                   {}

// TestConcurrent runs publishers, derivations and readers against each other, for
// the race detector.
func TestConcurrent(t *testing.T) {
	s := NewStream(1, "a")
	tracks := []media.Track{{ID: 1, Codec: media.H264, DecoderConfig: []byte("c")}, {ID: 2, Codec: media.Opus}}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 50 {
				p := s.Publish(silent{})
				p.SetTracks(tracks)
				for i := range 40 {
					d := time.Duration(i) * 20 * time.Millisecond
					p.Write(&media.AccessUnit{Track: media.TrackID(1 + i%2), DTS: d, PTS: d, RandomAccess: i%8 == 0, Payload: []byte{1}})
				}
				p.End(true)
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			d := s.Derive(2)
			d.SetTrack(media.Track{Codec: media.AAC})
			d.Write(&media.AccessUnit{Payload: []byte{1}})
			d.Restarted()
			d.End()
		}
	})
	for range 3 {
		wg.Go(func() {
			for range 200 {
				sub := s.Subscribe(SubscriptionConfig{MaxLag: time.Millisecond, Wake: func() {}})
				sub.Start(func(t []media.Track) []media.Track { return t })
				for range 5 {
					for _, it := range sub.Pull(nil, 10) {
						if it.Unit != nil {
							sub.Credited(len(it.Unit.Payload))
						}
					}
				}
				sub.Stats()
				sub.RequestKeyframe(0)
				sub.Close()
				s.Watch()
				s.Release()
			}
		})
	}
	wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.subs) != 0 || len(s.derivations) != 0 || s.publisher() != nil {
		t.Error("something is left")
	}
	if len(s.times) > 4 || len(s.known) > 2 {
		t.Errorf("the stream grew: %d times, %d known", len(s.times), len(s.known))
	}
}
