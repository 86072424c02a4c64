package plugintest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/wire"
)

// A Plugin is what is checked; [InProcess] and [Program] make one. Each check
// starts it anew.
type Plugin struct {
	program []string                                        // a process of its own; empty: in this one
	dirs    []string                                        // in which that process may use files
	sdk     sdk.Plugin                                      // in this process, if serve is nil
	serve   func(options ...grpc.ServerOption) *grpc.Server // instead of sdk: the wire alone
}

// InProcess is a plugin of package sdk, served within the test's own process.
func InProcess(p sdk.Plugin) Plugin { return Plugin{sdk: p} }

// Program is the plugin that an executable serves, started with these arguments.
func Program(command string, args ...string) Plugin {
	return Plugin{program: append([]string{command}, args...)}
}

// Allow is the plugin with the right to read and write files in dirs, as `files` in the
// gateway's configuration grants it.
func (p Plugin) Allow(dirs ...string) Plugin {
	p.dirs = append(slices.Clone(p.dirs), dirs...)
	return p
}

// A running plugin.
type running struct {
	client wire.PluginClient
	dir    string // where a process makes its sockets
	// stop ends it politely; later calls do nothing. kill ends it at once.
	stop, kill func()
	// over is closed when all that ran is gone: the process has ended, or its
	// Attach has returned.
	over <-chan struct{}
	// printed is what came out of standard output; only after stop.
	printed func() string
}

// start starts the plugin. It is gone when the test is over.
func (p Plugin) start(t T) *running {
	t.Helper()
	if len(p.program) > 0 {
		return p.startProgram(t)
	}
	dir, err := os.MkdirTemp("", "gw") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatalf("making a directory for the socket: %v", err)
	}
	path := filepath.Join(dir, "plugin.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	over := make(chan struct{})
	left := sync.OnceFunc(func() { close(over) })
	options := []grpc.ServerOption{
		grpc.WaitForHandlers(true),
		grpc.StreamInterceptor(func(s any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			defer left()
			return h(s, ss)
		}),
	}
	var srv *grpc.Server
	if p.serve != nil {
		srv = p.serve(options...)
	} else {
		srv = grpc.NewServer(append(wire.ServerOptions(), options...)...)
		sdk.Register(srv, p.sdk)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(ln) // ends with stop
	}()
	conn, err := grpc.NewClient("unix:"+path, wire.DialOptions()...)
	if err != nil {
		t.Fatalf("dialling: %v", err)
	}
	stop := sync.OnceFunc(func() {
		_ = conn.Close()
		srv.Stop()
		<-served
		_ = os.RemoveAll(dir)
	})
	t.Cleanup(stop)
	return &running{client: wire.NewPluginClient(conn), stop: stop, kill: stop, over: over}
}

const (
	startTimeout = 10 * time.Second // of a process, to its handshake
	stopGrace    = 3 * time.Second  // of a process that was told to end
	keptBytes    = 64 << 10         // of what a process prints
)

