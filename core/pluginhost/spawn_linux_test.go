package pluginhost

import (
	"bytes"
	"context"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel may be late with the timers of plugins, not with those of the gateway.
func TestTimerSlack(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := newSpawner()
	var running sync.WaitGroup
	running.Go(func() { s.run(ctx) })
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "cat", "/proc/self/timerslack_ns")
	cmd.Stdout = &out
	if err := s.start(ctx, cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out.String()); got != "1000000" {
		t.Errorf("timers of a plugin may be %s ns late, want 1000000", got)
	}
	running.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		slack := func() int {
			n, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
			if err != nil {
				t.Error(err)
			}
			return n
		}
		before := slack()
		relaxTimers()()
		if after := slack(); after != before {
			t.Errorf("timers of the gateway may be %d ns late afterwards, want %d", after, before)
		}
	})
	cancel()
	running.Wait()
}
