package sdk

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/wire"
)

const patience = 20 * time.Second

// The test binary is a plugin process too ("plugin").
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "plugin" {
		ServeEgress("test", "1.0.0", []string{"test"}, processEgress{})
		Logger().Info("main ends")
		// An exit under the race detector takes a second, which the tests need not wait.
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	goleak.VerifyTestMain(m)
}

type processEgress struct{}

func (processEgress) Open(context.Context, Target, []media.Track) (Sink, error) {
	Logger().Info("opened", "answer", 42)
	return processEgress{}, nil
}
func (processEgress) WriteAccessUnit(context.Context, *media.AccessUnit) error { return nil }
func (processEgress) Close(context.Context) error {
	Logger().Info("sink closed")
	return nil
}

// A raw process is a plugin as another host than ours would start it.
type raw struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr chan string
	conn   *grpc.ClientConn
	exited chan struct{}
}

func startRaw(t *testing.T) *raw {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := wire.Handshake()
	p := &raw{t: t, cmd: exec.Command(exe, "plugin"), stderr: make(chan string, 100), exited: make(chan struct{})}
	p.cmd.Env = []string{h.MagicCookieKey + "=" + h.MagicCookieValue, wire.SocketDirEnv + "=" + dir, "PLUGIN_PROTOCOL_VERSIONS=1"}
	out, err1 := p.cmd.StdoutPipe()
	errs, err2 := p.cmd.StderrPipe()
	if err := errors.Join(err1, err2, p.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		defer close(p.stderr)
		lines := bufio.NewScanner(errs)
		for lines.Scan() {
			p.stderr <- lines.Text()
		}
		_ = p.cmd.Wait() // how it ends is the tests' business
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Split(strings.TrimSpace(line), "|")
	if len(f) < 5 || f[0] != "1" || f[1] != "1" || f[2] != "unix" || !strings.HasPrefix(f[3], dir) || f[4] != "grpc" {
		t.Fatalf("handshake %q", line)
	}
	if p.conn, err = grpc.NewClient("unix:"+f[3], wire.DialOptions()...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.conn.Close() })
	return p
}

// open attaches and opens a session; the stream ends with ctx.
func (p *raw) open(ctx context.Context) grpc.BidiStreamingClient[wire.HostMsg, wire.PluginMsg] {
	p.t.Helper()
	stream, err := wire.NewPluginClient(p.conn).Attach(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, m := range []*wire.HostMsg{
		{M: &wire.HostMsg_Hello{Hello: &wire.Hello{}}},
		{M: &wire.HostMsg_Open{Open: &wire.Open{
			Session: 1, Kind: wire.SessionKind_SESSION_KIND_EGRESS, Target: &wire.Target{Url: "test://x"},
		}}},
	} {
		if err := stream.Send(m); err != nil {
			p.t.Fatal(err)
		}
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			p.t.Fatal(err)
		}
		if m.GetState().GetState() == wire.SessionState_READY {
			return stream
		}
	}
}

// logged waits for a line of the log.
func (p *raw) logged(part string) {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case line, ok := <-p.stderr:
			if !ok {
				p.t.Fatalf("the process ended without %q in its log", part)
			}
			if strings.Contains(line, part) {
				return
			}
		case <-timeout:
			p.t.Fatalf("no %q in the log", part)
		}
	}
}

// A plugin that lost its gateway says goodbye to its peers and ends within 4 s.
func TestLostAttachEndsTheProcess(t *testing.T) {
	t.Parallel()
	p := startRaw(t)
	ctx, cancel := context.WithCancel(context.Background())
	p.open(ctx)
	p.logged(`"@message":"opened","answer":42`)
	began := time.Now()
	cancel()
	p.logged("sink closed")
	closed := time.Since(began)
	p.logged("no gateway is attached")
	p.logged("main ends")
	took := time.Since(began)
	t.Logf("sink closed after %v, process ended after %v", closed, took)
	// It gives the gateway attachGrace to come back; what is more is a busy machine's.
	if took < 2*time.Second || took > 2*attachGrace {
		t.Errorf("the process ended %v after the loss", took)
	}
}

// SIGTERM ends the sessions politely, and then the process. Ctrl-C is the
// gateway's to hear.
func TestTermDrains(t *testing.T) {
	t.Parallel()
	p := startRaw(t)
	stream := p.open(t.Context())
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&wire.HostMsg{M: &wire.HostMsg_Ping{Ping: &wire.Ping{Id: 5}}}); err != nil {
		t.Fatal(err)
	}
	for pong := false; !pong; {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		pong = m.GetPong().GetId() == 5
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var last *wire.SessionState
	for {
		m, err := stream.Recv()
		if err != nil {
			break
		}
		if m.GetState() != nil {
			last = m.GetState()
		}
	}
	if last.GetState() != wire.SessionState_CLOSED {
		t.Errorf("the session is %v", last)
	}
	p.logged("sink closed")
	p.logged("main ends")
}

// A plugin that a person starts says what it is.
func TestStartedByHand(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "plugin")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.HasPrefix(string(out), "test 1.0.0 is a plugin of the Headgate gateway") {
		t.Errorf("%v: %s", err, out)
	}
}
