package push

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/derive"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/router"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// TestTraces runs the scripts of testdata: a target with a fake egress under it
// and a publisher above, in time that moves only by sleep and feed.
//
//	target [opens=early] [accepts=h264,aac] [max_lag=] [random=]
//	publish [T ...]        attach a publisher; T is id:codec[:config]
//	tracks T ...
//	keyframe               the next picture is one
//	feed D                 video (1) and sound (2) for so long; what the egress gets is credited if it is eager
//	end [hold] / release
//	ready [codecs] / fail [permanent] [cause=] [after=] [message] / closed   what the egress says
//	eager | lazy           whether the egress credits what it pulls
//	out D | in             the plugin is out of order for so long, or not any more
//	derived                the deriver publishes its aac track
//	holds | delivers       whether the deriver keeps to itself what it makes
//	derive-fails MESSAGE
//	set [off|on] [key=] [backup=]  change the settings; target takes the same arguments, limits=, and bitrate= of sound that is made
//	stop                   end Run
//
// After each command the events since the last one are printed, and the status.
func TestTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no traces", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				datadriven.RunTest(t, f, func(t *testing.T, d *datadriven.TestData) string { return w.do(t, d) })
				if w.cancel != nil {
					w.stop()
				}
			})
		})
	}
}

type world struct {
	start    time.Time
	stream   *router.Stream
	target   *Target
	settings Settings
	cancel   context.CancelFunc
	done     chan struct{}
	pub      *router.Publication
	at       time.Duration
	next     bool // a keyframe was asked for
	track    *router.Derivation
	made     []*media.AccessUnit // of track, not published yet
	holds    bool
	derr     error

	mu     sync.Mutex // guards the fields below
	events []event
	open   *fakeSession
	out    time.Duration
	lazy   bool
}

// event is what happened at a time, in the words of the report.
type event struct {
	at   time.Duration
	rank int // of one instant, what the peer saw (1) is told after what the target did (0)
	text string
}

type fakeSession struct {
	w    *world
	spec pluginhost.EgressSpec
	h    pluginhost.SessionHandler
	src  pluginhost.Source
	wake chan struct{}
	stop chan struct{}
	once sync.Once
	owed int // guarded by w.mu
}

func newWorld() *world { return &world{start: time.Now(), stream: router.NewStream(1, "studio")} }

func (w *world) log(format string, a ...any) { w.add(0, fmt.Sprintf(format, a...)) }

func (w *world) add(rank int, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, event{at: time.Since(w.start), rank: rank, text: text})
}

