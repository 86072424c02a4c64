package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
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
	child  *child
	conn   *grpc.ClientConn
	stderr *logWriter
}

// A launcher is what starting processes needs.
type launcher struct {
	spawn        *spawner
	dir          string // run directory
	log          *slog.Logger
	veil         *veil
	startTimeout time.Duration
	dial         []grpc.DialOption // beside those of the wire
}

// launch starts the process of spec and shakes hands with it. When ctx ends
// first, or the timeout passes, the process is killed.
func (l launcher) launch(ctx context.Context, spec Spec) (*launched, error) {
	level := "info"
	if l.log.Enabled(ctx, slog.LevelDebug) {
		level = "debug"
	}
	p := &launched{
		stderr: &logWriter{log: l.log, veil: l.veil, stream: "stderr"},
		child:  &child{ctx: ctx, spawn: l.spawn, spec: spec, env: []string{wire.LogLevelEnv + "=" + level}},
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
	select {
	case err = <-started:
	case <-timeout.C:
		_ = p.child.Kill(ctx)
		<-started
		err = fmt.Errorf("it did not answer within %v", l.startTimeout)
	case <-ctx.Done():
		_ = p.child.Kill(ctx)
		<-started
		err = ctx.Err()
	}
	if err == nil {
		return p, nil
	}
	p.kill()
	if refused != nil {
		err = refused
	}
	return nil, explain(err, p)
}

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

// explain adds how the process ended, if it did.
func explain(err error, p *launched) error {
	parts := []string{strings.TrimSpace(strings.SplitN(err.Error(), "\n", 2)[0])}
	if status := p.child.exitStatus(); status != "" {
		parts = append(parts, status)
	}
	if words := p.stderr.lastWords(); words != "" {
		parts = append(parts, words)
	}
	if len(parts) == 1 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(parts[1:], ": "))
}

// stop ends the process politely, and by force after grace.
func (p *launched) stop(grace time.Duration) {
	force := time.AfterFunc(grace, func() { _ = p.child.Kill(context.Background()) })
	defer force.Stop()
	p.client.Kill()
}

// kill ends the process at once and frees what belongs to it.
func (p *launched) kill() {
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
