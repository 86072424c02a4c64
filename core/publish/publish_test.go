package publish

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/derive"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/router"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// house is a gateway's streams, and the ingest that offers.
type house struct {
	t       *testing.T
	door    *Door
	streams map[string]*Stream
	routers map[string]*router.Stream
	closed  bool
}

func newHouse(t *testing.T, routes ...config.Route) *house {
	h := &house{t: t, streams: map[string]*Stream{}, routers: map[string]*router.Stream{}}
	accepts := func(t *config.Target) (pluginhost.Accepts, bool) {
		switch t.Plugin {
		case "egress-rtmp":
			return pluginhost.Accepts{Codecs: []media.Codec{media.H264, media.AAC}, VideoTracks: 1, AudioTracks: 1}, true
		case "egress-file":
			return pluginhost.Accepts{}, true
		default:
			return pluginhost.Accepts{}, false
		}
	}
	h.door = NewDoor(&config.Config{Routes: routes}, h, accepts, derive.Transforms{media.Opus: {media.AAC}}, slog.New(slog.DiscardHandler))
	return h
}

func (h *house) Claim(route *config.Route, name string, use func(*Stream)) bool {
	if h.closed {
		return false
	}
	if h.streams[name] == nil {
		h.routers[name] = router.NewStream(uint64(len(h.streams)+1), name)
		h.streams[name] = NewStream(h.routers[name], route.Hold, route.HoldOnEnd, slog.New(slog.DiscardHandler))
	}
	use(h.streams[name])
	return true
}

func (h *house) state(name string) router.State {
	snap, _ := h.routers[name].Watch()
	return snap.State
}

// ingest is one publisher's session, as the plugin sees it.
type ingest struct {
	id       uint64
	h        pluginhost.SessionHandler
	rejected *pluginhost.Rejection

	mu        sync.Mutex
	closed    string
	keyframes int
	over      bool
}

func (i *ingest) Wake()                                    {}
func (i *ingest) SetTargetBitrate(uint64)                  {}
func (i *ingest) SetTargetStates([]pluginhost.TargetState) {}
func (i *ingest) RequestKeyframe(media.TrackID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keyframes++
}

func (i *ingest) Close(reason string, _ bool) {
	i.mu.Lock()
	first := i.closed == ""
	if first {
		i.closed = reason
	}
	i.mu.Unlock()
	if first {
		go i.end(pluginhost.End{})
	}
}

func (i *ingest) end(e pluginhost.End) {
	i.mu.Lock()
	over := i.over
	i.over = true
	i.mu.Unlock()
	if !over {
		i.h.Ended(e)
	}
}

func (i *ingest) reason() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.closed
}

func (h *house) offer(name, token string, codecs ...media.Codec) *ingest {
	h.t.Helper()
	i := &ingest{}
	h.door.Offer("ingest-test", pluginhost.Offer{Name: name, Credentials: secret.New(token), Remote: "192.0.2.1:5", Codecs: codecs},
		func(id uint64, sh pluginhost.SessionHandler) pluginhost.Session {
			i.id, i.h = id, sh
			return i
		},
		func(r pluginhost.Rejection) { i.rejected = &r })
	if (i.h == nil) == (i.rejected == nil) {
		h.t.Fatalf("offer of %s: neither accepted nor rejected, or both", name)
	}
	return i
}

func (i *ingest) picture(at time.Duration, key bool) {
	i.h.Unit(&media.AccessUnit{Track: 1, DTS: at, PTS: at, RandomAccess: key, Payload: []byte{0, 0, 0, 1, 9}})
}

func (i *ingest) tracks() {
	i.h.Tracks([]media.Track{{ID: 1, Codec: media.H264, DecoderConfig: []byte("c")}, {ID: 2, Codec: media.Opus, DecoderConfig: []byte("h")}})
}

func to(name, plugin string) config.Target {
	return config.Target{Name: name, Plugin: plugin, Enabled: true}
}