func (w *world) OpenEgress(plugin string, spec pluginhost.EgressSpec, h pluginhost.SessionHandler, src pluginhost.Source) (pluginhost.Session, error) {
	w.mu.Lock()
	out := w.out
	w.mu.Unlock()
	if out > 0 {
		w.log("open refused")
		return nil, &pluginhost.UnavailableError{Plugin: plugin, RetryAfter: out, LastError: "exit status 2"}
	}
	at := ""
	if s := spec.URL.Reveal(); s != "rtmp://one/app" {
		at = " at " + s + " as " + spec.Target
	}
	w.log("open attempt=%d key=%s tracks=%s%s", spec.Attempt, spec.Key.Reveal(), tracks(spec.Tracks), at)
	s := &fakeSession{w: w, spec: spec, h: h, src: src, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	w.mu.Lock()
	w.open = s
	w.mu.Unlock()
	go s.run()
	return s, nil
}

// run is the sending loop and the peer in one.
func (s *fakeSession) run() {
	for {
		select {
		case <-s.wake:
		case <-s.stop:
			return
		}
		for {
			s.w.mu.Lock()
			lazy, owed := s.w.lazy, s.owed
			if !lazy {
				s.owed = 0
			}
			s.w.mu.Unlock()
			if lazy && owed > 20000 {
				break // no credit left
			}
			if !lazy && owed > 0 {
				s.h.Credited(owed)
			}
			items := s.src.Pull(8 << 10)
			if len(items) == 0 {
				break
			}
			for _, it := range items {
				if it.Unit == nil {
					s.w.add(1, "peer gets tracks "+tracks(it.Tracks))
					continue
				}
				if lazy {
					s.w.mu.Lock()
					s.owed += len(it.Unit.Payload)
					s.w.mu.Unlock()
				} else {
					s.h.Credited(len(it.Unit.Payload))
				}
			}
		}
	}
}

func (s *fakeSession) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
func (s *fakeSession) RequestKeyframe(media.TrackID)            {}
func (s *fakeSession) SetTargetBitrate(uint64)                  {}
func (s *fakeSession) SetTargetStates([]pluginhost.TargetState) {}
func (s *fakeSession) Close(reason string, drain bool) {
	s.once.Do(func() {
		s.w.log("close drain=%v: %s", drain, reason)
		close(s.stop)
		go s.h.Ended(pluginhost.End{})
	})
}

func (s *fakeSession) end(e pluginhost.End) {
	s.once.Do(func() { close(s.stop); s.h.Ended(e) })
}

func (w *world) Need(n derive.Need) func() {
	w.log("needs %s of track %d", n.To, n.From)
	return func() { w.log("needs no %s of track %d any more", n.To, n.From) }
}

func (w *world) Err(derive.Need) error { return w.derr }

func (w *world) RequestKeyframe(media.TrackID) { w.next = true }
func (w *world) Superseded()                   {}

func tracks(list []media.Track) string {
	var s []string
	for _, t := range list {
		s = append(s, fmt.Sprintf("%d:%s:%s", t.ID, t.Codec, t.DecoderConfig))
	}
	return "[" + strings.Join(s, " ") + "]"
}

func parse(list []string) []media.Track {
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

// preset is one with limits: interval=2s,video=6000000,fps=30,height=720,audio,bframes.
func preset(limits string) *wire.Preset {
	if limits == "" {
		return nil
	}
	l := &wire.Limits{}
	for _, s := range strings.Split(limits, ",") {
		k, v, _ := strings.Cut(s, "=")
		n, _ := strconv.ParseUint(v, 10, 64)
		switch k {
		case "interval":
			d, _ := time.ParseDuration(v)
			l.KeyframeIntervalNs = uint64(d)
		case "video":
			l.VideoBps = n
		case "fps":
			l.FrameRate = float64(n)
		case "audio":
			l.NeedsAudio = true
		case "bframes":
			l.NoBFrames = true
		}
	}
	return &wire.Preset{Name: "tube", Title: "Tube", Limits: l}
}

// change applies the arguments of a command to the settings.
func (w *world) change(d *datadriven.TestData) {
	t := &w.settings.Target
	for _, a := range d.CmdArgs {
		v := strings.Join(a.Vals, ",")
		switch a.Key {
		case "off", "on":
			t.Enabled = a.Key == "on"
		case "key":
			t.Key = secret.New(v)
		case "backup":
			t.Backup = secret.New(v)
			t.BackupKey = t.Key
		}
	}
}

// deliver has the deriver publish what it made, unless it holds that back.
func (w *world) deliver() {
	for ; len(w.made) > 0 && !w.holds; w.made = w.made[1:] {
		w.track.Write(w.made[0])
		synctest.Wait()
	}
}

func (w *world) stop() {
	w.cancel()
	<-w.done
	w.cancel = nil
}

func (w *world) do(t *testing.T, d *datadriven.TestData) string {
	arg := func(key, def string) string {
		for _, a := range d.CmdArgs {
			if a.Key == key && len(a.Vals) > 0 {
				return strings.Join(a.Vals, ",")
			}
		}
		return def
	}
	dur := func(s string) time.Duration {
		v, err := time.ParseDuration(s)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		return v
	}
	var words []string
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 {
			words = append(words, a.Key)
		}
	}
	codecs := func(s string) (a pluginhost.Accepts) {
		for _, c := range strings.Split(s, ",") {
			a.Codecs = append(a.Codecs, media.Codec(c))
		}
		a.VideoTracks, a.AudioTracks = 1, 1
		return a
	}
	switch d.Cmd {
	case "target":
		random, _ := strconv.ParseFloat(arg("random", "0.5"), 64)
		w.settings = Settings{
			Target: config.Target{Name: "cdn", Plugin: "egress", Key: secret.New("k-${stream}"), MaxLag: dur(arg("max_lag", "2s")),
				Enabled: !d.HasArg("off"), URL: secret.New("rtmp://one/app"), Preset: preset(arg("limits", ""))},
			Accepts: codecs(arg("accepts", "h264,aac")), OpensEarly: d.HasArg("early"),
		}
		w.settings.Target.Audio.BitsPerSecond, _ = strconv.Atoi(arg("bitrate", "0"))
		w.change(d)
		transforms := derive.Transforms{media.Opus: {media.AAC}}
		if d.HasArg("silence") {
			transforms[""] = []media.Codec{media.AAC}
		}
		w.target = New(Config{
			Settings: w.settings, Stream: w.stream, Opener: w, Deriver: w,
			Transforms: transforms,
			Log:        slog.New(slog.DiscardHandler), Random: func() float64 { return random },
		})
		ctx, cancel := context.WithCancel(t.Context())
		w.cancel, w.done = cancel, make(chan struct{})
		go func() {
			defer close(w.done)
			if err := w.target.Run(ctx); err != nil {
				t.Error(err)
			}
		}()
	case "set":
		w.change(d)
		w.target.Update(w.settings)
	case "publish":
		w.at = 0
		w.next = true
		w.pub = w.stream.Publish(w)
		if len(words) > 0 {
			w.pub.SetTracks(parse(words))
		}
	case "tracks":
		w.pub.SetTracks(parse(words))
	case "feed":
		// What a unit sets off is waited for, so that the peer's pulls come where they
		// always come.
		write := func(u *media.AccessUnit) {
			u.DTS, u.PTS = w.at, w.at
			w.pub.Write(u)
			synctest.Wait()
		}
		end := w.at + dur(words[0])
		for ; w.at < end; w.at += 20 * time.Millisecond {
			if w.at%(40*time.Millisecond) == 0 {
				write(&media.AccessUnit{Track: 1, RandomAccess: w.next, Payload: make([]byte, 5000)})
				w.next = false
			}
			write(&media.AccessUnit{Track: 2, RandomAccess: true, Payload: make([]byte, 100)})
			if w.track != nil {
				w.made = append(w.made, &media.AccessUnit{DTS: w.at, PTS: w.at, RandomAccess: true, Payload: make([]byte, 200)})
				w.deliver()
			}
			time.Sleep(20 * time.Millisecond)
		}
	case "keyframe":
		w.next = true
	case "sleep":
		time.Sleep(dur(words[0]))
	case "end":
		w.pub.End(d.HasArg("hold"))
	case "release":
		w.stream.Release()
	case "ready":
		a := pluginhost.Accepts{}
		if len(words) > 0 {
			a = codecs(strings.Join(words, ","))
		}
		w.open.h.Ready(a)
	case "players":
		w.open.h.Stats(pluginhost.Stats{Idle: words[0] == "0"})
	case "fail":
		e := pluginhost.End{Failed: true, Cause: pluginhost.Cause(arg("cause", "remote")), Permanent: d.HasArg("permanent"), Message: strings.TrimSpace(d.Input)}
		if s := arg("after", ""); s != "" {
			e.RetryAfter = dur(s)
		}
		w.open.end(e)
	case "closed":
		w.open.end(pluginhost.End{})
	case "eager", "lazy":
		w.mu.Lock()
		w.lazy = d.Cmd == "lazy"
		w.mu.Unlock()
		w.open.Wake()
	case "out":
		w.out = dur(words[0])
	case "in":
		w.out = 0
	case "derived":
		from, _ := strconv.Atoi(arg("of", "2"))
		w.track = w.stream.Derive(media.TrackID(from))
		w.track.SetTrack(media.Track{Codec: media.AAC, DecoderConfig: []byte("asc")})
	case "holds", "delivers":
		w.holds = d.Cmd == "holds"
		w.deliver()
	case "derive-fails":
		w.derr = errors.New(strings.TrimSpace(d.Input))
	case "stop":
		w.stop()
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	synctest.Wait()
	return w.report()
}

func (w *world) report() string {
	w.mu.Lock()
	var out strings.Builder
	// The peer is a goroutine beside the target: their order within an instant is chance.
	slices.SortStableFunc(w.events, func(a, b event) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.rank, b.rank))
	})
	for _, e := range w.events {
		fmt.Fprintf(&out, "[%v] %s\n", e.at, e.text)
	}
	w.events = nil
	w.mu.Unlock()
	st := w.target.Status()
	fmt.Fprintf(&out, "%s since %v, attempt %d", st.State, st.Since.Sub(w.start), st.Attempt)
	if st.NextRetry != nil {
		fmt.Fprintf(&out, ", next in %v", time.Until(*st.NextRetry))
	}
	fmt.Fprintf(&out, ", sent %d units %d bytes", st.UnitsSent, st.BytesSent)
	if st.OnBackup {
		fmt.Fprint(&out, ", on backup")
	}
	if st.Disabled {
		fmt.Fprint(&out, ", disabled")
	}
	for _, x := range st.Warnings {
		fmt.Fprintf(&out, ", warning: %s (%s)", x.Finding, x.Kind)
	}
	if len(st.UnitsDropped) > 0 {
		fmt.Fprintf(&out, ", dropped %v", st.UnitsDropped)
	}
	if st.LagSeconds > 0 {
		fmt.Fprintf(&out, ", lag %gs", st.LagSeconds)
	}
	if st.LastError != nil {
		fmt.Fprintf(&out, "\nlast error at %v: %s: %s", st.LastError.At.Sub(w.start), st.LastError.Cause, st.LastError.Message)
	}
	return out.String() + "\n"
}

