package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/whipclient"
	"github.com/headgate/gateway/plugins/ingest-webrtc/session"
	"github.com/headgate/gateway/plugins/ingest-webrtc/whip"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const goodToken = "open-sesame"

// patience is how long anything may take on a busy machine.
const patience = time.Minute

// A host accepts the one token and keeps what is published.
type host struct {
	mu     sync.Mutex
	offers int
	pubs   []*publication
	// carried is what publications say that the targets carry.
	carried []media.Codec
}

func (h *host) Offer(_ context.Context, o sdk.Offer) (session.Publication, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.offers++
	if o.Credentials.Reveal() != goodToken {
		return nil, &sdk.RejectedError{Reason: sdk.Unauthenticated, Message: "wrong token"}
	}
	p := &publication{offer: o, codecs: h.carried, done: make(chan struct{}), closed: make(chan error, 1), changed: make(chan struct{}, 1)}
	h.pubs = append(h.pubs, p)
	return p, nil
}

func (h *host) last() *publication {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pubs[len(h.pubs)-1]
}

type publication struct {
	offer   sdk.Offer
	codecs  []media.Codec
	done    chan struct{}
	closed  chan error
	changed chan struct{}

	mu       sync.Mutex
	tracks   [][]media.Track
	units    []*media.AccessUnit
	at       []int // len(tracks) when each unit came
	stats    sdk.IngestStats
	silences []silence
}

// A silence is a report that media have stopped, or go on.
type silence struct {
	silent bool
	at     time.Time
}

func (p *publication) note() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *publication) SetTracks(t []media.Track) {
	p.mu.Lock()
	p.tracks = append(p.tracks, t)
	p.mu.Unlock()
	p.note()
}

func (p *publication) WriteAccessUnit(u *media.AccessUnit) {
	p.mu.Lock()
	p.units = append(p.units, u)
	p.at = append(p.at, len(p.tracks))
	p.mu.Unlock()
	p.note()
}

func (p *publication) ReportStats(s sdk.IngestStats) {
	p.mu.Lock()
	p.stats = s
	p.mu.Unlock()
	p.note()
}
func (p *publication) ReportSilence(silent bool) {
	p.mu.Lock()
	p.silences = append(p.silences, silence{silent, time.Now()})
	p.mu.Unlock()
	p.note()
}
func (p *publication) Codecs() []media.Codec { return p.codecs }
func (p *publication) Targets() ([]sdk.TargetState, bool) {
	return []sdk.TargetState{{Name: "cdn", State: sdk.TargetWaiting, Reason: "its server does not answer"}}, true
}
func (p *publication) Done() <-chan struct{} { return p.done }
func (p *publication) Err() error            { return errors.New("taken over") }
func (p *publication) Close(lost error) {
	p.closed <- lost
}