func TestDecide(t *testing.T) {
	token := config.Publish{Token: secret.New("s3cret")}
	h := newHouse(t,
		config.Route{Name: "studio", Publish: token, To: []config.Target{to("a", "egress-rtmp"), to("b", "egress-rtmp")}},
		config.Route{Name: "mixed", To: []config.Target{to("a", "egress-rtmp"), to("b", "egress-file")}},
		config.Route{Name: "live/*"},
		config.Route{Name: "live/*/x", Publish: config.Publish{Token: secret.New("x")}},
		config.Route{Name: "live/special", Publish: config.Publish{Token: secret.New("special")}},
		config.Route{Name: "camera", From: &config.From{}},
	)
	f := func(name, token string, codecs []media.Codec, want string) {
		t.Helper()
		got := "accepted"
		if i := h.offer(name, token, codecs...); i.rejected != nil {
			got = fmt.Sprintf("%v: %s", i.rejected.Reason, i.rejected.Message)
		}
		if got != want {
			t.Errorf("%s with %q:\n got %s\nwant %s", name, token, got, want)
		}
	}
	webrtc := []media.Codec{media.H264, media.VP8, media.Opus}
	f("studio", "s3cret", webrtc, "accepted")
	f("studio", "", webrtc, "UNAUTHENTICATED: a token is needed to publish studio")
	f("studio", "wrong", webrtc, "UNAUTHENTICATED: the token is wrong")
	f("studio", "special", webrtc, "FORBIDDEN: the token is for another stream than studio")
	f("studio", "s3cret", nil, "accepted")
	f("studio", "s3cret", []media.Codec{media.VP8, media.Opus},
		"UNUSABLE: a: the target would lose all video: it takes h264, the stream has vp8, and no plugin makes one of the other; publish h264")
	f("studio", "s3cret", []media.Codec{media.H264, media.MP3},
		"UNUSABLE: a: the target would lose all audio: it takes aac, the stream has mp3, and no plugin makes one of the other; publish aac")
	f("studio", "s3cret", []media.Codec{media.H264}, "accepted") // no sound is not lost sound
	f("mixed", "", []media.Codec{media.VP8, media.Opus}, "accepted")
	f("live/a", "", webrtc, "accepted")
	f("live/special", "", webrtc, "UNAUTHENTICATED: a token is needed to publish live/special")
	f("live/special", "special", webrtc, "accepted")
	f("live/a/x", "x", webrtc, "accepted")
	f("live/a/b", "", webrtc, "NOT_FOUND: no route has the name live/a/b")
	f("nowhere", "s3cret", webrtc, "NOT_FOUND: no route has the name nowhere")
	f("camera", "", webrtc, "NOT_FOUND: nobody publishes camera: the gateway fetches it itself")
	f("../etc", "", webrtc, "NOT_FOUND: this is not the name of a stream: a segment of the name begins with a dot")
	f("", "", webrtc, "NOT_FOUND: this is not the name of a stream: a segment of the name is empty")
	f(strings.Repeat("a", 129), "", webrtc, "NOT_FOUND: this is not the name of a stream: the name is longer than 128 bytes")
	h.closed = true
	f("live/b", "", webrtc, "BUSY: the gateway is shutting down")
	h.closed = false
	h.door.Close()
	f("live/b", "", webrtc, "BUSY: the gateway is shutting down")
}

// A publisher is told which of the codecs that he offers every target can carry; where
// there is none, those of which one can: the others are refused by themselves.
func TestCodecs(t *testing.T) {
	h := newHouse(t,
		config.Route{Name: "cdn", To: []config.Target{to("a", "egress-rtmp"), to("b", "egress-file")}},
		config.Route{Name: "disk", To: []config.Target{to("b", "egress-file"), {Name: "off", Plugin: "egress-rtmp"}, to("c", "mine")}},
		config.Route{Name: "none"},
	)
	f := func(name, want string, offered ...media.Codec) {
		t.Helper()
		if offered == nil {
			offered = []media.Codec{media.VP9, media.H264, media.Opus}
		}
		i := h.offer(name, "", offered...)
		if got := fmt.Sprint(i.h.(pluginhost.CodecChooser).Codecs()); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	f("cdn", "[h264 opus]") // opus as aac
	f("disk", "[vp9 h264 opus]")
	f("none", "[vp9 h264 opus]")
	f("cdn", "[opus vp9 av1]", media.VP9, media.AV1, media.Opus)
}

func TestTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, config.Route{Name: "studio", Hold: 30 * time.Second})
		a := h.offer("studio", "")
		a.tracks()
		a.picture(0, true)
		time.Sleep(time.Second)
		b := h.offer("studio", "")
		b.tracks()
		if a.id != b.id {
			t.Error("the stream has another id for another publisher")
		}
		b.picture(0, false)
		a.picture(time.Second, false)
		synctest.Wait()
		if a.reason() != "" || b.keyframes != 1 {
			t.Errorf("before the newcomer's first keyframe: closed %q, %d keyframes asked for", a.reason(), b.keyframes)
		}
		b.picture(40*time.Millisecond, true)
		synctest.Wait()
		if a.reason() != "another publisher took over" || b.reason() != "" {
			t.Errorf("closed: %q and %q", a.reason(), b.reason())
		}
		if p := h.streams["studio"].Publisher(); p == nil || time.Since(p.Since) != 0 {
			t.Errorf("publisher %+v", p)
		}
		if st := h.state("studio"); st != router.Live {
			t.Error(st)
		}
	})
}

