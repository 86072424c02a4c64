package sdk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// journal is an egress that writes down what is called.
type journal struct {
	mu    sync.Mutex
	lines []string

	setter bool // its sinks can change tracks
	// stubborn: they say that they would rather be opened anew.
	stubborn bool
	failed   chan struct{}
	open     func(ctx context.Context) error
	write    func(ctx context.Context) error
	close    func(ctx context.Context)
}

func (j *journal) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

func (j *journal) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "\n")
}

func (j *journal) Open(ctx context.Context, t sdk.Target, tracks []media.Track) (sdk.Sink, error) {
	j.note("open %s/%s attempt %d: %s", t.Stream, t.Name, t.Attempt, names(tracks))
	if j.open != nil {
		if err := j.open(ctx); err != nil {
			return nil, err
		}
	}
	s := &entry{j: j}
	if j.setter {
		return setterEntry{s}, nil
	}
	return s, nil
}

func names(tracks []media.Track) string {
	var out []string
	for _, t := range tracks {
		out = append(out, fmt.Sprintf("%d %s %x %dx%d", t.ID, t.Codec, t.DecoderConfig, t.Width, t.Height))
	}
	return strings.Join(out, ", ")
}

type entry struct{ j *journal }

func (e *entry) WriteAccessUnit(ctx context.Context, u *media.AccessUnit) error {
	if e.j.write != nil {
		if err := e.j.write(ctx); err != nil {
			return err
		}
	}
	e.j.note("write %d/%d", u.Track, u.Seq)
	return nil
}
func (e *entry) Close(ctx context.Context) error {
	e.j.note("close")
	if e.j.close != nil {
		e.j.close(ctx)
	}
	return nil
}
func (e *entry) Failed() <-chan struct{} { return e.j.failed }
func (e *entry) Err() error              { return errors.New("the peer hung up on rtmp://x/live/k3yk3y") }
func (e *entry) Accepts() sdk.Accepts {
	return sdk.Accepts{Codecs: []media.Codec{media.H264, media.Opus}, VideoTracks: 2}
}

type setterEntry struct{ *entry }

func (e setterEntry) SetTracks(_ context.Context, tracks []media.Track) error {
	if e.j.stubborn {
		return fmt.Errorf("the peer is strict: %w", sdk.ErrReopen)
	}
	e.j.note("set %s", names(tracks))
	return nil
}

func plugin(e sdk.Egress) sdk.Plugin { return sdk.EgressOf("journal", "1.0.0", []string{"rtmp"}, e) }

var (
	video   = media.Track{ID: 1, Codec: media.H264, DecoderConfig: []byte{1}, Width: 640, Height: 360}
	audio   = media.Track{ID: 2, Codec: media.AAC, DecoderConfig: []byte{2}}
	resized = media.Track{ID: 1, Codec: media.H264, DecoderConfig: []byte{3}, Width: 320, Height: 180}
)

func openEgress(g *plugintest.Gateway, tracks ...media.Track) {
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
		Session: 1, Kind: wire.SessionKind_SESSION_KIND_EGRESS, Stream: "live", Attempt: 3,
		Target: &wire.Target{Name: "cdn", Url: "rtmp://x/live/k3yk3y"}, Tracks: wire.FromTracks(tracks),
	}}})
}

func setTracks(g *plugintest.Gateway, tracks ...media.Track) {
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Tracks{Tracks: &wire.TrackSet{Sessions: []uint32{1}, Tracks: wire.FromTracks(tracks)}}})
}

func sendUnit(g *plugintest.Gateway, track, seq uint32, key bool) {
	u := &wire.AccessUnit{Sessions: []uint32{1}, Track: track, Seq: seq, Payload: []byte("payload")}
	if key {
		u.Flags = uint32(wire.Flag_FLAG_RANDOM_ACCESS)
	}
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Media{Media: &wire.AccessUnits{Units: []*wire.AccessUnit{u}}}})
}

