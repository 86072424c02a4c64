package core

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plugins is a host whose plugins are functions: egresses that take everything,
// a transform that copies, an ingest that offers.
type plugins struct {
	offers  pluginhost.Offers
	isolate func(stream string) string
	fail    error // of Run, at once
	slow    bool  // sessions that are closed do not end before the host does

	mu     sync.Mutex // guards the fields below
	events []string
	needed []string
	open   map[*conn]bool
}

func (p *plugins) log(format string, a ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, fmt.Sprintf(format, a...))
}

func (p *plugins) Run(ctx context.Context) error {
	if p.fail != nil {
		return p.fail
	}
	<-ctx.Done()
	p.log("host ends")
	p.mu.Lock()
	var left []*conn
	for c := range p.open {
		left = append(left, c)
	}
	p.mu.Unlock()
	for _, c := range left {
		c.end(pluginhost.End{})
	}
	return nil
}

func (p *plugins) Need(name, route string) {
	p.needed = append(p.needed, strings.TrimSpace(name+" "+route))
}

func (p *plugins) Ready(string) <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func (p *plugins) Renew(_ context.Context, name string, files map[string][]byte) error {
	p.log("renew %s: %s", name, files["tls.cert"])
	return nil
}

func (p *plugins) Mounts() []pluginhost.Mount {
	return []pluginhost.Mount{{Prefix: "/whip/", Plugin: "ingest-webrtc"}}
}

func (p *plugins) Status() []pluginhost.Status {
	return []pluginhost.Status{{Name: "ingest-webrtc", State: pluginhost.Ready, PID: 7}, {Name: "egress-rtmp", State: pluginhost.Ready}}
}

// conn is a session of any kind.
type conn struct {
	p    *plugins
	name string
	h    pluginhost.SessionHandler
	src  pluginhost.Source
	copy bool // a transform
	wake chan struct{}
	stop chan struct{}
	once sync.Once
	told [][]pluginhost.TargetState // guarded by p.mu
}

func (p *plugins) start(name string, h pluginhost.SessionHandler, src pluginhost.Source) *conn {
	c := &conn{p: p, name: name, h: h, src: src, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	p.mu.Lock()
	p.open[c] = true
	p.mu.Unlock()
	p.log("open %s", name)
	return c
}

func (p *plugins) OpenEgress(_ string, spec pluginhost.EgressSpec, h pluginhost.SessionHandler, src pluginhost.Source) (pluginhost.Session, error) {
	c := p.start(spec.Stream+" to "+spec.Target+" key "+spec.Key.Reveal(), h, src)
	go c.run()
	return c, nil
}

func (p *plugins) OpenTransform(spec pluginhost.TransformSpec, h pluginhost.SessionHandler, src pluginhost.Source) (pluginhost.Session, error) {
	c := p.start(fmt.Sprintf("%s %s to %s", spec.Stream, spec.In.Codec, spec.To), h, src)
	c.copy = true
	h.Tracks([]media.Track{{ID: spec.Out, Codec: spec.To, Channels: 2, DecoderConfig: []byte("asc")}})
	go c.run()
	return c, nil
}

func (p *plugins) OpenPull(_ string, _ uint64, stream string, _ secret.String, h pluginhost.SessionHandler) (pluginhost.Session, error) {
	c := p.start("pull "+stream, h, nil)
	h.Ready(pluginhost.Accepts{})
	h.Tracks([]media.Track{{ID: 1, Codec: media.H264, DecoderConfig: []byte("c")}})
	return c, nil
}

func (c *conn) run() {
	c.h.Ready(pluginhost.Accepts{})
	for {
		select {
		case <-c.wake:
		case <-c.stop:
			return
		}
		for items := c.src.Pull(64 << 10); len(items) > 0; items = c.src.Pull(64 << 10) {
			for _, it := range items {
				if it.Unit == nil {
					continue
				}
				if c.copy {
					c.h.Unit(it.Unit.Clone())
				}
				c.h.Credited(len(it.Unit.Payload))
			}
		}
	}
}

func (c *conn) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
func (c *conn) RequestKeyframe(media.TrackID) {}
func (c *conn) SetTargetBitrate(uint64)       {}

func (c *conn) SetTargetStates(list []pluginhost.TargetState) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.told = append(c.told, list)
}

