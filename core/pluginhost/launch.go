package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	hclog "github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"github.com/headgate/gateway/sdk/wire"
)

// A launched is a plugin process after the handshake. Whoever has one must call
// stop or kill.
type launched struct {
	client *goplugin.Client
	child  *child // nil for a process that was started by hand
	conn   *grpc.ClientConn
	stderr *logWriter
	socket string // of a process that was started by hand
}

// byHand reports whether a person started the process, who also ends it.
func (p *launched) byHand() bool { return p.child == nil }

// pid returns the process id, 0 if it is not known.
func (p *launched) pid() int {
	if p.byHand() {
		return 0
	}
	return p.child.pid()
}

// socketDir returns where the process makes its sockets.
func (p *launched) socketDir() string {
	if p.byHand() {
		return filepath.Dir(p.socket)
	}
	return p.child.socketDir()
}

// socketPath returns where the socket is that the process has made under that name.
func (p *launched) socketPath(name string) (string, error) {
	if name != filepath.Base(name) {
		return "", fmt.Errorf("its socket %q is not in its socket directory; %s", name, remedy)
	}
	return filepath.Join(p.socketDir(), name), nil
}

// attachByHand connects to a process that a person started. What it prints goes
// where that person reads it.
func (l launcher) attachByHand(spec Spec) (*launched, error) {
	if _, err := os.Stat(spec.Socket); err != nil {
		return nil, fmt.Errorf("looking for the plugin that was started by hand (%s): %w", wire.ReattachEnv, err)
	}
	conn, err := grpc.NewClient("unix:"+spec.Socket, append(wire.DialOptions(), l.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("connecting to the plugin that was started by hand: %w", err)
	}
	return &launched{conn: conn, socket: spec.Socket, stderr: &logWriter{}}, nil
}

// A launcher is what starting processes needs.
type launcher struct {
	spawn        *spawner
	dir          string // run directory
	log          *slog.Logger
	veil         *veil
	memory       *memoryController
	startTimeout time.Duration
	dial         []grpc.DialOption // beside those of the wire
}

// launch starts the process of spec and shakes hands with it. When ctx ends
// first, or the timeout passes, the process is killed.
func (l launcher) launch(ctx context.Context, spec Spec) (*launched, error) {
	if spec.Socket != "" {
		return l.attachByHand(spec)
	}
	level := "info"
	if l.log.Enabled(ctx, slog.LevelDebug) {
		level = "debug"
	}
	p := &launched{
		stderr: &logWriter{log: l.log, veil: l.veil, stream: "stderr"},
		child: &child{
			ctx: ctx, spawn: l.spawn, memory: l.memory, log: l.log, spec: spec,
			gone:    make(chan struct{}),
			printed: &logWriter{log: l.log, veil: l.veil, stream: "stdout"},
			env:     []string{wire.LogLevelEnv + "=" + level},
		},
	}
	var refused error // why there was no process at all; go-plugin flattens errors
	p.client = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: wire.Handshake(),
		VersionedPlugins: map[int]goplugin.PluginSet{
			wire.ProtocolVersion: {wire.PluginName: dispenser{}},
		},
		// A runner of our own: it forks on the right thread, leaves standard input
		// closed, and kills the whole process group. With it go-plugin makes the
		// socket directory where it is told.
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, dir string) (runner.Runner, error) {
			if err := p.child.prepare(cmd.Env, dir); err != nil {
				refused = err
				return nil, errors.Join(err, os.RemoveAll(dir))
			}
			return p.child, nil
		},
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: l.dir},
		SkipHostEnv:      true,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		StartTimeout:     2 * l.startTimeout, // the timer below is the one that counts
		Stderr:           p.stderr,
		SyncStdout:       &logWriter{log: l.log, veil: l.veil, stream: "stdout"},
		SyncStderr:       &logWriter{log: l.log, veil: l.veil, stream: "stderr"},
		Logger:           hclog.New(&hclog.LoggerOptions{Level: hclog.Off, Output: io.Discard}),
		GRPCDialOptions:  append(wire.DialOptions(), l.dial...),
	})
	// go-plugin takes no context and waits without bound for a process that stops
	// between two steps; killing it ends every wait.
	started := make(chan error, 1)
	go func() { started <- p.connect() }()
	timeout := time.NewTimer(l.startTimeout)
	defer timeout.Stop()
	var err error
	late := false
	select {
	case err = <-started:
	case <-timeout.C:
		_ = p.child.Kill(ctx)
		<-started
		late = true
	case <-ctx.Done():
		_ = p.child.Kill(ctx)
		<-started
		err = ctx.Err()
	}
	if err == nil && !late {
		return p, nil
	}
	if err != nil && silent(err) {
		p.child.awaitEnd(endGrace)
	}
	ended := p.exitStatus() // by itself
	p.kill()
	switch {
	case refused != nil:
		err = refused
	case late:
		err = fmt.Errorf("it did not answer within %v of its start; %s", l.startTimeout, remedy)
	case ctx.Err() == nil:
		err = notStarted(err, ended)
	}
	return nil, explained(err, ended, p.stderr.lastWords())
}

// endGrace is how long the end of a process may take that closed its standard output.
const endGrace = time.Second

// connect starts the process and takes the connection from go-plugin.
func (p *launched) connect() error {
	protocol, err := p.client.Client()
	if err != nil {
		return err
	}
	conn, err := protocol.Dispense(wire.PluginName)
	if err != nil {
		return err
	}
	p.conn = conn.(*grpc.ClientConn)
	return nil
}

// explain says how the process ended, if it did, and what it said last.
func explain(err error, p *launched) error {
	return explained(err, p.exitStatus(), p.stderr.lastWords())
}

func explained(err error, exit, words string) error {
	how := strings.Join(slices.DeleteFunc([]string{exit, words}, func(s string) bool { return s == "" }), ": ")
	switch {
	case how == "":
		return err
	case errors.Is(err, errBroken) && exit != "":
		return fmt.Errorf("its process ended: %s", how) // that the connection broke goes without saying
	default:
		return fmt.Errorf("%w (%s)", err, how)
	}
}

// exitStatus says how the process ended; empty while it has not.
func (p *launched) exitStatus() string {
	if p.byHand() {
		return ""
	}
	return p.child.exitStatus()
}

// stop ends the process politely, and by force after grace.
func (p *launched) stop(grace time.Duration) {
	if p.byHand() {
		_ = p.conn.Close() // all that was to be said was said
		return
	}
	force := time.AfterFunc(grace, func() { _ = p.child.Kill(context.Background()) })
	defer force.Stop()
	p.client.Kill()
}

// kill ends the process at once and frees what belongs to it.
func (p *launched) kill() {
	if p.byHand() {
		_ = p.conn.Close() // likewise
		return
	}
	_ = p.child.Kill(context.Background())
	p.client.Kill()
}

// dispenser hands out the connection itself.
type dispenser struct {
	goplugin.NetRPCUnsupportedPlugin
}

func (dispenser) GRPCServer(*goplugin.GRPCBroker, *grpc.Server) error { return nil }

func (dispenser) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}