func closeSession(g *plugintest.Gateway, drain bool) {
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Close{Close: &wire.Close{Session: 1, Drain: drain}}})
}

// changeTracks plays a change of tracks in the middle of a stream and returns what
// the sink saw.
func changeTracks(t *testing.T, j *journal) string {
	t.Helper()
	g := plugintest.Attach(t, plugintest.Connect(t, plugin(j)), nil)
	openEgress(g, video, audio)
	ready, _ := g.State(1)
	if a := ready.GetAccepts(); ready.GetState() != wire.SessionState_READY || len(a.GetCodecs()) != 2 || a.GetVideoTracks() != 2 {
		t.Errorf("ready: %v", ready)
	}
	setTracks(g, video, audio) // the same as in Open
	sendUnit(g, 1, 0, true)
	sendUnit(g, 2, 0, true)
	setTracks(g, resized, audio)
	sendUnit(g, 2, 1, true)
	sendUnit(g, 1, 1, true)
	sendUnit(g, 2, 2, true)
	closeSession(g, true)
	s, credit := g.State(1)
	if s.GetState() != wire.SessionState_CLOSED || credit[1] != 5*7 {
		t.Errorf("ended with %v and credit for %d bytes", s, credit[1])
	}
	return j.text()
}

func TestSinkThatChangesTracks(t *testing.T) {
	want := `open live/cdn attempt 3: 1 h264 01 640x360, 2 aac 02 0x0
write 1/0
write 2/0
set 1 h264 03 320x180, 2 aac 02 0x0
write 2/1
write 1/1
write 2/2
close`
	if got := changeTracks(t, &journal{setter: true}); got != want {
		t.Errorf("got\n%s", got)
	}
}

// A sink that cannot change tracks is opened anew at the next picture that can be
// joined at.
func TestSinkThatIsReopened(t *testing.T) {
	want := `open live/cdn attempt 3: 1 h264 01 640x360, 2 aac 02 0x0
write 1/0
write 2/0
close
open live/cdn attempt 3: 1 h264 03 320x180, 2 aac 02 0x0
write 1/1
write 2/2
close`
	for _, j := range []*journal{{}, {setter: true, stubborn: true}} {
		if got := changeTracks(t, j); got != want {
			t.Errorf("got\n%s", got)
		}
	}
}

// What a sink need not know does not reopen it.
func TestHarmlessTrackChange(t *testing.T) {
	j := &journal{}
	g := plugintest.Attach(t, plugintest.Connect(t, plugin(j)), nil)
	openEgress(g, video)
	g.State(1)
	relabelled := video
	relabelled.BitrateBitsPerSecond = 5e6
	setTracks(g, relabelled)
	sendUnit(g, 1, 0, false)
	closeSession(g, true)
	g.State(1)
	if got := j.text(); strings.Count(got, "open") != 1 || !strings.Contains(got, "write 1/0") {
		t.Errorf("got\n%s", got)
	}
}

// A sink that fails between two writes ends its session at once.
func TestFailer(t *testing.T) {
	j := &journal{failed: make(chan struct{})}
	g := plugintest.Attach(t, plugintest.Connect(t, plugin(j)), nil)
	openEgress(g, video)
	g.State(1)
	close(j.failed)
	s, _ := g.State(1)
	if s.GetState() != wire.SessionState_FAILED || s.GetMessage() != "the peer hung up on ***" || s.GetCause() != wire.SessionState_REMOTE {
		t.Errorf("the session is %v", s)
	}
	if !strings.HasSuffix(j.text(), "close") {
		t.Errorf("got\n%s", j.text())
	}
}

