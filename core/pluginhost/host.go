package pluginhost

import (
	"context"
	"log/slog"
	"time"

	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// A Host runs the plugins of one gateway. Make it with [New]; its methods are
// safe for concurrent use.
type Host struct{}

// An Option changes a default of a Host.
type Option func(*Host)

// New returns a host of the plugins in specs. It starts nothing: [Host.Run] does.
// offers decides on what ingests offer.
func New(specs []Spec, offers Offers, log *slog.Logger, opts ...Option) *Host {
	panic("pluginhost: contract only")
}

// Run starts the plugins that are needed and keeps them running until ctx ends.
// Then it closes all sessions politely, within 5 s, and leaves no process behind.
func (h *Host) Run(ctx context.Context) error { panic("pluginhost: contract only") }

// Need starts the plugin's process now, or when Run begins, instead of at its
// first session. An unknown name is ignored.
func (h *Host) Need(plugin string) { panic("pluginhost: contract only") }

// An UnavailableError says that a plugin cannot take sessions: it dies too often
// and is given a rest.
type UnavailableError struct {
	Plugin     string
	RetryAfter time.Duration
	LastError  string
}

func (e *UnavailableError) Error() string {
	return "plugin " + e.Plugin + " is out of order: " + e.LastError
}

// OpenEgress opens a session that sends to a target. It never blocks: while the
// plugin's process starts, or starts again, the session waits for it and is
// opened the moment it is up; if the start fails the session ends with
// [CausePlugin]. An error means that there will be no session, and no call of
// handler: the plugin is not known, out of order (*[UnavailableError]), or the
// host has stopped.
func (h *Host) OpenEgress(plugin string, spec EgressSpec, handler SessionHandler, src Source) (Session, error) {
	panic("pluginhost: contract only")
}

// OpenTransform opens a session that derives a track, in the plugin that
// declares the transform from spec.In.Codec to spec.To. It behaves as OpenEgress.
func (h *Host) OpenTransform(spec TransformSpec, handler SessionHandler, src Source) (Session, error) {
	panic("pluginhost: contract only")
}

// OpenPull opens an ingest session that reads from url. It behaves as OpenEgress.
func (h *Host) OpenPull(plugin string, streamID uint64, stream string, url secret.String, handler SessionHandler) (Session, error) {
	panic("pluginhost: contract only")
}

// Ready returns a channel that is closed once the plugin's process can take
// sessions; it is closed already if it can. The channel of an unknown plugin is
// never closed.
func (h *Host) Ready(plugin string) <-chan struct{} { panic("pluginhost: contract only") }

// Mounts returns the HTTP prefixes of all plugins. Their handlers answer 503 with
// a Retry-After while the process is not there.
func (h *Host) Mounts() []Mount { panic("pluginhost: contract only") }

// Status returns the state of all plugins, in the order of the specs.
func (h *Host) Status() []Status { panic("pluginhost: contract only") }

// Describe starts the plugin of spec, asks it what it is and ends it again.
func Describe(ctx context.Context, spec Spec, log *slog.Logger) (*wire.DescribeResponse, error) {
	panic("pluginhost: contract only")
}
