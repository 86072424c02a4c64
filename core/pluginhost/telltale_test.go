package pluginhost

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/headgate/gateway/sdk/wire"
)

// telltale is a plugin without the SDK that quotes its options, secrets and all,
// wherever it may say something.
type telltale struct {
	goplugin.NetRPCUnsupportedPlugin
	goplugin.GRPCPlugin
	wire.UnimplementedPluginServer
}

func serveTelltale() {
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  wire.Handshake(),
		VersionedPlugins: map[int]goplugin.PluginSet{1: {wire.PluginName: telltale{}}},
		GRPCServer:       func(o []grpc.ServerOption) *grpc.Server { return grpc.NewServer(append(o, wire.ServerOptions()...)...) },
	})
}

func (p telltale) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	wire.RegisterPluginServer(s, p)
	return nil
}

func (telltale) Attach(stream grpc.BidiStreamingServer[wire.HostMsg, wire.PluginMsg]) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	options := string(m.GetHello().GetOptionsJson())
	_, _ = fmt.Fprintln(os.Stderr, "my options are "+options)
	ack := &wire.HelloAck{}
	if strings.Contains(options, "refuse") {
		ack.Error = "nobody can log in with " + options
	}
	if err := stream.Send(&wire.PluginMsg{M: &wire.PluginMsg_Hello{Hello: ack}}); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		o := m.GetOpen()
		if o == nil {
			continue
		}
		text := options + string(o.GetTarget().GetOptionsJson())
		_, _ = fmt.Fprintln(os.Stderr, "the target's options are "+text)
		if o.GetTarget().GetName() == "end" {
			return status.Error(codes.Aborted, "no way with "+text)
		}
		if err := stream.Send(&wire.PluginMsg{M: &wire.PluginMsg_State{State: &wire.SessionState{
			Session: o.GetSession(), State: wire.SessionState_FAILED, Message: "no way with " + text,
		}}}); err != nil {
			return err
		}
	}
}

// What the schema of a plugin's options calls a secret is in no log and no status,
// however the plugin quotes it.
func TestOptionSecretsAreVeiled(t *testing.T) {
	const password, passphrase = "c4n4ry/of the plugin", "c4n4ry-of-the-target"
	f := func(name, greeting, target string, check func(h *Host, r *recorder)) {
		t.Run(name, func(t *testing.T) {
			s := spec("telltale")
			s.Options = fmt.Appendf(nil, `{"greeting":%q,"password":%q}`, greeting, password)
			log := &lines{}
			h, stop := startHost(t, s, nil, func(h *Host) { h.log = slog.New(slog.NewTextHandler(log, nil)) })
			defer stop()
			e := egressSpec("ok")
			e.Target, e.Options = target, fmt.Appendf(nil, `{"passphrase":%q}`, passphrase)
			r := record()
			if _, err := h.OpenEgress("test", e, r, &queue{}); err != nil {
				t.Fatal(err)
			}
			end := get(t, r.ended)
			until(t, "its lines in the log", func() bool { return strings.Contains(log.String(), "options are") })
			check(h, r)
			all := log.String() + end.Message + h.Status()[0].LastError
			if strings.Contains(all, "c4n4ry") || strings.Count(all, "***") < 3 || !strings.Contains(all, greeting) {
				t.Errorf("told: %s", all)
			}
			if name == "options refused" && (end.Cause != CauseConfig || !end.Permanent) {
				t.Errorf("ended with %+v", end)
			}
		})
	}
	f("options refused", "refuse", "cdn", func(h *Host, _ *recorder) {
		until(t, "the reason", func() bool { return strings.Contains(h.Status()[0].LastError, "nobody can log in with") })
	})
	f("session failed", "hello", "cdn", func(*Host, *recorder) {})
	f("connection ended", "hello", "end", func(h *Host, _ *recorder) {
		until(t, "the reason", func() bool { return strings.Contains(h.Status()[0].LastError, "no way with") })
	})
}