func TestWriteErrors(t *testing.T) {
	f := func(err error, permanent bool, cause wire.SessionState_Cause, retryAfter time.Duration) {
		t.Helper()
		j := &journal{write: func(context.Context) error { return err }}
		g := plugintest.Attach(t, plugintest.Connect(t, plugin(j)), nil)
		openEgress(g, video)
		g.State(1)
		sendUnit(g, 1, 0, true)
		s, _ := g.State(1)
		if s.GetState() != wire.SessionState_FAILED || s.GetPermanent() != permanent || s.GetCause() != cause || wire.Duration(s.GetRetryAfterNs()) != retryAfter {
			t.Errorf("%v: the session is %v", err, s)
		}
	}
	f(errors.New("reset"), false, wire.SessionState_REMOTE, 0)
	f(sdk.Permanent(errors.New("refused")), true, wire.SessionState_REMOTE, 0)
	f(&sdk.Error{Cause: sdk.CauseConfig, RetryAfter: time.Minute, Err: errors.New("no")}, false, wire.SessionState_CONFIG, time.Minute)
	f(fmt.Errorf("writing: %w", sdk.Permanent(&sdk.Error{Cause: sdk.CausePlugin, Err: errors.New("no")})), true, wire.SessionState_PLUGIN, 0)
}

// A write that blocks ends when its session is closed.
func TestCloseInsideWrite(t *testing.T) {
	j := &journal{write: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	g := plugintest.Attach(t, plugintest.Connect(t, plugin(j)), nil)
	openEgress(g, video)
	g.State(1)
	sendUnit(g, 1, 0, true)
	began := time.Now()
	closeSession(g, false)
	if s, _ := g.State(1); s.GetState() != wire.SessionState_CLOSED || time.Since(began) > 2*time.Second {
		t.Errorf("the session is %v after %v", s, time.Since(began))
	}
}

// A Sink.Close that takes all the time it has: five seconds for a polite end, and with
// some to spare less than the two that a session closed without draining may take.
func TestTimeToClose(t *testing.T) {
	for drain, most := range map[bool]time.Duration{true: 5 * time.Second, false: time.Second} {
		left := make(chan time.Duration, 1)
		j := &journal{close: func(ctx context.Context) {
			by, _ := ctx.Deadline()
			left <- time.Until(by)
		}}
		g := plugintest.Attach(t, plugintest.Connect(t, plugin(j)), nil)
		openEgress(g, video)
		g.State(1)
		closeSession(g, drain)
		if d := <-left; d > most {
			t.Errorf("drain %v: Close has %v, want at most %v", drain, d, most)
		}
	}
}

// An Open that waits for a target ends when its session is closed, also politely:
// there is nothing to drain.
func TestCloseInsideOpen(t *testing.T) {
	inside := make(chan struct{})
	j := &journal{open: func(ctx context.Context) error { close(inside); <-ctx.Done(); return ctx.Err() }}
	g := plugintest.Attach(t, plugintest.Connect(t, plugin(j)), nil)
	openEgress(g, video)
	<-inside
	began := time.Now()
	closeSession(g, true)
	if s, _ := g.State(1); s.GetState() != wire.SessionState_CLOSED || time.Since(began) > 2*time.Second {
		t.Errorf("the session is %v after %v", s, time.Since(began))
	}
}

type checkedOptions struct {
	Latency time.Duration `json:"latency,omitempty"`
	Secret  secret.String `json:"secret,omitempty"`
}

func (o checkedOptions) Check() error {
	var errs []error
	if o.Latency > 8*time.Second {
		errs = append(errs, errors.New("latency: want at most 8s"))
	}
	if n := len(o.Secret.Reveal()); n > 0 && n < 10 {
		errs = append(errs, fmt.Errorf("secret: %s is too short; want 10 characters", o.Secret.Reveal()))
	}
	return errors.Join(errs...)
}

// particular is an egress that knows what its targets must be like.
type particular struct{ sdk.Egress }

func (particular) CheckTarget(t sdk.Target) error {
	var o checkedOptions
	if err := t.Options(&o); err != nil {
		return err
	}
	switch t.URL.Reveal() {
	case "rtmp://nokey":
		return errors.New("key: it is missing; add it")
	case "rtmp://odd":
		return fmt.Errorf("no good: %s", t.URL.Reveal())
	case "rtmp://panic":
		panic("in CheckTarget")
	}
	return nil
}

// A plugin says what is wrong with its options and targets, each mistake at its place
// and without a secret.
func TestValidate(t *testing.T) {
	p := plugin(&journal{})
	p.Options, p.Egress.TargetOptions = &checkedOptions{}, &checkedOptions{}
	p.Egress.Egress = particular{p.Egress.Egress}
	c := plugintest.Connect(t, p)
	targets := []*wire.Target{
		{Url: "rtmp://fine", OptionsJson: []byte(`{"latency": "20ms"}`)},
		{Url: "srt://other", OptionsJson: []byte(`{"latency": "20"}`)},
		{Url: "RTMP://fine/a%zz"},
		{Url: "rtmp://fine", OptionsJson: []byte(`{"latency": "9s", "secret": "pa55w0rd"}`)},
		{Url: "rtmp://nokey"},
		{Url: "rtmp://odd"},
		{Url: "rtmp://panic"},
		{Url: "nothing"},
	}
	r, err := c.Validate(t.Context(), &wire.ValidateRequest{OptionsJson: []byte(`{"nothing": 1}`), Targets: targets, Sources: []string{"cam://1"}})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, d := range r.GetDiagnostics() {
		fmt.Fprintf(&got, "%s: %s, %s\n", d.GetPath(), d.GetFinding(), d.GetRemedy())
	}
	want := `options: json: unknown field "nothing", see the plugin's options
targets.1.url: scheme "srt" is not served, use one of [rtmp]
targets.1.options.latency: the plugin cannot use this, write a duration such as 250ms, got "20"
targets.3.options.latency: the plugin cannot use this, write at most 8s
targets.3.options.secret: *** is too short, write 10 characters
targets.4.key: it is missing, add it
targets.5: no good: ***, see the plugin's target options
targets.6: the plugin panicked: in CheckTarget, see the plugin's target options
targets.7.url: the URL has no scheme, begin it with one of [rtmp]
sources.0: the plugin pulls no URL, use another plugin
`
	if got.String() != want {
		t.Errorf("found\n%swant\n%s", got.String(), want)
	}
}

// brokenIngest cannot serve.
type brokenIngest struct{}

func (brokenIngest) Serve(context.Context, *sdk.IngestHost) error {
	return errors.New("the port is taken")
}

// A plugin whose ingest cannot serve ends its Attach, which the gateway takes for
// a crash.
func TestIngestThatCannotServe(t *testing.T) {
	p := sdk.Plugin{Name: "broken", Version: "1", Ingest: &sdk.IngestPlugin{Ingest: brokenIngest{}}}
	stream, err := plugintest.Connect(t, p).Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&wire.HostMsg{M: &wire.HostMsg_Hello{Hello: &wire.Hello{}}}); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if !strings.Contains(err.Error(), "the port is taken") {
		t.Error(err)
	}
}