func (c *conn) Close(reason string, drain bool) {
	select {
	case <-c.stop:
		return
	default:
	}
	c.p.log("close %s: %s, drain %v", c.name, reason, drain)
	if !c.p.slow {
		go c.end(pluginhost.End{})
	}
}

func (c *conn) end(e pluginhost.End) {
	c.once.Do(func() {
		close(c.stop)
		c.p.mu.Lock()
		delete(c.p.open, c)
		c.p.mu.Unlock()
		c.h.Ended(e)
	})
}

// publish offers a stream; nil if it was rejected.
func (p *plugins) publish(name, token string) *conn {
	var c *conn
	p.offers.Offer("ingest-webrtc", pluginhost.Offer{Name: name, Credentials: secret.New(token), Remote: "192.0.2.7:9", Codecs: []media.Codec{media.H264, media.Opus}},
		func(_ uint64, h pluginhost.SessionHandler) pluginhost.Session {
			c = p.start("publisher of "+name, h, nil)
			return c
		}, func(pluginhost.Rejection) {})
	return c
}

func (c *conn) tracks() {
	c.h.Tracks([]media.Track{
		{ID: 1, Codec: media.H264, Width: 1280, Height: 720, DecoderConfig: []byte("c")},
		{ID: 2, Codec: media.Opus, Channels: 2, DecoderConfig: []byte("h")},
	})
}

func (c *conn) feed(length time.Duration) { c.feedFrom(0, length) }

// feedFrom feeds what is from one session time to another, in real time.
func (c *conn) feedFrom(from, to time.Duration) {
	for at := from; at < to; at += 20 * time.Millisecond {
		if at%(40*time.Millisecond) == 0 {
			c.h.Unit(&media.AccessUnit{Track: 1, DTS: at, PTS: at, RandomAccess: at%time.Second == 0, Payload: []byte{0, 0, 0, 1, 1}})
		}
		c.h.Unit(&media.AccessUnit{Track: 2, DTS: at, PTS: at, RandomAccess: true, Payload: []byte{1}})
		time.Sleep(20 * time.Millisecond)
	}
}

func gateway(p *plugins) *Gateway {
	p.open = map[*conn]bool{}
	g := New(Options{Plugins: []pluginhost.Spec{
		{Name: "ingest-webrtc", Info: &wire.DescribeResponse{Ingest: &wire.IngestInfo{}, Mounts: []string{"/whip/"}}},
		{Name: "ingest-clip", Info: &wire.DescribeResponse{Ingest: &wire.IngestInfo{Schemes: []string{"clip"}}}},
		{Name: "egress-rtmp", Info: &wire.DescribeResponse{
			Egress:     &wire.EgressInfo{Accepts: &wire.Accepts{Codecs: []string{"h264", "aac"}, VideoTracks: 1, AudioTracks: 1}, OpensEarly: true},
			Transforms: []*wire.TransformInfo{{From: "opus", To: "aac"}},
		}},
		{Name: "egress-other", Info: &wire.DescribeResponse{Egress: &wire.EgressInfo{}}},
	}})
	g.newHost = func(_ []pluginhost.Spec, offers pluginhost.Offers, isolate func(string) string) host {
		p.isolate = isolate
		p.offers = offers
		return p
	}
	return g
}

func target(name, key string) config.Target {
	return config.Target{Name: name, Plugin: "egress-rtmp", Key: secret.New(key), MaxLag: 2 * time.Second, Enabled: true}
}

func conf() *config.Config {
	off := target("off", "")
	off.Enabled = false
	return &config.Config{Routes: []config.Route{
		{Name: "studio", Publish: config.Publish{Token: secret.New("t")}, Hold: 30 * time.Second, To: []config.Target{target("one", "k1"), target("two", "k2"), off}},
		{Name: "live/*", Hold: 5 * time.Second, To: []config.Target{target("cdn", "k-${stream}")}},
		{Name: "loop", From: &config.From{Plugin: "ingest-clip"}, Hold: time.Second},
	}}
}

