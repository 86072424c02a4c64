package pluginhost

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/headgate/gateway/sdk/wire"
)

// attachOverSocket is hostile where there is a socket beside the Attach stream.
func (h hostile) attachOverSocket(stream grpc.BidiStreamingServer[wire.HostMsg, wire.PluginMsg]) error {
	name := "attach.sock"
	if h.mode == "bad-socket-name" {
		name = "../attach.sock"
	}
	ack := &wire.PluginMsg{M: &wire.PluginMsg_Hello{Hello: &wire.HelloAck{AttachSocket: name}}}
	if h.mode == "bad-socket-missing" {
		if err := stream.Send(ack); err != nil {
			return err
		}
		<-stream.Context().Done()
		return nil
	}
	ln, err := net.Listen("unix", filepath.Join(os.Getenv(wire.SocketDirEnv), name))
	if err != nil {
		return err
	}
	if err := stream.Send(ack); err != nil {
		return err
	}
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	s := wire.NewSocket(conn)
	for {
		var m wire.HostMsg
		if err := s.RecvMsg(&m); err != nil {
			return err
		}
		switch {
		case m.GetPing() != nil && h.mode != "bad-socket-answer":
			err = s.SendMsg(&wire.PluginMsg{M: &wire.PluginMsg_Pong{Pong: &wire.Pong{Id: m.GetPing().GetId()}}})
		case m.GetOpen() != nil:
			switch h.mode {
			case "bad-socket-size":
				_, err = conn.Write([]byte{0xff, 0xff, 0xff, 0xff})
			case "bad-socket-bytes":
				_, err = conn.Write([]byte{0, 0, 0, 5, 0x32, 0xff, 0xff, 0xff, 0xff})
			case "bad-socket-beside":
				err = stream.Send(&wire.PluginMsg{})
			case "bad-socket-closed":
				_ = conn.Close()
				<-stream.Context().Done()
			case "bad-socket-reason":
				_ = conn.Close()
				return status.Error(codes.Aborted, "the port is taken")
			}
		}
		if err != nil {
			return err
		}
	}
}

// Whatever a plugin does with its socket: see [TestHostilePlugins].
func TestHostileSockets(t *testing.T) {
	f := func(mode string, wants ...string) {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			bad, good := spec(mode), spec("serve")
			bad.Name, good.Name = "bad", "test"
			against(t, bad, good, false, wants...)
		})
	}
	const askAuthor = "gateway plugins check says which rule"
	f("bad-socket-name", "is not in its socket directory", askAuthor)
	f("bad-socket-missing", "connect: no such file or directory", askAuthor)
	f("bad-socket-size", "larger than the 16 MiB that the wire carries", askAuthor)
	f("bad-socket-bytes", "it sent what is no message of the wire", askAuthor)
	f("bad-socket-beside", "it sent what is no message of the wire: a message on the Attach stream", askAuthor)
	f("bad-socket-answer", "it did not answer for 5s and was killed", askAuthor)
	f("bad-socket-closed", "it closed its socket and stays attached", askAuthor)
	f("bad-socket-reason", "it ended the connection: the port is taken")
}