// httpIngest serves one page.
type httpIngest struct{}

func (httpIngest) Serve(ctx context.Context, h *sdk.IngestHost) error {
	h.HandleHTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, r.RemoteAddr) }))
	<-ctx.Done()
	return nil
}

// A drain ends what blocks within the time that the gateway names for it.
func TestDrainDeadline(t *testing.T) {
	writing := make(chan struct{})
	j := &journal{write: func(ctx context.Context) error { close(writing); <-ctx.Done(); return ctx.Err() }}
	g := plugintest.Attach(t, plugintest.Connect(t, plugin(j)), nil)
	openEgress(g, video)
	g.State(1)
	sendUnit(g, 1, 0, true)
	<-writing
	began := time.Now()
	closeSession(g, true) // which alone would give it five seconds
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Drain{Drain: &wire.Drain{DeadlineNs: uint64(400 * time.Millisecond)}}})
	if s, _ := g.State(1); s.GetState() != wire.SessionState_CLOSED || time.Since(began) > 2*time.Second {
		t.Errorf("%v after %v", s, time.Since(began))
	}
}

// lossyIngest has publishers who are lost when it stops serving.
type lossyIngest struct{ publishers int }

func (i lossyIngest) Serve(ctx context.Context, h *sdk.IngestHost) error {
	var publishers sync.WaitGroup
	for range i.publishers {
		publishers.Go(func() {
			pub, err := h.Offer(context.Background(), sdk.Offer{Name: "studio"})
			if err != nil {
				return
			}
			<-ctx.Done()
			pub.Close(errors.New("the connection was lost"))
		})
	}
	publishers.Wait()
	return nil
}