func TestHold(t *testing.T) {
	lost := pluginhost.End{Failed: true, Cause: pluginhost.CauseRemote, Message: "gone"}
	f := func(name string, holdOnEnd bool, end pluginhost.End, want router.State) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t, config.Route{Name: "studio", Hold: 30 * time.Second, HoldOnEnd: holdOnEnd})
			a := h.offer("studio", "")
			a.tracks()
			a.picture(0, true)
			a.end(end)
			if got := h.state("studio"); got != want {
				t.Fatalf("%s: %s, want %s", name, got, want)
			}
			if h.streams["studio"].Publisher() != nil {
				t.Errorf("%s: there is still a publisher", name)
			}
			if want == router.Idle {
				return
			}
			// Back within hold, and lost again: the time starts anew.
			time.Sleep(29 * time.Second)
			b := h.offer("studio", "")
			b.tracks()
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if got := h.state("studio"); got != router.Live {
				t.Errorf("%s: %s after the publisher came back", name, got)
			}
			b.picture(0, true)
			b.end(lost)
			time.Sleep(29 * time.Second)
			synctest.Wait()
			if got := h.state("studio"); got != router.Held {
				t.Errorf("%s: %s within hold", name, got)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if got := h.state("studio"); got != router.Idle {
				t.Errorf("%s: %s after hold", name, got)
			}
		})
	}
	f("lost", false, lost, router.Held)
	f("said goodbye", false, pluginhost.End{}, router.Idle)
	f("said goodbye, hold_on_end", true, pluginhost.End{}, router.Held)
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, config.Route{Name: "studio", Hold: 30 * time.Second}, config.Route{Name: "stage", Hold: 30 * time.Second})
		a, b := h.offer("studio", ""), h.offer("stage", "")
		for _, i := range []*ingest{a, b} {
			i.tracks()
			i.picture(0, true)
		}
		b.end(pluginhost.End{Failed: true})
		h.streams["studio"].Close("the gateway ends")
		h.streams["stage"].Close("the gateway ends")
		synctest.Wait()
		if a.reason() != "the gateway ends" || h.state("studio") != router.Idle || h.state("stage") != router.Idle {
			t.Errorf("closed %q, %s, %s", a.reason(), h.state("studio"), h.state("stage"))
		}
	})
}

