package sdk

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/headgate/gateway/sdk/wire"
)

// The sockets that a plugin process makes beside that of gRPC.
const (
	mountSocket  = "http.sock"
	attachSocket = "attach.sock"
)

// connectTimeout is how long the gateway may take to connect to attachSocket.
const connectTimeout = 10 * time.Second

// A socket is one on which the plugin listens.
type socket struct {
	*net.UnixListener
	name string // as the gateway is told
	temp string // a directory to remove; empty in a plugin process
}

// listenSocket listens in the plugin's socket directory.
func listenSocket(name string) (*socket, error) {
	s := &socket{name: name}
	dir := os.Getenv(wire.SocketDirEnv)
	if dir == "" { // no plugin process: a test
		var err error
		if dir, err = os.MkdirTemp("", "gw"); err != nil {
			return nil, fmt.Errorf("making the socket directory: %w", err)
		}
		s.temp, s.name = dir, filepath.Join(dir, name)
	}
	var err error
	s.UnixListener, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, name)})
	if err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

// remove removes what closing leaves.
func (s *socket) remove() {
	if s.temp != "" {
		_ = os.RemoveAll(s.temp) // of a test
	}
}

// A link is what carries the messages behind the first ones.
type link struct {
	wire.Stream
	close func() // ends it, also for who sends or receives just now; gRPC ends its own
}

// greet answers the gateway's Hello and returns what everything else goes over: a socket
// with nothing else on it if the gateway knows how, the stream itself if not.
func (a *attachment) greet(stream grpc.BidiStreamingServer[wire.HostMsg, wire.PluginMsg], ack *wire.HelloAck) (link, error) {
	answer := func() error { return stream.Send(&wire.PluginMsg{M: &wire.PluginMsg_Hello{Hello: ack}}) }
	if !slices.Contains(a.hello.GetCapabilities(), wire.CapabilitySocket) {
		return link{stream, func() {}}, answer()
	}
	ln, err := listenSocket(attachSocket)
	if err != nil {
		return link{}, fmt.Errorf("listening for the gateway: %w", err)
	}
	defer ln.remove()
	closeListener := func() { _ = ln.Close() } // twice, of which one fails
	defer closeListener()
	stop := context.AfterFunc(stream.Context(), closeListener)
	defer stop()
	ack.AttachSocket = ln.name
	if err := answer(); err != nil {
		return link{}, err
	}
	if err := ln.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return link{}, err
	}
	conn, err := ln.Accept()
	if err != nil {
		return link{}, fmt.Errorf("waiting for the gateway to connect: %w", err)
	}
	s := wire.NewSocket(conn)
	closeSocket := func() { _ = s.Close() } // likewise
	context.AfterFunc(stream.Context(), closeSocket)
	return link{s, closeSocket}, nil
}