// A drain is no loss to publishers whose connections end with it.
func TestDrainIsNoLoss(t *testing.T) {
	const publishers = 20
	g := plugintest.Attach(t, plugintest.Connect(t, sdk.Plugin{
		Name: "test", Version: "1", Ingest: &sdk.IngestPlugin{Ingest: lossyIngest{publishers}, Codecs: []media.Codec{media.H264}},
	}), nil)
	ready := 0
	for session := uint32(1); ready < publishers; {
		m := g.Recv()
		if o := m.GetOffer(); o != nil {
			g.Send(&wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
				Session: session, Kind: wire.SessionKind_SESSION_KIND_INGEST, StreamId: uint64(session), Stream: "studio", Offer: o.GetOffer(), InitialCreditBytes: 1 << 20,
			}}})
			session++
		}
		if m.GetState().GetState() == wire.SessionState_READY {
			ready++
		}
	}
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Drain{Drain: &wire.Drain{DeadlineNs: uint64(10 * time.Second)}}})
	for ended := 0; ended < publishers; {
		if s := g.Recv().GetState(); s != nil {
			ended++
			if s.GetState() != wire.SessionState_CLOSED {
				t.Errorf("session %d ended with %v", s.GetSession(), s)
			}
		}
	}
}

// What an author panics with may quote the target's URL: neither the state nor the
// log shows its key.
func TestPanicIsRedacted(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	j := &journal{write: func(context.Context) error { panic("cannot write to rtmp://x/live/k3yk3y") }}
	g := plugintest.Attach(t, plugintest.Connect(t, plugin(j)), nil)
	openEgress(g, video)
	g.State(1)
	sendUnit(g, 1, 0, true)
	s, _ := g.State(1)
	if !strings.Contains(s.GetMessage(), "cannot write to ***") || !strings.Contains(log.String(), "cannot write to ***") ||
		strings.Contains(s.GetMessage()+log.String(), "k3yk3y") {
		t.Errorf("state %v, log %s", s, log.String())
	}
}

type loginOptions struct {
	Password secret.String `json:"password,omitempty"`
}

// login is an egress that tells its secret options in errors.
type login struct{ refuses bool }

func (l login) Configure(decode func(any) error) error {
	var o loginOptions
	if err := decode(&o); err != nil || !l.refuses {
		return err
	}
	return errors.New("nobody can log in with " + o.Password.Reveal())
}

func (login) Open(_ context.Context, t sdk.Target, _ []media.Track) (sdk.Sink, error) {
	var o loginOptions
	if err := t.Options(&o); err != nil {
		return nil, err
	}
	return nil, errors.New("no way with " + o.Password.Reveal() + ", nor with the other")
}

// An error shows no option that its type says is a secret.
func TestSecretOptionsAreRedacted(t *testing.T) {
	options := []byte(`{"password":"c4n4ry"}`)
	p := func(refuses bool) sdk.Plugin {
		return sdk.Plugin{Name: "login", Version: "1", Options: &loginOptions{}, Egress: &sdk.EgressPlugin{
			Egress: login{refuses}, Schemes: []string{"x"}, TargetOptions: &loginOptions{},
			Accepts: sdk.Accepts{Codecs: []media.Codec{media.H264}, VideoTracks: 1},
		}}
	}
	stream, err := plugintest.Connect(t, p(true)).Attach(t.Context())
	if err == nil {
		err = stream.Send(&wire.HostMsg{M: &wire.HostMsg_Hello{Hello: &wire.Hello{OptionsJson: options}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.Recv()
	if err != nil || m.GetHello().GetError() != "nobody can log in with ***" {
		t.Errorf("%v, %v", m, err)
	}
	g := plugintest.Attach(t, plugintest.Connect(t, p(false)), options)
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
		Session: 1, Kind: wire.SessionKind_SESSION_KIND_EGRESS,
		Target: &wire.Target{Name: "t", Url: "x://y", OptionsJson: options}, Tracks: wire.FromTracks([]media.Track{video}),
	}}})
	if s, _ := g.State(1); s.GetMessage() != "no way with ***, nor with the other" {
		t.Errorf("%v", s)
	}
}

