package plugintest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/stats"

	"github.com/headgate/gateway/sdk/wire"
)

// The test binary is a plugin process too ("plugin FAULT").
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "plugin" {
		if err := serveFake(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A fake is an egress on the bare wire, without package sdk, that does one thing
// wrong: what its fault names. Without a fault it does everything right.
type fake struct {
	wire.UnimplementedPluginServer
	fault    string
	attached atomic.Int32
	conn     connection
	exit     func() // of the process; nil inside a test
}

// A connection is the one that a server has, as grpc's statistics see it. Whoever lost
// his Attach stream and goes on ends with it: that is when the check is over.
type connection struct {
	closed chan struct{}
	close  func() // once
}

func newConnection() connection {
	closed := make(chan struct{})
	return connection{closed, sync.OnceFunc(func() { close(closed) })}
}

func (connection) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (connection) HandleRPC(context.Context, stats.RPCStats)                         {}
func (connection) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c connection) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, ended := s.(*stats.ConnEnd); ended {
		c.close()
	}
}

func (f *fake) register(options ...grpc.ServerOption) *grpc.Server {
	if f.fault != "large unit" {
		options = append(options, wire.ServerOptions()...)
	}
	f.conn = newConnection()
	s := grpc.NewServer(append(options, grpc.StatsHandler(f.conn))...)
	wire.RegisterPluginServer(s, f)
	return s
}

func (f *fake) Describe(context.Context, *wire.DescribeRequest) (*wire.DescribeResponse, error) {
	d := &wire.DescribeResponse{Name: "fake", Version: "1", Egress: &wire.EgressInfo{
		Schemes: []string{"fake"}, Accepts: &wire.Accepts{Codecs: []string{"h264", "aac"}, VideoTracks: 1, AudioTracks: 1},
	}}
	if f.fault == "describe" {
		d.Egress.Accepts = nil
	}
	return d, nil
}

func (f *fake) Validate(_ context.Context, r *wire.ValidateRequest) (*wire.ValidateResponse, error) {
	out := &wire.ValidateResponse{}
	if f.fault == "options" {
		return out, nil
	}
	complain := func(path string, options []byte) {
		if len(options) > 0 {
			out.Diagnostics = append(out.Diagnostics, &wire.Diagnostic{Path: path, Finding: "there are no options"})
		}
	}
	complain("options", r.GetOptionsJson())
	for i, t := range r.GetTargets() {
		complain(fmt.Sprintf("targets.%d.options", i), t.GetOptionsJson())
	}
	return out, nil
}

// fakeSession is one session of a fake.
type fakeSession struct {
	target  string
	owed    uint64 // taken, and no credit given
	blocked bool
	tracks  int // changes of them
}

