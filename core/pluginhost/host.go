package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// A Host runs the plugins of one gateway. Make it with [New]; its methods are
// safe for concurrent use.
type Host struct {
	log     *slog.Logger
	offers  Offers
	plugins []*plugin // in the order of the specs
	spawn   *spawner
	timings timings
	version string
	runBase string
	dial    []grpc.DialOption // beside those of the wire

	mu      sync.Mutex // guards the fields below
	dir     *runDir    // while Run runs
	pending sync.WaitGroup
	closed  bool // Run has ended: nothing is added to pending any more
}

// timings are the defaults of the design, shortened by tests. drain and stopGrace
// are what the end of a host may take: a gateway that ends has closed the sessions
// before, and all of its end shall fit into 5 s.
type timings struct {
	start         time.Duration // of a process, to the end of Attach's handshake
	ping          time.Duration
	silence       time.Duration // after which a process is killed
	closeTimeout  time.Duration // of a session
	drain         time.Duration // of a process
	stopGrace     time.Duration // of a drained process
	restartMin    time.Duration
	restartMax    time.Duration
	healthy       time.Duration // after which earlier deaths are forgotten
	quickDeath    time.Duration // one so soon after READY counts for the circuit
	circuitSpan   time.Duration
	circuitDeaths int // more of them in that span open it
	circuitRest   time.Duration
}

func defaultTimings() timings {
	return timings{
		start:         10 * time.Second,
		ping:          time.Second,
		silence:       5 * time.Second,
		closeTimeout:  6 * time.Second,
		drain:         1500 * time.Millisecond,
		stopGrace:     500 * time.Millisecond,
		restartMin:    250 * time.Millisecond,
		restartMax:    15 * time.Second,
		healthy:       time.Minute,
		quickDeath:    10 * time.Second,
		circuitSpan:   time.Minute,
		circuitDeaths: 5,
		circuitRest:   time.Minute,
	}
}

// An Option changes a default of a Host.
type Option func(*Host)

// WithVersion sets the gateway's version, which plugins are told.
func WithVersion(version string) Option { return func(h *Host) { h.version = version } }

// WithRunDir sets where the host makes its run directory, instead of
// $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR or the temporary directory. Sockets live
// there: the path must be short, and nobody else may write to it.
func WithRunDir(base string) Option { return func(h *Host) { h.runBase = base } }

// ErrStopped says that the host has stopped or is stopping.
var ErrStopped = errors.New("the plugin host has stopped")

// New returns a host of the plugins in specs. It starts nothing: [Host.Run] does.
// offers decides on what ingests offer; nil rejects everything.
func New(specs []Spec, offers Offers, log *slog.Logger, opts ...Option) *Host {
	h := &Host{log: log, offers: offers, spawn: newSpawner(), timings: defaultTimings()}
	for _, o := range opts {
		o(h)
	}
	for _, s := range specs {
		h.plugins = append(h.plugins, newPlugin(h, s))
	}
	return h
}

// Run starts the plugins that are needed and keeps them running until ctx ends.
// Then it closes all sessions politely, within 2 s, and leaves no process behind.
// It is called once. It fails if it has no place for the plugins' sockets.
func (h *Host) Run(ctx context.Context) error {
	defer h.close()
	dir, err := newRunDir(h.runBase)
	if err != nil {
		for _, pl := range h.plugins {
			pl.stop()
		}
		return err
	}
	h.mu.Lock()
	h.dir = dir
	h.mu.Unlock()

	spawnCtx, stopSpawning := context.WithCancel(context.Background())
	var spawning, plugins sync.WaitGroup
	spawning.Go(func() { h.spawn.run(spawnCtx) })
	for _, pl := range h.plugins {
		plugins.Go(func() { pl.supervise(ctx) })
	}
	<-ctx.Done()
	for _, pl := range h.plugins {
		pl.refuse()
	}
	plugins.Wait()
	stopSpawning()
	spawning.Wait()
	if err := dir.remove(); err != nil {
		return fmt.Errorf("removing the run directory: %w", err)
	}
	return nil
}

// close waits for what was left to do apart.
func (h *Host) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.pending.Wait()
}

// async calls f from a goroutine of its own. Run waits for it.
func (h *Host) async(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		go f() // after the end nobody waits for it; it only tells a handler
		return
	}
	h.pending.Go(f)
}

// launcher returns what starts processes of a plugin.
func (h *Host) launcher(log *slog.Logger, veil *veil) launcher {
	h.mu.Lock()
	defer h.mu.Unlock()
	return launcher{spawn: h.spawn, dir: h.dir.path, log: log, veil: veil, startTimeout: h.timings.start, dial: h.dial}
}

// Need starts the plugin's process now, or when Run begins, instead of at its
// first session. An unknown name is ignored.
func (h *Host) Need(plugin string) {
	if pl := h.plugin(plugin); pl != nil {
		pl.need()
	}
}

func (h *Host) plugin(name string) *plugin {
	i := slices.IndexFunc(h.plugins, func(pl *plugin) bool { return pl.spec.Name == name })
	if i < 0 {
		return nil
	}
	return h.plugins[i]
}

// An UnavailableError says that a plugin cannot take sessions: it dies too often
// and is given a rest.
type UnavailableError struct {
	Plugin     string
	RetryAfter time.Duration
	LastError  string
}