func TestMalformed(t *testing.T) {
	h := newHouse(t, config.Route{Name: "studio"})
	a := h.offer("studio", "")
	a.h.Tracks([]media.Track{{}, {ID: 1, Codec: "mpeg7"}, {ID: 2, Codec: media.Opus}, {ID: 2, Codec: media.AAC}, {ID: 3, Codec: media.H264}})
	snap, _ := h.routers["studio"].Watch()
	if len(snap.Tracks) != 2 {
		t.Errorf("tracks %v", snap.Tracks)
	}
	sub := h.routers["studio"].Subscribe(router.SubscriptionConfig{MaxLag: time.Second})
	sub.Start(func(t []media.Track) []media.Track { return t })
	f := func(track media.TrackID, dts, pts time.Duration, payload ...byte) {
		a.h.Unit(&media.AccessUnit{Track: track, DTS: dts, PTS: pts, RandomAccess: dts == 0, Payload: payload})
	}
	f(3, 0, 0, 0, 0, 0, 2, 9, 9, 0, 0, 0, 1, 9)
	f(3, 1, 1, 0, 0, 0, 2, 9)          // cut short
	f(3, 2, 2, 0, 0, 0, 1, 9, 0, 0, 0) // a length cut short
	f(3, 3, 3, 0, 0, 0, 0)             // an empty unit
	f(3, 4, 4, 0xff, 0xff, 0xff, 0xff, 1)
	f(3, 5, 5)
	f(3, 6, time.Hour, 0, 0, 0, 1, 9)
	f(3, 7, 7, 0, 0, 0, 1, 9)
	f(2, 8, 8)
	f(2, 9, 9, 1)
	f(9, 9, 9, 1)
	var got []string
	for _, it := range sub.Pull(nil, 1000) {
		if it.Unit != nil {
			got = append(got, fmt.Sprintf("%d@%d %v", it.Unit.Track, it.Unit.DTS, it.Unit.Discontinuity))
		}
	}
	if s := strings.Join(got, ", "); s != "2@0 false, 2@7 true, 1@9 true" {
		t.Errorf("got %s", s)
	}
	// What the plugin itself left out, because we did not keep up.
	for _, n := range []uint64{0, 3, 3, 5} {
		a.h.Stats(pluginhost.Stats{UnitsDropped: n})
	}
	if d := h.streams["studio"].Dropped(); d["malformed"] != 7 || d["unknown_track"] != 1 || d["plugin"] != 5 {
		t.Errorf("dropped %v", d)
	}
}

// source is the far end of pulls.
type source struct {
	opened chan *ingest
	err    error
}

func (s *source) OpenPull(_ string, _ uint64, _ string, _ secret.String, h pluginhost.SessionHandler) (pluginhost.Session, error) {
	if s.err != nil {
		return nil, s.err
	}
	i := &ingest{h: h}
	s.opened <- i
	return i, nil
}

func TestPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := router.NewStream(1, "camera")
		s := NewStream(r, 30*time.Second, false, slog.New(slog.DiscardHandler))
		src := &source{opened: make(chan *ingest, 10)}
		ctx, cancel := contextOf(t)
		done := make(chan error, 1)
		pull := NewPull(s, config.From{Plugin: "ingest-clip"}, nil, src)
		go func() { done <- pull.Run(ctx) }()
		source := func(want status.SourceState, attempt int, text string, retry time.Duration) {
			t.Helper()
			synctest.Wait()
			st := pull.Status()
			if st.Plugin != "ingest-clip" || st.State != want || st.Attempt != attempt || (st.LastError != nil) != (text != "") || (st.NextRetry != nil) != (retry > 0) {
				t.Errorf("source %+v, want %s", st, want)
			} else if text != "" && st.LastError.Message != text || retry > 0 && time.Until(*st.NextRetry) != retry {
				t.Errorf("source %+v, %v, again at %v", st, st.LastError, st.NextRetry)
			}
		}
		state := func(want router.State) {
			t.Helper()
			synctest.Wait()
			if snap, _ := r.Watch(); snap.State != want {
				t.Errorf("%s, want %s", snap.State, want)
			}
		}
		i := <-src.opened
		state(router.Idle) // nothing came so far
		i.h.Stats(pluginhost.Stats{RTT: time.Second})
		i.h.Ready(pluginhost.Accepts{})
		state(router.Idle) // the plugin has it; the source has not answered
		source(status.SourceConnecting, 1, "", 0)
		i.tracks()
		source(status.SourceLive, 1, "", 0)
		i.h.Stats(pluginhost.Stats{RTT: time.Second, UnitsLost: 3})
		i.h.(pluginhost.SilenceHandler).Silence(true)
		if p := s.Publisher(); p.RTTSeconds != 1 || p.UnitsLost != 3 || p.Silent == nil {
			t.Errorf("what the source says of itself is shown as %+v", p)
		}
		i.h.(pluginhost.SilenceHandler).Silence(false)
		i.picture(0, true)
		state(router.Live)
		time.Sleep(10 * time.Second)
		i.end(pluginhost.End{}) // the end of the file: it is read again at once
		i = <-src.opened
		state(router.Held)
		i.h.Ready(pluginhost.Accepts{}) // the plugin has it; the source has not answered
		i.end(pluginhost.End{Failed: true, Permanent: true, Message: "no such file"})
		state(router.Held)
		source(status.SourceFailed, 2, "no such file", time.Minute)
		begin := time.Now()
		i = <-src.opened
		if d := time.Since(begin); d != time.Minute {
			t.Errorf("tried again after %v", d)
		}
		state(router.Idle)
		i.tracks() // of one that does not say that it is ready
		state(router.Live)
		source(status.SourceLive, 3, "no such file", 0)
		src.err = &pluginhost.UnavailableError{RetryAfter: time.Hour, LastError: "it crashes"}
		i.end(pluginhost.End{Failed: true, Message: "gone"})
		time.Sleep(time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		state(router.Idle)
		// Ended while it is open.
		src.err = nil
		ctx, cancel = contextOf(t)
		go func() { done <- NewPull(s, config.From{Plugin: "ingest-clip"}, nil, src).Run(ctx) }()
		i = <-src.opened
		i.h.Ready(pluginhost.Accepts{})
		cancel()
		if err := <-done; err != nil || i.reason() == "" {
			t.Errorf("%v, closed %q", err, i.reason())
		}
	})
}

