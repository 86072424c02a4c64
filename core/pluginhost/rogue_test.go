package pluginhost

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

// rogue is a plugin that keeps no rule, without the SDK.
type rogue struct {
	goplugin.NetRPCUnsupportedPlugin
	goplugin.GRPCPlugin
	wire.UnimplementedPluginServer
}

func serveRogue() {
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  wire.Handshake(),
		VersionedPlugins: map[int]goplugin.PluginSet{1: {wire.PluginName: rogue{}}},
		GRPCServer:       func(o []grpc.ServerOption) *grpc.Server { return grpc.NewServer(append(o, wire.ServerOptions()...)...) },
	})
}

func (r rogue) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	wire.RegisterPluginServer(s, r)
	return nil
}

func (rogue) Attach(stream grpc.BidiStreamingServer[wire.HostMsg, wire.PluginMsg]) error {
	// Lines on which go-plugin itself would panic.
	_, _ = fmt.Fprintf(os.Stderr, `{"@message": 5, "@level": []}`+"\n"+`{"@timestamp": 7, "@message": "x"}`+"\n%s\n", strings.Repeat("y", 1<<20))
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, answer := range rogueAnswers(m) {
			if err := stream.Send(answer); err != nil {
				return err
			}
		}
	}
}

func rogueAnswers(m *wire.HostMsg) []*wire.PluginMsg {
	state := func(id uint32, s wire.SessionState_State) *wire.PluginMsg {
		return &wire.PluginMsg{M: &wire.PluginMsg_State{State: &wire.SessionState{Session: id, State: s, WindowBytes: 1 << 60}}}
	}
	media := func(units ...*wire.AccessUnit) *wire.PluginMsg {
		return &wire.PluginMsg{M: &wire.PluginMsg_Media{Media: &wire.AccessUnits{Units: units}}}
	}
	tracks := func(id uint32, ids ...uint32) *wire.PluginMsg {
		set := &wire.TrackSet{Sessions: []uint32{id}}
		for _, id := range ids {
			set.Tracks = append(set.Tracks, &wire.Track{Id: id, Codec: "aac"})
		}
		return &wire.PluginMsg{M: &wire.PluginMsg_Tracks{Tracks: set}}
	}
	switch m := m.GetM().(type) {
	case *wire.HostMsg_Hello:
		return []*wire.PluginMsg{{M: &wire.PluginMsg_Hello{Hello: &wire.HelloAck{}}}}
	case *wire.HostMsg_Ping:
		return []*wire.PluginMsg{{M: &wire.PluginMsg_Pong{Pong: &wire.Pong{}}}}
	case *wire.HostMsg_Close:
		return []*wire.PluginMsg{state(m.Close.GetSession(), wire.SessionState_CLOSED), state(m.Close.GetSession(), wire.SessionState_CLOSED)}
	case *wire.HostMsg_Open:
		id := m.Open.GetSession()
		if m.Open.GetKind() == wire.SessionKind_SESSION_KIND_EGRESS {
			return []*wire.PluginMsg{
				{},
				{M: &wire.PluginMsg_Hello{}},
				{M: &wire.PluginMsg_Credit{Credit: &wire.Credit{Session: id, Bytes: 1 << 63, WindowBytes: 1 << 63}}},
				{M: &wire.PluginMsg_Credit{Credit: &wire.Credit{Session: 4711, Bytes: 1}}},
				{M: &wire.PluginMsg_Credits{Credits: &wire.Credits{Sessions: []uint32{id, 4711, 0}, Bytes: []uint64{1 << 63, 1, 2}}}},
				{M: &wire.PluginMsg_Credits{Credits: &wire.Credits{Sessions: []uint32{id}}}},
				{M: &wire.PluginMsg_Credits{}},
				{M: &wire.PluginMsg_Stats{}},
				{M: &wire.PluginMsg_State{}},
				state(4711, wire.SessionState_READY),
				state(id, 99),
				media(&wire.AccessUnit{Sessions: []uint32{id}, Payload: []byte("from an egress")}),
				media(&wire.AccessUnit{}, &wire.AccessUnit{Sessions: []uint32{1, 2, 3}}, nil),
				state(id, wire.SessionState_READY),
				{M: &wire.PluginMsg_Keyframe{Keyframe: &wire.KeyframeRequest{Session: id}}},
			}
		}
		if m.Open.GetTransform().GetTrack() == 1 {
			return []*wire.PluginMsg{state(id, wire.SessionState_READY), tracks(id, 1, 1)}
		}
		out := []*wire.PluginMsg{state(id, wire.SessionState_READY), tracks(id, 1)}
		out = append(out, media(
			&wire.AccessUnit{Sessions: []uint32{id}, Track: 1, DtsNs: 5, Payload: []byte("good")},
			&wire.AccessUnit{Sessions: []uint32{id}, Track: 1, DtsNs: 6},
			&wire.AccessUnit{Sessions: []uint32{id}, Track: 1, DtsNs: 7, Payload: []byte("good")},
		))
		for range badUnitsMax {
			out = append(out, media(&wire.AccessUnit{Sessions: []uint32{id}, Track: 2, Payload: []byte("of no track")}))
		}
		return out
	default:
		return nil
	}
}