func (e *UnavailableError) Error() string {
	return "plugin " + e.Plugin + " dies too often and rests: " + e.LastError
}

// OpenEgress opens a session that sends to a target. It never blocks: while the
// plugin's process starts, or starts again, the session waits for it and is
// opened the moment it is up; if the start fails the session ends with
// [CausePlugin]. An error means that there will be no session, and no call of
// handler: the plugin is not known, out of order (*[UnavailableError]), or the
// host has stopped ([ErrStopped]). Otherwise handler hears Ended in the end, and
// may hear everything before OpenEgress has returned.
func (h *Host) OpenEgress(plugin string, spec EgressSpec, handler SessionHandler, src Source) (Session, error) {
	pl := h.plugin(plugin)
	if pl == nil {
		return nil, fmt.Errorf("there is no plugin %q", plugin)
	}
	return pl.openSession(&session{plugin: pl, handler: handler, source: src, open: &wire.Open{
		Kind:     wire.SessionKind_SESSION_KIND_EGRESS,
		StreamId: spec.StreamID,
		Stream:   spec.Stream,
		Attempt:  uint32(max(spec.Attempt, 0)),
		Target: &wire.Target{
			Name:        spec.Target,
			Url:         spec.URL.Reveal(),
			Key:         spec.Key.Reveal(),
			OptionsJson: spec.Options,
			Files:       spec.Files,
			Restricted:  spec.Restricted,
		},
		Tracks: wire.FromTracks(spec.Tracks),
	}})
}

// OpenTransform opens a session that derives a track, in the plugin that
// declares the transform from spec.In.Codec to spec.To. It behaves as OpenEgress.
func (h *Host) OpenTransform(spec TransformSpec, handler SessionHandler, src Source) (Session, error) {
	i := slices.IndexFunc(h.plugins, func(pl *plugin) bool {
		return slices.ContainsFunc(pl.describedAs().GetTransforms(), func(t *wire.TransformInfo) bool {
			return t.GetFrom() == string(spec.In.Codec) && t.GetTo() == string(spec.To)
		})
	})
	if i < 0 {
		return nil, fmt.Errorf("no plugin makes %s of %s", spec.To, spec.In.Codec)
	}
	pl := h.plugins[i]
	return pl.openSession(&session{plugin: pl, handler: handler, source: src, open: &wire.Open{
		Kind:     wire.SessionKind_SESSION_KIND_TRANSFORM,
		StreamId: spec.StreamID,
		Stream:   spec.Stream,
		Transform: &wire.Transform{
			To:         string(spec.To),
			BitrateBps: uint32(max(spec.Bitrate, 0)),
			Channels:   uint32(max(spec.Channels, 0)),
			Track:      uint32(spec.Out),
		},
		Tracks:             []*wire.Track{wire.FromTrack(spec.In)},
		InitialCreditBytes: wire.IngestWindowBytes,
	}})
}

// OpenPull opens an ingest session that reads from url. It behaves as OpenEgress.
func (h *Host) OpenPull(plugin string, streamID uint64, stream string, url secret.String, handler SessionHandler) (Session, error) {
	pl := h.plugin(plugin)
	if pl == nil {
		return nil, fmt.Errorf("there is no plugin %q", plugin)
	}
	return pl.openSession(&session{plugin: pl, handler: handler, open: &wire.Open{
		Kind:               wire.SessionKind_SESSION_KIND_INGEST,
		StreamId:           streamID,
		Stream:             stream,
		Url:                url.Reveal(),
		InitialCreditBytes: wire.IngestWindowBytes,
	}})
}

// Ready returns a channel that is closed once the plugin's process can take
// sessions; it is closed already if it can. A process that dies later makes a new
// channel. The channel of an unknown plugin is never closed.
func (h *Host) Ready(plugin string) <-chan struct{} {
	pl := h.plugin(plugin)
	if pl == nil {
		return nil
	}
	return pl.readyChan()
}

// Status returns the state of all plugins, in the order of the specs.
func (h *Host) Status() []Status {
	out := make([]Status, len(h.plugins))
	for i, pl := range h.plugins {
		out[i] = pl.status()
	}
	return out
}

// Describe starts the plugin of spec, asks it what it is and ends it again.
func Describe(ctx context.Context, spec Spec, log *slog.Logger) (_ *wire.DescribeResponse, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("plugin %s: %w", spec.Name, err)
		}
	}()
	dir, err := newRunDir("")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.remove()) }()
	t := defaultTimings()
	l := launcher{spawn: newSpawner(), dir: dir.path, log: log.With("plugin", spec.Name), veil: &veil{}, startTimeout: t.start}
	spawnCtx, stop := context.WithCancel(context.Background())
	var spawning sync.WaitGroup
	spawning.Go(func() { l.spawn.run(spawnCtx) })
	defer spawning.Wait()
	defer stop()

	p, err := l.launch(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer p.stop(t.stopGrace)
	ctx, cancel := context.WithTimeout(ctx, t.start)
	defer cancel()
	info, err := wire.NewPluginClient(p.conn).Describe(ctx, &wire.DescribeRequest{})
	if err != nil {
		return nil, explain(fmt.Errorf("asking what it is: %w", err), p)
	}
	return info, nil
}
