package pluginhost

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

// A spawner starts processes from one operating system thread that lives as long
// as the spawner: the kernel kills a plugin when the thread that forked it ends,
// and Go's threads come and go.
type spawner struct {
	work chan func()
}

func newSpawner() *spawner { return &spawner{work: make(chan func())} }

// run serves start until ctx ends.
func (s *spawner) run(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case f := <-s.work:
			f()
		case <-ctx.Done():
			return
		}
	}
}

// start starts cmd on the spawner's thread.
func (s *spawner) start(ctx context.Context, cmd *exec.Cmd) error {
	done := make(chan error, 1)
	select {
	case s.work <- func() { done <- cmd.Start() }:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A child is one process of a plugin, the runner of go-plugin. It is the only
// handle by which the process is killed.
type child struct {
	ctx   context.Context // of starting
	spawn *spawner
	spec  Spec
	env   []string // beside what go-plugin and the allow-list add

	// Set by prepare, before go-plugin knows the child.
	cmd            *exec.Cmd
	stdout, stderr io.ReadCloser
	release        func() // what the start holds open

	mu      sync.Mutex // guards the fields below
	dir     string     // where it makes its sockets
	started bool
	killed  bool   // shall not live, even if it is only about to start
	waited  bool   // about to be reaped: its id is no longer its own
	exit    string // how it ended, once it is reaped
}

// prepare makes the command. handshake is the environment that go-plugin adds.
func (c *child) prepare(handshake []string, dir string) error {
	if len(c.spec.Command) == 0 {
		return errors.New("no command to start it with")
	}
	path, err := exec.LookPath(c.spec.Command[0])
	if err != nil {
		return err
	}
	c.release = func() {}
	c.cmd = exec.Command(path, c.spec.Command[1:]...) // standard input is /dev/null
	if c.spec.SHA256 != "" {
		if err := c.pin(path, c.spec.SHA256); err != nil {
			return err
		}
	}
	// Nothing else of the gateway's environment, which may hold secrets.
	for _, name := range []string{"PATH", "TMPDIR", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if v, ok := os.LookupEnv(name); ok {
			c.cmd.Env = append(c.cmd.Env, name+"="+v)
		}
	}
	c.cmd.Env = append(append(c.cmd.Env, handshake...), c.env...)
	c.cmd.SysProcAttr = procAttr()
	if c.stdout, err = c.cmd.StdoutPipe(); err != nil {
		return err
	}
	if c.stderr, err = c.cmd.StderrPipe(); err != nil {
		return err
	}
	c.mu.Lock()
	c.dir = dir
	c.mu.Unlock()
	return nil
}

// pin checks that the file at path has the checksum and, where that is possible,
// makes the process run what was checked rather than what path names later. For
// a script the file is checked, not its interpreter.
func (c *child) pin(path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	h := sha256.New()
	head := make([]byte, 2)
	n, err := io.ReadFull(io.TeeReader(f, h), head)
	if err == nil {
		_, err = io.Copy(h, f)
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		_ = f.Close()
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); !strings.EqualFold(got, want) {
		_ = f.Close()
		return &ChecksumError{Path: path, Want: strings.ToLower(want), Got: got}
	}
	if script := bytes.Equal(head[:n], []byte("#!")); script || runtime.GOOS != "linux" {
		return f.Close()
	}
	c.cmd.ExtraFiles = []*os.File{f}
	c.cmd.Path = "/proc/self/fd/3"
	c.release = func() { _ = f.Close() }
	return nil
}

// A ChecksumError says that a plugin's file is not the one that was pinned.
type ChecksumError struct{ Path, Want, Got string }

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("%s has sha256 %s, but %s is configured; if you replaced the file, configure its new sha256",
		e.Path, e.Got, e.Want)
}

// Start implements go-plugin's runner.
func (c *child) Start(context.Context) error {
	defer c.release()
	if err := c.spawn.start(c.ctx, c.cmd); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started = true
	if c.killed {
		return killGroup(c.cmd.Process)
	}
	return nil
}

// Wait reaps the process.
func (c *child) Wait(context.Context) error {
	awaitExit(c.cmd.Process)
	c.mu.Lock()
	c.waited = true
	c.mu.Unlock()
	err := c.cmd.Wait()
	c.mu.Lock()
	c.exit = c.cmd.ProcessState.String()
	c.mu.Unlock()
	return err
}

// exitStatus says how the process ended; empty while it has not.
func (c *child) exitStatus() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exit
}

// Kill kills the process and what it started, also one that is about to start.
func (c *child) Kill(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed = true
	if !c.started || c.waited {
		return nil
	}
	return killGroup(c.cmd.Process)
}

// pid returns the process id, 0 if there is none.
func (c *child) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.started || c.waited {
		return 0
	}
	return c.cmd.Process.Pid
}

// socketDir returns where the process makes its sockets.
func (c *child) socketDir() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dir
}

// The rest of go-plugin's runner.

func (c *child) ID() string                      { return strconv.Itoa(c.pid()) }
func (c *child) Name() string                    { return c.cmd.Args[0] }
func (c *child) Stdout() io.ReadCloser           { return c.stdout }
func (c *child) Stderr() io.ReadCloser           { return c.stderr }
func (c *child) Diagnose(context.Context) string { return "" }

func (c *child) PluginToHost(network, addr string) (string, string, error) { return network, addr, nil }
func (c *child) HostToPlugin(network, addr string) (string, string, error) { return network, addr, nil }
