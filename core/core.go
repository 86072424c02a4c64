// Package core is the gateway: it holds the parts together. It knows which
// streams, targets and plugins a configuration asks for, starts and ends them in
// order, and tells how they are. It does not know HTTP, command lines or how any
// of its parts does its work.
package core

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/congestion"
	"github.com/headgate/gateway/core/derive"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/publish"
	"github.com/headgate/gateway/core/push"
	"github.com/headgate/gateway/core/router"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

const (
	// drainLimit is how long targets get to say goodbye before their plugins are
	// told to end. It is a little more than the 2.5 s after which a plugin cuts a
	// target off that takes nothing; the plugins' own end fits into what is left of 5 s.
	drainLimit = 2800 * time.Millisecond
	// linger is how long a stream that matched a pattern is shown after it ended,
	// and kept for a publisher who comes again.
	linger = 10 * time.Second
)

// Options say what a [Gateway] is made of. All fields are read once, by [New].
type Options struct {
	// Log receives what the gateway and its plugins log; nil discards it.
	Log *slog.Logger
	// Version is told to the plugins.
	Version string
	// Plugins are those that the configuration may name, each with Info. Options
	// and Files come from the configuration. The ones that no route needs are not
	// started.
	Plugins []pluginhost.Spec
	// RunDir is where the directory for the plugins' sockets is made; empty for the
	// default.
	RunDir string
}

// host is what the gateway needs of [pluginhost.Host].
type host interface {
	push.Opener
	derive.Opener
	publish.Puller
	Run(ctx context.Context) error
	Need(plugin, route string)
	Ready(plugin string) <-chan struct{}
	Renew(ctx context.Context, plugin string, files map[string][]byte) error
	Mounts() []pluginhost.Mount
	Status() []pluginhost.Status
}

// A Gateway runs a configuration. Make it with [New]; its methods may be called
// from any goroutine.
type Gateway struct {
	log     *slog.Logger
	opt     Options
	newHost func(specs []pluginhost.Spec, offers pluginhost.Offers, isolate func(stream string) string) host
	ready   chan struct{}

	runID string // of this run, at random

	// Set by Run before anything is started.
	cfg        *config.Config
	transforms derive.Transforms
	egress     map[string]*wire.EgressInfo

	running sync.WaitGroup // streams, and what watches files

	mu      sync.Mutex // guards the fields below
	host    host       // nil before Run
	ctx     context.Context
	closed  bool // no stream is made any more
	streams map[string]*stream
	lastID  uint64
}

// stream is all that belongs to one stream.
type stream struct {
	router  *router.Stream
	publish *publish.Stream
	derive  *derive.Deriver
	targets targets
	control *congestion.Loop
	news    chan struct{} // a target has changed
	pull    *publish.Pull // nil if publishers come by themselves
	pattern bool          // made for a publisher, not by the configuration
	claims  int           // publishers about to attach; guarded by Gateway.mu
}

// New makes a gateway. It starts nothing.
func New(o Options) *Gateway {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{log: o.Log, opt: o, ready: make(chan struct{}), streams: make(map[string]*stream), runID: rand.Text()[:8]}
	g.newHost = func(specs []pluginhost.Spec, offers pluginhost.Offers, isolate func(string) string) host {
		opts := []pluginhost.Option{pluginhost.WithVersion(o.Version), pluginhost.WithIsolation(isolate)}
		if o.RunDir != "" {
			opts = append(opts, pluginhost.WithRunDir(o.RunDir))
		}
		return pluginhost.New(specs, offers, g.log, opts...)
	}
	return g
}

