package pluginhost

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// hostile is a plugin that does one bad thing.
type hostile struct {
	goplugin.NetRPCUnsupportedPlugin
	goplugin.GRPCPlugin
	wire.UnimplementedPluginServer
	mode string
}

func serveHostile(mode string) {
	version := 1
	switch mode {
	case "bad-exit":
		os.Exit(0)
	case "bad-hello":
		fmt.Println("Hello, world!")
		select {}
	case "bad-version":
		version = 7
	}
	h := wire.Handshake()
	h.ProtocolVersion = uint(version)
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  h,
		VersionedPlugins: map[int]goplugin.PluginSet{version: {wire.PluginName: hostile{mode: mode}}},
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(append(o, wire.ServerOptions()...), grpc.MaxSendMsgSize(1<<30), grpc.ForceServerCodecV2(rawCodec{wire.Codec()}))...)
		},
	})
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // no second for the race detector
}

// rawCodec sends bytes as they are.
type rawCodec struct{ encoding.CodecV2 }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

func (h hostile) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	wire.RegisterPluginServer(s, h)
	return nil
}

func (h hostile) Attach(stream grpc.BidiStreamingServer[wire.HostMsg, wire.PluginMsg]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if strings.HasPrefix(h.mode, "bad-socket") {
		return h.attachOverSocket(stream)
	}
	if h.mode == "bad-mute" { // never says hello back
		<-stream.Context().Done()
		return nil
	}
	if err := stream.Send(&wire.PluginMsg{M: &wire.PluginMsg_Hello{Hello: &wire.HelloAck{}}}); err != nil {
		return err
	}
	switch h.mode {
	case "bad-reader": // talks, and never reads
		for {
			if err := stream.Send(&wire.PluginMsg{M: &wire.PluginMsg_Stats{Stats: &wire.SessionStats{Session: 1}}}); err != nil {
				return err
			}
			time.Sleep(5 * time.Millisecond)
		}
	case "bad-flooder": // the same, with offers that all want an answer, and pongs to pings that it never read
		for i := 0; ; i++ {
			if err := stream.Send(offerMsg(i)); err != nil {
				return err
			}
			if i%64 == 0 {
				if err := stream.Send(&wire.PluginMsg{M: &wire.PluginMsg_Pong{Pong: &wire.Pong{Id: uint64(i)}}}); err != nil {
					return err
				}
			}
		}
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if p := m.GetPing(); p != nil && h.mode != "bad-answer" {
			if err := stream.Send(&wire.PluginMsg{M: &wire.PluginMsg_Pong{Pong: &wire.Pong{Id: p.GetId()}}}); err != nil {
				return err
			}
		}
		if o := m.GetOpen(); o != nil {
			if err := h.open(stream, o.GetSession()); err != nil {
				return err
			}
		}
	}
}

func offerMsg(i int) *wire.PluginMsg {
	return &wire.PluginMsg{M: &wire.PluginMsg_Offer{Offer: &wire.Offer{Offer: fmt.Sprint(i), Name: "flood"}}}
}

