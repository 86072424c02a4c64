package router

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/headgate/gateway/sdk/media"
)

// TestTraces runs the scripts of testdata. In them time stands still but for
// sleep and feed. What a reader gets is printed as one line per track: DTS in
// milliseconds, K for a random access point, ! for the unit's own discontinuity,
// ~ for a gap of this reader alone, L for leading, a..b for a run of even steps.
//
//	publish P [T ...]         attach publisher P and announce its tracks
//	tracks P T ...            T is id:codec[:config][:group/rank]
//	write P                   units, one per line: id dts [pts=] [key] [leading] [disposable] [size=] [received=]
//	feed P for= [gop=] [fps=] [b] [drain=R,R]   video on track 1 and sound on track 2, in real time;
//	                          at=: the session's time to begin with; ignore: keyframe requests are not answered
//	end P [hold]              detach
//	release
//	subscribe R [max_lag=]    attach reader R
//	start R ids               choose tracks, by id or kind
//	pull R [max=]             take what there is, and print it
//	credit R n|all
//	unsent R age
//	keyframe R                R's own request
//	derive D from / dtrack D config / dwrite D / dend D
//	stats R / stream
func TestTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no traces", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				datadriven.RunTest(t, f, func(t *testing.T, d *datadriven.TestData) string {
					return w.run(t, d)
				})
			})
		})
	}
}

type world struct {
	start   time.Time
	stream  *Stream
	pubs    map[string]*testPublisher
	readers map[string]*testReader
	derived map[string]*Derivation
	events  []string
}

type testPublisher struct {
	w      *world
	name   string
	pub    *Publication
	seq    map[media.TrackID]uint32
	now    time.Duration // of the next unit that feed makes
	wanted bool          // a keyframe was asked for
}

func (p *testPublisher) RequestKeyframe(id media.TrackID) {
	p.wanted = true
	p.w.events = append(p.w.events, fmt.Sprintf("%s: keyframe %d asked at %v", p.name, id, time.Since(p.w.start)))
}

func (p *testPublisher) Superseded() { p.w.events = append(p.w.events, p.name+": superseded") }

type testReader struct {
	sub    *Subscription
	flight int
	got    []Item
	wakes  int
}

func newWorld() *world {
	return &world{
		start: time.Now(), stream: NewStream(7, "live/a"),
		pubs: map[string]*testPublisher{}, readers: map[string]*testReader{}, derived: map[string]*Derivation{},
	}
}

