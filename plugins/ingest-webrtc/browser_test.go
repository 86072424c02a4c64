package webrtc

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/headgate/gateway/plugins/ingest-webrtc/session"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/opus"
)

// A gatewayFake accepts one token and counts what arrives.
type gatewayFake struct {
	mu   sync.Mutex
	pubs []*publicationFake
}

func (g *gatewayFake) Offer(_ context.Context, o sdk.Offer) (session.Publication, error) {
	if o.Credentials.Reveal() != "abc" {
		return nil, &sdk.RejectedError{Reason: sdk.Unauthenticated, Message: "wrong token"}
	}
	p := &publicationFake{opened: time.Now(), offer: o, done: make(chan struct{}), closed: make(chan error, 1)}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pubs = append(g.pubs, p)
	return p, nil
}

func (g *gatewayFake) publication(i int) *publicationFake {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i >= len(g.pubs) {
		return nil
	}
	return g.pubs[i]
}

// An arrival is a unit that came.
type arrival struct {
	at    time.Time
	bytes int
}

type publicationFake struct {
	opened time.Time
	offer  sdk.Offer
	done   chan struct{}
	closed chan error

	mu            sync.Mutex
	first         time.Time
	sizes         []string
	video, audio  int
	keys, stereo  int
	discontinuous int
	back          int
	lastDTS       [3]time.Duration
	stats         sdk.IngestStats
	targets       []sdk.TargetState
	recent        []arrival // of the last two seconds
}

func (p *publicationFake) SetTracks(tracks []media.Track) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range tracks {
		if t.Codec == media.H264 && t.Width > 0 {
			p.sizes = append(p.sizes, fmt.Sprintf("%dx%d", t.Width, t.Height))
		}
	}
}

func (p *publicationFake) WriteAccessUnit(u *media.AccessUnit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.recent = append(p.recent, arrival{now, len(u.Payload)})
	p.recent = slices.DeleteFunc(p.recent, func(a arrival) bool { return now.Sub(a.at) > 2*time.Second })
	if u.Discontinuity {
		p.discontinuous++
	}
	if p.lastDTS[u.Track] != 0 && u.DTS <= p.lastDTS[u.Track] {
		p.back++
	}
	p.lastDTS[u.Track] = u.DTS
	if u.Track == 2 {
		p.audio++
		if opus.PacketChannels(u.Payload) == 2 {
			p.stereo++
		}
		return
	}
	if p.first.IsZero() {
		p.first = time.Now()
	}
	p.video++
	if u.RandomAccess {
		p.keys++
	}
}

// rate is how many bits per second have come over the last d.
func (p *publicationFake) rate(d time.Duration) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	bytes, from := 0, time.Now().Add(-d)
	for _, a := range p.recent {
		if a.at.After(from) {
			bytes += a.bytes
		}
	}
	return float64(bytes) * 8 / d.Seconds()
}

func (p *publicationFake) ReportSilence(bool) {}

func (p *publicationFake) Targets() ([]sdk.TargetState, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.targets, p.targets != nil
}

func (p *publicationFake) Codecs() []media.Codec { return nil }

func (p *publicationFake) ReportStats(s sdk.IngestStats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats = s
}
func (p *publicationFake) Done() <-chan struct{} { return p.done }
func (p *publicationFake) Err() error            { return nil }
func (p *publicationFake) Close(lost error)      { p.closed <- lost }

func browser(t testing.TB, flags ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		const message = "needs chromium, of the Debian package chromium"
		if os.Getenv("HEADGATE_TEST_PEERS") == "required" {
			t.Fatal(message)
		}
		t.Skip(message)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.WindowSize(900, 1000),
		chromedp.Flag("headless", "new"), chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-quic", true),
		chromedp.Flag("use-fake-ui-for-media-stream", true), chromedp.Flag("use-fake-device-for-media-stream", "fps=30"),
		chromedp.Flag("autoplay-policy", "no-user-gesture-required"))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(options, flags...)...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	var mu sync.Mutex // held while the test is told something
	over := false
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
	})
	chromedp.ListenTarget(ctx, func(ev any) {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		switch e := ev.(type) {
		case *runtime.EventConsoleAPICalled:
			for _, a := range e.Args {
				t.Logf("console: %s", a.Value)
			}
		case *runtime.EventExceptionThrown:
			t.Errorf("the page: %s", e.ExceptionDetails.Error())
		}
	})
	return ctx
}