// environment is what a plugin process gets.
func environment(dir string, cookie bool) []string {
	var env []string
	for _, name := range []string{"PATH", "TMPDIR", "LANG"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	env = append(env, fmt.Sprintf("PLUGIN_PROTOCOL_VERSIONS=%d", wire.ProtocolVersion),
		wire.SocketDirEnv+"="+dir, wire.LogLevelEnv+"=info")
	if h := wire.Handshake(); cookie {
		env = append(env, h.MagicCookieKey+"="+h.MagicCookieValue)
	}
	return env
}

func (p Plugin) startProgram(t T) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatalf("making a directory for the socket: %v", err)
	}
	cmd := exec.Command(p.program[0], p.program[1:]...)
	cmd.Env = environment(dir, true)
	if len(p.dirs) > 0 {
		dirs, err := json.Marshal(p.dirs)
		if err != nil {
			t.Fatalf("naming the plugin's directories: %v", err)
		}
		cmd.Env = append(cmd.Env, wire.DirsEnv+"="+string(dirs))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stdout, stderr kept
	first := &firstLine{line: make(chan string, 1), rest: &stdout}
	cmd.Stdout, cmd.Stderr = first, &stderr
	if err := cmd.Start(); err != nil {
		_ = os.RemoveAll(dir)
		t.Fatalf("starting the plugin: %v", err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // how it ended shows in ProcessState
	}()
	kill := func() {
		select {
		case <-exited:
		default:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-exited
		}
	}
	var conn *grpc.ClientConn
	stopStdio := func() {}
	stop := sync.OnceFunc(func() {
		if conn != nil {
			ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
			if err := conn.Invoke(ctx, "/plugin.GRPCController/Shutdown", &emptypb.Empty{}, &emptypb.Empty{}); err != nil {
				_ = conn.Close() // a plugin without go-plugin ends with its Attach
			}
			select {
			case <-exited:
			case <-ctx.Done():
			}
			cancel()
		}
		kill()
		stopStdio()
		if conn != nil {
			_ = conn.Close()
		}
		_ = os.RemoveAll(dir)
	})
	t.Cleanup(stop)
	explain := func(what string) {
		t.Helper()
		kill()
		t.Fatalf("%s (%v)%s", what, cmd.ProcessState, quoted(" its standard error:", stderr.String()))
	}
	var address string
	select {
	case line := <-first.line:
		if address, err = handshake(line, dir); err != nil {
			explain(err.Error())
		}
	case <-exited:
		explain("the process ended before its handshake")
	case <-time.After(startTimeout):
		explain(fmt.Sprintf("no handshake on standard output within %v", startTimeout))
	}
	if conn, err = grpc.NewClient("unix:"+address, wire.DialOptions()...); err != nil {
		t.Fatalf("dialling: %v", err)
	}
	stopStdio = drainStdio(conn, &stdout)
	return &running{client: wire.NewPluginClient(conn), dir: dir, stop: stop, kill: kill, over: exited, printed: stdout.String}
}

// handshake returns the address of the socket in the line with which a plugin
// begins: 1|WIRE-VERSION|unix|PATH|grpc.
func handshake(line, dir string) (address string, err error) {
	f := strings.Split(strings.TrimRight(line, "\r\n"), "|")
	want := fmt.Sprintf("1|%d|unix|%s/NAME|grpc", wire.ProtocolVersion, dir)
	if len(f) < 5 || f[0] != "1" || f[2] != "unix" || f[4] != "grpc" {
		return "", fmt.Errorf("its first line on standard output is %q, want %s", line, want)
	}
	if f[1] != fmt.Sprint(wire.ProtocolVersion) {
		return "", fmt.Errorf("it speaks version %s of the wire, want %d", f[1], wire.ProtocolVersion)
	}
	if !strings.HasPrefix(f[3], dir+"/") {
		return "", fmt.Errorf("its socket %s is not in %s=%s", f[3], wire.SocketDirEnv, dir)
	}
	return f[3], nil
}

// drainStdio keeps what go-plugin hands on of standard output in out; what is not
// read there would block the plugin. It returns what ends it.
func drainStdio(conn *grpc.ClientConn, out io.Writer) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/plugin.GRPCStdio/StreamStdio")
		if err != nil || s.SendMsg(&emptypb.Empty{}) != nil || s.CloseSend() != nil {
			return // a plugin without go-plugin has no such service
		}
		for {
			// StdioData{channel = 1: 1 is standard output; data = 2}, as unknown fields.
			var m emptypb.Empty
			if s.RecvMsg(&m) != nil {
				return
			}
			raw := []byte(m.ProtoReflect().GetUnknown())
			channel := uint64(0)
			for len(raw) > 0 {
				num, typ, n := protowire.ConsumeTag(raw)
				if n < 0 {
					break
				}
				raw = raw[n:]
				if num == 1 && typ == protowire.VarintType {
					channel, _ = protowire.ConsumeVarint(raw)
				}
				if num == 2 && typ == protowire.BytesType && channel == 1 {
					b, _ := protowire.ConsumeBytes(raw)
					_, _ = out.Write(b)
				}
				if n = protowire.ConsumeFieldValue(num, typ, raw); n < 0 {
					break
				}
				raw = raw[n:]
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// byHand starts the program as a person would who found the file, and returns how
// it ended.
func (p Plugin) byHand(ctx context.Context, dir string) (output string, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.program[0], p.program[1:]...)
	cmd.Env = environment(dir, false)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = errors.New("it does not end")
	} else if err == nil {
		err = errors.New("it ends with status 0")
	} else if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = nil
	}
	return strings.TrimSpace(string(out)), err
}

// kept keeps the beginning of what is written.
type kept struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (k *kept) Write(b []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.buf.Write(b[:min(len(b), keptBytes-k.buf.Len())])
	return len(b), nil
}

func (k *kept) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.buf.String()
}

// firstLine passes on the first line, and writes what follows to rest.
type firstLine struct {
	line chan string // takes one
	rest io.Writer
	buf  []byte
	done bool
}

func (f *firstLine) Write(b []byte) (int, error) {
	if f.done {
		return f.rest.Write(b)
	}
	f.buf = append(f.buf, b...)
	i := bytes.IndexByte(f.buf, '\n')
	if i < 0 && len(f.buf) < bufio.MaxScanTokenSize {
		return len(b), nil
	}
	if i < 0 {
		i = len(f.buf) - 1
	}
	f.done = true
	f.line <- string(f.buf[:i+1])
	_, err := f.rest.Write(f.buf[i+1:])
	f.buf = nil
	return len(b), err
}

// quoted returns what was printed, short and behind a title, or nothing.
func quoted(title, text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	if len(text) > 600 {
		text = text[:600] + "..."
	}
	return title + "\n" + text
}
