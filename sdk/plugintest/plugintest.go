// Package plugintest checks that a plugin keeps the contract between the gateway
// and its plugins. It speaks the real wire with it, over gRPC on a unix socket, and over
// the plain socket behind that with a plugin that can:
// with a plugin of package sdk inside a Go test ([TestEgress], [TestIngest],
// [TestTransform]), or with any executable in whatever language ([Program]),
// which is what `gateway plugins check` does. The comment of each check is the
// sentence of the contract that it stands for.
//
// It knows the wire and plays a gateway that is as simple as can be. It does not
// know the gateway's core, nor what a plugin is for.
package plugintest

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/wire"
)

// patience bounds each wait.
const patience = 10 * time.Second

// A T is what a check needs of a test. A *[testing.T] is one.
type T interface {
	Helper()
	Context() context.Context
	Cleanup(f func())
	TempDir() string
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	// Fatalf and Skipf end the check's goroutine.
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Connect serves p on a unix socket, with the services that a plugin process has,
// and returns a client of it. Both end with the test.
func Connect(t T, p sdk.Plugin) wire.PluginClient {
	t.Helper()
	return InProcess(p).start(t).client
}

// A Gateway is the gateway's end of one Attach stream. Messages are sent as they
// are given and come out of Recv in the order in which they arrive. Its methods
// belong to the test's goroutine, save Send, which is one other's at most.
type Gateway struct {
	// HTTPSocket is the path of the socket on which the plugin serves its mounts;
	// empty if it has none. A plugin process gives the name in its socket directory.
	HTTPSocket string

	t        T
	patience time.Duration
	out      wire.Stream
	received chan *wire.PluginMsg
	detach   func()
	broken   error // why the stream ended; read it once received is closed
	later    bool  // send what a later version might add
}

// Attach attaches to the plugin with its options as JSON. It ends with the test.
func Attach(t T, client wire.PluginClient, options []byte) *Gateway {
	t.Helper()
	return attach(t, client, "", patience, &wire.Hello{
		CoreVersion: "plugintest", MaxMessageBytes: wire.MaxMessageBytes, OptionsJson: options,
	})
}

// attach attaches to a plugin whose sockets are in dir.
func attach(t T, client wire.PluginClient, dir string, patience time.Duration, hello *wire.Hello) *Gateway {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := client.Attach(ctx)
	if err != nil {
		cancel()
		t.Fatalf("attaching: %v", err)
	}
	g := &Gateway{t: t, patience: patience, out: stream, received: make(chan *wire.PluginMsg, 1024)}
	var done sync.WaitGroup
	g.detach = func() {
		cancel()
		done.Wait()
	}
	t.Cleanup(g.detach)
	// What cannot be sent shows when the answer does not come.
	_ = stream.Send(&wire.HostMsg{M: &wire.HostMsg_Hello{Hello: hello}})
	done.Go(func() {
		defer close(g.received)
		g.broken = g.receive(ctx, stream, dir)
	})
	first := g.Recv()
	ack := first.GetHello()
	if ack == nil {
		t.Fatalf("the first message is no HelloAck: %v", first)
	}
	if ack.GetError() != "" {
		t.Fatalf("the plugin does not take its options: %s", ack.GetError())
	}
	if ack.GetHttpSocket() != "" {
		g.HTTPSocket = inDir(dir, ack.GetHttpSocket())
	}
	return g
}

// inDir is the path of a socket that a plugin names: those of one within this process
// are absolute.
func inDir(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// receive passes on what the plugin sends, and returns why it ends.
func (g *Gateway) receive(ctx context.Context, stream grpc.BidiStreamingClient[wire.HostMsg, wire.PluginMsg], dir string) error {
	in := wire.Stream(stream)
	for {
		m := new(wire.PluginMsg)
		if err := in.RecvMsg(m); err != nil {
			if in != wire.Stream(stream) {
				return lastWord(stream, err)
			}
			return err
		}
		if name := m.GetHello().GetAttachSocket(); name != "" {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", inDir(dir, name))
			if err != nil {
				return fmt.Errorf("connecting to its attach_socket: %w", err)
			}
			s := wire.NewSocket(conn)
			closeSocket := func() { _ = s.Close() } // twice, of which one fails
			defer closeSocket()
			defer context.AfterFunc(ctx, closeSocket)()
			in, g.out = s, s // Send looks when it has the answer
		}
		for _, m := range oneByOne(m) {
			select {
			case g.received <- m:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// lastWord is why a plugin ended its Attach, whose socket broke with err.
func lastWord(stream grpc.BidiStreamingClient[wire.HostMsg, wire.PluginMsg], err error) error {
	why := make(chan error, 1)
	go func() { // ends with the stream, at the latest when the gateway detaches
		_, err := stream.Recv()
		why <- err
	}()
	select {
	case w := <-why:
		return w
	case <-time.After(lastWordTime):
		return fmt.Errorf("its socket: %w, and its Attach stream goes on", err)
	}
}

// lastWordTime is how long a plugin that closed its socket may take to end its Attach.
const lastWordTime = 3 * time.Second

// oneByOne returns credit of several sessions as that of each, and any other message
// as it is.
func oneByOne(m *wire.PluginMsg) []*wire.PluginMsg {
	several := m.GetCredits()
	if several == nil || len(several.GetSessions()) != len(several.GetBytes()) {
		return []*wire.PluginMsg{m}
	}
	var out []*wire.PluginMsg
	for i, id := range several.GetSessions() {
		out = append(out, &wire.PluginMsg{M: &wire.PluginMsg_Credit{Credit: &wire.Credit{Session: id, Bytes: several.GetBytes()[i]}}})
	}
	return out
}

// Send sends m.
func (g *Gateway) Send(m *wire.HostMsg) {
	g.t.Helper()
	if g.later {
		addUnknown(m.ProtoReflect())
	}
	if err := g.out.SendMsg(m); err != nil {
		for range g.received { // the reason comes with the last message
		}
		g.t.Fatalf("the plugin ended the Attach stream: %v", g.broken)
	}
}

// Recv returns the next message. It fails the test if none comes.
func (g *Gateway) Recv() *wire.PluginMsg {
	g.t.Helper()
	m, err := g.next(g.patience)
	if err != nil {
		g.t.Fatalf("%v", err)
	}
	return m
}

// RecvWithin returns the next message; it reports false if none comes within d,
// or the stream has ended.
func (g *Gateway) RecvWithin(d time.Duration) (*wire.PluginMsg, bool) {
	m, err := g.next(d)
	return m, err == nil
}

func (g *Gateway) next(d time.Duration) (*wire.PluginMsg, error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case m, ok := <-g.received:
		if !ok {
			return nil, fmt.Errorf("the plugin ended the Attach stream: %w", g.broken)
		}
		return m, nil
	case <-timer.C:
	}
	if d > 0 && len(g.received) > 0 { // it came in time, to somebody who was late himself
		return <-g.received, nil
	}
	return nil, fmt.Errorf("the plugin said nothing for %v", d)
}

// State waits for the next state of the session and returns it, with the credit
// that was given back to any session meanwhile.
func (g *Gateway) State(session uint32) (*wire.SessionState, map[uint32]uint64) {
	g.t.Helper()
	credit := make(map[uint32]uint64)
	deadline := time.Now().Add(g.patience)
	for {
		m, err := g.next(time.Until(deadline))
		if err != nil {
			g.t.Fatalf("waiting for the state of session %d: %v", session, err)
		}
		if c := m.GetCredit(); c != nil {
			credit[c.GetSession()] += c.GetBytes()
		}
		if s := m.GetState(); s.GetSession() == session && s != nil {
			return s, credit
		}
	}
}