func serve(t testing.TB) (*gatewayFake, string) {
	t.Helper()
	g, h := serveHandler(t)
	web := httptest.NewServer(h)
	t.Cleanup(web.Close)
	return g, web.URL
}

func serveHandler(t testing.TB) (*gatewayFake, http.Handler) {
	t.Helper()
	g := &gatewayFake{}
	s, err := session.Listen(session.Config{UDP: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)}, g)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return g, handler(s, func(context.Context, string) error { return nil })
}

func do(ctx context.Context, t testing.TB, what string, limit time.Duration, actions ...chromedp.Action) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// within reports whether ok becomes true within limit. A test that asks for more than
// has come by then says itself what is missing.
func within(limit time.Duration, ok func() bool) bool {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(limit); !ok(); {
		select {
		case <-tick.C:
		case <-late:
			return ok()
		}
	}
	return true
}

// The page publishes its test picture from Chromium, with and without its flag
// for loopback: H.264 and stereo Opus arrive, and Stop ends it cleanly.
func TestPagePublishes(t *testing.T) {
	for _, c := range []struct {
		name   string
		source string
		flags  []chromedp.ExecAllocatorOption
	}{
		{"test picture", "canvas", []chromedp.ExecAllocatorOption{chromedp.Flag("allow-loopback-in-peer-connection", true)}},
		{"camera, no loopback candidates", "camera", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, url := serve(t)
			ctx := browser(t, c.flags...)
			if err := chromedp.Run(ctx); err != nil {
				t.Fatal(err)
			}
			do(ctx, t, "opening the page", 30*time.Second, chromedp.Navigate(url+"/publish/live/studio?source="+c.source+"#token=abc"), chromedp.WaitVisible("#start"))
			shot(ctx, t, "idle-"+c.source)
			do(ctx, t, "going live", 20*time.Second, chromedp.Click("#start"), chromedp.WaitVisible(`body[data-state="live"]`))
			p := g.publication(0)
			within(30*time.Second, func() bool {
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.video >= 90 && p.audio >= 200
			})
			shot(ctx, t, "live-"+c.source)
			do(ctx, t, "stopping", 30*time.Second, chromedp.Click("#stop"), chromedp.WaitVisible(`body[data-state="ended"]`))
			select {
			case err := <-p.closed:
				if err != nil {
					t.Errorf("Stop closed the publication with %v", err)
				}
			case <-time.After(30 * time.Second):
				t.Error("Stop did not close the publication")
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			t.Logf("first picture %v after the offer; %d pictures (%d key) of %v, %d packets of sound (%d stereo); %+v",
				p.first.Sub(p.opened), p.video, p.keys, p.sizes, p.audio, p.stereo, p.stats)
			if p.offer.Name != "live/studio" {
				t.Errorf("stream %q", p.offer.Name)
			}
			if p.video < 90 || p.audio < 200 || p.stereo < p.audio*9/10 && c.source == "canvas" {
				t.Errorf("%d pictures, %d packets of sound, %d of them stereo", p.video, p.audio, p.stereo)
			}
			if p.back > 0 {
				t.Errorf("%d units went back in time", p.back)
			}
		})
	}
}

