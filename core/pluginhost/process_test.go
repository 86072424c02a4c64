package pluginhost

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCrash(t *testing.T) {
	h := start(t, spec("serve"), nil)
	_, r, _ := open(t, h, "ok")
	pid := h.Status()[0].PID
	began := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e := get(t, r.ended)
	heard := time.Since(began)
	if !e.Failed || e.Cause != CausePlugin {
		t.Errorf("ended with %+v", e)
	}
	// Opened again at once, without asking whether the process is back.
	_, _, _ = open(t, h, "ok")
	if at := h.Status()[0].RetryAt; !at.IsZero() {
		t.Errorf("one that runs is to be started at %v", at)
	}
	t.Logf("crash heard after %v, next session ready after %v", heard, time.Since(began))
	st := h.Status()[0]
	if st.PID == pid || st.PID == 0 || st.Restarts != 1 || !strings.Contains(st.LastError, "killed") {
		t.Errorf("status %+v", st)
	}
}

func TestHangIsKilled(t *testing.T) {
	h := start(t, spec("serve"), nil, withTimings(func(t *timings) {
		t.ping, t.silence = 20*time.Millisecond, 200*time.Millisecond
	}))
	// One that a busy machine holds up for so long is killed like one that hangs.
	for hung := false; !hung; {
		r := openInTime(t, h)
		if pid := h.Status()[0].PID; pid > 0 { // 0 would be this very process and its group
			hung = syscall.Kill(pid, syscall.SIGSTOP) == nil
		}
		if e := get(t, r.ended); e.Cause != CausePlugin {
			t.Errorf("ended with %+v", e)
		}
	}
	openInTime(t, h)
	if st := h.Status()[0]; !strings.Contains(st.LastError, "did not answer for 200ms") {
		t.Errorf("status %+v", st)
	}
}

// openInTime opens a session in a process that lives long enough to answer.
func openInTime(t *testing.T, h *Host) *recorder {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		r := record()
		if _, err := h.OpenEgress("test", egressSpec("ok"), r, &queue{}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-r.ready:
			return r
		case <-r.ended:
		case <-time.After(patience):
			t.Fatal("a session neither opened nor failed")
		}
	}
	t.Fatal("no session opened")
	return nil
}

func TestFailingStarts(t *testing.T) {
	f := func(mode, want string) {
		t.Run(mode, func(t *testing.T) {
			h := start(t, spec(mode), nil, withTimings(func(t *timings) {
				t.restartMin, t.restartMax = time.Millisecond, time.Millisecond
				if mode == "mute" {
					t.start = 500 * time.Millisecond
				}
			}))
			for range 8 { // until the circuit opens
				r := record()
				_, err := h.OpenEgress("test", egressSpec("ok"), r, &queue{})
				var unavailable *UnavailableError
				if errors.As(err, &unavailable) {
					if st := h.Status()[0]; st.State != Broken || unavailable.RetryAfter < 50*time.Second {
						t.Errorf("%v, status %+v", unavailable, st)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if e := get(t, r.ended); e.Cause != CausePlugin || !strings.Contains(e.Message, want) {
					t.Errorf("ended with %+v, want %q", e, want)
				}
			}
			t.Error("the circuit did not open")
		})
	}
	f("exit", "exit status 7")
	f("panic", "this plugin cannot start")
	f("mute", "did not answer within 500ms")
}

func TestQuickDeathsOpenTheCircuit(t *testing.T) {
	h := start(t, spec("quick"), nil, withTimings(func(t *timings) { t.restartMin, t.restartMax = time.Millisecond, time.Millisecond }))
	h.Need("test", "")
	until(t, "the circuit", func() bool { return h.Status()[0].State == Broken })
	st := h.Status()[0]
	if st.Restarts != 6 || !strings.Contains(st.LastError, "exit status 3") {
		t.Errorf("status %+v", st)
	}
	if rest := st.RetryAt.Sub(st.Since); rest != h.timings.circuitRest {
		t.Errorf("it is started again %v after the circuit opened, want %v", rest, h.timings.circuitRest)
	}
}

func TestOptionsThatThePluginRefuses(t *testing.T) {
	s := spec("serve")
	s.Options = []byte(`{"greting": "hello"}`)
	h := start(t, s, nil)
	r := record()
	if _, err := h.OpenEgress("test", egressSpec("ok"), r, &queue{}); err != nil {
		t.Fatal(err)
	}
	if e := get(t, r.ended); e.Cause != CauseConfig || !e.Permanent || !strings.Contains(e.Message, `unknown field "greting"`) {
		t.Errorf("ended with %+v", e)
	}
}