// TestWarnings: tries that fail alike are one warning, and one again after a while.
func TestWarnings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		target := New(Config{Stream: router.NewStream(1, "studio"), Log: slog.New(slog.NewTextHandler(&out, nil))})
		warns := func(message string, worked time.Duration, want int) {
			t.Helper()
			out.Reset()
			// A stream without a publisher: there is nothing to wait for.
			set, _, updated := target.settings()
			target.pause(t.Context(), set, updated, &failure{cause: pluginhost.CauseRemote, message: message, worked: worked})
			if got := strings.Count(out.String(), "target session ended"); got != want {
				t.Errorf("%q after %v: %d warnings, want %d", message, worked, got, want)
			}
		}
		warns("refused", 0, 1)
		warns("refused", 0, 0)
		warns("reset", 0, 1)
		warns("refused", 0, 1)
		warns("refused", time.Minute, 1)
		time.Sleep(warnAgain)
		warns("refused", 0, 1)
		out.Reset()
		target.show(status.TargetConnecting, time.Time{})
		target.show(status.TargetWaiting, time.Time{})
		if out.Len() > 0 {
			t.Errorf("a try is told: %s", out.String())
		}
		target.show(status.TargetLive, time.Time{})
		target.show(status.TargetWaiting, time.Time{})
		if got := strings.Count(out.String(), "target changed"); got != 2 {
			t.Errorf("%d changes told, want 2: %s", got, out.String())
		}
	})
}