// Run runs cfg until ctx ends, then shuts down in order: no offer is accepted
// any more, publishers are told, targets are drained and closed, plugin
// processes end. It returns within 5 s after ctx, and leaves nothing behind. The
// error is nil if ctx ended it. Run is called once.
func (g *Gateway) Run(ctx context.Context, cfg *config.Config) error {
	specs, err := g.specs(cfg)
	if err != nil {
		return err
	}
	g.cfg = cfg
	g.transforms = derive.TransformsOf(specs)
	g.egress = make(map[string]*wire.EgressInfo)
	for _, s := range specs {
		if e := s.Info.GetEgress(); e != nil {
			g.egress[s.Name] = e
		}
	}
	door := publish.NewDoor(cfg, g, g.accepts, g.transforms, g.log)
	h := g.newHost(specs, door, func(stream string) string {
		if r := cfg.Route(stream); r != nil && r.Isolate {
			return r.Name
		}
		return ""
	})

	hostCtx, stopHost := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHost()
	streamCtx, stopStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStreams()
	g.mu.Lock()
	g.host, g.ctx = h, streamCtx
	g.mu.Unlock()

	for _, n := range needed(cfg, specs) {
		h.Need(n.plugin, n.route)
	}
	hostEnded := make(chan error, 1)
	go func() { hostEnded <- h.Run(hostCtx) }()
	for _, r := range renewals(cfg, h, g.log) {
		g.running.Go(func() { r.run(streamCtx) })
	}
	for i := range cfg.Routes {
		if r := &cfg.Routes[i]; !config.IsPattern(r.Name) {
			g.claim(r, r.Name, false)
		}
	}

	hostGone, err := g.wait(ctx, h, offering(cfg, specs), hostEnded)
	g.log.Info("gateway ends")
	door.Close()
	g.end(stopStreams)
	stopHost()
	if !hostGone {
		if e := <-hostEnded; e != nil {
			err = errors.Join(err, fmt.Errorf("ending the plugins: %w", e))
		}
	}
	g.running.Wait()
	return err
}

// wait reports the gateway ready when the plugins are that take publishers, and
// returns when ctx ends or the host does, which it does not by itself.
func (g *Gateway) wait(ctx context.Context, h host, offering []string, hostEnded <-chan error) (hostGone bool, err error) {
	for _, name := range offering {
		select {
		case <-h.Ready(name):
		case <-ctx.Done():
			return false, nil
		case err := <-hostEnded:
			return true, hostError(err)
		}
	}
	close(g.ready)
	g.log.Info("gateway ready")
	select {
	case <-ctx.Done():
		return false, nil
	case err := <-hostEnded:
		return true, hostError(err)
	}
}

func hostError(err error) error {
	if err == nil {
		err = errors.New("the host ended by itself")
	}
	return fmt.Errorf("running the plugins: %w", err)
}

// end tells the publishers and drains the targets, within drainLimit.
func (g *Gateway) end(stopStreams func()) {
	g.mu.Lock()
	g.closed = true
	list := make([]*stream, 0, len(g.streams))
	for _, s := range g.streams {
		list = append(list, s)
	}
	g.mu.Unlock()
	for _, s := range list {
		s.publish.Close("the gateway ends")
	}
	stopStreams()
	drained := make(chan struct{})
	go func() {
		g.running.Wait()
		close(drained)
	}()
	limit := time.NewTimer(drainLimit)
	defer limit.Stop()
	select {
	case <-drained:
	case <-limit.C:
		g.log.Warn("targets did not end in time", "limit", drainLimit)
	}
}

// specs are the plugins with the options that cfg has for them.
func (g *Gateway) specs(cfg *config.Config) ([]pluginhost.Spec, error) {
	specs := slices.Clone(g.opt.Plugins)
	for i := range specs {
		if specs[i].Info == nil {
			return nil, fmt.Errorf("plugin %s: it is not known what it can do", specs[i].Name)
		}
		for _, p := range cfg.Plugins {
			if p.Name == specs[i].Name {
				specs[i].Options, specs[i].Files = p.Options, p.Files
			}
		}
	}
	return specs, nil
}

// offering are the plugins that publishers come to by themselves, if any route
// waits for one: by HTTP, through a mount, or on an address of their own, which is
// opened for whoever names them in `plugins` and for nobody else.
func offering(cfg *config.Config, specs []pluginhost.Spec) []string {
	if !slices.ContainsFunc(cfg.Routes, func(r config.Route) bool { return r.From == nil }) {
		return nil
	}
	var out []string
	for _, s := range specs {
		in := s.Info.GetIngest()
		if in == nil {
			continue
		}
		configured := slices.ContainsFunc(cfg.Plugins, func(p config.Plugin) bool { return p.Name == s.Name })
		if configured || len(s.Info.GetMounts()) > 0 {
			out = append(out, s.Name)
		}
	}
	return out
}