// The page says live only of what is: it shows where the stream goes and why it does
// not. Device, size and bitrate can be changed while it goes on, within the session.
func TestPageTellsTheTruth(t *testing.T) {
	g, url := serve(t)
	ctx := browser(t)
	if err := chromedp.Run(ctx); err != nil {
		t.Fatal(err)
	}
	do(ctx, t, "going live", 30*time.Second,
		chromedp.Navigate(url+"/publish/studio?source=camera#token=abc"), chromedp.WaitVisible("#start"),
		chromedp.Click("#start"), chromedp.WaitVisible(`body[data-state="live"]`))
	p := g.publication(0)
	shows := func(label, lines string, targets ...sdk.TargetState) {
		t.Helper()
		p.mu.Lock()
		p.targets = targets
		p.mu.Unlock()
		var got []string
		script := `[document.getElementById('state').textContent, [...document.querySelectorAll('#targets li')].map((l) => l.textContent).join('; ')]`
		if !within(15*time.Second, func() bool {
			do(ctx, t, "reading", 10*time.Second, chromedp.Evaluate(script, &got))
			return got[0] == label && got[1] == lines
		}) {
			t.Errorf("the page shows %q, want %q, %q", got, label, lines)
		}
	}
	one, two := sdk.TargetState{Name: "cdn", State: sdk.TargetLive}, sdk.TargetState{Name: "<b>two", State: sdk.TargetFailed, Reason: "its server does not accept the stream key"}
	shows("Connected", "")
	shows("Connected, not live", "The gateway has the stream and sends it nowhere: its route has no targets.", []sdk.TargetState{}...)
	shows("Live", "cdn live", one)
	shows("Live in part", "cdn live; <b>two not working, because its server does not accept the stream key", one, two)
	shot(ctx, t, "targets")
	shows("Connected, not live", "<b>two not working, because its server does not accept the stream key", two)

	// choose chooses as a person does.
	choose := func(id, value string) {
		t.Helper()
		do(ctx, t, "choosing "+value, 10*time.Second, chromedp.Evaluate(fmt.Sprintf(
			`(() => { const e = document.getElementById(%q); if (e.disabled) throw new Error('disabled'); e.value = %q; e.dispatchEvent(new Event('change', { bubbles: true })); })()`, id, value), nil))
	}
	var before string
	size := `document.getElementById('preview').srcObject.getVideoTracks()[0].getSettings().width + ' ' + document.getElementById('preview').srcObject.getAudioTracks()[0].id`
	do(ctx, t, "looking", 10*time.Second, chromedp.Evaluate(size, &before))
	choose("size", "640x360")
	choose("sound", "music")
	choose("bitrate", "1000")
	now := before
	if !within(15*time.Second, func() bool {
		do(ctx, t, "looking", 10*time.Second, chromedp.Evaluate(size, &now))
		return strings.HasPrefix(now, "640 ") && strings.Fields(now)[1] != strings.Fields(before)[1]
	}) {
		t.Errorf("before the change %s, afterwards %s", before, now)
	}
	var sizes []string
	if !within(20*time.Second, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		sizes = slices.Clone(p.sizes)
		return len(sizes) > 0 && sizes[len(sizes)-1] == "640x360"
	}) {
		t.Errorf("the pictures came as %v", sizes)
	}
	if g.publication(1) != nil {
		t.Error("the change cost a new session")
	}
	do(ctx, t, "stopping", 30*time.Second, chromedp.Click("#stop"), chromedp.WaitVisible(`body[data-state="ended"]`))
}

// simulcast publishes three layers of a canvas.
const simulcast = `(async () => {
  const c = document.createElement('canvas');
  c.width = 640; c.height = 360;
  const g = c.getContext('2d');
  setInterval(() => { g.fillStyle = '#' + Math.random().toString(16).slice(2, 8); g.fillRect(0, 0, 640, 360); }, 33);
  const pc = window.pc = new RTCPeerConnection();
  pc.addTransceiver(c.captureStream(30).getVideoTracks()[0], {direction: 'sendonly', sendEncodings: [
    {rid: 'q', scaleResolutionDownBy: 4}, {rid: 'h', scaleResolutionDownBy: 2}, {rid: 'f'}]});
  await pc.setLocalDescription();
  if (!pc.localDescription.sdp.includes('a=simulcast')) throw new Error('no layers in the offer');
  const r = await fetch('/whip/studio', {method: 'POST', headers: {'Content-Type': 'application/sdp', Authorization: 'Bearer abc'}, body: pc.localDescription.sdp});
  await pc.setRemoteDescription({type: 'answer', sdp: await r.text()});
  return r.status;
})()`

