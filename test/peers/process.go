package peers

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Process is a program that a test started, leader of a process group of its
// own. Its output is kept for the message of a test that fails. Safe for
// concurrent use.
type Process struct {
	name string
	cmd  *exec.Cmd
	out  *output
	done chan struct{}

	mu      sync.Mutex // guards the field below
	exitErr error
}

// A Command says what to start.
type Command struct {
	Name string   // for messages; the base name of Path if empty
	Path string   // program
	Args []string // without the program
	Dir  string   // working directory; the test's if empty
	Env  []string // added to the environment of the test
	// Stdin is the text on standard input; none if empty.
	Stdin string
}

// Start starts a program; it is killed, with all of its group, when the test
// ends. If the test has failed by then the end of its output is logged.
func Start(t testing.TB, c Command) *Process {
	t.Helper()
	if c.Name == "" {
		c.Name = c.Path[strings.LastIndexByte(c.Path, '/')+1:]
	}
	p := &Process{name: c.Name, cmd: exec.Command(c.Path, c.Args...), out: newOutput(), done: make(chan struct{})}
	p.cmd.Dir = c.Dir
	// What is for the tests themselves is none of the program's business.
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GATEWAY_") })
	env = append(env, c.Env...)
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if c.Stdin != "" {
		p.cmd.Stdin = strings.NewReader(c.Stdin)
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// Grandchildren may hold the output open; they die with the group.
	p.cmd.WaitDelay = 2 * time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", p.name, err)
	}
	go func() {
		err := p.cmd.Wait()
		p.mu.Lock()
		p.exitErr = err
		p.mu.Unlock()
		p.out.close()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("output of %s (%s):\n%s", p.name, p.State(), tail(p.Output(), 12<<10))
		}
	})
	return p
}

// PID returns the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Output returns what it has written so far, standard output and error mixed.
func (p *Process) Output() string { return p.out.String() }

// State says whether it runs or how it ended.
func (p *Process) State() string {
	select {
	case <-p.done:
		return p.cmd.ProcessState.String()
	default:
		return fmt.Sprintf("running, pid %d", p.PID())
	}
}

// Signal sends sig to the process alone.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill ends the process and its group with SIGKILL and waits for its end. A
// group that was stopped ends as well.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	<-p.done
}

// ExitCode waits up to d for the process to end by itself and returns its code;
// -1 for a signal. Ends the test if the process goes on.
func (p *Process) ExitCode(t testing.TB, d time.Duration) int {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-timer.C:
		t.Fatalf("%s has not ended within %v", p.name, d)
		return 0
	}
}

// Interrupt asks the process to end by SIGTERM and waits up to d for its exit
// code.
func (p *Process) Interrupt(t testing.TB, d time.Duration) int {
	t.Helper()
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("ending %s: %v", p.name, err)
	}
	return p.ExitCode(t, d)
}

// Match waits up to d until its output matches pattern and returns the
// submatches. Ends the test if the process ends before that or time is up.
func (p *Process) Match(t testing.TB, d time.Duration, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		changed := p.out.changed()
		if m := re.FindStringSubmatch(p.Output()); m != nil {
			return m
		}
		select {
		case <-changed:
		case <-p.done:
			if m := re.FindStringSubmatch(p.Output()); m != nil {
				return m
			}
			t.Fatalf("%s ended (%s) before its output matched %q", p.name, p.State(), pattern)
		case <-timer.C:
			t.Fatalf("the output of %s does not match %q after %v", p.name, pattern, d)
		}
	}
}

// WaitListening waits up to d until addr accepts connections; ends the test if
// the process ends before.
func (p *Process) WaitListening(t testing.TB, d time.Duration, addr string) {
	t.Helper()
	err := Poll(d, func() error {
		select {
		case <-p.done:
			return errExited
		default:
			return Listening(addr)
		}
	})
	if err != nil {
		t.Fatalf("waiting for %s on %s: %v", p.name, addr, err)
	}
}

// maxOutput bounds what is kept of a process: its newest bytes.
const maxOutput = 4 << 20

// output keeps what a process writes.
type output struct {
	mu   sync.Mutex // guards the fields below
	buf  bytes.Buffer
	wake chan struct{} // closed and replaced at each write
	over bool
}

func newOutput() *output { return &output{wake: make(chan struct{})} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(b)
	if o.buf.Len() > maxOutput {
		o.buf.Next(o.buf.Len() - maxOutput/2)
	}
	if !o.over {
		close(o.wake)
		o.wake = make(chan struct{})
	}
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (o *output) changed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wake
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
}

// tail returns the last n bytes of s.
func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "[...]" + s[len(s)-n:]
}