// Whatever a plugin sends, the host goes on and the sessions that keep the rules
// do too.
func TestRoguePlugin(t *testing.T) {
	h := start(t, spec("rogue"), nil)
	s, r, _ := open(t, h, "ok")
	until(t, "the keyframe request", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.keys == 1 })
	pid := h.Status()[0].PID

	transform := func(out media.TrackID) *recorder {
		t.Helper()
		r := record()
		in := media.Track{ID: 2, Codec: media.Opus}
		if _, err := h.OpenTransform(TransformSpec{In: in, To: media.AAC, Out: out}, r, &queue{}); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if e := get(t, transform(1).ended); e.Cause != CausePlugin || !strings.Contains(e.Message, "two tracks of the number 1") {
		t.Errorf("ended with %+v", e)
	}
	r2 := transform(2)
	if e := get(t, r2.ended); e.Cause != CausePlugin || !strings.Contains(e.Message, "track 2, which was not announced") {
		t.Errorf("ended with %+v", e)
	}
	if len(r2.units) != 2 || r2.units[0].Discontinuity || !r2.units[1].Discontinuity {
		t.Errorf("units %v", r2.units)
	}
	s.Close("done", true)
	if e := get(t, r.ended); e.Failed {
		t.Errorf("ended with %+v", e)
	}
	if st := h.Status()[0]; st.PID != pid || st.Restarts != 0 {
		t.Errorf("the process died of it: %+v", st)
	}
}

func TestLogWriter(t *testing.T) {
	var out lines
	w := &logWriter{veil: &veil{}, stream: "stderr", log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))}
	for _, piece := range []string{
		`{"@level":"warn","@message":"careful","@timestamp":"now","b":1,"a":"x","plugin":"a lie"}` + "\n",
		`{"@message":5}` + "\n", "\n",
		"half a ", "line\n[ERROR] bad\n", strings.Repeat("z", logLineBytes), "zzzz", "\n", strings.Repeat("x", logLineBytes+1) + "\n",
		"panic: oh\n", "goroutine 1\n",
	} {
		if n, err := w.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	want := `level=WARN msg=careful a=x b=1
level=INFO msg="{\"@message\":5}" stream=stderr
level=INFO msg="half a line" stream=stderr
level=ERROR msg="[ERROR] bad" stream=stderr
level=INFO msg="` + strings.Repeat("z", logLineBytes) + `... (4 bytes more)" stream=stderr
level=WARN msg="the plugin prints lines that are too long; their ends are left out" longest_bytes=8192 remedy="tell the plugin's author to log what happened, not the data that it happened to"
level=INFO msg="` + strings.Repeat("x", logLineBytes) + `... (1 bytes more)" stream=stderr
level=ERROR msg="panic: oh" stream=stderr
level=ERROR msg="goroutine 1" stream=stderr
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s", got)
	}
	if got := w.lastWords(); got != "panic: oh; goroutine 1" {
		t.Errorf("last words %q", got)
	}
}

// A flood of lines is cut, and it is said how many are missing.
func TestLogFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lines
		w := &logWriter{veil: &veil{}, stream: "stderr", log: slog.New(slog.NewTextHandler(&out, nil))}
		line := []byte("line\n")
		for range linesPerSecond + 77 {
			_, _ = w.Write(line)
		}
		time.Sleep(time.Second)
		_, _ = w.Write(line)
		got := out.String()
		if n := strings.Count(got, "msg=line"); n != linesPerSecond+1 {
			t.Errorf("%d lines were logged", n)
		}
		if !strings.Contains(got, `level=WARN msg="the plugin logs too much; lines were left out" lines=77 remedy="tell the plugin's author to log less`) {
			t.Error("the missing lines are not told")
		}
	})
}