func runs(t *testing.T, g *Gateway) (stop func() error) { return runsWith(t, g, conf()) }

func runsWith(t *testing.T, g *Gateway, cfg *config.Config) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx, cfg) }()
	<-g.Ready()
	return func() error {
		cancel()
		return <-done
	}
}

func TestGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &plugins{}
		g := gateway(p)
		if len(g.Streams()) != 0 || len(g.Plugins()) != 0 || len(g.Mounts()) != 0 {
			t.Error("there is something before Run")
		}
		stop := runs(t, g)
		synctest.Wait()
		if got := strings.Join(p.needed, " "); got != "egress-rtmp ingest-clip ingest-webrtc" {
			t.Errorf("needed: %s", got)
		}
		names := func() string {
			var s []string
			for _, st := range g.Streams() {
				s = append(s, st.Name+" "+string(st.State))
			}
			return strings.Join(s, ", ")
		}
		if got := names(); got != "loop live, studio idle" {
			t.Errorf("streams: %s", got)
		}
		if p.publish("studio", "wrong") != nil {
			t.Error("the wrong token was accepted")
		}
		pub := p.publish("studio", "t")
		pub.tracks()
		synctest.Wait()
		pub.feed(2 * time.Second)
		synctest.Wait()
		studio := g.Streams()[1]
		for i := range studio.Targets[:2] {
			to := &studio.Targets[i]
			// Whether the second that ends now is in it depends on who runs first.
			if to.FrameRate < 24 || to.FrameRate > 26 || to.VideoBPS < 900 || to.AudioBPS < 380 || to.KeyframeIntervalSeconds != 1 {
				t.Errorf("%s is measured as %+v", to.Name, to)
			}
			to.FrameRate, to.VideoBPS, to.AudioBPS, to.KeyframeIntervalSeconds = 0, 0, 0, 0
		}
		text, err := json.MarshalIndent(studio, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		want := `{
 "name": "studio",
 "state": "live",
 "since": "2000-01-01T00:00:00Z",
 "publisher": {
  "plugin": "ingest-webrtc",
  "remote": "192.0.2.7:9",
  "since": "2000-01-01T00:00:00Z",
  "bytes_received": 0,
  "units_lost": 0
 },
 "tracks": [
  {
   "id": 1,
   "codec": "h264",
   "width": 1280,
   "height": 720
  },
  {
   "id": 2,
   "codec": "opus",
   "channels": 2
  },
  {
   "id": 3,
   "codec": "aac",
   "channels": 2,
   "derived_from": 2
  }
 ],
 "targets": [
  {
   "name": "one",
   "state": "live",
   "since": "2000-01-01T00:00:00Z",
   "attempt": 1,
   "bytes_sent": 350,
   "units_sent": 150,
   "units_dropped": {},
   "lag_seconds": 0,
   "video_bps": 0,
   "audio_bps": 0,
   "frame_rate": 0,
   "keyframe_interval_seconds": 0
  },
  {
   "name": "two",
   "state": "live",
   "since": "2000-01-01T00:00:00Z",
   "attempt": 1,
   "bytes_sent": 350,
   "units_sent": 150,
   "units_dropped": {},
   "lag_seconds": 0,
   "video_bps": 0,
   "audio_bps": 0,
   "frame_rate": 0,
   "keyframe_interval_seconds": 0
  },
  {
   "name": "off",
   "state": "idle",
   "disabled": true,
   "since": "2000-01-01T00:00:00Z",
   "attempt": 0,
   "bytes_sent": 0,
   "units_sent": 0,
   "units_dropped": {},
   "lag_seconds": 0,
   "video_bps": 0,
   "audio_bps": 0,
   "frame_rate": 0,
   "keyframe_interval_seconds": 0
  }
 ]
}`
		if got := string(text); got != want {
			t.Errorf("got %s", got)
		}
		if pl := g.Plugins(); len(pl) != 2 || pl[0].Name != "egress-rtmp" || pl[1].PID != 7 {
			t.Errorf("plugins %+v", pl)
		}
		if m := g.Mounts(); len(m) != 1 {
			t.Errorf("mounts %+v", m)
		}

		// A stream of a pattern comes with its publisher, and goes some time after him.
		live := p.publish("live/eve", "")
		live.tracks()
		live.feed(200 * time.Millisecond)
		if got := names(); got != "live/eve live, loop live, studio live" {
			t.Errorf("streams: %s", got)
		}
		live.end(pluginhost.End{})
		synctest.Wait()
		if got := names(); got != "live/eve idle, loop live, studio live" {
			t.Errorf("streams: %s", got)
		}
		time.Sleep(9 * time.Second)
		again := p.publish("live/eve", "")
		time.Sleep(9 * time.Second)
		again.end(pluginhost.End{Failed: true})
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if got := names(); got != "live/eve idle, loop live, studio live" {
			t.Errorf("streams: %s", got)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := names(); got != "loop live, studio live" {
			t.Errorf("streams: %s", got)
		}

		// The end: publishers first, targets with a goodbye, then the host.
		p.mu.Lock()
		p.events = nil
		p.mu.Unlock()
		begin := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("the end took %v", d)
		}
		all := strings.Join(p.events, "\n")
		for _, e := range []string{
			"close publisher of studio: the gateway ends, drain false", "close pull loop: the gateway ends, drain false",
			"drain true", "host ends",
		} {
			if !strings.Contains(all, e) {
				t.Errorf("no %q in\n%s", e, all)
			}
		}
		if !strings.HasSuffix(all, "host ends") || strings.Count(all, "drain true") != 2 {
			t.Errorf("events\n%s", all)
		}
		if p.publish("studio", "t") != nil {
			t.Error("a publisher was accepted after the end")
		}
	})
}