// halver makes nothing of "bad" and, if it is to, fills its time.
type halver struct {
	fills bool
}

func (*halver) Track() media.Track         { return audio }
func (*halver) SetTrack(media.Track) error { return nil }
func (*halver) Close()                     {}
func (h *halver) Transform(u *media.AccessUnit, emit func(*media.AccessUnit)) error {
	bad := string(u.Payload) == "bad"
	if !bad || h.fills {
		emit(&media.AccessUnit{DTS: u.DTS, PTS: u.DTS, Duration: 20 * time.Millisecond, Payload: []byte("out")})
	}
	if bad {
		return errors.New("bad")
	}
	return nil
}

// A unit that a transformer could not read leaves a hole only if nothing fills it.
func TestTransformError(t *testing.T) {
	f := func(fills bool, want string) {
		t.Helper()
		p := sdk.Plugin{Name: "half", Version: "1", Transforms: []sdk.Transform{{From: media.Opus, To: media.AAC,
			Open: func(context.Context, media.Track, sdk.TransformSettings) (sdk.Transformer, error) {
				return &halver{fills: fills}, nil
			}}}}
		g := plugintest.Attach(t, plugintest.Connect(t, p), nil)
		g.Send(&wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
			Session: 1, Kind: wire.SessionKind_SESSION_KIND_TRANSFORM, Transform: &wire.Transform{To: "aac", Track: 7},
			Tracks: wire.FromTracks([]media.Track{{ID: 2, Codec: media.Opus}}), InitialCreditBytes: 1 << 20,
		}}})
		var units []*wire.AccessUnit
		for i, text := range []string{"a", "bad", "b", "c"} {
			units = append(units, &wire.AccessUnit{Sessions: []uint32{1}, Track: 2, DtsNs: int64(i) * 20e6, PtsNs: int64(i) * 20e6, Payload: []byte(text)})
		}
		g.Send(&wire.HostMsg{M: &wire.HostMsg_Media{Media: &wire.AccessUnits{Units: units}}})
		closeSession(g, true)
		got := ""
		for {
			m := g.Recv()
			for _, u := range m.GetMedia().GetUnits() {
				got += fmt.Sprint(u.GetDtsNs()/1e6, map[bool]string{true: "! ", false: " "}[u.GetFlags()&uint32(wire.Flag_FLAG_DISCONTINUITY) != 0])
			}
			if m.GetState().GetState() == wire.SessionState_CLOSED {
				break
			}
		}
		if got != want {
			t.Errorf("fills %v: got %q, want %q", fills, got, want)
		}
	}
	f(false, "0 40! 60 ")
	f(true, "0 20 40 60 ")
}

// A dripper makes a unit of each unit, and one whenever nothing comes.
type dripper struct{ halver }

func (d *dripper) Idle(quiet time.Duration, emit func(*media.AccessUnit)) error {
	emit(&media.AccessUnit{DTS: quiet, PTS: quiet, Payload: []byte{1}})
	return nil
}

func (d *dripper) Figures() map[string]float64 { return map[string]float64{"drips_total": 1} }

