// Package core is the gateway: it holds the parts together. It knows which
// streams, targets and plugins a configuration asks for, starts and ends them in
// order, and tells how they are. It does not know HTTP, command lines or how any
// of its parts does its work.
package core

import (
	"context"
	"errors"
	"log/slog"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/status"
)

// Options say what a [Gateway] is made of. All fields are read once, by [New].
type Options struct {
	// Log receives what the gateway and its plugins log; nil discards it.
	Log *slog.Logger
	// Version is told to the plugins.
	Version string
	// Plugins are those that the configuration may name, each with Info. The ones
	// that no route needs are not started.
	Plugins []pluginhost.Spec
}

// A Gateway runs a configuration. Make it with [New]; its methods may be called
// from any goroutine.
type Gateway struct {
	log *slog.Logger
	opt Options
}

// New makes a gateway. It starts nothing.
func New(o Options) *Gateway {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Gateway{log: o.Log, opt: o}
}

// Run runs cfg until ctx ends, then shuts down in order: no offer is accepted
// any more, publishers are told, targets are drained and closed, plugin
// processes end. It returns within 5 s after ctx, and leaves nothing behind. The
// error is nil if ctx ended it. Run is called once.
func (g *Gateway) Run(ctx context.Context, cfg *config.Config) error {
	return errors.New("running the gateway: not built into this revision")
}

// Streams tells how the streams are: the configured names, publishing or not,
// and those that matched a pattern. Sorted by name.
func (g *Gateway) Streams() []status.Stream { return nil }

// Plugins tells how the plugins are that the configuration needs. Sorted by name.
func (g *Gateway) Plugins() []status.Plugin { return nil }

// Mounts are the HTTP path prefixes that the plugins of the configuration serve.
// It is empty before [Gateway.Run]; from then on it does not change.
func (g *Gateway) Mounts() []pluginhost.Mount { return nil }

// Ready is closed once the configuration runs: the plugins that bring media in
// are up and offers are answered.
func (g *Gateway) Ready() <-chan struct{} { return nil }
