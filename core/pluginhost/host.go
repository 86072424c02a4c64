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
	pools   []*pool // in the order of the specs
	isolate func(stream string) (route string)
	spawn   *spawner
	timings timings
	version string
	runBase string
	dial    []grpc.DialOption // beside those of the wire

	mu         sync.Mutex      // guards the fields below
	ctx        context.Context // of Run, once it runs
	memory     *memoryController
	unlimited  string         // why the kernel limits the memory of no plugin, for a person
	dir        *runDir        // while Run runs
	supervised sync.WaitGroup // plugins; one is added only while stopping is false
	stopping   bool
	pending    sync.WaitGroup
	closed     bool // Run has ended: nothing is added to pending any more
}

// timings are the defaults of the design, shortened by tests. drain and stopGrace
// are what the end of a host may take: a gateway that ends has closed the sessions
// before, and all of its end shall fit into 5 s.
type timings struct {
	start         time.Duration // of a process, to the end of Attach's handshake
	ping          time.Duration
	silence       time.Duration // after which a process is killed
	renewal       time.Duration // which the answer to Configure may take
	closeTimeout  time.Duration // of a session
	drain         time.Duration // of a process
	stopGrace     time.Duration // of a drained process
	restartMin    time.Duration
	restartMax    time.Duration
	quickDeath    time.Duration // one so soon after READY counts for the circuit; a later one is the first of a row
	circuitSpan   time.Duration
	circuitDeaths int // more of them in that span open it
	circuitRest   time.Duration
}

func defaultTimings() timings {
	return timings{
		start:         10 * time.Second,
		ping:          time.Second,
		silence:       5 * time.Second,
		renewal:       5 * time.Second,
		closeTimeout:  6 * time.Second,
		drain:         1500 * time.Millisecond,
		stopGrace:     500 * time.Millisecond,
		restartMin:    250 * time.Millisecond,
		restartMax:    15 * time.Second,
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

// WithIsolation gives streams plugin processes of their own: those of one route share
// one. route is called often and returns "" for a stream without such a wish.
func WithIsolation(route func(stream string) string) Option {
	return func(h *Host) { h.isolate = route }
}

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
		h.pools = append(h.pools, newPool(h, s))
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
		h.mu.Lock()
		h.stopping = true
		h.mu.Unlock()
		for _, pl := range h.plugins() {
			pl.stop()
		}
		return err
	}
	h.sweepCopies()
	h.limitMemory()
	spawnCtx, stopSpawning := context.WithCancel(context.Background())
	var spawning sync.WaitGroup
	spawning.Go(func() { h.spawn.run(spawnCtx) })
	h.mu.Lock()
	h.ctx, h.dir = ctx, dir
	for _, pl := range h.plugins() {
		h.supervise(pl)
	}
	h.mu.Unlock()
	<-ctx.Done()
	h.mu.Lock()
	h.stopping = true
	h.mu.Unlock()
	for _, pl := range h.plugins() {
		pl.refuse()
	}
	h.supervised.Wait()
	stopSpawning()
	spawning.Wait()
	if err := dir.remove(); err != nil {
		return fmt.Errorf("removing the run directory: %w", err)
	}
	return nil
}

// adopt supervises a plugin that was made while the host runs.
func (h *Host) adopt(pl *plugin) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.stopping:
		pl.stop()
	case h.ctx != nil: // else Run does it with all others
		h.supervise(pl)
	}
}

// supervise starts what keeps pl running, once. The caller holds mu.
func (h *Host) supervise(pl *plugin) {
	if pl.supervised {
		return
	}
	pl.supervised = true
	ctx := h.ctx
	h.supervised.Go(func() { pl.supervise(ctx) })
}

// plugins returns all of all pools.
func (h *Host) plugins() []*plugin {
	var out []*plugin
	for _, po := range h.pools {
		out = append(out, po.all()...)
	}
	return out
}

// sweepCopies removes copies of executables that are of no use any more.
func (h *Host) sweepCopies() {
	if !slices.ContainsFunc(h.pools, func(po *pool) bool { return po.spec.SHA256 != "" }) {
		return
	}
	s, err := openStore()
	if err == nil {
		err = s.sweep()
	}
	if err != nil {
		h.log.Warn("removing old copies of plugins", "error", err)
	}
}

// limitMemory finds what limits the memory of plugins, if any has such a limit.
func (h *Host) limitMemory() {
	limited := func(po *pool) bool { return po.spec.MemoryBytes > 0 }
	if !slices.ContainsFunc(h.pools, limited) {
		return
	}
	c, err := findMemoryController("/proc", "/sys")
	h.mu.Lock()
	defer h.mu.Unlock()
	h.memory = c
	if err == nil {
		return
	}
	h.unlimited = err.Error()
	for _, po := range slices.DeleteFunc(slices.Clone(h.pools), func(po *pool) bool { return !limited(po) }) {
		h.log.Warn("the kernel does not limit the plugin's memory; a plugin in Go keeps to the limit by itself as far as it can",
			"plugin", po.spec.Name, "memory", byteText(po.spec.MemoryBytes), "reason", err)
	}
}

