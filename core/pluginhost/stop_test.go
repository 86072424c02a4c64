package pluginhost

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSessionsThatNeverOpened(t *testing.T) {
	h, stop := startHost(t, spec("mute"), nil)
	r1, r2 := record(), record()
	s1, err1 := h.OpenEgress("test", egressSpec("ok"), r1, &queue{})
	_, err2 := h.OpenEgress("test", egressSpec("ok"), r2, &queue{})
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	s1.Wake()
	s1.Close("changed my mind", true)
	if e := get(t, r1.ended); e.Failed {
		t.Errorf("ended with %+v", e)
	}
	stop()
	if e := get(t, r2.ended); e.Cause != CauseGateway {
		t.Errorf("ended with %+v", e)
	}
	if _, err := h.OpenEgress("test", egressSpec("ok"), record(), &queue{}); !errors.Is(err, ErrStopped) {
		t.Errorf("opened a session in a host that has stopped: %v", err)
	}
}

func TestStopDrains(t *testing.T) {
	h, stop := startHost(t, spec("serve"), nil)
	_, r, q := open(t, h, "slow")
	_, stalled, qs := open(t, h, "stall")
	q.put(units(10, 100)...)
	qs.put(units(10, 100)...)
	pid := h.Status()[0].PID
	began := time.Now()
	stop()
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("stopping took %v", took)
	}
	for _, r := range []*recorder{r, stalled} {
		if e := get(t, r.ended); e.Cause != CauseGateway {
			t.Errorf("ended with %+v", e)
		}
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is still there: %v", err)
	}
}

// A process that does nothing any more costs the end of the host no more time
// than the gateway has left of its 5 s when the targets had theirs.
func TestStopWithStuckProcess(t *testing.T) {
	h, stop := startHost(t, spec("serve"), nil)
	_, r, _ := open(t, h, "ok")
	if err := syscall.Kill(h.Status()[0].PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	stop()
	took := time.Since(began)
	if bound := h.timings.drain + h.timings.stopGrace; bound > 2*time.Second || took > bound+3*time.Second {
		t.Errorf("stopping took %v, and may take %v", took, bound)
	}
	if e := get(t, r.ended); e.Cause != CauseGateway {
		t.Errorf("ended with %+v", e)
	}
}

// A gateway that is killed leaves no plugin behind, and the next one clears its
// run directory away.
func TestKilledHostLeavesNothing(t *testing.T) {
	base := runDirBase(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "host", base)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid == 0 {
		t.Fatalf("pid %q: %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	until(t, "the plugin's end", func() bool { return !alive(pid) })
	d, err := newRunDir(base)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.remove(); err != nil {
		t.Fatal(err)
	}
}

// alive reports whether a process runs that is no zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(b), ") ")
	return state[0] != 'Z' && state[0] != 'X'
}