func (f *fake) Attach(stream grpc.BidiStreamingServer[wire.HostMsg, wire.PluginMsg]) error {
	if f.attached.Add(1) > 1 && f.fault == "attach again" {
		return errors.New("attached before")
	}
	if f.exit == nil { // in a process it prints where it shakes hands
		misbehave(f.fault)
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	ack := &wire.HelloAck{}
	if len(slices.DeleteFunc(first.GetHello().GetCapabilities(), isSocket)) > 0 && f.fault == "unknown fields" {
		ack.Error = "the gateway is too new"
	}
	if err := stream.Send(&wire.PluginMsg{M: &wire.PluginMsg_Hello{Hello: ack}}); err != nil {
		return err
	}
	sessions := map[uint32]*fakeSession{}
	for {
		m, err := stream.Recv()
		if err != nil {
			if f.fault == "lost Attach" && len(sessions) > 0 {
				<-f.conn.closed
			}
			if f.exit != nil {
				f.exit()
			}
			return err
		}
		answers, err := f.handle(sessions, m)
		if err != nil {
			return err
		}
		for _, a := range answers {
			if err := stream.Send(a); err != nil {
				return err
			}
		}
	}
}

func state(id uint32, st wire.SessionState_State) *wire.PluginMsg {
	return &wire.PluginMsg{M: &wire.PluginMsg_State{State: &wire.SessionState{
		Session: id, State: st, WindowBytes: wire.MinWindowBytes, Accepts: &wire.Accepts{Codecs: []string{"h264"}},
	}}}
}

// handle returns what the fake answers.
func (f *fake) handle(sessions map[uint32]*fakeSession, m *wire.HostMsg) (answers []*wire.PluginMsg, err error) {
	switch m := m.GetM().(type) {
	case *wire.HostMsg_Ping:
		if f.fault != "ping" || len(sessions) == 0 {
			answers = append(answers, &wire.PluginMsg{M: &wire.PluginMsg_Pong{Pong: &wire.Pong{Id: m.Ping.GetId()}}})
		}
	case *wire.HostMsg_Configure:
		if f.fault == "renewed files" {
			return nil, errors.New("cannot do that")
		}
	case *wire.HostMsg_Open:
		return f.open(sessions, m.Open), nil
	case *wire.HostMsg_Tracks:
		for _, id := range m.Tracks.GetSessions() {
			if s := sessions[id]; s != nil {
				if s.tracks++; s.tracks == 2 && f.fault == "change of tracks" {
					delete(sessions, id)
					answers = append(answers, state(id, wire.SessionState_FAILED))
				}
			}
		}
	case *wire.HostMsg_Media:
		for _, u := range m.Media.GetUnits() {
			a, err := f.unit(sessions, u)
			if err != nil {
				return nil, err
			}
			answers = append(answers, a...)
		}
	case *wire.HostMsg_Close:
		answers = f.close(sessions, m.Close)
	case *wire.HostMsg_Drain:
		for id := range sessions {
			delete(sessions, id)
			answers = append(answers, state(id, wire.SessionState_CLOSED))
			if f.fault == "drain" {
				break
			}
		}
	}
	return answers, nil
}

func (f *fake) open(sessions map[uint32]*fakeSession, o *wire.Open) []*wire.PluginMsg {
	target := o.GetTarget().GetUrl()
	if target == "fake://bad/s3cret" && f.fault != "bad target" {
		a := state(o.GetSession(), wire.SessionState_FAILED)
		a.GetState().Message = "the peer says no"
		if f.fault == "secrets" {
			a.GetState().Message = "dial " + target + ": no"
		}
		return []*wire.PluginMsg{a}
	}
	if strings.HasPrefix(target, "fake://0.0.0.0/") && o.GetTarget().GetRestricted() && f.fault != "restricted" {
		a := state(o.GetSession(), wire.SessionState_FAILED)
		a.GetState().Message, a.GetState().Permanent = "it may not lead there", true
		return []*wire.PluginMsg{a}
	}
	sessions[o.GetSession()] = &fakeSession{target: target}
	return []*wire.PluginMsg{state(o.GetSession(), wire.SessionState_READY)}
}

func credit(id uint32, s *fakeSession) *wire.PluginMsg {
	n := s.owed
	s.owed = 0
	return &wire.PluginMsg{M: &wire.PluginMsg_Credit{Credit: &wire.Credit{Session: id, Bytes: n}}}
}

// unit takes one unit.
func (f *fake) unit(sessions map[uint32]*fakeSession, u *wire.AccessUnit) (answers []*wire.PluginMsg, err error) {
	held := false
	for _, s := range sessions {
		held = held || s.blocked
	}
	for i, id := range u.GetSessions() {
		s := sessions[id]
		switch {
		case s == nil && f.fault == "late units":
			return nil, fmt.Errorf("there is no session %d", id)
		case s == nil:
			continue
		case s.target == "fake://stalled":
			s.blocked = true
			continue
		case held && f.fault == "slow neighbour":
			continue
		case f.fault == "two at once" && i > 0:
			continue
		case f.fault == "stream" && u.GetTrack() != 1:
			continue // no credit for sound
		case f.fault == "B-frames" && u.GetPtsNs() != u.GetDtsNs(),
			f.fault == "discontinuity" && u.GetFlags()&uint32(wire.Flag_FLAG_DISCONTINUITY) != 0:
			delete(sessions, id)
			answers = append(answers, state(id, wire.SessionState_FAILED))
			continue
		}
		s.owed += uint64(len(u.GetPayload()))
		if f.fault == "credit" && s.owed < wire.MinWindowBytes/2 {
			continue // hoards it
		}
		answers = append(answers, credit(id, s))
	}
	return answers, nil
}

func (f *fake) close(sessions map[uint32]*fakeSession, c *wire.Close) []*wire.PluginMsg {
	id := c.GetSession()
	s := sessions[id]
	if s == nil || f.fault == "closed while blocked" && s.blocked {
		return nil
	}
	if f.fault == "closed while idle" && !c.GetDrain() && s.owed == 0 && s.tracks == 1 && !s.blocked && s.target == "fake://127.0.0.1/fine" {
		time.Sleep(closeTime + time.Second/2) // the fault is that it takes longer
	}
	delete(sessions, id)
	answers := []*wire.PluginMsg{state(id, wire.SessionState_CLOSED)}
	if s.owed > 0 {
		answers = append([]*wire.PluginMsg{credit(id, s)}, answers...)
	}
	return answers
}

// serveFake is the main function of a plugin process, as any language would write
// it.
func serveFake(fault string, args []string) error {
	h := wire.Handshake()
	if os.Getenv(h.MagicCookieKey) != h.MagicCookieValue {
		if fault == "started by hand" {
			return nil
		}
		return errors.New("this is a plugin; the gateway starts it")
	}
	if fault == "attach again" { // leaves a lock behind when it dies
		if _, err := os.OpenFile(args[0], os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
		defer func() { _ = os.Remove(args[0]) }()
	}
	path := filepath.Join(os.Getenv(wire.SocketDirEnv), "p.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	f := &fake{fault: fault}
	s := f.register()
	done := make(chan struct{}, 1)
	f.exit = func() {
		select {
		case done <- struct{}{}:
		default:
		}
	}
	healthpb.RegisterHealthServer(s, health.NewServer())
	version := wire.ProtocolVersion
	if fault == "version" {
		version = 99
	}
	fmt.Printf("1|%d|unix|%s|grpc\n", version, path)
	if fault == "standard output" {
		fmt.Println("a line of chatter")
	}
	go func() { _ = s.Serve(ln) }()
	<-done
	return nil
}

func fakeOptions(patience time.Duration) EgressOptions {
	target := func(url string) func(T) *wire.Target {
		return func(T) *wire.Target { return &wire.Target{Name: "fake", Url: url} }
	}
	return EgressOptions{
		NewTarget: target("fake://127.0.0.1/fine"), StalledTarget: target("fake://stalled"),
		BadTarget: &wire.Target{Name: "fake", Url: "fake://bad/s3cret"}, patience: patience,
	}
}

// failures runs the suite and returns the names of the checks that fail, and
// those that are left out.
func failures(t *testing.T, s Suite) (failed, skipped []string) {
	t.Helper()
	s.Report(t.Context(), func(r Result) {
		switch r.Outcome {
		case Failed:
			failed = append(failed, r.Check)
			t.Logf("%s: %s", r.Check, strings.Join(r.Findings, "; "))
		case Skipped:
			skipped = append(skipped, r.Check)
		case Passed:
		}
	})
	return failed, skipped
}

// inTest is a fake that is served inside the test.
func inTest(fault string) Plugin {
	return Plugin{serve: func(o ...grpc.ServerOption) *grpc.Server { return (&fake{fault: fault}).register(o...) }}
}