// A publisher who offers layers is answered without, and his picture arrives.
func TestLayersAreDeclined(t *testing.T) {
	g, url := serve(t)
	ctx := browser(t)
	if err := chromedp.Run(ctx); err != nil {
		t.Fatal(err)
	}
	var status int
	do(ctx, t, "publishing", 30*time.Second, chromedp.Navigate(url+"/publish/studio"),
		chromedp.Evaluate(simulcast, &status, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	if status != 201 {
		t.Fatalf("status %d", status)
	}
	p := g.publication(0)
	until(t, "pictures", 30*time.Second, func() bool { v, _ := p.counts(); return v >= 20 })
}

func shot(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	dir := os.Getenv("GATEWAY_TEST_SHOTS")
	if dir == "" {
		return
	}
	var png []byte
	do(ctx, t, "taking a picture", 20*time.Second, chromedp.FullScreenshot(&png, 100))
	if err := os.WriteFile(dir+"/"+name+".png", png, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The page says in words what is wrong.
func TestPageSaysWhatIsWrong(t *testing.T) {
	_, url := serve(t)
	ctx := browser(t)
	if err := chromedp.Run(ctx); err != nil {
		t.Fatal(err)
	}
	var text string
	do(ctx, t, "being refused", 30*time.Second,
		chromedp.Navigate(url+"/publish/studio?source=canvas&start=1#token=wrong"),
		chromedp.WaitVisible(`body[data-state="failed"]`), chromedp.Text("#error", &text))
	if text != "The gateway does not accept this token." {
		t.Errorf("the page says %q", text)
	}
	// And asks for another one, where one types next.
	var at string
	do(ctx, t, "being asked for a token", 30*time.Second, chromedp.WaitVisible("#token"),
		chromedp.Evaluate(`document.activeElement.id`, &at))
	if at != "token" {
		t.Errorf("the focus is at %q", at)
	}
}

// pageState waits until the page is in a state.
func pageState(state string) chromedp.Action {
	return chromedp.WaitVisible(`body[data-state="`+state+`"]`, chromedp.ByQuery)
}

// counts are what has arrived of a publication.
func (p *publicationFake) counts() (video, audio int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.video, p.audio
}

// until waits for ok, asked every 50 ms.
func until(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// Sound alone, and picture alone, are enough; what is muted still flows, as silence
// and as black.
func TestPageSendsOneOfBoth(t *testing.T) {
	for _, c := range []struct {
		name, query, set string
		video, audio     bool
	}{
		{"sound only", "source=none", "", false, true},
		{"picture only", "source=camera", `document.querySelector('#microphone').value = 'none'`, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, url := serve(t)
			ctx := browser(t)
			if err := chromedp.Run(ctx); err != nil {
				t.Fatal(err)
			}
			do(ctx, t, "going live", 60*time.Second, chromedp.Navigate(url+"/publish/studio?"+c.query+"#token=abc"),
				chromedp.WaitVisible("#start"), chromedp.Evaluate(c.set+";0", nil), chromedp.Click("#start"), pageState("live"))
			p := g.publication(0)
			until(t, "media", 20*time.Second, func() bool {
				v, a := p.counts()
				return (v >= 30 || !c.video) && (a >= 50 || !c.audio)
			})
			button := "#muteSound"
			if c.video {
				button = "#mutePicture"
			}
			do(ctx, t, "muting", 10*time.Second, chromedp.Click(button), chromedp.WaitVisible(button+`[aria-pressed="true"]`))
			v0, a0 := p.counts()
			until(t, "media while muted", 20*time.Second, func() bool {
				v, a := p.counts()
				return (v >= v0+10 || !c.video) && (a >= a0+50 || !c.audio)
			})
			if v, a := p.counts(); v > 0 != c.video || a > 0 != c.audio {
				t.Errorf("%d pictures, %d packets of sound", v, a)
			}
			shot(ctx, t, "muted"+button[1:])
			do(ctx, t, "stopping", 30*time.Second, chromedp.Click("#stop"), pageState("ended"))
		})
	}
}

// Who looks before he starts sees himself and how loud it is, and every control can
// be reached and has a name.
func TestPagePreviewAndKeyboard(t *testing.T) {
	g, url := serve(t)
	ctx := browser(t)
	if err := chromedp.Run(ctx); err != nil {
		t.Fatal(err)
	}
	var shown string
	do(ctx, t, "looking", 60*time.Second, chromedp.Navigate(url+"/publish/studio?source=camera#token=a-b'c"),
		chromedp.WaitVisible("#look"), chromedp.Click("#look"), chromedp.WaitVisible("body[data-picture]"),
		chromedp.Poll(`document.querySelector('#level').getAttribute('aria-valuenow') > 0 && document.querySelector('#preview').videoWidth`, nil),
		chromedp.Click("#others summary"), chromedp.WaitVisible("#ffmpeg"), chromedp.Text("#ffmpeg", &shown))
	if g.publication(0) != nil {
		t.Error("looking publishes")
	}
	if !strings.Contains(shown, "-authorization TOKEN "+url+"/whip/studio") {
		t.Errorf("the command shows %s", shown)
	}
	shot(ctx, t, "preview")
	do(ctx, t, "showing the token", 10*time.Second, chromedp.Click("#withToken"), chromedp.Text("#ffmpeg", &shown))
	if !strings.Contains(shown, `-authorization 'a-b'\''c' `) {
		t.Errorf("the command with the token is %s", shown)
	}
	// As a screen reader sees it: every control that can be reached has a name.
	nodes, err := names(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"button Start", "button Preview", "combobox Picture", "combobox Camera", "combobox Size", "meter Level of the sound", "status "} {
		if !slices.ContainsFunc(nodes, func(n string) bool { return strings.HasPrefix(n, strings.TrimSuffix(want, "Preview")) }) {
			t.Errorf("%q is not among %q", want, nodes)
		}
	}
	for _, n := range nodes {
		if role, name, _ := strings.Cut(n, " "); name == "" && slices.Contains([]string{"button", "combobox", "textbox", "checkbox"}, role) {
			t.Errorf("a %s has no name", role)
		}
	}
	// With nothing but the keyboard: to the button, and press it.
	var at string
	do(ctx, t, "starting by the keyboard", 30*time.Second,
		chromedp.Evaluate(`document.querySelector('#token').value = 'abc'; document.querySelector('#start').focus(); 0`, nil),
		chromedp.KeyEvent(kb.Enter), pageState("live"), chromedp.Evaluate(`document.activeElement.id`, &at))
	if at != "stop" {
		t.Errorf("after Start the focus is at %q, want at Stop", at)
	}
	do(ctx, t, "stopping by the keyboard", 20*time.Second, chromedp.KeyEvent(kb.Enter), pageState("ended"))
}

// names are the roles and names of what a screen reader finds.
func names(ctx context.Context) ([]string, error) {
	// Decoded here: the library's type lacks some names of properties.
	type value struct {
		Value any `json:"value"`
	}
	var tree struct {
		Nodes []struct {
			Ignored bool  `json:"ignored"`
			Role    value `json:"role"`
			Name    value `json:"name"`
		} `json:"nodes"`
	}
	err := chromedp.Run(ctx, chromedp.ActionFunc(func(ctx context.Context) error {
		return cdp.Execute(ctx, accessibility.CommandGetFullAXTree, nil, &tree)
	}))
	var out []string
	for _, n := range tree.Nodes {
		if !n.Ignored {
			out = append(out, fmt.Sprintf("%v %v", n.Role.Value, n.Name.Value))
		}
	}
	return out, err
}

// The page shows once a second how the publication goes, in figures that make sense.
func TestPageFigures(t *testing.T) {
	_, url := serve(t)
	ctx := browser(t)
	if err := chromedp.Run(ctx); err != nil {
		t.Fatal(err)
	}
	do(ctx, t, "going live", 60*time.Second, chromedp.Navigate(url+"/publish/studio?source=camera&start=1#token=abc"), pageState("live"))
	var got map[string]string
	script := `Object.fromEntries([...document.querySelectorAll('#stats [id]')].map((e) => [e.id, e.checkVisibility() ? e.textContent : '(hidden)']))`
	for id, want := range map[string]string{
		"statRate": `^[1-9]\d* kb/s$|^\d+\.\d\d Mb/s$`, "statCodecs": `^H264, opus$`, "statPicture": `^\d+ × \d+$`, "statFrames": `^[1-9]\d* /s$`,
		"statRoundTrip": `^\d+ ms$`, "statLost": `^\d+\.\d %$`, "statLimit": `^(nothing|this computer|the network|the browser)$`,
	} {
		if !within(30*time.Second, func() bool {
			do(ctx, t, "reading", 10*time.Second, chromedp.Evaluate(script, &got))
			return regexp.MustCompile(want).MatchString(got[id])
		}) {
			t.Errorf("%s is %q, want %s; all: %q", id, got[id], want, got)
		}
	}
	t.Logf("%q", got)
	shot(ctx, t, "figures")
	do(ctx, t, "stopping", 30*time.Second, chromedp.Click("#stop"), pageState("ended"))
}

// The page notices within a few seconds that the gateway has no session any more,
// although packets still go, and publishes again: not before the gateway says, where it
// is busy, and the page says when.
func TestPagePublishesAgain(t *testing.T) {
	g, handler := serveHandler(t)
	var busy atomic.Bool
	refused := make(chan time.Time, 1)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && busy.CompareAndSwap(true, false) {
			w.Header().Set("Retry-After", "4")
			w.WriteHeader(http.StatusServiceUnavailable)
			refused <- time.Now()
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	url := web.URL
	ctx := browser(t)
	if err := chromedp.Run(ctx); err != nil {
		t.Fatal(err)
	}
	do(ctx, t, "going live", 60*time.Second, chromedp.Navigate(url+"/publish/studio?source=canvas&start=1#token=abc"), pageState("live"))
	first := g.publication(0)
	until(t, "pictures", 20*time.Second, func() bool { v, _ := first.counts(); return v >= 10 })
	busy.Store(true)
	from := time.Now()
	close(first.done) // the gateway sends him away
	do(ctx, t, "being told when", 30*time.Second, chromedp.Poll(`/Trying again in \d s/.test(document.querySelector('#error').textContent)`, nil))
	until(t, "another publication", 30*time.Second, func() bool { return g.publication(1) != nil })
	t.Logf("published again after %v", time.Since(from))
	// The clock of the page starts when the answer has reached it, and is a coarse one.
	if d := g.publication(1).opened.Sub(<-refused); d < 3900*time.Millisecond {
		t.Errorf("published again %v after it was told to wait for 4 s", d)
	}
	until(t, "its pictures", 20*time.Second, func() bool { v, _ := g.publication(1).counts(); return v >= 10 })
	do(ctx, t, "being live again", 20*time.Second, pageState("live"))
}

// A closed tab ends the publication at once, as lost.
func TestClosedTab(t *testing.T) {
	g, url := serve(t)
	ctx := browser(t)
	if err := chromedp.Run(ctx); err != nil {
		t.Fatal(err)
	}
	tab, cancel := chromedp.NewContext(ctx)
	defer cancel()
	if err := chromedp.Run(tab); err != nil {
		t.Fatal(err)
	}
	do(tab, t, "going live", 60*time.Second, chromedp.Navigate(url+"/publish/studio?source=canvas&start=1#token=abc"), pageState("live"))
	p := g.publication(0)
	until(t, "pictures", 20*time.Second, func() bool { v, _ := p.counts(); return v >= 10 })
	from := time.Now()
	if err := chromedp.Cancel(tab); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.closed:
		// By what its DTLS says: a killed browser is one whose connection is lost.
		if err == nil || !strings.Contains(err.Error(), "hung up") {
			t.Errorf("a closed tab ends the publication with %v", err)
		}
		t.Logf("noticed after %v: %v", time.Since(from), err)
	case <-time.After(60 * time.Second):
		t.Error("not noticed")
	}
}

// BenchmarkREMB is how soon Chromium is under a new limit, and back at 80 % of what it
// sent before once that is lifted.
func BenchmarkREMB(b *testing.B) {
	const limit = 400_000
	for b.Loop() {
		g, url := serve(b)
		ctx := browser(b)
		if err := chromedp.Run(ctx); err != nil {
			b.Fatal(err)
		}
		do(ctx, b, "going live", 30*time.Second, chromedp.Navigate(url+"/publish/studio?source=camera#token=abc"), chromedp.WaitVisible("#start"),
			chromedp.Click("#start"), chromedp.WaitVisible(`body[data-state="live"]`))
		p := g.publication(0)
		took := func(what string, ok func() bool) time.Duration {
			from := time.Now()
			if !within(60*time.Second, ok) {
				b.Fatalf("not %s: %.0f b/s", what, p.rate(time.Second))
			}
			return time.Since(from)
		}
		took("2 times the limit", func() bool { return p.rate(2*time.Second) > 2*limit })
		before := p.rate(2 * time.Second)
		p.offer.OnTargetBitrate(limit)
		under := took("under the limit", func() bool { return p.rate(time.Second) <= limit })
		time.Sleep(3 * time.Second)
		held := p.rate(2 * time.Second)
		p.offer.OnTargetBitrate(0)
		back := took("back", func() bool { return p.rate(time.Second) >= 0.8*before })
		b.ReportMetric(before/1000, "before-kb/s")
		b.ReportMetric(float64(under.Milliseconds()), "under-ms")
		b.ReportMetric(held/1000, "held-kb/s")
		b.ReportMetric(float64(back.Milliseconds()), "back-ms")
	}
}