// A need is a plugin, and the route for which it has a process of its own.
type need struct{ plugin, route string }

// needed are the plugins to start at once: those that publishers come to, and
// those of targets and sources, whose start would delay the first picture.
func needed(cfg *config.Config, specs []pluginhost.Spec) []need {
	var needs []need
	for _, name := range offering(cfg, specs) {
		needs = append(needs, need{plugin: name})
	}
	for _, r := range cfg.Routes {
		own := ""
		if r.Isolate {
			own = r.Name
		}
		if r.From != nil {
			needs = append(needs, need{r.From.Plugin, own})
		}
		for _, t := range r.To {
			if t.Enabled {
				needs = append(needs, need{t.Plugin, own})
			}
		}
	}
	slices.SortFunc(needs, func(a, b need) int {
		return cmp.Or(strings.Compare(a.plugin, b.plugin), strings.Compare(a.route, b.route))
	})
	return slices.Compact(needs)
}

// accepts is what a target takes, as its plugin declares and its options say.
func (g *Gateway) accepts(t *config.Target) (pluginhost.Accepts, bool) {
	e := g.egress[t.Plugin]
	return derive.AcceptsOf(e, t), e != nil
}

// Claim implements [publish.Streams].
func (g *Gateway) Claim(route *config.Route, name string, use func(*publish.Stream)) bool {
	s := g.claim(route, name, true)
	if s == nil {
		return false
	}
	use(s.publish)
	g.mu.Lock()
	s.claims--
	g.mu.Unlock()
	return true
}

// claim returns the stream of a name, made and started if there is none; nil if
// the gateway ends. With hold the stream is not given up until claims is counted
// down again.
func (g *Gateway) claim(route *config.Route, name string, hold bool) *stream {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	s := g.streams[name]
	if s == nil {
		g.lastID++
		s = g.make(route, name, g.lastID)
		g.streams[name] = s
		g.running.Go(func() { g.run(g.ctx, s) })
	}
	if hold {
		s.claims++
	}
	return s
}

// make makes a stream of a route. It starts nothing.
func (g *Gateway) make(route *config.Route, name string, id uint64) *stream {
	log := g.log
	r := router.NewStream(id, name)
	s := &stream{
		router:  r,
		publish: publish.NewStream(r, route.Hold, route.HoldOnEnd, log),
		derive:  derive.New(r, g.host, log),
		pattern: config.IsPattern(route.Name),
		news:    make(chan struct{}, 1),
	}
	if route.From != nil {
		s.pull = publish.NewPull(s.publish, *route.From, s.targets.wanted, g.host)
	}
	s.targets.make = func(set push.Settings) *push.Target {
		return push.New(push.Config{
			Settings: set, Stream: r, Transforms: g.transforms, Opener: g.host, Deriver: s.derive, Log: log,
			Changed: s.targetChanged,
		})
	}
	s.targets.with = func(t config.Target) push.Settings {
		a, _ := g.accepts(&t)
		return push.Settings{Target: t, Accepts: a, OpensEarly: g.egress[t.Plugin].GetOpensEarly()}
	}
	s.targets.changed = s.targetChanged
	s.targets.report = func(err error) { g.report(s, "target", err) }
	s.targets.add(route.To)
	s.control = congestion.New(route.Congestion, s.publish, s.targets.followed)
	return s
}

// run runs all of a stream until ctx ends, or until a stream that matched a
// pattern is idle and given up.
func (g *Gateway) run(ctx context.Context, s *stream) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The tracks that are being derived outlive the targets, which release them.
	deriveCtx, stopDeriving := context.WithCancel(context.WithoutCancel(ctx))
	var deriver, rest sync.WaitGroup
	deriver.Go(func() { g.report(s, "derive", s.derive.Run(deriveCtx)) })
	s.targets.start(ctx)
	rest.Go(func() { g.report(s, "congestion", s.control.Run(ctx)) })
	rest.Go(func() { s.tell(ctx) })
	if s.pull != nil {
		rest.Go(func() { g.report(s, "pull", s.pull.Run(ctx)) })
	}
	if s.pattern {
		g.expire(ctx, s)
		cancel()
	}
	<-ctx.Done()
	s.targets.close()
	rest.Wait()
	stopDeriving()
	deriver.Wait()
}

