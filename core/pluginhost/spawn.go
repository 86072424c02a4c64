package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headgate/gateway/sdk/wire"
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
	defer relaxTimers()()
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
	ctx     context.Context // of starting
	spawn   *spawner
	memory  *memoryController // nil: the kernel does not limit memory
	log     *slog.Logger
	spec    Spec
	env     []string   // beside what go-plugin and the allow-list add
	printed *logWriter // takes standard output

	gone chan struct{} // closed once the process is reaped

	// Set by prepare, before go-plugin knows the child.
	cmd            *exec.Cmd
	stdout, stderr io.ReadCloser

	mu      sync.Mutex // guards the fields below
	dir     string     // where it makes its sockets
	group   *memoryGroup
	started bool
	killed  bool   // shall not live, even if it is only about to start
	waited  bool   // about to be reaped: its id is no longer its own
	exit    string // how it ended, once it is reaped
}

// environment are the variables that every plugin gets.
var environment = []string{"PATH", "TMPDIR", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"}

// prepare makes the command. handshake is the environment that go-plugin adds.
func (c *child) prepare(handshake []string, dir string) error {
	if len(c.spec.Command) == 0 {
		return errors.New("no command to start it with")
	}
	path := c.spec.Command[0]
	var err error
	if c.spec.SHA256 != "" {
		if path, err = pinned(path, c.spec.SHA256); err != nil {
			return err
		}
	}
	info, err := os.Stat(path)
	if err == nil {
		err = executable(path, info)
	}
	if err != nil {
		return err
	}
	c.cmd = exec.Command(path, c.spec.Command[1:]...) // standard input is /dev/null
	c.cmd.Args[0] = c.spec.Command[0]
	// Nothing else of the gateway's environment, which may hold secrets.
	for _, name := range slices.Concat(environment, c.spec.Env) {
		if v, ok := os.LookupEnv(name); ok {
			c.cmd.Env = append(c.cmd.Env, name+"="+v)
		}
	}
	if c.spec.MemoryBytes > 0 {
		c.cmd.Env = append(c.cmd.Env, memoryEnv(c.spec.MemoryBytes))
	}
	if len(c.spec.Dirs) > 0 {
		dirs, err := json.Marshal(c.spec.Dirs)
		if err != nil {
			return err
		}
		c.cmd.Env = append(c.cmd.Env, wire.DirsEnv+"="+string(dirs))
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

// pinned returns the file to run for the one at path: the copy of it that has the
// checksum. A script is checked and run where it is: it reads more than its own file,
// and its pin covers neither that nor its interpreter.
func pinned(path, want string) (string, error) {
	want = strings.ToLower(want)
	s, err := openStore()
	if err != nil {
		return "", err
	}
	if name := s.find(path, want); name != "" {
		return name, nil
	}
	script, err := isScript(path)
	switch {
	case err != nil:
		return "", err
	case !script:
		return s.add(path, want)
	}
	got, err := Checksum(path)
	if err == nil && got != want {
		err = &ChecksumError{Path: path, Want: want, Got: got}
	}
	return path, err
}

// Start implements go-plugin's runner.
func (c *child) Start(context.Context) error {
	if err := c.spawn.start(c.ctx, c.cmd); err != nil {
		return unstartable(c.cmd.Path, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started = true
	if c.memory != nil && c.spec.MemoryBytes > 0 {
		// It has run for a moment without: it does nothing yet that takes memory.
		group, err := c.memory.limit(c.cmd.Process.Pid, c.spec.MemoryBytes)
		if err != nil {
			c.log.Warn("the plugin's memory is not limited", "error", err)
		}
		c.group = group
	}
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
	exit := c.cmd.ProcessState.String()
	if g := c.group; g != nil {
		if g.exceeded() {
			exit = fmt.Sprintf("the kernel killed it for using more than its memory of %s; give it more with plugins.%s.memory",
				byteText(c.spec.MemoryBytes), c.spec.Name)
		}
		if err := g.remove(); err != nil {
			c.log.Warn("removing the control group of the plugin's process", "error", err)
		}
	}
	c.mu.Lock()
	c.exit = exit
	c.mu.Unlock()
	close(c.gone)
	return err
}

// awaitEnd returns when the process has ended by itself, or after limit.
func (c *child) awaitEnd(limit time.Duration) {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-c.gone:
	case <-t.C:
	}
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

func (c *child) ID() string   { return strconv.Itoa(c.pid()) }
func (c *child) Name() string { return c.cmd.Args[0] }
func (c *child) Stdout() io.ReadCloser {
	return &handshakeReader{ReadCloser: c.stdout, rest: c.printed}
}
func (c *child) Stderr() io.ReadCloser           { return c.stderr }
func (c *child) Diagnose(context.Context) string { return "" }

func (c *child) PluginToHost(network, addr string) (string, string, error) { return network, addr, nil }
func (c *child) HostToPlugin(network, addr string) (string, string, error) { return network, addr, nil }
