package pluginhost

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A paper is the file that the options of the test's plugin name.
func paper(text string) map[string][]byte { return map[string][]byte{"paper": []byte(text)} }

// renewing is a host whose plugin reads a paper, and what tells what is on the paper that
// it has.
func renewing(t *testing.T, options string, o ...Option) (h *Host, has func() string) {
	t.Helper()
	s := spec("serve")
	s.Options, s.Files = []byte(options), paper("first")
	h = start(t, s, nil, o...)
	srv := httptest.NewServer(h.Mounts()[0].Handler)
	t.Cleanup(srv.Close)
	h.Need("test", "")
	get(t, h.Ready("test"))
	return h, func() (text string) {
		until(t, "the handler", func() bool {
			res := request(t, http.MethodGet, srv.URL+"/test/paper", nil)
			text = res.body
			return res.code == http.StatusOK
		})
		return text
	}
}

// restart kills the plugin's process and waits for the next one.
func restart(t *testing.T, h *Host) {
	t.Helper()
	before := h.Status()[0]
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "the next process", func() bool {
		st := h.Status()[0]
		return st.State == Ready && st.PID != before.PID
	})
}

func TestRenew(t *testing.T) {
	h, has := renewing(t, `{"paper": "paper.txt"}`)
	if text := has(); text != "first" {
		t.Fatalf("it has %q", text)
	}
	f := func(text, refusal, want string) {
		t.Helper()
		err := h.Renew(t.Context(), "test", paper(text))
		if (err != nil) != (refusal != "") || err != nil && !strings.Contains(err.Error(), refusal) {
			t.Errorf("%s: error %v, want %q", text, err, refusal)
		}
		if got := has(); got != want {
			t.Errorf("%s: it has %q, want %q", text, got, want)
		}
	}
	pid := h.Status()[0].PID
	f("second", "", "second")
	f("blank", "there is nothing on it", "second") // by Check of its options
	f("torn", "the paper is torn", "second")       // by itself
	f("burning", "the plugin panicked", "second")
	if now := h.Status()[0].PID; now != pid {
		t.Errorf("another process: %d, was %d", now, pid)
	}
	// What starts later has the last one that was good.
	restart(t, h)
	f("second", "", "second")
	f("third", "", "third")
	restart(t, h)
	if text := has(); text != "third" {
		t.Errorf("the next process has %q", text)
	}
}

// A plugin that has no use for new contents goes on with the old ones, and its next
// process has the new ones.
func TestNotRenewed(t *testing.T) {
	h, has := renewing(t, `{"paper": "paper.txt", "greeting": "what I have is good enough"}`)
	has() // it serves, and so it has read its options
	if err := h.Renew(t.Context(), "test", paper("second")); !errors.Is(err, ErrNotRenewed) {
		t.Errorf("error %v", err)
	}
	if err := h.Renew(t.Context(), "nobody", paper("second")); err == nil {
		t.Error("a plugin that there is not was renewed")
	}
}

// One that does not come back from it does not hold up others.
func TestRenewalWithoutAnswer(t *testing.T) {
	h, has := renewing(t, `{"paper": "paper.txt"}`, withTimings(func(ti *timings) { ti.renewal = 100 * time.Millisecond }))
	has() // it serves
	if err := h.Renew(t.Context(), "test", paper("long")); !errors.Is(err, ErrNotRenewed) {
		t.Errorf("error %v", err)
	}
	if text := has(); text != "first" {
		t.Errorf("it has %q", text)
	}
}

// What is renewed while no process is there, or while one starts, reaches it.
func TestRenewedWhileItStarts(t *testing.T) {
	h, has := renewing(t, `{"paper": "paper.txt"}`, withTimings(func(ti *timings) { ti.circuitDeaths, ti.restartMax = 100, 50*time.Millisecond }))
	for i, text := range []string{"second", "third", "fourth", "fifth", "sixth", "seventh"} {
		before := h.Status()[0].PID
		if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if i%3 > 0 {
			want := []State{Starting, Ready}[i%3-1]
			until(t, "it starts again", func() bool { st := h.Status()[0]; return st.Restarts > i && st.State == want })
		}
		if err := h.Renew(t.Context(), "test", paper(text)); err != nil {
			t.Error(err)
		}
		until(t, "the next process has it", func() bool { return h.Status()[0].PID != before && has() == text })
	}
}