// wait returns when ok is true of p.
func (p *publication) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		done := ok()
		p.mu.Unlock()
		if done {
			return
		}
		select {
		case <-p.changed:
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (p *publication) count(id media.TrackID) int {
	n := 0
	for _, u := range p.units {
		if u.Track == id {
			n++
		}
	}
	return n
}

type gateway struct {
	host *host
	url  string
	port net.Addr
}

func start(t *testing.T) gateway {
	t.Helper()
	return startWith(t, session.Config{UDP: "127.0.0.1:0"})
}

func startWith(t testing.TB, cfg session.Config) gateway {
	t.Helper()
	h := &host{}
	log := slog.New(slog.NewTextHandler(writer{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	cfg.Log = log
	s, err := session.Listen(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	web := httptest.NewServer(whip.NewHandler(s, log))
	t.Cleanup(func() {
		web.Close()
		http.DefaultClient.CloseIdleConnections()
		cancel()
		wg.Wait()
	})
	return gateway{host: h, url: web.URL + "/whip/studio", port: s.Addr()}
}

type writer struct{ t testing.TB }

func (w writer) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

var card = sync.OnceValues(clip.Load)

func config(t testing.TB, g gateway) whipclient.Config {
	t.Helper()
	c, err := card()
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	return whipclient.Config{
		URL: g.url, Token: secret.New(goodToken), HTTP: &http.Client{Transport: transport},
		Video:  &whipclient.Media{Track: c.Tracks[0], Units: c.Units(clip.VideoTrack)},
		Audio:  &whipclient.Media{Track: c.Tracks[1], Units: c.Units(clip.AudioTrack)},
		Length: clip.Duration, Timing: true,
	}
}

// A running publisher of the test card.
type running struct {
	*whipclient.Publisher
	stop func()
}

func publish(t testing.TB, cfg whipclient.Config) running {
	t.Helper()
	p, err := whipclient.Publish(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := run(t, p)
	t.Cleanup(func() {
		r.stop()
		p.Close()
	})
	return r
}

// run lets a publisher send until it is stopped.
func run(t testing.TB, p *whipclient.Publisher) running {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = p.Run(ctx) })
	return running{p, sync.OnceFunc(func() { cancel(); wg.Wait() })}
}

func ended(t *testing.T, p *publication) error {
	t.Helper()
	select {
	case err := <-p.closed:
		return err
	case <-time.After(patience):
		t.Fatal("the publication was not closed")
		return nil
	}
}

// A publisher's pictures and sound arrive as they were sent, in the normal form,
// on one clock, and DELETE ends the publication cleanly.
func TestPublish(t *testing.T) {
	g := start(t)
	r := publish(t, config(t, g))
	p := g.host.last()
	p.wait(t, "media", func() bool { return p.count(1) >= 60 && p.count(2) >= 100 })
	r.stop()
	if err := r.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if err := ended(t, p); err != nil {
		t.Errorf("DELETE closed the publication with %v", err)
	}
	checkTracks(t, p)
	checkUnits(t, p)
	if err := r.Delete(t.Context()); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a second DELETE: %v, want 404", err)
	}
}

func checkTracks(t *testing.T, p *publication) {
	t.Helper()
	first := p.tracks[0]
	if len(first) != 2 || first[0].Codec != media.H264 || len(first[0].DecoderConfig) != 0 || !first[1].Complete() || first[1].Channels != 2 {
		t.Errorf("announced at first: %+v", first)
	}
	last := p.tracks[len(p.tracks)-1]
	c, _ := card()
	if v := last[0]; v.Width != clip.Width || v.Height != clip.Height || !slices.Equal(v.DecoderConfig, c.Tracks[0].DecoderConfig) {
		t.Errorf("video track %+v, want %+v", v, c.Tracks[0])
	}
	if len(p.tracks) != 2 {
		t.Errorf("tracks were announced %d times, want 2", len(p.tracks))
	}
}

func checkUnits(t *testing.T, p *publication) {
	t.Helper()
	c, _ := card()
	known := map[media.TrackID]map[string]time.Duration{1: {}, 2: {}}
	const repeated = -1 // the same bytes at several times: silence
	for _, u := range append(c.Units(clip.VideoTrack), c.Units(clip.AudioTrack)...) {
		if _, twice := known[u.Track][string(u.Payload)]; twice {
			u.PTS = repeated
		}
		known[u.Track][string(u.Payload)] = u.PTS
	}
	last := map[media.TrackID]time.Duration{1: -time.Hour, 2: -time.Hour}
	// The distance of each unit's time from the content's: the same for both tracks.
	var shift [3][]time.Duration
	// How much later each unit came than by the pace of its track.
	var late [3][]time.Duration
	pace := [3]time.Duration{1: time.Second / clip.FrameRate, 2: c.Units(clip.AudioTrack)[0].Duration}
	for i, u := range p.units {
		if u.DTS <= last[u.Track] || u.PTS != u.DTS {
			t.Errorf("unit %d of track %d: DTS %v after %v, PTS %v", i, u.Track, u.DTS, last[u.Track], u.PTS)
		}
		last[u.Track] = u.DTS
		late[u.Track] = append(late[u.Track], u.Received.Sub(p.units[0].Received)-time.Duration(len(late[u.Track]))*pace[u.Track])
		payload := u.Payload
		if u.Track == 1 {
			nalus, err := h264.SplitLengthPrefixed(nil, payload)
			if err != nil {
				t.Fatalf("unit %d: %v", i, err)
			}
			if _, ok := whipclient.FindTiming(payload); !ok {
				t.Errorf("unit %d has lost its SEI", i)
			}
			payload = h264.AppendLengthPrefixed(nil, nalus[1:]...)
			if p.at[i] < 2 {
				t.Errorf("unit %d came before its decoder config", i)
			}
		}
		pts, ok := known[u.Track][string(payload)]
		if !ok {
			t.Fatalf("unit %d of track %d is none that was sent", i, u.Track)
		}
		if u.Discontinuity {
			t.Errorf("unit %d of track %d is marked discontinuous", i, u.Track)
		}
		if pts == repeated {
			continue
		}
		shift[u.Track] = append(shift[u.Track], u.PTS-pts)
	}
	v, a := median(shift[1]), median(shift[2])
	// What the machine held up, nobody can tell from what was sent late.
	heldUp := max(spread(late[1]), spread(late[2]))
	t.Logf("%d pictures, %d packets of sound, apart by %v; held up by up to %v", len(shift[1]), len(shift[2]), v-a, heldUp)
	if d := v - a; d.Abs() > 25*time.Millisecond+heldUp {
		t.Errorf("picture and sound are apart by %v", d)
	}
	if !p.units[slices.IndexFunc(p.units, func(u *media.AccessUnit) bool { return u.Track == 1 })].RandomAccess {
		t.Error("the first picture is no random access point")
	}
}

func median(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}

func spread(d []time.Duration) time.Duration { return slices.Max(d) - slices.Min(d) }

// keys are the places of the key pictures among the pictures, and when they came.
func (p *publication) keys() (places []int, came []time.Time) {
	n := 0
	for _, u := range p.units {
		if u.Track != 1 {
			continue
		}
		if u.RandomAccess {
			places, came = append(places, n), append(came, u.Received)
		}
		n++
	}
	return places, came
}

// A keyframe that is asked for comes before the publisher's next one would have come.
func TestKeyframeRequest(t *testing.T) {
	g := start(t)
	r := publish(t, config(t, g))
	p := g.host.last()
	const settled = 40 // what was asked for when the connection stood has come
	p.wait(t, "pictures", func() bool { return p.count(1) >= settled })
	p.wait(t, "a key picture out of turn", func() bool {
		places, _ := p.keys()
		for i := 1; i < len(places); i++ {
			if places[i-1] >= settled && places[i]-places[i-1] < clip.FrameRate {
				return true
			}
		}
		p.offer.OnKeyframeRequest(0) // again: it may have come to nothing, as one was due
		return false
	})
	if r.Stats().KeyframeRequests == 0 {
		t.Error("the publisher was not asked")
	}
}

// oneGroup makes one group out of the pictures: only the first is a key picture.
func oneGroup(units []*media.AccessUnit) []*media.AccessUnit {
	out := slices.Clone(units[:clip.FrameRate])
	for n := clip.FrameRate; n < len(units); n++ {
		u := units[1+n%(clip.FrameRate-1)].Clone()
		u.DTS, u.PTS = units[n].DTS, units[n].PTS
		out = append(out, u)
	}
	return out
}

// A publisher who starts within a group of pictures is asked for a random access
// point as soon as the connection stands.
func TestFirstKeyframeIsAskedFor(t *testing.T) {
	g := start(t)
	cfg := config(t, g)
	units := oneGroup(cfg.Video.Units) // or the next one might come before the request
	cfg.Video.Units = slices.Concat(units[1:], units[:1])
	base := units[1].DTS
	for i, u := range cfg.Video.Units {
		u.DTS, u.PTS = base+time.Duration(i)*time.Second/30, base+time.Duration(i)*time.Second/30
	}
	r := publish(t, cfg)
	p := g.host.last()
	p.wait(t, "a picture", func() bool { return p.count(1) >= 1 })
	d := time.Since(r.Posted())
	t.Logf("first picture %v after POST", d)
	if r.Stats().KeyframeRequests == 0 {
		t.Error("the publisher was not asked")
	}
}

// A publisher who sends no random access points by himself is asked for them.
func TestKeyframesAreKeptComing(t *testing.T) {
	g := start(t)
	cfg := config(t, g)
	cfg.Video.Units = oneGroup(cfg.Video.Units) // of ten seconds
	r := publish(t, cfg)
	p := g.host.last()
	var gaps []time.Duration
	p.wait(t, "key pictures", func() bool {
		_, came := p.keys()
		gaps = nil
		for i := 1; i < len(came); i++ {
			gaps = append(gaps, came[i].Sub(came[i-1]))
		}
		return len(gaps) >= 4
	})
	t.Logf("key pictures came at distances of %v", gaps) // the first ones of when the connection stood
	if n := r.Stats().KeyframeRequests; n < 3 || slices.Max(gaps) < 2*time.Second {
		t.Errorf("%d requests, key pictures at distances of %v; want one about every 2.1 s", n, gaps)
	}
}

// Packets lost on the way are asked for and come again.
func TestLostPacketsComeAgain(t *testing.T) {
	g := start(t)
	cfg := config(t, g)
	cfg.LoseEvery = 25
	publish(t, cfg)
	p := g.host.last()
	p.wait(t, "media", func() bool {
		return p.count(1) >= 90 && p.count(2) >= 150 && p.stats.Values["rtp_packets_recovered"] >= 10
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	missing := 0
	for _, u := range p.units {
		// Sound is not retransmitted: its offer has no nack.
		if u.Track == 1 && u.Discontinuity {
			missing++
		}
	}
	// A busy machine is too late for some.
	if recovered := p.stats.Values["rtp_packets_recovered"]; float64(missing) > recovered/2 {
		t.Errorf("pictures are missing at %d places, and %v packets came again", missing, recovered)
	}
	t.Logf("missing at %d places, %+v", missing, p.stats)
}

// Where they do not come again, the pictures go on at a random access point that
// is asked for.
func TestLossIsRepairedByAKeyPicture(t *testing.T) {
	g := start(t)
	cfg := config(t, g)
	cfg.LoseEvery, cfg.WithoutRetransmission = 60, true
	r := publish(t, cfg)
	p := g.host.last()
	undecodable := 0
	p.wait(t, "two losses, and requests for key pictures", func() bool {
		n := 0
		undecodable = 0
		for _, u := range p.units {
			if u.Track == 1 && u.Discontinuity {
				n++
				if !u.RandomAccess {
					undecodable++
				}
			}
		}
		return n >= 2 && r.Stats().KeyframeRequests >= 2
	})
	if undecodable > 0 {
		t.Errorf("%d times the first picture after a loss is no random access point", undecodable)
	}
}

var quiet = slog.New(slog.DiscardHandler)

func contextDone() (context.Context, context.CancelFunc) {
	return context.WithCancel(context.Background())
}

// chromiumOffer is an offer that is taken.
func chromiumOffer(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "negotiate", "testdata", "chromium-156-opus-h264.sdp"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Damaged offers are refused or come to nothing, and leave nothing behind.
func TestGarbageOffers(t *testing.T) {
	g := start(t)
	b, err := os.ReadFile(filepath.Join("..", "negotiate", "testdata", "chromium-156-opus-h264.sdp"))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	counts := map[int]int{}
	for i := range 150 {
		lines := strings.SplitAfter(string(b), "\n")
		for range 1 + r.IntN(3) {
			i := r.IntN(len(lines))
			switch r.IntN(4) {
			case 0:
				lines = slices.Delete(lines, i, i+1)
			case 1:
				lines = slices.Insert(lines, i, lines[r.IntN(len(lines))])
			case 2:
				lines[i] = lines[i][:r.IntN(len(lines[i]))]
			default:
				x := []byte(lines[i])
				if len(x) > 0 {
					x[r.IntN(len(x))] = byte(r.Uint32())
				}
				lines[i] = string(x)
			}
		}
		status, header, body := post(t, fmt.Sprintf("%s-%d", g.url, i), strings.Join(lines, ""))
		counts[status]++
		switch {
		case status >= 500:
			t.Errorf("%d %s", status, body)
		case status >= 400 && header.Get("Content-Type") != "application/problem+json":
			t.Errorf("%d without a problem document: %s", status, body)
		}
	}
	t.Logf("answers by status: %v", counts)
}

// However many addresses the machine has, one port serves them; public addresses
// stand in for them where they are told.
func TestPortOnAllAddresses(t *testing.T) {
	b := chromiumOffer(t)
	for _, c := range []struct {
		udp    string
		public []string
		want   string
	}{{":0", nil, "typ host"}, {"0.0.0.0:0", nil, "typ host"}, {"127.0.0.1:0", []string{"192.0.2.77"}, " 192.0.2.77 "}} {
		g := startWith(t, session.Config{UDP: c.udp, PublicIPs: c.public})
		status, _, answer := post(t, g.url, b)
		if status != http.StatusCreated || !strings.Contains(answer, c.want) || strings.Contains(answer, " 127.0.0.1 ") && c.public != nil {
			t.Errorf("%+v: %d\n%s", c, status, answer)
		}
	}
	if _, err := session.Listen(session.Config{UDP: "127.0.0.1:0", PublicIPs: []string{"nonsense"}, Log: slog.New(slog.DiscardHandler)}, nil); err == nil {
		t.Error("nonsense passes as an address")
	}
	if _, err := session.Listen(session.Config{UDP: "nonsense", Log: slog.New(slog.DiscardHandler)}, nil); err == nil {
		t.Error("nonsense passes as a port")
	}
}

// However a publisher goes without DELETE, the publication is closed as lost.
func TestLost(t *testing.T) {
	g := start(t)
	t.Run("closed tab", func(t *testing.T) {
		r := publish(t, config(t, g))
		p := g.host.last()
		p.wait(t, "media", func() bool { return p.count(1) >= 3 })
		r.stop()
		r.Close()
		if err := ended(t, p); err == nil {
			t.Error("a closed tab counts as goodbye")
		}
	})
	t.Run("killed", func(t *testing.T) {
		r := publish(t, config(t, g))
		p := g.host.last()
		p.wait(t, "media", func() bool { return p.count(1) >= 3 })
		r.stop()
		from := time.Now()
		r.Vanish()
		if err := ended(t, p); err == nil {
			t.Error("a vanished publisher counts as goodbye")
		}
		// 10 s, and what a busy machine takes; ICE by itself takes half a minute.
		if d := time.Since(from); d > 25*time.Second {
			t.Errorf("noticed after %v", d)
		}
	})
	t.Run("taken over", func(t *testing.T) {
		r := publish(t, config(t, g))
		p := g.host.last()
		p.wait(t, "media", func() bool { return p.count(1) >= 3 })
		close(p.done)
		if err := ended(t, p); err == nil {
			t.Error("a takeover counts as goodbye")
		}
		if err := r.Delete(t.Context()); err == nil || !strings.Contains(err.Error(), "404") {
			t.Errorf("DELETE of a session that was taken over: %v", err)
		}
	})
}

// Who may not publish costs nothing.
func TestWrongTokenAllocatesNothing(t *testing.T) {
	g := start(t)
	cfg := config(t, g)
	cfg.Token = secret.New("wrong")
	before := runtime.NumGoroutine()
	for range 8 {
		_, err := whipclient.Publish(t.Context(), cfg)
		var refused *whipclient.StatusError
		if !errors.As(err, &refused) || refused.Status != http.StatusUnauthorized || refused.Header.Get("WWW-Authenticate") == "" {
			t.Fatalf("error %v, want 401 with a challenge", err)
		}
	}
	g.host.mu.Lock()
	defer g.host.mu.Unlock()
	if len(g.host.pubs) != 0 || g.host.offers != 8 {
		t.Errorf("%d publications from %d offers", len(g.host.pubs), g.host.offers)
	}
	// A peer connection has a dozen. Those of the requests are about to end.
	if after := runtime.NumGoroutine(); after > before+40 {
		t.Errorf("%d goroutines, %d before", after, before)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); runtime.NumGoroutine() > before+5; {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// One stream has room for its publisher and a few who take it over.
func TestPlacesPerStream(t *testing.T) {
	g := start(t)
	b, err := os.ReadFile(filepath.Join("..", "negotiate", "testdata", "chromium-156-opus-h264.sdp"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 9 {
		status, header, body := post(t, g.url, string(b))
		switch {
		case i < 8 && status != http.StatusCreated:
			t.Errorf("publisher %d: %d %s", i, status, body)
		case i == 8 && (status != http.StatusTooManyRequests || header.Get("Retry-After") == ""):
			t.Errorf("one too many: %d %v %s", status, header, body)
		}
	}
	if status, _, body := post(t, g.url+"-other", string(b)); status != http.StatusCreated {
		t.Errorf("another stream: %d %s", status, body)
	}
}

// What all targets of the route carry is received where H.264 is not offered.
func TestCodecsOfTheRoute(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "negotiate", "testdata", "firefox-esr-153-no-h264.sdp"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		carried []media.Codec
		want    string // in the answer; empty for a refusal
		codec   media.Codec
	}{
		{nil, "", ""},
		{[]media.Codec{media.H264, media.Opus}, "", ""},
		{[]media.Codec{media.VP9, media.Opus}, "VP9/90000", media.VP9},
		{[]media.Codec{media.VP8, media.VP9, media.AV1, media.Opus}, "AV1/90000", media.AV1},
	} {
		g := start(t)
		g.host.carried = c.carried
		status, _, answer := post(t, g.url, string(b))
		if c.want == "" {
			if status != http.StatusUnprocessableEntity || !strings.Contains(answer, "this route needs H264") {
				t.Errorf("%v: %d %s", c.carried, status, answer)
			}
			continue
		}
		if status != http.StatusCreated || !strings.Contains(answer, c.want) || strings.Contains(answer, "H264") || strings.Contains(answer, "VP8") {
			t.Errorf("%v: %d %s", c.carried, status, answer)
			continue
		}
		if p := g.host.last(); p.tracks[0][0].Codec != c.codec {
			t.Errorf("%v: announced %+v", c.carried, p.tracks[0])
		}
	}
}

// An offer that is refused never reaches the gateway: it must not end a
// publication of the same name.
func TestUnusableOfferIsRefusedBeforeTheGatewayIsAsked(t *testing.T) {
	g := start(t)
	res, err := http.Post(g.url, "application/sdp", strings.NewReader("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, _ := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(b), "urn:headgate:whip:no-media") {
		t.Errorf("%d %s", res.StatusCode, b)
	}
	if g.host.offers != 0 {
		t.Error("the gateway was asked")
	}
}

// The gateway is told by which way the publisher comes, and how his media are protected.
func TestInfo(t *testing.T) {
	g := start(t)
	publish(t, config(t, g))
	pub := g.host.last()
	pub.wait(t, "what is no figure", func() bool { return pub.stats.Info["ice_protocol"] != "" })
	pub.mu.Lock()
	defer pub.mu.Unlock()
	info := pub.stats.Info
	if info["ice_protocol"] != "udp" || info["ice_local"] != "host" || info["ice_remote"] == "" ||
		info["dtls_cipher"] != "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" || info["srtp_cipher"] != "AEAD_AES_128_GCM" {
		t.Errorf("%v", info)
	}
}

// A publisher who is connected and sends nothing is reported long before he is given
// up, and when he sends again.
func TestSilence(t *testing.T) {
	g := start(t)
	p, err := whipclient.Publish(t.Context(), config(t, g))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	first := run(t, p)
	pub := g.host.last()
	pub.wait(t, "media", func() bool { return pub.count(1) > 0 && pub.count(2) > 0 })
	first.stop()
	// A machine that stands still for half a second is reported as well: what counts is
	// how it is now.
	silent := func(want bool) func() bool {
		return func() bool {
			n := len(pub.silences)
			return n > 0 && pub.silences[n-1].silent == want
		}
	}
	quiet := time.Duration(0)
	pub.wait(t, "silence", func() bool {
		if !silent(true)() {
			return false
		}
		quiet = pub.silences[len(pub.silences)-1].at.Sub(pub.units[len(pub.units)-1].Received)
		return quiet > 0 // not of a moment before
	})
	t.Logf("silence was reported %v after the last unit", quiet)
	if quiet < 500*time.Millisecond {
		t.Errorf("silence was reported %v after the last unit, want half a second", quiet)
	}
	pub.wait(t, "the figure", func() bool { return pub.stats.Values["silent"] == 1 })
	again := run(t, p)
	defer again.stop()
	pub.wait(t, "sound", silent(false))
	select {
	case err := <-pub.closed:
		t.Errorf("the publication was closed with %v", err)
	default:
	}
}

// What publishers are asked not to exceed stands in the answer; who sends more than
// twice that is sent away.
func TestMaxBitrate(t *testing.T) {
	const most = 200_000 // the card has more than twice that
	g := startWith(t, session.Config{UDP: "127.0.0.1:0", MaxBPS: most})
	status, header, answer := post(t, g.url, chromiumOffer(t))
	if status != http.StatusCreated || !strings.Contains(answer, "b=TIAS:200000\r\n") || !strings.Contains(answer, "b=AS:200\r\n") {
		t.Errorf("%d %s", status, answer)
	}
	remove(t, strings.TrimSuffix(g.url, "/whip/studio")+header.Get("Location"))
	publish(t, config(t, g))
	if err := ended(t, g.host.last()); err == nil || !strings.Contains(err.Error(), "max_bitrate") {
		t.Errorf("ended with %v", err)
	}
}
