package sdk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
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
// and exits, unless the environment variable GATEWAY_PLUGIN_REATTACH is set: then it
// serves, for a debugger, and says how a gateway attaches to it.
//
// On Linux the process is confined first: it can write files in the directories alone
// that the configuration grants the plugin (files: [DIR]), and read there and what any
// Go program needs.
//
// Standard output belongs to the handshake with the gateway. What a plugin
// prints there ends up in the gateway's log, and so does standard error; the way
// to log is [Logger].
func Serve(p Plugin) {
	h := wire.Handshake()
	byHand := os.Getenv(h.MagicCookieKey) != h.MagicCookieValue
	if byHand && os.Getenv(wire.ReattachEnv) == "" {
		fmt.Fprintf(os.Stderr, "%s %s is a plugin of the Headgate gateway, which starts it by itself.\n"+
			"Name it under \"plugins\" in the gateway's configuration. To debug it, start it with\n"+
			"%s=1 in its environment: it then says how a gateway attaches to it.\n", p.Name, p.Version, wire.ReattachEnv)
		os.Exit(1)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	stderr := os.Stderr
	if !byHand {
		slog.SetDefault(newLogger(stderr))
	}
	if err := p.check(); err != nil {
		slog.Error("this plugin cannot be served", "error", err)
		os.Exit(1)
	}
	if byHand {
		if err := serveByHand(p); err != nil {
			slog.Error("serving by hand", "error", err)
			os.Exit(1)
		}
		return
	}
	err := detachStdout()
	if err == nil {
		err = confineProcess()
	}
	if err != nil {
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

// confineProcess confines a process that the gateway started.
func confineProcess() error {
	var dirs []string
	if text := os.Getenv(wire.DirsEnv); text != "" {
		if err := json.Unmarshal([]byte(text), &dirs); err != nil {
			return fmt.Errorf("reading %s: %w", wire.DirsEnv, err)
		}
	}
	sockets := os.Getenv(wire.SocketDirEnv)
	if sockets == "" {
		sockets = os.TempDir() // where go-plugin makes its socket then
	}
	err := confine(append(dirs, sockets)...)
	if errors.Is(err, errNoLandlock) {
		slog.Warn("the plugin is not confined: it can read and write every file that the gateway's user can", "reason", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("confining the plugin to its files: %w", err)
	}
	return nil
}

// serveByHand serves without a gateway that started the process, until a signal ends
// it. One gateway after the other may attach.
func serveByHand(p Plugin) error {
	ln, err := listenByHand(p.Name)
	if err != nil {
		return err
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(ended)
	srv := newServer(p)
	g := grpc.NewServer(wire.ServerOptions()...)
	wire.RegisterPluginServer(g, srv)
	served := make(chan error, 1)
	go func() { served <- g.Serve(ln) }()
	fmt.Fprintf(os.Stderr, "%s %s waits for a gateway. Start one with this in its environment:\n\n  %s='%s=%s'\n\nCtrl-C ends.\n",
		p.Name, p.Version, wire.ReattachEnv, p.Name, ln.Addr())
	select {
	case err = <-served:
		return err
	case <-ended:
	}
	srv.drain("the plugin process was told to end", drainTime)
	g.Stop()
	<-served
	srv.wait(drainTime)
	return nil
}

// listenByHand listens where the same plugin will listen the next time, so that a
// gateway finds it again.
func listenByHand(name string) (net.Listener, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("headgate-%d", os.Getuid()), "debug-"+filepath.Base(name))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Setenv(wire.SocketDirEnv, dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "plugin.sock")
	if conn, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("another process serves %s by hand at %s; end it", name, path), conn.Close())
	}
	for _, left := range []string{path, filepath.Join(dir, mountSocket), filepath.Join(dir, attachSocket)} {
		if err := os.Remove(left); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return net.Listen("unix", path)
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