// A source that is away is told once, again when the reason changes, and then once a
// minute.
func TestPullTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		s := NewStream(router.NewStream(1, "camera"), 30*time.Second, false, slog.New(slog.NewTextHandler(&log, nil)))
		src := &source{opened: make(chan *ingest, 10)}
		ctx, cancel := contextOf(t)
		done := make(chan error, 1)
		go func() { done <- NewPull(s, config.From{Plugin: "ingest-clip"}, nil, src).Run(ctx) }()
		message := "connection refused"
		tries := 0
		for begin := time.Now(); time.Since(begin) < 5*time.Minute; {
			i := <-src.opened
			if time.Since(begin) > 150*time.Second {
				message = "no such stream"
			}
			tries++
			i.end(pluginhost.End{Failed: true, Cause: pluginhost.CauseRemote, Message: message})
			synctest.Wait()
		}
		i := <-src.opened
		i.tracks()
		time.Sleep(time.Second)
		i.end(pluginhost.End{Failed: true, Cause: pluginhost.CauseRemote, Message: "no such stream"})
		synctest.Wait()
		cancel()
		<-done
		away, ended := strings.Count(log.String(), "source cannot be opened"), strings.Count(log.String(), "source ended; it is opened again")
		if away < 5 || away > 6 || ended != 1 || tries < 20 || !strings.Contains(log.String(), " delivered_for=1s") {
			t.Errorf("%d tries, told %d times that it is away and %d times that it ended:\n%s", tries, away, ended, log.String())
		}
	})
}

func TestPullOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := router.NewStream(1, "camera")
		s := NewStream(r, 30*time.Second, false, slog.New(slog.DiscardHandler))
		src := &source{opened: make(chan *ingest, 10)}
		var mu sync.Mutex
		wanted, changed := false, make(chan struct{})
		demand := func() (bool, <-chan struct{}) {
			mu.Lock()
			defer mu.Unlock()
			return wanted, changed
		}
		turn := func(on bool) {
			mu.Lock()
			defer mu.Unlock()
			close(changed)
			wanted, changed = on, make(chan struct{})
		}
		ctx, cancel := contextOf(t)
		done := make(chan error, 1)
		pull := NewPull(s, config.From{Plugin: "ingest-clip", OnDemand: true}, demand, src)
		go func() { done <- pull.Run(ctx) }()
		synctest.Wait()
		if len(src.opened) != 0 {
			t.Fatal("fetched though nobody wants it")
		}
		turn(true)
		i := <-src.opened
		i.tracks()
		i.picture(0, true)
		turn(true) // one more
		time.Sleep(time.Minute)
		if i.reason() != "" || len(src.opened) != 0 {
			t.Errorf("closed with %q while it is wanted", i.reason())
		}
		turn(false)
		synctest.Wait()
		if snap, _ := r.Watch(); i.reason() == "" || snap.State != router.Idle {
			t.Errorf("closed %q, the stream is %s: nobody wants it", i.reason(), snap.State)
		}
		if st := pull.Status(); st.State != status.SourceIdle {
			t.Errorf("the source is %s: nobody wants it", st.State)
		}
		time.Sleep(time.Hour)
		if len(src.opened) != 0 {
			t.Error("fetched again though nobody wants it")
		}
		turn(true)
		<-src.opened
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