func (g *Gateway) report(s *stream, part string, err error) {
	if err != nil {
		g.log.Error("part of a stream ended", "stream", s.router.Name(), "part", part, "error", err)
	}
}

// expire waits until a stream was idle for linger, and forgets it then. It returns
// early when ctx ends.
func (g *Gateway) expire(ctx context.Context, s *stream) {
	for {
		snap, changed := s.router.Watch()
		var idle <-chan time.Time
		if snap.State == router.Idle {
			left := linger - time.Since(snap.Since)
			if left <= 0 && g.forget(s) {
				return
			}
			idle = time.After(max(left, 10*time.Millisecond))
		}
		select {
		case <-changed:
		case <-idle:
		case <-ctx.Done():
			return
		}
	}
}

// forget takes an idle stream off the list; not if a publisher is coming.
func (g *Gateway) forget(s *stream) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if snap, _ := s.router.Watch(); s.claims > 0 || snap.State != router.Idle {
		return false
	}
	delete(g.streams, s.router.Name())
	return true
}

// Streams tells how the streams are: the configured names, publishing or not,
// and those that matched a pattern. Sorted by name.
func (g *Gateway) Streams() []status.Stream {
	g.mu.Lock()
	list := make([]*stream, 0, len(g.streams))
	for _, s := range g.streams {
		list = append(list, s)
	}
	g.mu.Unlock()
	slices.SortFunc(list, func(a, b *stream) int { return strings.Compare(a.router.Name(), b.router.Name()) })
	out := make([]status.Stream, len(list))
	for i, s := range list {
		out[i] = s.status()
	}
	return out
}

func (s *stream) status() status.Stream {
	snap, _ := s.router.Watch()
	st := status.Stream{
		Name: s.router.Name(), State: status.StreamState(snap.State), Since: snap.Since.UTC(),
		Publisher: s.publish.Publisher(),
		Tracks:    make([]status.Track, len(snap.Tracks)), Targets: s.targets.status(),
		UnitsDropped: s.publish.Dropped(),
	}
	if s.pull != nil {
		source := s.pull.Status()
		st.Source = &source
	}
	for i, t := range snap.Tracks {
		st.Tracks[i] = status.Track{
			ID: uint32(t.ID), Codec: string(t.Codec), Width: t.Width, Height: t.Height,
			Channels: t.Channels, DerivedFrom: uint32(t.DerivedFrom), Values: s.derive.Figures(t.ID),
		}
		st.Tracks[i].Silent = t.Codec.Kind() == media.Audio && slices.ContainsFunc(snap.Tracks, func(of media.Track) bool {
			return of.ID == t.DerivedFrom && of.Codec.Kind() == media.Video
		})
	}
	return st
}

// Plugins tells how the plugins are, those that nothing needed so far included.
// Sorted by name.
func (g *Gateway) Plugins() []status.Plugin {
	g.mu.Lock()
	h := g.host
	g.mu.Unlock()
	if h == nil {
		return []status.Plugin{}
	}
	list := h.Status()
	out := make([]status.Plugin, len(list))
	for i, p := range list {
		out[i] = status.Plugin{
			Name: p.Name, Process: p.Process, Version: p.Version, State: string(p.State), Since: p.Since.UTC(), PID: p.PID,
			Restarts: p.Restarts, LastError: p.LastError, Sessions: p.Sessions,
			RetryAt: nextRetry(p.RetryAt), MemoryBytes: p.MemoryBytes, MemoryNote: p.MemoryNote,
		}
	}
	slices.SortStableFunc(out, func(a, b status.Plugin) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// nextRetry is a time as the API has it; nil for none.
func nextRetry(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// Mounts are the HTTP path prefixes that the plugins serve. It is empty before
// [Gateway.Run]; from then on it does not change.
func (g *Gateway) Mounts() []pluginhost.Mount {
	g.mu.Lock()
	h := g.host
	g.mu.Unlock()
	if h == nil {
		return nil
	}
	return h.Mounts()
}

// Ready is closed once the configuration runs: the plugins that publishers come
// to are up, and offers are answered.
func (g *Gateway) Ready() <-chan struct{} { return g.ready }
