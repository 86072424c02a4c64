package peers

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Chromium is a headless browser with one page. Its methods are called from the
// goroutine of the test.
type Chromium struct {
	ctx  context.Context
	proc *Process
}

// StartChromium starts a headless browser with fake camera and microphone. The
// fake devices are granted without a question; peer connections may use
// loopback.
func StartChromium(t testing.TB) *Chromium {
	t.Helper()
	path := Find(t, "chromium")
	profile := Scratch(t)
	proc := Start(t, Command{Name: "chromium", Path: path, Args: []string{
		"--headless=new", "--remote-debugging-port=0", "--user-data-dir=" + profile,
		"--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--no-default-browser-check",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-breakpad",
		"--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding",
		"--mute-audio", "--log-level=3", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream=fps=30",
		"--autoplay-policy=no-user-gesture-required", "--allow-loopback-in-peer-connection", "about:blank",
	}})
	ws := proc.Match(t, 60*time.Second, `DevTools listening on (ws://\S+)`)[1]
	alloc, cancelAlloc := chromedp.NewRemoteAllocator(context.Background(), ws, chromedp.NoModifyURL)
	ctx, cancel := chromedp.NewContext(alloc, chromedp.WithErrorf(t.Logf))
	c := &Chromium{ctx: ctx, proc: proc}
	t.Cleanup(func() {
		proc.Kill()
		cancel()
		cancelAlloc()
	})
	// The context of the first call is the life of the page: it has no deadline.
	err := chromedp.Run(ctx, chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := page.AddScriptToEvaluateOnNewDocument(keepPeerConnections).Do(ctx)
		return err
	}))
	if err != nil {
		t.Fatalf("opening a page: %v", err)
	}
	return c
}

// keepPeerConnections makes the page's peer connections known to Stats.
const keepPeerConnections = `(() => {
  const Native = window.RTCPeerConnection;
  if (!Native) return;
  window.testPeerConnections = [];
  window.RTCPeerConnection = class extends Native {
    constructor(...args) { super(...args); window.testPeerConnections.push(this); }
  };
})();`

// Open loads a page and waits until it has loaded.
func (c *Chromium) Open(t testing.TB, url string) {
	t.Helper()
	c.run(t, time.Minute, "opening "+url, chromedp.Navigate(url))
}

// Eval runs an expression in the page, awaits its promise and decodes its value
// into out, unless out is nil.
func (c *Chromium) Eval(t testing.TB, expression string, out any) {
	t.Helper()
	if err := c.TryEval(expression, out); err != nil {
		t.Fatalf("running in the page: %s: %v", expression, err)
	}
}

// TryEval is Eval that returns the error.
func (c *Chromium) TryEval(expression string, out any) error {
	ctx, cancel := context.WithTimeout(c.ctx, 30*time.Second)
	defer cancel()
	var raw []byte
	await := func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }
	err := chromedp.Run(ctx, chromedp.Evaluate(`(async () => JSON.stringify((await (`+expression+`)) ?? null))()`, &raw, await))
	if err != nil || out == nil {
		return err
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return fmt.Errorf("reading the value: %w", err)
	}
	return json.Unmarshal([]byte(text), out)
}

// Click clicks the first element that the selector matches, once it is visible.
func (c *Chromium) Click(t testing.TB, selector string) {
	t.Helper()
	// A page that is drawn anew may take the element away while it is looked for.
	Wait(t, time.Minute, "a click on "+selector, func() error {
		ctx, cancel := context.WithTimeout(c.ctx, 30*time.Second)
		defer cancel()
		return chromedp.Run(ctx, chromedp.Click(selector, chromedp.ByQuery))
	})
}

// Text returns the visible text of the page.
func (c *Chromium) Text(t testing.TB) string {
	t.Helper()
	var s string
	c.Eval(t, "document.body.innerText", &s)
	return s
}

// A VideoSender is what getStats says of the video that the page sends.
type VideoSender struct {
	Width     int     `json:"frameWidth"`
	Height    int     `json:"frameHeight"`
	Frames    int     `json:"framesEncoded"`
	KeyFrames int     `json:"keyFramesEncoded"`
	PLI       int     `json:"pliCount"`
	NACK      int     `json:"nackCount"`
	FPS       float64 `json:"framesPerSecond"`
	State     string  `json:"state"` // of the peer connection
}

// VideoSender returns the figures of the newest peer connection of the page; an
// error while there is none that sends video.
func (c *Chromium) VideoSender() (VideoSender, error) {
	var v *VideoSender
	err := c.TryEval(`(async () => {
    const pc = (window.testPeerConnections || []).at(-1);
    if (!pc) return null;
    let found = null;
    (await pc.getStats()).forEach(s => { if (s.type === 'outbound-rtp' && s.kind === 'video') found = {...s}; });
    if (found) found.state = pc.connectionState;
    return found;
  })()`, &v)
	if err != nil {
		return VideoSender{}, err
	}
	if v == nil {
		return VideoSender{}, fmt.Errorf("the page sends no video")
	}
	return *v, nil
}

// ScaleVideo has the newest peer connection send its pictures smaller by a factor,
// as a browser does by itself when it lacks bandwidth or CPU; 1 is full size.
func (c *Chromium) ScaleVideo(t testing.TB, factor float64) {
	t.Helper()
	c.Eval(t, fmt.Sprintf(`(async () => {
    const sender = window.testPeerConnections.at(-1).getSenders().find(s => s.track?.kind === 'video');
    const p = sender.getParameters();
    p.encodings[0].scaleResolutionDownBy = %g;
    await sender.setParameters(p);
  })()`, factor), nil)
}

// PeerConnections returns how many peer connections the page has made so far,
// and the state of the newest.
func (c *Chromium) PeerConnections(t testing.TB) (n int, state string) {
	t.Helper()
	var v struct {
		N     int
		State string
	}
	c.Eval(t, `({N: (window.testPeerConnections || []).length, State: (window.testPeerConnections || []).at(-1)?.connectionState || ''})`, &v)
	return v.N, v.State
}

// Kill ends the browser by SIGKILL: a publisher that is lost.
func (c *Chromium) Kill() { c.proc.Kill() }

func (c *Chromium) run(t testing.TB, d time.Duration, what string, actions ...chromedp.Action) {
	t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, d)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
