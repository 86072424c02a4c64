package pluginhost

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// procAttr puts a plugin into a process group of its own, so that Ctrl-C reaches
// the gateway alone, and has the kernel kill it when the gateway dies.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// timerSlack is by how much the kernel may be late with the timers of a plugin, to wake
// it once for several (prctl(2), PR_SET_TIMERSLACK). With its default of 50 µs a Go
// process that media wakes some hundred times a second wakes a few times more for each
// of them, to watch over itself alone: a third of what it costs.
const timerSlack = time.Millisecond

// relaxTimers gives timerSlack to the calling thread, and so to the processes that it
// starts, until restore is called.
func relaxTimers() (restore func()) {
	set := func(slack time.Duration) { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0) }
	set(timerSlack)
	return func() { set(0) } // to what the thread had when it began
}

// killGroup kills p, which must not have been waited for, and its group.
func killGroup(p *os.Process) error { return syscall.Kill(-p.Pid, syscall.SIGKILL) }

// awaitExit returns when p has ended. p is not reaped yet then: its id is still its own.
func awaitExit(p *os.Process) {
	for {
		if err := unix.Waitid(unix.P_PID, p.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
