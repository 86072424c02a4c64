// Package plugintest checks that a plugin keeps the contract of package sdk. It
// speaks the real wire with it, over a gRPC server on a unix socket, so that what
// passes here works in a process of its own; the comment of each check is the
// sentence of the contract that it stands for.
//
// It knows the wire and plays a gateway that is as simple as can be. It does not
// know the gateway's core, nor how processes are started.
package plugintest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/wire"
)

// patience bounds each wait.
const patience = 10 * time.Second

// Connect serves p on a unix socket, with the services that a plugin process has,
// and returns a client of it. Both end with the test.
func Connect(t testing.TB, p sdk.Plugin) wire.PluginClient {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "plugin.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(append(wire.ServerOptions(), grpc.WaitForHandlers(true))...)
	sdk.Register(srv, p)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	conn, err := grpc.NewClient("unix:"+path, wire.DialOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return wire.NewPluginClient(conn)
}

// A Gateway is the gateway's end of one Attach stream. Messages are sent as they
// are given and come out of Recv in the order in which they arrive. Its methods
// belong to the test's goroutine, save Send, which is one other's at most.
type Gateway struct {
	// HTTPSocket is the path of the socket on which the plugin serves its mounts;
	// empty if it has none.
	HTTPSocket string

	t        testing.TB
	stream   grpc.BidiStreamingClient[wire.HostMsg, wire.PluginMsg]
	received chan *wire.PluginMsg
}

// Attach attaches to the plugin with its options as JSON. It ends with the test.
func Attach(t testing.TB, client wire.PluginClient, options []byte) *Gateway {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := client.Attach(ctx)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	g := &Gateway{t: t, stream: stream, received: make(chan *wire.PluginMsg, 1024)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(g.received)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case g.received <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	g.Send(&wire.HostMsg{M: &wire.HostMsg_Hello{Hello: &wire.Hello{
		CoreVersion: "plugintest", MaxMessageBytes: wire.MaxMessageBytes, OptionsJson: options,
	}}})
	ack := g.Recv().GetHello()
	if ack == nil || ack.GetError() != "" {
		t.Fatalf("the plugin does not take its options: %s", ack.GetError())
	}
	g.HTTPSocket = ack.GetHttpSocket()
	return g
}

// Send sends m.
func (g *Gateway) Send(m *wire.HostMsg) {
	g.t.Helper()
	if err := g.stream.Send(m); err != nil {
		g.t.Fatalf("the plugin ended the stream: %v", err)
	}
}

// Recv returns the next message. It fails the test if none comes.
func (g *Gateway) Recv() *wire.PluginMsg {
	g.t.Helper()
	m, ok := g.RecvWithin(patience)
	if !ok {
		g.t.Fatalf("the plugin said nothing for %v, or ended the stream", patience)
	}
	return m
}

// RecvWithin returns the next message; it reports false if none comes within d,
// or the stream has ended.
func (g *Gateway) RecvWithin(d time.Duration) (*wire.PluginMsg, bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case m, ok := <-g.received:
		return m, ok
	case <-timer.C:
		return nil, false
	}
}

// State waits for the next state of the session and returns it, with the credit
// that was given back to any session meanwhile.
func (g *Gateway) State(session uint32) (*wire.SessionState, map[uint32]uint64) {
	g.t.Helper()
	credit := make(map[uint32]uint64)
	for {
		m := g.Recv()
		if c := m.GetCredit(); c != nil {
			credit[c.GetSession()] += c.GetBytes()
		}
		if s := m.GetState(); s.GetSession() == session && s != nil {
			return s, credit
		}
	}
}