// open does the bad thing.
func (h hostile) open(stream grpc.BidiStreamingServer[wire.HostMsg, wire.PluginMsg], id uint32) error {
	send := func(messages ...*wire.PluginMsg) error {
		for _, m := range messages {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		return nil
	}
	unit := func(session, track uint32, dts, pts int64) *wire.PluginMsg {
		return &wire.PluginMsg{M: &wire.PluginMsg_Media{Media: &wire.AccessUnits{Units: []*wire.AccessUnit{{
			Sessions: []uint32{session}, Track: track, Flags: 1, DtsNs: dts, PtsNs: pts, AgeNs: 1 << 63, Payload: []byte("payload"),
		}}}}}
	}
	begin := []*wire.PluginMsg{
		{M: &wire.PluginMsg_State{State: &wire.SessionState{Session: id, State: wire.SessionState_READY}}},
		{M: &wire.PluginMsg_Tracks{Tracks: &wire.TrackSet{Sessions: []uint32{id}, Tracks: []*wire.Track{{Id: 1, Codec: "aac"}}}}},
		unit(id, 1, 1, 1),
	}
	if err := send(begin...); err != nil {
		return err
	}
	switch h.mode {
	case "bad-stdout":
		for range 5 {
			_, _ = syscall.Write(1, append(bytes.Repeat([]byte("x"), 100<<10), '\n'))
		}
	case "bad-log":
		line := bytes.Repeat([]byte("y"), 10<<20)
		_, _ = os.Stderr.Write(append(line, '\n'))
	case "bad-session":
		return send(unit(4711, 1, 2, 2))
	case "bad-track":
		return send(unit(id, 9, 2, 2))
	case "bad-time":
		for i := range int64(badUnitsMax + 1) {
			if err := send(unit(id, 1, -i, -i)); err != nil {
				return err
			}
		}
	case "bad-clock":
		const now = 1_790_000_000_000_000_000 // counts from 1970
		return send(unit(id, 1, now, now), unit(id, 1, 1<<63-1, 1<<63-1), unit(id, 1, now+1, -1<<63), unit(id, 1, now+2, now+3))
	case "bad-size":
		u := unit(id, 1, 2, 2)
		u.GetMedia().GetUnits()[0].Payload = make([]byte, 64<<20)
		return send(u)
	case "bad-bytes":
		return stream.SendMsg([]byte{0x32, 0xff, 0xff, 0xff, 0xff, 0xff})
	case "bad-offers":
		for i := range 3 * offersMax {
			if err := send(offerMsg(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// undecided lets every offer wait.
type undecided struct{}

func (undecided) Offer(string, Offer, func(uint64, SessionHandler) Session, func(Rejection)) {}

// Whatever a plugin does: the gateway survives it, the log names the plugin, the fault
// and the remedy, and the plugin beside it notices nothing.
//
// What is wrong with a plugin before it runs is told of the line of the configuration
// that names it: one that was never pinned or is another file than was pinned (TestPins
// in core/config), and one that claims the mount or the scheme of another
// (TestClaimsOfAnother there). Files that do not start are those of
// TestFilesThatAreNoPlugins.
func TestHostilePlugins(t *testing.T) {
	const lives, fails = true, false
	f := func(mode string, lives bool, wants ...string) {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			bad, good := spec(mode), spec("serve")
			bad.Name, good.Name = "bad", "test"
			against(t, bad, good, lives, wants...)
		})
	}
	const askAuthor = "gateway plugins check says which rule"
	f("bad-stdout", lives, "the plugin prints to standard output", "print to standard error", "stream=stdout", "bytes more")
	f("bad-log", lives, "yyyy... (", "bytes more)", "the plugin prints lines that are too long", "tell the plugin's author to log what happened")
	f("bad-session", lives, "a message for a session that does not exist", askAuthor)
	f("bad-track", lives, "a unit of track 9, which was not announced", askAuthor)
	f("bad-time", lives, "the time goes back from", askAuthor)
	f("bad-clock", lives, "timestamps that make no sense", askAuthor)
	f("bad-offers", lives, "more than 1024 offers at once", askAuthor)
	f("bad-size", fails, "larger than the 16 MiB that the wire carries", askAuthor)
	f("bad-bytes", fails, "it sent what is no message of the wire", askAuthor)
	f("bad-reader", fails, "it did not answer for 5s and was killed", askAuthor)
	f("bad-answer", fails, "it did not answer for 5s and was killed", askAuthor)
	f("bad-flooder", fails, "it does not read what the gateway says", askAuthor)
	f("bad-mute", fails, "it did not answer within 10s of its start", askAuthor)
	f("bad-exit", fails, "it ended before it said hello; start it by hand", "exit status 0")
	f("bad-hello", fails, "the first line that it printed is no handshake", "name a plugin for this gateway")
	f("bad-version", fails, "it speaks another version of the wire, and this gateway speaks version 1", "build it with an SDK for that")
}

// Files that cannot be started.
func TestFilesThatAreNoPlugins(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", t.TempDir())
	const fails = false
	f := func(name, text string, mode os.FileMode, sum string, wants ...string) {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, []byte(text), mode); err != nil {
				t.Fatal(err)
			}
			bad, good := spec("serve"), spec("serve")
			bad.Name, good.Name = "bad", "test"
			bad.Command, bad.SHA256 = []string{file}, sum
			against(t, bad, good, fails, wants...)
		})
	}
	ones := strings.Repeat("1", 64)
	f("plain.txt", "#!/bin/sh\n", 0o600, "", "plain.txt is not executable", "chmod +x")
	f("pinned.txt", "no program", 0o600, ones, "pinned.txt is not executable", "chmod +x")
	f("other", "\x7fELF", 0o700, ones, "has sha256", ones+" is configured", "gateway plugins pin")
	f("garbage", "\x7fELF, or so it says", 0o700, "", "is no program, and no script either", "for this machine", "exec format error")
	f("foreign", foreignProgram(t), 0o700, "", "is a program for another machine, s390", "for this machine, which is "+runtime.GOOS+"/"+runtime.GOARCH)
	f("nobody", "#!/opt/python9 -u\n", 0o700, "", "is run by /opt/python9, which is not there", "install it, or correct the first line")
	f("found", "#!/usr/bin/env python9\n", 0o700, "", "a program was not found", "see the log for which", "python9")
	f("script", "#!/bin/sh\nexit 0\n", 0o700, "", "it ended before it said hello", "exit status 0")
}

// foreignProgram is this test for a machine that it does not run on.
func foreignProgram(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	const machine = 18 // of the ELF header
	binary.NativeEndian.PutUint16(b[machine:], uint16(elf.EM_S390))
	return string(b)
}

// against runs a bad plugin beside a good one, which has to notice nothing.
// lives says whether the bad one goes on.
func against(t *testing.T, bad, good Spec, lives bool, wants ...string) {
	t.Helper()
	log := &lines{}
	h := New([]Spec{bad, good}, undecided{}, slog.New(slog.NewTextHandler(log, nil)), WithRunDir(runDirBase(t)), withTimings(func(t *timings) {
		t.ping = 100 * time.Millisecond // the bounds are for the good plugin too, on a busy machine
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	defer func() {
		cancel()
		if err := get(t, done); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			text := log.String()
			t.Log(text[:min(len(text), 8000)])
		}
	}()
	s, r, q := open(t, h, "ok")
	flow := func(total int) {
		t.Helper()
		q.put(units(100, 100)...)
		s.Wake()
		until(t, "the credit of the good plugin", func() bool { return r.creditedBytes() == total })
	}
	flow(10_000)
	pid := h.Status()[1].PID

	hostile := record()
	if _, err := h.OpenPull("bad", 1, "live", secret.New("pull://x"), hostile); err != nil {
		t.Fatal(err)
	}
	until(t, fmt.Sprintf("%q in the log", wants), func() bool {
		text := log.String()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				return false
			}
		}
		return strings.Contains(text, "plugin=bad")
	})
	if lives {
		until(t, "the bad plugin's unit", func() bool { return hostile.unitCount() > 0 })
		if st := h.Status()[0]; st.State != Ready || st.Restarts != 0 {
			t.Errorf("the bad plugin: %+v", st)
		}
	} else {
		until(t, "the end of the bad plugin", func() bool { return h.Status()[0].Restarts > 0 })
		if e := get(t, hostile.ended); !e.Failed || !strings.Contains(e.Message, "plugin bad") {
			t.Errorf("ended with %+v", e)
		}
		if st := h.Status()[0]; !strings.Contains(st.LastError, wants[0]) {
			t.Errorf("last error %q, want %q", st.LastError, wants[0])
		}
	}
	flow(20_000)
	if g := h.Status()[1]; g.PID != pid || g.Restarts != 0 || g.State != Ready || len(r.ended) > 0 {
		t.Errorf("the good plugin noticed: %+v", g)
	}
}

// What a session says of itself is shown: numbers, and not too many.
func TestFiguresAreBounded(t *testing.T) {
	values := map[string]float64{"nan": math.NaN(), "inf": math.Inf(-1), strings.Repeat("x", nameBytesMax+1): 1}
	info := map[string]string{"long": strings.Repeat("x", 1<<20)}
	for i := range 10_000 {
		values[fmt.Sprint("figure", i)] = float64(i)
		info[fmt.Sprint("fact", i)] = "x"
	}
	st := statsOf(&wire.SessionStats{Values: values, Info: info})
	if len(st.Values) != figuresMax || len(st.Info) != figuresMax || len(st.Info["long"]) > nameBytesMax {
		t.Errorf("%d figures, %d facts", len(st.Values), len(st.Info))
	}
	for name, v := range st.Values {
		if math.IsNaN(v) || math.IsInf(v, 0) || len(name) > nameBytesMax {
			t.Errorf("%s is %v", name, v)
		}
	}
}