// What a process prints shows no secret of its sessions, not even its last words.
func TestVeil(t *testing.T) {
	var out bytes.Buffer
	pl := newPool(New(nil, nil, slog.New(slog.NewTextHandler(&out, nil))), Spec{Name: "p"}).shared[0]
	for range 3 * veilMax {
		for _, key := range []string{"abcd-efgh-1234", "demo"} {
			s := &session{plugin: pl, open: &wire.Open{Target: &wire.Target{Url: "rtmp://u:pa55w0rd@a.example/live", Key: key}}}
			if _, err := pl.openSession(s); err != nil {
				t.Fatal(err)
			}
			if got := s.hide.Text("no stream " + key); got != "no stream ***" {
				t.Errorf("state: %s", got)
			}
			pl.waiting = nil
		}
	}
	if len(pl.veil.list) != 2 {
		t.Errorf("%d redactions of two targets", len(pl.veil.list))
	}
	w := &logWriter{veil: &pl.veil, log: pl.log, stream: "stderr"}
	_, _ = fmt.Fprintln(w, `{"@level":"warn","@message":"dial","url":"rtmp://u:pa55w0rd@a.example/live","stream":"demo","key":"abcd-efgh-1234"}`)
	_, _ = fmt.Fprintln(w, `panic: parse "rtmp://u:pa55w0rd@a.example/live": bad abcd-efgh-1234`)
	all := out.String() + w.lastWords()
	if strings.Contains(all, "pa55w0rd") || strings.Contains(all, "abcd-efgh") || !strings.Contains(all, "stream=demo") || !strings.Contains(w.lastWords(), "bad ***") {
		t.Errorf("printed %s", all)
	}
	for i := range 2 * veilMax {
		pl.veil.add(secret.Redact("", fmt.Sprint("key-number-", i)), fmt.Sprint(i))
	}
	if len(pl.veil.list) != veilMax || len(pl.veil.keys) != veilMax {
		t.Errorf("%d redactions are kept", len(pl.veil.list))
	}
}

func TestBackoff(t *testing.T) {
	b := newBackoff(defaultTimings())
	b.jitter = func() float64 { return 0.5 }
	now := time.Unix(0, 0)
	f := func(after, up, want time.Duration, wantBroken bool) {
		t.Helper()
		now = now.Add(after)
		if got, broken := b.died(now, up); got != want || broken != wantBroken {
			t.Errorf("at %v: got %v, %v, want %v, %v", now, got, broken, want, wantBroken)
		}
	}
	const ms = time.Millisecond
	f(0, 20*time.Second, 0, false)              // at once
	f(20*time.Second, 20*time.Second, 0, false) // healthy in between
	f(5*time.Second, 5*time.Second, 250*ms, false)
	f(5*time.Second, 5*time.Second, 500*ms, false)
	f(time.Hour, time.Hour, 0, false)
	for _, want := range []time.Duration{250, 500, 1000, 2000, 4000} {
		f(time.Second, 0, want*ms, false) // quick deaths
	}
	f(time.Second, time.Second, time.Minute, true) // the sixth within a minute
	f(time.Minute, 0, 0, false)                    // half open
	b.row = 20
	f(20*time.Second, 5*time.Second, b.t.restartMax, false)
}

func TestRunDirs(t *testing.T) {
	base := runDirBase(t)
	living, err := newRunDir(base)
	if err != nil {
		t.Fatal(err)
	}
	dead, err := newRunDir(base)
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.lock.Close(); err != nil { // as the kernel does for a dead process
		t.Fatal(err)
	}
	// Others keep folders with a file of that name, too.
	foreign := filepath.Join(base, "profile")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(foreign, lockName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	next, err := newRunDir(base)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("what is not ours was removed: %v", err)
	}
	if err := os.RemoveAll(foreign); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[*runDir]bool{living: true, dead: false, next: true} {
		info, err := os.Stat(dir.path)
		if (err == nil) != want {
			t.Errorf("%s: %v", dir.path, err)
		}
		if err == nil && info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v", dir.path, info.Mode())
		}
	}
	if err := living.remove(); err != nil {
		t.Error(err)
	}
	if err := next.remove(); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(base, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := newRunDir(base); err == nil || !strings.Contains(err.Error(), "others may write") {
		t.Errorf("in a directory open to all: %v", err)
	}
	if _, err := newRunDir(base + strings.Repeat("/long", 20)); err == nil {
		t.Error("a path that is too long for sockets was taken")
	}
	if err := os.RemoveAll(base + "/long"); err != nil {
		t.Error(err)
	}
}
