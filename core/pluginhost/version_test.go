package pluginhost

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// future is a plugin of a later minor version: whatever it says holds more than this
// gateway knows.
type future struct {
	goplugin.NetRPCUnsupportedPlugin
	goplugin.GRPCPlugin
	wire.UnimplementedPluginServer
}

func serveFuture() {
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  wire.Handshake(),
		VersionedPlugins: map[int]goplugin.PluginSet{wire.ProtocolVersion: {wire.PluginName: future{}}},
		GRPCServer:       func(o []grpc.ServerOption) *grpc.Server { return grpc.NewServer(append(o, wire.ServerOptions()...)...) },
	})
}

func (f future) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	wire.RegisterPluginServer(s, f)
	return nil
}

func (future) Attach(stream grpc.BidiStreamingServer[wire.HostMsg, wire.PluginMsg]) error {
	unknown := protowire.AppendString(protowire.AppendTag(nil, 12345, protowire.BytesType), "from a later version")
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		var out []*wire.PluginMsg
		switch m := m.GetM().(type) {
		case *wire.HostMsg_Hello:
			ack := &wire.HelloAck{Capabilities: []string{"media.telepathy/7"}}
			ack.ProtoReflect().SetUnknown(unknown)
			out = append(out, &wire.PluginMsg{M: &wire.PluginMsg_Hello{Hello: ack}})
		case *wire.HostMsg_Ping:
			out = append(out, &wire.PluginMsg{M: &wire.PluginMsg_Pong{Pong: &wire.Pong{Id: m.Ping.GetId()}}})
		case *wire.HostMsg_Open:
			s := &wire.SessionState{Session: m.Open.GetSession(), State: wire.SessionState_READY, WindowBytes: wire.MinWindowBytes,
				Accepts: &wire.Accepts{Codecs: []string{"h264", "holograms"}}}
			s.ProtoReflect().SetUnknown(unknown)
			out = append(out, &wire.PluginMsg{}, &wire.PluginMsg{M: &wire.PluginMsg_State{State: s}})
		case *wire.HostMsg_Media:
			for _, u := range m.Media.GetUnits() {
				c := &wire.Credit{Session: u.GetSessions()[0], Bytes: uint64(len(u.GetPayload()))}
				c.ProtoReflect().SetUnknown(unknown)
				out = append(out, &wire.PluginMsg{M: &wire.PluginMsg_Credit{Credit: c}})
			}
		case *wire.HostMsg_Close:
			out = append(out, &wire.PluginMsg{M: &wire.PluginMsg_State{State: &wire.SessionState{
				Session: m.Close.GetSession(), State: wire.SessionState_CLOSED,
			}}})
		}
		out = append(out, &wire.PluginMsg{})
		out[len(out)-1].ProtoReflect().SetUnknown(unknown) // a message of a kind to come
		for _, o := range out {
			if err := stream.Send(o); err != nil {
				return err
			}
		}
	}
}

// carries opens a session of the host's plugin and sends it a unit.
func carries(t *testing.T, h *Host, target EgressSpec) {
	t.Helper()
	r, q := record(), &queue{}
	s, err := h.OpenEgress("test", target, r, q)
	if err != nil {
		t.Fatal(err)
	}
	get(t, r.ready)
	q.put(Item{Tracks: twoTracks}, Item{Unit: &media.AccessUnit{Track: 1, RandomAccess: true, Payload: []byte("picture")}})
	s.Wake()
	until(t, "credit", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.credited == len("picture") })
	s.Close("done", true)
	if e := get(t, r.ended); e.Failed {
		t.Errorf("ended with %+v", e)
	}
	if st := h.Status()[0]; st.Restarts != 0 || st.LastError != "" {
		t.Errorf("%+v", st)
	}
}

// What the gateway does not know of a later version it ignores.
func TestPluginOfTomorrow(t *testing.T) { carries(t, start(t, spec("future"), nil), egressSpec("ok")) }

// A plugin that was built when this version of the wire was new still runs.
func TestPluginOfYesterday(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "frozen")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", exe, "../../sdk/wire/testdata/frozen/egress").CombinedOutput()
	if err != nil {
		t.Fatalf("building the plugin: %v\n%s", err, out)
	}
	carries(t, start(t, Spec{Name: "test", Command: []string{exe}}, nil), egressSpec("ok"))
}

// A plugin in another language has none of go-plugin's services but the one that ends
// it, and needs none.
func TestPluginInPython(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", "import grpc, google.protobuf").CombinedOutput(); err != nil {
		const packages = "needs python3-grpcio and python3-protobuf, Debian packages of these names"
		if os.Getenv("HEADGATE_TEST_PEERS") == "required" {
			t.Fatalf("%s: %s", packages, out)
		}
		t.Skip(packages)
	}
	target := egressSpec("ok")
	target.URL = secret.New("count://anything")
	carries(t, start(t, Spec{Name: "test", Command: []string{"../../examples/egress-count/egress-count"}}, nil), target)
}