// memoryNote is why the kernel does not limit memory; empty if it does.
func (h *Host) memoryNote() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.unlimited
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
	return launcher{spawn: h.spawn, dir: h.dir.path, log: log, veil: veil, memory: h.memory, startTimeout: h.timings.start, dial: h.dial}
}

// Need starts the plugin's processes now, or when Run begins, instead of at their
// first session: with a route the one of that route, if it has one of its own, and
// otherwise those that all share. An unknown name is ignored.
func (h *Host) Need(plugin, route string) {
	po := h.pool(plugin)
	switch {
	case po == nil:
	case route != "":
		po.own(route).need()
	default:
		po.wanted.Store(true)
		for _, pl := range po.shared {
			pl.need()
		}
	}
}

func (h *Host) pool(name string) *pool {
	i := slices.IndexFunc(h.pools, func(po *pool) bool { return po.spec.Name == name })
	if i < 0 {
		return nil
	}
	return h.pools[i]
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
	po := h.pool(plugin)
	if po == nil {
		return nil, fmt.Errorf("there is no plugin %q", plugin)
	}
	pl := po.pick(spec.StreamID, spec.Stream)
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
// declares the transform from spec.In.Codec to spec.To; or, where those are not of
// one kind, the transform that makes spec.To of nothing. Of several plugins it is one
// whose process runs anyhow. It behaves as OpenEgress.
func (h *Host) OpenTransform(spec TransformSpec, handler SessionHandler, src Source) (Session, error) {
	from := spec.In.Codec
	if spec.Silent() {
		from = ""
	}
	po := h.transformer(string(from), string(spec.To), spec.Stream)
	if po == nil {
		return nil, fmt.Errorf("no plugin makes %s of %s", spec.To, spec.In.Codec)
	}
	pl := po.pick(spec.StreamID, spec.Stream)
	return pl.openSession(&session{plugin: pl, handler: handler, source: src, open: &wire.Open{
		Kind:     wire.SessionKind_SESSION_KIND_TRANSFORM,
		StreamId: spec.StreamID,
		Stream:   spec.Stream,
		Transform: &wire.Transform{
			To:         string(spec.To),
			BitrateBps: uint32(max(spec.Bitrate, 0)),
			Channels:   uint32(max(spec.Channels, 0)),
			Track:      uint32(spec.Out),
			Quality:    spec.Quality,
		},
		Tracks:             []*wire.Track{wire.FromTrack(spec.In)},
		InitialCreditBytes: wire.IngestWindowBytes,
	}})
}

// transformer is the plugin that makes a codec of another for a stream; nil if none does.
func (h *Host) transformer(from, to, stream string) *pool {
	var first *pool
	for _, po := range h.pools {
		if !slices.ContainsFunc(po.info().GetTransforms(), func(t *wire.TransformInfo) bool { return t.GetFrom() == from && t.GetTo() == to }) {
			continue
		}
		if po.needed(stream) {
			return po
		}
		if first == nil {
			first = po
		}
	}
	return first
}

// OpenPull opens an ingest session that reads from url. It behaves as OpenEgress.
func (h *Host) OpenPull(plugin string, streamID uint64, stream string, url secret.String, handler SessionHandler) (Session, error) {
	po := h.pool(plugin)
	if po == nil {
		return nil, fmt.Errorf("there is no plugin %q", plugin)
	}
	pl := po.pick(streamID, stream)
	return pl.openSession(&session{plugin: pl, handler: handler, open: &wire.Open{
		Kind:               wire.SessionKind_SESSION_KIND_INGEST,
		StreamId:           streamID,
		Stream:             stream,
		Url:                url.Reveal(),
		InitialCreditBytes: wire.IngestWindowBytes,
	}})
}

// Ready returns a channel that is closed once the plugin's process can take
// sessions, the first of those that share them; it is closed already if it can. A
// process that dies later makes a new channel. The channel of an unknown plugin is
// never closed.
func (h *Host) Ready(plugin string) <-chan struct{} {
	po := h.pool(plugin)
	if po == nil {
		return nil
	}
	return po.shared[0].readyChan()
}

// Status returns the state of all processes, in the order of the specs.
func (h *Host) Status() []Status {
	all := h.plugins()
	out := make([]Status, len(all))
	for i, pl := range all {
		out[i] = pl.status()
	}
	return out
}
