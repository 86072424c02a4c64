package pluginhost

import (
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

func TestEgressSession(t *testing.T) {
	h := start(t, spec("serve"), nil)
	r, q := record(), &queue{}
	q.put(Item{Tracks: twoTracks})
	q.put(units(100, 2000)...)
	q.put(Item{Unit: &media.AccessUnit{Track: 1, DTS: time.Hour, Payload: make([]byte, 6<<20)}, Discontinuity: true})
	began := time.Now()
	s, err := h.OpenEgress("test", egressSpec("ok"), r, q)
	if err != nil {
		t.Fatal(err)
	}
	a := get(t, r.ready)
	t.Logf("process started and session opened in %v", time.Since(began))
	if len(a.Codecs) != 2 || a.VideoTracks != 1 || a.AudioTracks != 1 {
		t.Errorf("accepts %+v", a)
	}
	// The queue was filled before: being ready is enough to have it pulled.
	want := 100*2000 + 6<<20
	until(t, "credit for all", func() bool { return r.creditedBytes() == want })
	until(t, "stats", func() bool { return r.value("units") == 101 && r.value("gaps") == 1 })
	if n := r.value("tracks"); n != 0 {
		t.Errorf("SetTracks was called %v times for the tracks that the sink was opened with", n)
	}
	s.Close("done", true)
	if e := get(t, r.ended); e.Failed {
		t.Errorf("ended with %+v", e)
	}
	st := h.Status()[0]
	if st.State != Ready || st.PID == 0 || st.Version != "1.2.3" || st.Sessions != 0 {
		t.Errorf("status %+v", st)
	}
}

func TestOpenFails(t *testing.T) {
	h := start(t, spec("serve"), nil)
	f := func(verb string, want End) {
		t.Helper()
		r := record()
		if _, err := h.OpenEgress("test", egressSpec(verb), r, &queue{}); err != nil {
			t.Fatal(err)
		}
		got := get(t, r.ended)
		if strings.Contains(got.Message, "k3y-of") || strings.Contains(got.Message, "test://") {
			t.Errorf("a secret in %q", got.Message)
		}
		if got != want {
			t.Errorf("%s: got %+v, want %+v", verb, got, want)
		}
	}
	f("refuse", End{Failed: true, Permanent: true, Cause: CauseRemote, Class: "key", Message: "the key *** of *** is refused"})
	f("panic", End{Failed: true, Cause: CausePlugin, Message: "the plugin panicked: in Open"})
	if _, err := h.OpenEgress("none", egressSpec("ok"), record(), &queue{}); err == nil {
		t.Error("an unknown plugin opened a session")
	}
}

func TestPanicIsContained(t *testing.T) {
	h := start(t, spec("serve"), nil)
	s, r, q := open(t, h, "panic-write")
	_, neighbour, _ := open(t, h, "ok")
	pid := h.Status()[0].PID
	q.put(units(1, 10)...)
	s.Wake()
	if e := get(t, r.ended); e.Cause != CausePlugin || e.Message != "the plugin panicked: in WriteAccessUnit" {
		t.Errorf("ended with %+v", e)
	}
	if len(neighbour.ended) > 0 || h.Status()[0].PID != pid {
		t.Error("the neighbour ended too")
	}
}

func TestPrintingDoesNotWedge(t *testing.T) {
	h := start(t, spec("serve"), nil)
	_, r, _ := open(t, h, "print")
	_, _, _ = open(t, h, "ok")
	if len(r.ended) > 0 {
		t.Error("the session ended")
	}
}

// One payload crosses once for all sessions of a process that send it together.
// Whether two sessions are woken in time for one round is for the scheduler to
// say, so most of many rounds must do.
func TestSharedUnit(t *testing.T) {
	h := start(t, spec("serve"), nil)
	s1, r1, q1 := open(t, h, "ok")
	s2, r2, q2 := open(t, h, "ok")
	const rounds, n = 40, 50
	for i := range rounds {
		items := units(n, 100)
		q1.put(items...)
		q2.put(items...)
		s1.Wake()
		s2.Wake()
		want := (i + 1) * n * 100
		until(t, "all credited", func() bool { return r1.creditedBytes() == want && r2.creditedBytes() == want })
	}
	until(t, "stats", func() bool { return r1.value("units") == rounds*n && r2.value("units") == rounds*n })
	sum := r1.value("derived") + r2.value("derived")
	t.Logf("%v units muxed, of %d for each of 2 targets", sum, rounds*n)
	if sum > 1.5*rounds*n {
		t.Errorf("%v derived forms for %d units: the sessions did not share them", sum, rounds*n)
	}
}

// A session's outstanding bytes stay within its window and one unit, and a
// session that does not move leaves its neighbour alone.
func TestCreditIsolatesSessions(t *testing.T) {
	h := start(t, spec("serve"), nil)
	stalled, rs, qs := open(t, h, "stall")
	s, r, q := open(t, h, "ok")
	qs.put(units(1000, 8000)...)
	stalled.Wake()
	q.put(units(1000, 8000)...)
	s.Wake()
	until(t, "the neighbour's credit", func() bool { return r.creditedBytes() == 1000*8000 })
	if got, most := qs.pulledBytes(), wire.MinWindowBytes+8000; got > most {
		t.Errorf("%d bytes were sent to a target that takes none, more than %d", got, most)
	}
	if rs.creditedBytes() != 0 {
		t.Error("credit for a write that never returned")
	}
	began := time.Now()
	stalled.Close("enough", false)
	if e := get(t, rs.ended); e.Failed {
		t.Errorf("ended with %+v", e)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("closing took %v", took)
	}
}

func TestSlowSessionDoesNotDelayItsNeighbour(t *testing.T) {
	h := start(t, spec("serve"), nil)
	slow, rs, qs := open(t, h, "slow")
	s, r, q := open(t, h, "ok")
	const much = 4000 // units: twenty seconds for the slow one
	qs.put(units(much, 4000)...)
	slow.Wake()
	for i := range 50 {
		q.put(units(1, 4000)...)
		s.Wake()
		until(t, "credit", func() bool { return r.creditedBytes() == (i+1)*4000 })
	}
	if rs.creditedBytes() == much*4000 {
		t.Error("the neighbour had to wait until the slow session had done all")
	}
	if len(rs.ended)+len(r.ended) > 0 {
		t.Error("a session ended")
	}
}

func TestPull(t *testing.T) {
	h := start(t, spec("serve"), nil)
	pull := func(url string) (Session, *recorder) {
		t.Helper()
		r := record()
		s, err := h.OpenPull("test", 1, "live", secret.New(url), r)
		if err != nil {
			t.Fatal(err)
		}
		return s, r
	}
	_, r := pull("pull://end")
	if e := get(t, r.ended); e.Failed || r.unitCount() != 10 {
		t.Errorf("ended with %+v after %d units", e, r.unitCount())
	}
	_, r = pull("pull://user:pa55word@host/path")
	if e := get(t, r.ended); !e.Failed || e.Message != "dial ***: refused" {
		t.Errorf("ended with %+v", e)
	}
	s, r := pull("pull://wait")
	get(t, r.ready)
	s.Close("the route is gone", false)
	if e := get(t, r.ended); e.Failed {
		t.Errorf("ended with %+v", e)
	}
	// The writer never blocks: what does not fit is left out up to a random access
	// point, counted, and marked.
	_, r = pull("pull://flood")
	get(t, r.ended)
	n, last, gap := 0, uint32(0), 0
	for _, u := range r.units {
		if n > 0 && u.Seq != last+1 {
			gap++
			if !u.Discontinuity || !u.RandomAccess {
				t.Errorf("unit %d follows a gap and is %+v", u.Seq, u.Clone())
			}
		}
		n, last = n+1, u.Seq
	}
	dropped := int(r.stats[len(r.stats)-1].UnitsDropped)
	t.Logf("%d units arrived, %d dropped, %d gaps", n, dropped, gap)
	if n+dropped != 4000 {
		t.Errorf("%d units arrived and %d were dropped of 4000", n, dropped)
	}
}

func TestTransform(t *testing.T) {
	h := start(t, spec("serve"), nil)
	in := media.Track{ID: 2, Codec: media.Opus, DecoderConfig: []byte{1}, SampleRateHz: 48000, Channels: 2}
	r, q := record(), &queue{}
	s, err := h.OpenTransform(TransformSpec{StreamID: 1, Stream: "live", In: in, To: media.AAC, Out: 77}, r, q)
	if err != nil {
		t.Fatal(err)
	}
	get(t, r.ready)
	received := time.Now().Add(-time.Second)
	for i, text := range []string{"a", "bad", "b"} {
		q.put(Item{Unit: &media.AccessUnit{Track: 2, DTS: time.Duration(i), RandomAccess: true, Received: received, Payload: []byte(text)}})
	}
	mono := in
	mono.Channels = 1
	q.put(Item{Tracks: []media.Track{mono}})
	s.Wake()
	until(t, "the change of the track", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.tracks) == 2 })
	until(t, "credit", func() bool { return r.creditedBytes() == 5 })
	s.Close("done", true)
	if e := get(t, r.ended); e.Failed {
		t.Errorf("ended with %+v", e)
	}
	if len(r.units) != 2 || string(r.units[0].Payload) != "aa" || r.units[0].Track != 77 ||
		string(r.units[1].Payload) != "bb" || time.Since(r.units[1].Received) < time.Second {
		t.Errorf("units %+v", r.units)
	}
	if tr := r.tracks[0][0]; tr.ID != 77 || tr.Codec != media.AAC || tr.DerivedFrom != 2 || tr.Channels != 2 || r.tracks[1][0].Channels != 1 {
		t.Errorf("tracks %+v", r.tracks)
	}

	r = record()
	if _, err := h.OpenTransform(TransformSpec{In: in, To: media.AAC, Out: 77, Channels: 9}, r, &queue{}); err != nil {
		t.Fatal(err)
	}
	if e := get(t, r.ended); !e.Failed || !strings.Contains(e.Message, "nine channels") {
		t.Errorf("ended with %+v", e)
	}
	if _, err := h.OpenTransform(TransformSpec{In: in, To: media.MP3}, record(), &queue{}); err == nil {
		t.Error("a transform that nobody declares was opened")
	}
}
