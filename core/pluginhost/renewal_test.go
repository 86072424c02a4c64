package pluginhost

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/secret"
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
	// What starts later has the last one that was good, also when another one killed it.
	restart(t, h)
	if text := has(); text != "second" {
		t.Errorf("the next process has %q", text)
	}
	if err := h.Renew(t.Context(), "test", paper("poison")); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("poison: error %v", err)
	}
	until(t, "it died of it", func() bool { return h.Status()[0].Restarts == 2 })
	if text := has(); text != "second" {
		t.Errorf("the process after the poison has %q", text)
	}
	f("third", "", "third")
	if n := h.Status()[0].Restarts; n != 2 {
		t.Errorf("%d restarts", n)
	}
}

// A plugin that has no use for new contents goes on with the old ones, and so does its
// next process.
func TestNotRenewed(t *testing.T) {
	h, has := renewing(t, `{"paper": "paper.txt", "greeting": "what I have is good enough"}`)
	has() // it serves, and so it has read its options
	if err := h.Renew(t.Context(), "test", paper("second")); !errors.Is(err, ErrNotRenewed) {
		t.Errorf("error %v", err)
	}
	if files := *h.pools[0].files.Load(); string(files["paper"]) != "first" {
		t.Errorf("the next process gets %s", files)
	}
	for _, name := range []string{"test", "nobody"} {
		if err := New([]Spec{spec("serve")}, nil, slog.New(slog.DiscardHandler)).Renew(t.Context(), name, paper("second")); !errors.Is(err, ErrNoProcess) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// One that does not come back from it is not asked again, and goes on.
func TestRenewalWithoutAnswer(t *testing.T) {
	h, has := renewing(t, `{"paper": "paper.txt"}`, withTimings(func(ti *timings) { ti.renewal = 100 * time.Millisecond }))
	has() // it serves
	for _, text := range []string{"long", "second"} {
		if err := h.Renew(t.Context(), "test", paper(text)); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("%s: error %v", text, err)
		}
	}
	if text := has(); text != "first" {
		t.Errorf("it has %q", text)
	}
}

// A process that was starting while others took new contents is given them when it is
// ready.
func TestCatchUp(t *testing.T) {
	h, has := renewing(t, `{"paper": "paper.txt"}`)
	has() // it serves
	second := paper("second")
	h.pools[0].files.Store(&second)
	h.pools[0].shared[0].current().catchUp(t.Context())
	until(t, "it has it", func() bool { return has() == "second" })
}

// Of several processes all have the new contents, or none.
func TestRenewSeveral(t *testing.T) {
	s := several()
	s.Instances = 2
	s.Options, s.Files = []byte(`{"paper": "paper.txt"}`), paper("first")
	h := start(t, s, nil)
	h.Need("test", "")
	says := func(process uint64) string {
		t.Helper()
		r := record()
		if _, err := h.OpenEgress("test", EgressSpec{StreamID: process, Stream: "s", Target: "t", URL: secret.New("test://paper")}, r, &queue{}); err != nil {
			t.Fatal(err)
		}
		return strings.TrimPrefix(get(t, r.ended).Message, "the paper says ")
	}
	both := func(want string) {
		t.Helper()
		for process := range uint64(2) {
			if text := says(process); text != want {
				t.Errorf("process %d has %q, want %q", process, text, want)
			}
		}
	}
	until(t, "both to have read it", func() bool { return says(0) == "first" && says(1) == "first" })
	if err := h.Renew(t.Context(), "test", paper("second")); err != nil {
		t.Error(err)
	}
	both("second")
	if err := syscall.Kill(processes(h)["2"].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "the next process to have read it", func() bool { return processes(h)["2"].Restarts == 1 && says(1) == "second" })
	if err := h.Renew(t.Context(), "test", paper("for who has had two")); err == nil || !strings.Contains(err.Error(), "this would be the second one") {
		t.Errorf("error %v", err)
	}
	both("second")
}
