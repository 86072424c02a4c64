package sdk

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	hclog "github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

const (
	// firstAttachGrace is how long a process waits for the gateway to attach,
	// attachGrace how long for it to attach again.
	firstAttachGrace = 30 * time.Second
	attachGrace      = 3 * time.Second
	// parentPoll is how often it looks whether the gateway is still its parent.
	parentPoll = time.Second
	// drainTime bounds the polite end of all sessions.
	drainTime = 5 * time.Second
	// gcPercent is Go's GOGC for plugins. What passes through is most of their
	// garbage and next to nothing of it stays: with Go's own 100 a busy plugin would
	// collect dozens of times a second to save a few megabytes.
	gcPercent = 400
)

// Serve runs the plugin process: the whole main function of a plugin. It
// returns when the gateway ends the process, when the gateway is gone, and after
// a SIGTERM, which ends all sessions politely first. Started by hand it says so
// and exits.
//
// Standard output belongs to the handshake with the gateway. What a plugin
// prints there ends up in the gateway's log, and so does standard error; the way
// to log is [Logger].
func Serve(p Plugin) {
	h := wire.Handshake()
	if os.Getenv(h.MagicCookieKey) != h.MagicCookieValue {
		fmt.Fprintf(os.Stderr, "%s %s is a plugin of the Headgate gateway, which starts it by itself.\n"+
			"Name it under \"plugins\" in the gateway's configuration.\n", p.Name, p.Version)
		os.Exit(1)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	stderr := os.Stderr
	slog.SetDefault(newLogger(stderr))
	if err := p.check(); err != nil {
		slog.Error("this plugin cannot be served", "error", err)
		os.Exit(1)
	}
	if err := detachStdout(); err != nil {
		slog.Error("plugin cannot start", "error", err)
		os.Exit(1)
	}
	srv := newServer(p)
	var grpcServer *grpc.Server
	served := make(chan struct{})
	watched := make(chan struct{})
	started := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-started:
			watch(srv, served)
			grpcServer.Stop()
		case <-served: // go-plugin has logged why it could not start
		}
	}()
	plugin.Serve(&plugin.ServeConfig{
		VersionedPlugins: map[int]plugin.PluginSet{
			wire.ProtocolVersion: {wire.PluginName: grpcPlugin{srv: srv}},
		},
		HandshakeConfig: h,
		Logger:          hclog.New(&hclog.LoggerOptions{Output: stderr, Level: hclog.Error, JSONFormat: true}),
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			grpcServer = grpc.NewServer(append(opts, wire.ServerOptions()...)...)
			close(started)
			return grpcServer
		},
	})
	close(served)
	<-watched
	srv.wait(drainTime)
}

// ServeEgress runs a plugin process with one egress that carries H.264 and AAC,
// one track of each. [Serve] offers the rest.
func ServeEgress(name, version string, schemes []string, e Egress) {
	Serve(EgressOf(name, version, schemes, e))
}

// EgressOf is the plugin that [ServeEgress] serves.
func EgressOf(name, version string, schemes []string, e Egress) Plugin {
	return Plugin{Name: name, Version: version, Egress: &EgressPlugin{
		Egress:  e,
		Schemes: schemes,
		Accepts: Accepts{Codecs: []media.Codec{media.H264, media.AAC}, VideoTracks: 1, AudioTracks: 1},
	}}
}

// Register adds the plugin's services to s, a server with [wire.ServerOptions],
// for tests that speak the wire without a process. It panics if p lacks something.
func Register(s grpc.ServiceRegistrar, p Plugin) {
	if err := p.check(); err != nil {
		panic(fmt.Sprintf("sdk: registering plugin %s: %v", p.Name, err))
	}
	wire.RegisterPluginServer(s, newServer(p))
}

// grpcPlugin is the plugin as go-plugin registers it.
type grpcPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	plugin.GRPCPlugin
	srv *server
}

func (p grpcPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	wire.RegisterPluginServer(s, p.srv)
	return nil
}

// watch returns when the process has no reason to go on: it was told to end, the
// gateway is gone, or it detached and does not come back.
func watch(srv *server, served <-chan struct{}) {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	defer signal.Stop(term)
	parent := os.Getppid()
	poll := time.NewTicker(parentPoll)
	defer poll.Stop()
	grace := time.After(firstAttachGrace)
	for {
		select {
		case <-served:
			return
		case <-term:
			slog.Info("terminated; ending all sessions")
			srv.drain("the plugin process was told to end", drainTime)
			return
		case <-poll.C:
			if os.Getppid() != parent {
				slog.Error("the gateway is gone")
				return
			}
		case attached := <-srv.attachChanged:
			grace = nil
			if !attached {
				grace = time.After(attachGrace)
			}
		case <-grace:
			slog.Error("no gateway is attached")
			return
		}
	}
}