func TestEndWithStuckPlugins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &plugins{slow: true}
		g := gateway(p)
		stop := runs(t, g)
		pub := p.publish("studio", "t")
		pub.tracks()
		pub.feed(time.Second)
		begin := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("the end took %v", d)
		}
	})
}

func TestHostFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &plugins{fail: errors.New("no place for sockets")}
		if err := gateway(p).Run(t.Context(), conf()); !errors.Is(err, p.fail) {
			t.Errorf("error %v", err)
		}
		g := gateway(&plugins{})
		g.opt.Plugins[0].Info = nil
		if err := g.Run(t.Context(), conf()); err == nil {
			t.Error("a plugin that nobody knows was accepted")
		}
	})
}

// inBubble counts the goroutines of the test's bubble. Those of the runtime, which
// come and go with the garbage collector, are not among them.
func inBubble() int {
	buf := make([]byte, 1<<20)
	return bytes.Count(buf[:runtime.Stack(buf, true)], []byte("synctest bubble"))
}

// TestManyPublishers comes and goes ten thousand times, and leaves nothing.
func TestManyPublishers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &plugins{}
		g := gateway(p)
		stop := runs(t, g)
		synctest.Wait()
		var before, after runtime.MemStats
		goroutines := 0
		cycle := func(n int) {
			for i := range n {
				name, token := "studio", "t"
				if i%2 == 1 {
					name, token = fmt.Sprintf("live/s%d", i%50), ""
				}
				c := p.publish(name, token)
				c.tracks()
				c.feed(40 * time.Millisecond)
				c.end(pluginhost.End{Failed: i%3 == 0})
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			p.mu.Lock()
			p.events = nil
			p.mu.Unlock()
		}
		cycle(1000)
		goroutines = inBubble()
		if goroutines == 0 {
			t.Fatal("goroutines cannot be counted")
		}
		runtime.GC()
		runtime.ReadMemStats(&before)
		cycle(10000)
		if n := inBubble(); n != goroutines {
			t.Errorf("%d goroutines, %d before", n, goroutines)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
			t.Errorf("the heap grew by %d bytes", grown)
		}
		if n := len(g.Streams()); n != 2 {
			t.Errorf("%d streams", n)
		}
		for _, s := range g.Streams() {
			for _, tg := range s.Targets {
				if tg.State != status.TargetIdle {
					t.Errorf("%s to %s is %s", s.Name, tg.Name, tg.State)
				}
			}
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if len(p.open) != 0 {
			t.Errorf("%d sessions left", len(p.open))
		}
	})
}
