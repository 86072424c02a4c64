// Command egress is a plugin that was built when version 1 of the wire was new: it
// counts what its targets are sent and knows nothing of package sdk.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	wire "github.com/headgate/gateway/sdk/wire/testdata/frozen/v1"
)

type server struct {
	plugin.NetRPCUnsupportedPlugin
	plugin.GRPCPlugin
	wire.UnimplementedPluginServer
}

func (s server) GRPCServer(_ *plugin.GRPCBroker, g *grpc.Server) error {
	wire.RegisterPluginServer(g, s)
	return nil
}

func (server) Describe(context.Context, *wire.DescribeRequest) (*wire.DescribeResponse, error) {
	return &wire.DescribeResponse{Name: "frozen", Version: "1.0.0", Egress: &wire.EgressInfo{
		Schemes: []string{"frozen"},
		Accepts: &wire.Accepts{Codecs: []string{"h264", "aac"}, VideoTracks: 1, AudioTracks: 1},
	}}, nil
}

func (server) Validate(_ context.Context, r *wire.ValidateRequest) (*wire.ValidateResponse, error) {
	out := &wire.ValidateResponse{}
	check := func(path string, options []byte) {
		if len(options) > 0 && string(options) != "{}" {
			out.Diagnostics = append(out.Diagnostics, &wire.Diagnostic{Path: path, Finding: "there are no options", Remedy: "remove it"})
		}
	}
	check("options", r.GetOptionsJson())
	for i, t := range r.GetTargets() {
		check(fmt.Sprintf("targets.%d.options", i), t.GetOptionsJson())
	}
	return out, nil
}

const window = 64 << 10

func (server) Attach(stream grpc.BidiStreamingServer[wire.HostMsg, wire.PluginMsg]) error {
	bytes := map[uint32]uint64{} // written by each session
	for {
		m, err := stream.Recv()
		if err != nil {
			os.Exit(0) // the gateway is gone
		}
		var out []*wire.PluginMsg
		state := func(s *wire.SessionState) { out = append(out, &wire.PluginMsg{M: &wire.PluginMsg_State{State: s}}) }
		switch m := m.GetM().(type) {
		case *wire.HostMsg_Hello:
			out = append(out, &wire.PluginMsg{M: &wire.PluginMsg_Hello{Hello: &wire.HelloAck{}}})
		case *wire.HostMsg_Ping:
			out = append(out, &wire.PluginMsg{M: &wire.PluginMsg_Pong{Pong: &wire.Pong{Id: m.Ping.GetId()}}})
		case *wire.HostMsg_Open:
			bytes[m.Open.GetSession()] = 0
			state(&wire.SessionState{
				Session: m.Open.GetSession(), State: wire.SessionState_READY, WindowBytes: window,
				Accepts: &wire.Accepts{Codecs: []string{"h264", "aac"}, VideoTracks: 1, AudioTracks: 1},
			})
		case *wire.HostMsg_Media:
			for _, u := range m.Media.GetUnits() {
				for _, id := range u.GetSessions() {
					if _, ok := bytes[id]; !ok {
						continue
					}
					n := uint64(len(u.GetPayload()))
					bytes[id] += n
					out = append(out,
						&wire.PluginMsg{M: &wire.PluginMsg_Credit{Credit: &wire.Credit{Session: id, Bytes: n}}},
						&wire.PluginMsg{M: &wire.PluginMsg_Stats{Stats: &wire.SessionStats{Session: id, Bytes: bytes[id]}}})
				}
			}
		case *wire.HostMsg_Close:
			if _, ok := bytes[m.Close.GetSession()]; ok {
				delete(bytes, m.Close.GetSession())
				state(&wire.SessionState{Session: m.Close.GetSession(), State: wire.SessionState_CLOSED})
			}
		case *wire.HostMsg_Drain:
			for id := range bytes {
				state(&wire.SessionState{Session: id, State: wire.SessionState_CLOSED})
			}
			clear(bytes)
		}
		for _, o := range out {
			if err := stream.Send(o); err != nil {
				return err
			}
		}
	}
}

func main() {
	log.SetOutput(os.Stderr)
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig{
			ProtocolVersion: 1, MagicCookieKey: "GATEWAY_PLUGIN", MagicCookieValue: "6f0d3a52-headgate",
		},
		VersionedPlugins: map[int]plugin.PluginSet{1: {"plugin": server{}}},
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o, grpc.MaxRecvMsgSize(17<<20))...)
		},
	})
}
