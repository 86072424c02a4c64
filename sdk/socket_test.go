package sdk_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/plugintest"
	"github.com/headgate/gateway/sdk/wire"
)

// overSocket attaches to p as a gateway that goes on over the plugin's socket.
func overSocket(ctx context.Context, t *testing.T, p sdk.Plugin) (grpc.BidiStreamingClient[wire.HostMsg, wire.PluginMsg], *wire.Socket) {
	t.Helper()
	stream, err := plugintest.Connect(t, p).Attach(ctx)
	if err == nil {
		err = stream.Send(&wire.HostMsg{M: &wire.HostMsg_Hello{Hello: &wire.Hello{Capabilities: []string{"later", wire.CapabilitySocket}}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	ack, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", ack.GetHello().GetAttachSocket())
	if err != nil {
		t.Fatal(err)
	}
	s := wire.NewSocket(conn)
	t.Cleanup(func() { _ = s.Close() })
	return stream, s
}

// A gateway that knows how goes on over a socket: media, credit and all. The plugin's
// sessions end with the Attach stream none the less.
func TestSocket(t *testing.T) {
	j := &journal{}
	ctx, detach := context.WithCancel(t.Context())
	_, s := overSocket(ctx, t, plugin(j))
	send := func(m any) {
		t.Helper()
		if err := s.SendMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	next := func() *wire.PluginMsg {
		t.Helper()
		m := &wire.PluginMsg{}
		if err := s.RecvMsg(m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	send(&wire.HostMsg{M: &wire.HostMsg_Ping{Ping: &wire.Ping{Id: 7}}})
	if m := next(); m.GetPong().GetId() != 7 {
		t.Errorf("%v, want a Pong", m)
	}
	send(&wire.HostMsg{M: &wire.HostMsg_Open{Open: &wire.Open{
		Session: 1, Kind: wire.SessionKind_SESSION_KIND_EGRESS, Target: &wire.Target{Name: "t", Url: "x://y"}, Tracks: wire.FromTracks([]media.Track{video}),
	}}})
	for next().GetState().GetState() != wire.SessionState_READY {
	}
	u := &media.AccessUnit{Track: video.ID, RandomAccess: true, Payload: []byte("payload")}
	send(&wire.HostUnits{Units: wire.Units{Steps: []wire.Step{{Sessions: []uint32{1}, Item: wire.Item{Unit: u}}}, Now: time.Now()}})
	for m := next(); m.GetCredit().GetBytes() != uint64(len(u.Payload)); m = next() {
		if m.GetStats() == nil {
			t.Fatalf("%v, want credit", m)
		}
	}
	detach()
	for {
		if err := s.RecvMsg(&wire.PluginMsg{}); err != nil {
			break // within the test's time
		}
	}
}

// Why a plugin ends it says on the Attach stream, with or without a socket.
func TestSocketOfIngestThatCannotServe(t *testing.T) {
	p := sdk.Plugin{Name: "broken", Version: "1", Ingest: &sdk.IngestPlugin{Ingest: brokenIngest{}}}
	stream, s := overSocket(t.Context(), t, p)
	for {
		if err := s.RecvMsg(&wire.PluginMsg{}); err != nil {
			break
		}
	}
	if m, err := stream.Recv(); err == nil || !strings.Contains(err.Error(), "the port is taken") {
		t.Errorf("%v, %v", m, err)
	}
}

// A gateway that goes before it has connected leaves nothing.
func TestSocketThatNobodyWants(t *testing.T) {
	ctx, detach := context.WithCancel(t.Context())
	stream, err := plugintest.Connect(t, plugin(&journal{})).Attach(ctx)
	if err == nil {
		err = stream.Send(&wire.HostMsg{M: &wire.HostMsg_Hello{Hello: &wire.Hello{Capabilities: []string{wire.CapabilitySocket}}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	ack, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	detach()
	file := ack.GetHello().GetAttachSocket()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("its socket is there still")
		}
	}
}