func (w *world) run(t *testing.T, d *datadriven.TestData) string {
	var out strings.Builder
	name := ""
	if len(d.CmdArgs) > 0 && len(d.CmdArgs[0].Vals) == 0 {
		name = d.CmdArgs[0].Key
	}
	arg := func(key, def string) string {
		for _, a := range d.CmdArgs {
			if a.Key == key {
				return strings.Join(a.Vals, ",")
			}
		}
		return def
	}
	has := func(key string) bool { return d.HasArg(key) }
	dur := func(key, def string) time.Duration {
		v, err := time.ParseDuration(arg(key, def))
		if err != nil {
			d.Fatalf(t, "%s: %v", key, err)
		}
		return v
	}
	var rest []string
	for i, a := range d.CmdArgs {
		if i > 0 && len(a.Vals) == 0 {
			rest = append(rest, a.Key)
		}
	}
	switch d.Cmd {
	case "sleep":
		v, err := time.ParseDuration(name)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		time.Sleep(v)
	case "publish":
		p := &testPublisher{w: w, name: name, seq: map[media.TrackID]uint32{}}
		w.pubs[name] = p
		p.pub = w.stream.Publish(p)
		if len(rest) > 0 {
			p.pub.SetTracks(parseTracks(rest))
		}
	case "tracks":
		w.pubs[name].pub.SetTracks(parseTracks(rest))
	case "write":
		for line := range strings.Lines(d.Input) {
			w.pubs[name].write(t, strings.Fields(line))
		}
	case "feed":
		w.feed(t, w.pubs[name], dur("for", "1s"), dur("gop", "0s"), arg("fps", "25"), has("b"), has("ignore"), has("mute"), arg("drain", ""), arg("at", ""))
		for _, r := range strings.Split(arg("drain", ""), ",") {
			if r != "" {
				fmt.Fprintf(&out, "%s:\n%s", r, show(w.readers[r].got))
				w.readers[r].got = nil
			}
		}
	case "end":
		fmt.Fprintln(&out, w.pubs[name].pub.End(has("hold")))
	case "release":
		fmt.Fprintln(&out, "idle:", w.stream.Release())
	case "subscribe":
		r := &testReader{}
		r.sub = w.stream.Subscribe(SubscriptionConfig{MaxLag: dur("max_lag", "2s"), Wake: func() { r.wakes++ }})
		w.readers[name] = r
	case "start":
		w.readers[name].sub.Start(choose(rest))
	case "close":
		w.readers[name].sub.Close()
	case "pull":
		n, _ := strconv.Atoi(arg("max", "1000000000"))
		items := w.readers[name].pull(n)
		out.WriteString(show(items))
	case "credit":
		r := w.readers[name]
		n := r.flight
		if rest[0] != "all" {
			n, _ = strconv.Atoi(rest[0])
		}
		r.flight -= n
		r.sub.Credited(n)
	case "unsent":
		v, _ := time.ParseDuration(rest[0])
		w.readers[name].sub.ReportUnsent(v)
	case "keyframe":
		w.readers[name].sub.RequestKeyframe(0)
	case "derive":
		id, _ := strconv.Atoi(rest[0])
		w.derived[name] = w.stream.Derive(media.TrackID(id))
		fmt.Fprintln(&out, "id", w.derived[name].ID())
	case "dtrack":
		w.derived[name].SetTrack(media.Track{Codec: media.AAC, DecoderConfig: []byte(rest[0])})
	case "drestart":
		w.derived[name].Restarted()
	case "dwrite":
		for line := range strings.Lines(d.Input) {
			w.derived[name].Write(parseUnit(t, append([]string{"0"}, strings.Fields(line)...)))
		}
	case "dend":
		w.derived[name].End()
	case "stats":
		st := w.readers[name].sub.Stats()
		fmt.Fprintf(&out, "lag %v, written %d units %d bytes, flight %d bytes, queue %d items %d bytes, dropped %v\n",
			st.Lag, st.Units, st.Bytes, st.FlightBytes, st.QueuedUnits, st.QueuedBytes, st.Dropped)
	case "stream":
		snap, _ := w.stream.Watch()
		fmt.Fprintf(&out, "%s, tracks %s, dropped %v\n", snap.State, showTracks(snap.Tracks), w.stream.Dropped())
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	ev := strings.Join(w.events, "\n")
	w.events = nil
	if ev != "" {
		ev += "\n"
	}
	return ev + out.String()
}

func choose(want []string) Choose {
	return func(tracks []media.Track) []media.Track {
		var out []media.Track
		for _, wd := range want {
			for _, t := range tracks {
				if strconv.Itoa(int(t.ID)) == wd || string(t.Codec) == wd || wd == string(t.Codec.Kind()) {
					out = append(out, t)
				}
			}
		}
		return out
	}
}

func (r *testReader) pull(n int) []Item {
	items := r.sub.Pull(nil, n)
	for _, it := range items {
		if it.Unit != nil {
			r.flight += len(it.Unit.Payload)
		}
	}
	return items
}

func parseTracks(list []string) []media.Track {
	var out []media.Track
	for _, s := range list {
		f := strings.Split(s, ":")
		id, _ := strconv.Atoi(f[0])
		t := media.Track{ID: media.TrackID(id), Codec: media.Codec(f[1])}
		if len(f) > 2 {
			t.DecoderConfig = []byte(f[2])
		}
		out = append(out, t)
	}
	return out
}

func parseUnit(t *testing.T, f []string) *media.AccessUnit {
	id, err := strconv.Atoi(f[0])
	if err != nil {
		t.Fatal(err)
	}
	dts, err := time.ParseDuration(f[1])
	if err != nil {
		t.Fatal(err)
	}
	u := &media.AccessUnit{Track: media.TrackID(id), DTS: dts, PTS: dts}
	size := 100
	if id == 1 {
		size = 1000
	}
	for _, a := range f[2:] {
		k, v, _ := strings.Cut(a, "=")
		switch k {
		case "key":
			u.RandomAccess = true
		case "leading":
			u.Leading = true
		case "disposable":
			u.Disposable = true
		case "pts":
			u.PTS, _ = time.ParseDuration(v)
		case "size":
			size, _ = strconv.Atoi(v)
		default:
			t.Fatalf("unit: %q", a)
		}
	}
	u.Payload = make([]byte, size)
	return u
}

func (p *testPublisher) write(t *testing.T, f []string) {
	if f[0] == "sleep" {
		v, _ := time.ParseDuration(f[1])
		time.Sleep(v)
		return
	}
	u := parseUnit(t, f)
	u.Seq = p.seq[u.Track]
	p.seq[u.Track]++
	p.pub.Write(u)
}

// feed writes video (track 1) and sound (track 2, every 20 ms) in real time. The
// first picture is a random access point if at is given; after that there is one
// each gop, and one whenever it is asked for.
func (w *world) feed(t *testing.T, p *testPublisher, length, gop time.Duration, fps string, b, ignore, mute bool, drain, at string) {
	n, _ := strconv.Atoi(fps)
	step := time.Second / time.Duration(n)
	next := p.now
	if at != "" {
		p.now, _ = time.ParseDuration(at)
		next = p.now
	}
	audio := p.now
	end := p.now + length
	for i := 0; p.now < end; i++ {
		f := []string{"1", p.now.String()}
		if at != "" && i == 0 || gop > 0 && p.now >= next || p.wanted && !ignore {
			f = append(f, "key", "size=5000")
			next = p.now + gop
			p.wanted = false
		} else if b && i%2 == 1 {
			f = append(f, "disposable")
		}
		p.write(t, f)
		w.drain(drain)
		for audio < p.now+step {
			if !mute {
				p.write(t, []string{"2", audio.String()})
			}
			w.drain(drain)
			time.Sleep(20 * time.Millisecond)
			audio += 20 * time.Millisecond
		}
		p.now += step
	}
}

func (w *world) drain(readers string) {
	for _, name := range strings.Split(readers, ",") {
		if r := w.readers[name]; r != nil {
			r.got = append(r.got, r.pull(1<<30)...)
			r.sub.Credited(r.flight)
			r.flight = 0
		}
	}
}

func showTracks(tracks []media.Track) string {
	var s []string
	for _, t := range tracks {
		e := fmt.Sprintf("%d:%s:%s", t.ID, t.Codec, t.DecoderConfig)
		if t.DerivedFrom != 0 {
			e += fmt.Sprintf("<%d", t.DerivedFrom)
		}
		s = append(s, e)
	}
	return "[" + strings.Join(s, " ") + "]"
}

// show prints items: one line per track between two changes of tracks.
func show(items []Item) string {
	var out strings.Builder
	units := map[media.TrackID][]Item{}
	flush := func() {
		for id := range media.TrackID(20) {
			if list := units[id]; len(list) > 0 {
				fmt.Fprintf(&out, "  %d: %s\n", id, showUnits(list))
			}
		}
		clear(units)
	}
	for _, it := range items {
		if it.Unit == nil {
			flush()
			fmt.Fprintf(&out, "  tracks %s\n", showTracks(it.Tracks))
			continue
		}
		units[it.Unit.Track] = append(units[it.Unit.Track], it)
	}
	flush()
	if out.Len() == 0 {
		return "  nothing\n"
	}
	return out.String()
}

func showUnits(list []Item) string {
	word := func(it Item) string {
		u := it.Unit
		s := strconv.FormatFloat(float64(u.DTS)/1e6, 'f', -1, 64)
		if u.PTS != u.DTS {
			s += "+" + strconv.FormatFloat(float64(u.PTS-u.DTS)/1e6, 'f', -1, 64)
		}
		if u.RandomAccess {
			s += "K"
		}
		if u.Leading {
			s += "L"
		}
		if u.Discontinuity {
			s += "!"
		}
		if it.Discontinuity {
			s += "~"
		}
		return s
	}
	plain := func(it Item) bool {
		return !strings.ContainsAny(word(it), "K+L!~")
	}
	var out []string
	for i := 0; i < len(list); {
		j := i
		if plain(list[i]) {
			for j+2 < len(list) && plain(list[j+1]) && plain(list[j+2]) &&
				list[j+2].Unit.DTS-list[j+1].Unit.DTS == list[j+1].Unit.DTS-list[j].Unit.DTS {
				j++
			}
			if j > i {
				j++
			}
		}
		if j > i+1 {
			out = append(out, word(list[i])+".."+word(list[j]))
			i = j + 1
			continue
		}
		out = append(out, word(list[i]))
		i++
	}
	return strings.Join(out, " ")
}