// A transformer that has something to say while nothing comes is asked for it, from
// its first unit on, and its figures are reported.
func TestIdler(t *testing.T) {
	p := sdk.Plugin{Name: "dripper", Version: "1", Transforms: []sdk.Transform{{
		From: media.Opus, To: media.AAC,
		Open: func(context.Context, media.Track, sdk.TransformSettings) (sdk.Transformer, error) {
			return &dripper{}, nil
		},
	}}}
	g := plugintest.Attach(t, plugintest.Connect(t, p), nil)
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
		Session: 1, Kind: wire.SessionKind_SESSION_KIND_TRANSFORM, InitialCreditBytes: wire.IngestWindowBytes,
		Transform: &wire.Transform{To: string(media.AAC), Track: 9}, Tracks: wire.FromTracks([]media.Track{{ID: 2, Codec: media.Opus}}),
	}}})
	if st, _ := g.State(1); st.GetState() != wire.SessionState_READY {
		t.Fatalf("%v", st)
	}
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Media{Media: &wire.AccessUnits{Units: []*wire.AccessUnit{
		{Sessions: []uint32{1}, Track: 2, Payload: []byte{1}},
	}}}})
	figures, drips, last := false, 0, time.Duration(0)
	for drips < 3 || !figures {
		m := g.Recv()
		figures = figures || m.GetStats().GetValues()["drips_total"] == 1
		for _, u := range m.GetMedia().GetUnits() {
			if at := time.Duration(u.GetDtsNs()); at > 0 {
				if at < last+sdk.IdleInterval/2 || drips == 0 && at < 2*sdk.IdleInterval {
					t.Errorf("asked after %v of quiet, and before that after %v", at, last)
				}
				last = at
				drips++
			}
		}
	}
	closeSession(g, true)
	g.State(1)
}

type hugeIngest struct{}

func (hugeIngest) Serve(ctx context.Context, _ *sdk.IngestHost) error {
	<-ctx.Done()
	return nil
}

func (hugeIngest) Pull(ctx context.Context, _ secret.String, pub *sdk.Publication) error {
	pub.SetTracks([]media.Track{video})
	for i, size := range []int{10, wire.MaxPayloadBytes + 1, 10, 10} {
		pub.WriteAccessUnit(&media.AccessUnit{Track: 1, DTS: time.Duration(i), RandomAccess: i != 2, Payload: make([]byte, size)})
	}
	<-ctx.Done()
	return nil
}

// A unit that no message can carry is left out, with what depends on it; the
// connection goes on.
func TestHugeUnit(t *testing.T) {
	p := sdk.Plugin{Name: "huge", Version: "1", Ingest: &sdk.IngestPlugin{Ingest: hugeIngest{}, Schemes: []string{"huge"}}}
	g := plugintest.Attach(t, plugintest.Connect(t, p), nil)
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
		Session: 1, Kind: wire.SessionKind_SESSION_KIND_INGEST, Url: "huge://x", InitialCreditBytes: wire.IngestWindowBytes,
	}}})
	got := ""
	for !strings.Contains(got, "3") {
		for _, u := range g.Recv().GetMedia().GetUnits() {
			got += fmt.Sprint(u.GetDtsNs(), map[bool]string{true: "! ", false: " "}[u.GetFlags()&uint32(wire.Flag_FLAG_DISCONTINUITY) != 0])
		}
	}
	if got != "0 3! " {
		t.Errorf("got %q", got)
	}
	closeSession(g, false)
	g.State(1)
}

func TestHTTPSocket(t *testing.T) {
	p := sdk.Plugin{Name: "http", Version: "1", Ingest: &sdk.IngestPlugin{Ingest: httpIngest{}, Mounts: []string{"/x/"}}}
	g := plugintest.Attach(t, plugintest.Connect(t, p), nil)
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", g.HTTPSocket)
		},
	}}
	for {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://plugin/x/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(wire.ClientHeader, "192.0.2.1:99")
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, _ := res.Body.Read(b)
		_ = res.Body.Close()
		if res.StatusCode == http.StatusServiceUnavailable {
			if ct := res.Header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("503 of type %s", ct)
			}
			continue // the ingest has no handler yet
		}
		if string(b[:n]) != "192.0.2.1:99" {
			t.Errorf("%d %s", res.StatusCode, b[:n])
		}
		return
	}
}
