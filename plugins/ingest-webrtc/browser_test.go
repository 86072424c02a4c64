package webrtc

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

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

func (p *publicationFake) ReportSilence(bool) {}

func (p *publicationFake) ReportStats(s sdk.IngestStats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats = s
}
func (p *publicationFake) Done() <-chan struct{} { return p.done }
func (p *publicationFake) Err() error            { return nil }
func (p *publicationFake) Close(lost error)      { p.closed <- lost }

func browser(t *testing.T, flags ...chromedp.ExecAllocatorOption) context.Context {
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
	chromedp.ListenTarget(ctx, func(ev any) {
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

func serve(t *testing.T) (*gatewayFake, string) {
	t.Helper()
	g := &gatewayFake{}
	s, err := session.Listen(session.Config{UDP: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)}, g)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	web := httptest.NewServer(handler(s))
	t.Cleanup(func() {
		web.Close()
		cancel()
		wg.Wait()
	})
	return g, web.URL
}

func do(ctx context.Context, t *testing.T, what string, limit time.Duration, actions ...chromedp.Action) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
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
			time.Sleep(6 * time.Second) // what is watched takes this long
			shot(ctx, t, "live-"+c.source)
			do(ctx, t, "stopping", 10*time.Second, chromedp.Click("#stop"), chromedp.WaitVisible(`body[data-state="ended"]`))
			p := g.publication(0)
			select {
			case err := <-p.closed:
				if err != nil {
					t.Errorf("Stop closed the publication with %v", err)
				}
			case <-time.After(5 * time.Second):
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
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		p.mu.Lock()
		n, sizes := p.video, p.sizes
		p.mu.Unlock()
		if n >= 20 {
			t.Logf("%d pictures of %v", n, sizes)
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d pictures of %v in 10 s", n, sizes)
		}
	}
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
