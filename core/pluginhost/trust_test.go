package pluginhost

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/wire"
)

// pinnedSpec is the test's plugin in a file of its own, pinned, with a store of its own.
func pinnedSpec(t *testing.T) Spec {
	t.Helper()
	t.Setenv("STATE_DIRECTORY", t.TempDir())
	s := spec("serve")
	code, err := os.ReadFile(s.Command[0])
	if err != nil {
		t.Fatal(err)
	}
	s.Command[0] = filepath.Join(t.TempDir(), "plugin")
	if err := os.WriteFile(s.Command[0], code, 0o700); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(code)
	s.SHA256 = hex.EncodeToString(sum[:])
	return s
}

// overwrite puts something else into the place of a file.
func overwrite(t *testing.T, name, text string) {
	t.Helper()
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
}

// What runs is a copy that only the gateway's user can change, at every restart,
// whatever became of the file it came from.
func TestPinnedPluginRunsFromACopy(t *testing.T) {
	s := pinnedSpec(t)
	h := start(t, s, nil)
	_, r, _ := open(t, h, "ok")
	copied := filepath.Join(os.Getenv("STATE_DIRECTORY"), "plugins", "sha256", s.SHA256, "plugin")
	runs := func() {
		t.Helper()
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", h.Status()[0].PID))
		if err != nil || exe != copied {
			t.Errorf("the process runs %s, want %s (%v)", exe, copied, err)
		}
	}
	runs()
	for name, want := range map[string]fs.FileMode{copied: 0o500, filepath.Dir(copied): 0o700, filepath.Dir(filepath.Dir(copied)): 0o700} {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
	overwrite(t, s.Command[0], "#!/bin/sh\ntouch /tmp/this-must-not-run\n")
	if err := syscall.Kill(h.Status()[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	get(t, r.ended)
	open(t, h, "ok")
	runs()
}

// A copy that somebody tampered with is not started: it is made anew.
func TestTamperedCopyIsReplaced(t *testing.T) {
	s := pinnedSpec(t)
	log := slog.New(slog.DiscardHandler)
	if _, err := Describe(t.Context(), s, log); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(os.Getenv("STATE_DIRECTORY"), "plugins", "sha256", s.SHA256, "plugin")
	overwrite(t, copied, "#!/bin/sh\nexit 0\n")
	if _, err := Describe(t.Context(), s, log); err != nil {
		t.Fatal(err)
	}
	if got, err := Checksum(copied); err != nil || got != s.SHA256 {
		t.Errorf("the copy has the checksum %s, %v", got, err)
	}
	// With the source gone wrong too there is nothing to run.
	overwrite(t, copied, "#!/bin/sh\nexit 0\n")
	overwrite(t, s.Command[0], "ELF of another kind")
	var wrong *ChecksumError
	if _, err := Describe(t.Context(), s, log); !errors.As(err, &wrong) || wrong.Want != s.SHA256 || wrong.Path != s.Command[0] {
		t.Errorf("%v", err)
	}
}

// A script runs from where it is, if it is the one that was pinned.
func TestPinnedScript(t *testing.T) {
	s := pinnedSpec(t)
	exe := s.Command[0]
	script := filepath.Join(t.TempDir(), "script")
	text := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\"\n", exe)
	overwrite(t, script, text)
	sum := sha256.Sum256([]byte(text))
	s.Command[0], s.SHA256 = script, hex.EncodeToString(sum[:])
	log := slog.New(slog.DiscardHandler)
	if _, err := Describe(t.Context(), s, log); err != nil {
		t.Error(err)
	}
	overwrite(t, script, text+"# changed\n")
	var wrong *ChecksumError
	if _, err := Describe(t.Context(), s, log); !errors.As(err, &wrong) {
		t.Errorf("%v", err)
	}
}

func TestOldCopiesAreRemoved(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", t.TempDir())
	s, err := openStore()
	if err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"new": time.Hour, "old": staleCopy + time.Hour} {
		dir := filepath.Join(s.dir, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(dir, then, then); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.sweep(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(s.dir); err != nil || len(entries) != 1 || entries[0].Name() != "new" {
		t.Errorf("left %v, %v", entries, err)
	}
}

// The environment of a plugin is what the gateway allows, and what its configuration
// names.
func TestEnvironment(t *testing.T) {
	t.Setenv("GATEWAY_CANARY", "a-secret-of-the-host")
	t.Setenv("HTTPS_PROXY", "http://proxy.example")
	s := spec("serve")
	s.Env, s.MemoryBytes = []string{"HTTPS_PROXY", "NOT_SET"}, 100<<20
	h := start(t, s, nil)
	res := mounted(t, h, "/test/env", nil)
	for _, want := range []string{"HTTPS_PROXY=http://proxy.example", "PATH=", "GOMEMLIMIT=83886080"} {
		if !strings.Contains(res, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, never := range []string{"a-secret", "NOT_SET"} {
		if strings.Contains(res, never) {
			t.Errorf("%s is there:\n%s", never, res)
		}
	}
}

// mounted asks the plugin for a path of its mount.
func mounted(t *testing.T, h *Host, path string, query url.Values) string {
	t.Helper()
	h.Need("test", "")
	get(t, h.Ready("test"))
	srv := httptest.NewServer(h.Mounts()[0].Handler)
	defer srv.Close()
	var res response
	until(t, "the handler", func() bool {
		res = request(t, http.MethodGet, srv.URL+path+"?"+query.Encode(), nil)
		return res.code == http.StatusOK
	})
	return res.body
}

// A plugin of the SDK can use the files that it is granted, and those that any Go
// program needs.
func TestConfinedPlugin(t *testing.T) {
	inside, outside := t.TempDir(), t.TempDir()
	s := spec("serve")
	s.Dirs = []string{inside}
	h, stop := startHost(t, s, nil)
	defer stop()
	got := mounted(t, h, "/test/files", url.Values{"inside": {inside}, "outside": {outside}})
	want := "resolver true\ncertificates true\ngateway false\npasswd false\noutside false\ninside true\nprogram false\nlocalhost true\n"
	if _, err := os.Stat("/etc/ssl/certs/ca-certificates.crt"); err != nil {
		want = strings.Replace(want, "certificates true", "certificates false", 1)
	}
	if got != want {
		t.Errorf("got\n%swant\n%s(this test needs a kernel with landlock)", got, want)
	}
}

// byHand starts the test's plugin as a person would to debug it, and returns what
// it tells its gateway.
func byHand(t *testing.T, env ...string) (cmd *exec.Cmd, socket string) {
	t.Helper()
	s := spec("serve")
	cmd = exec.Command(s.Command[0], s.Command[1:]...)
	cmd.Env = append([]string{"TMPDIR=" + os.TempDir()}, env...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("the plugin does not say where it waits: %v", err)
		}
		if _, rest, ok := strings.Cut(line, wire.ReattachEnv+"='test="); ok {
			socket = strings.TrimSuffix(strings.TrimSpace(rest), "'")
			go func() { _, _ = io.Copy(io.Discard, lines) }() // ends with the process
			return cmd, socket
		}
	}
}

// A plugin that a person started is attached to, not killed while it stands still,
// found again when it was started anew, and left running by a gateway that ends.
func TestReattach(t *testing.T) {
	t.Setenv("TMPDIR", runDirBase(t))
	defer func() { _ = os.RemoveAll(filepath.Join(os.TempDir(), fmt.Sprintf("headgate-%d", os.Getuid()))) }()
	cmd, socket := byHand(t, wire.ReattachEnv+"=1")
	s := spec("mute") // must not be started
	s.Socket = socket
	info, err := Describe(t.Context(), s, slog.New(slog.DiscardHandler))
	if err != nil || info.GetName() != "test" {
		t.Fatalf("%v, %v", info, err)
	}
	s.Info = info
	h, stop := startHost(t, s, nil, withTimings(func(t *timings) {
		t.ping, t.silence = time.Millisecond, 5*time.Millisecond
	}))
	_, r, q := open(t, h, "ok")
	if got := mounted(t, h, "/test/stdin", nil); !strings.HasPrefix(got, "0 ") {
		t.Errorf("%q", got)
	}
	// At a breakpoint, for far longer than a plugin may be silent.
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p := h.pools[0].shared[0].current()
	until(t, "many pings without an answer", func() bool { return p.silent.Load() > 50 })
	q.put(units(10, 100)...)
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s2, r2, q2 := open(t, h, "ok")
	q2.put(units(10, 100)...)
	s2.Wake()
	until(t, "credit", func() bool { return r2.creditedBytes() == 1000 })
	if len(r.ended) > 0 {
		t.Error("the session ended while the process stood still")
	}

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	get(t, r.ended)
	again, socket2 := byHand(t, wire.ReattachEnv+"=1")
	if socket2 != socket {
		t.Errorf("it waits at %s now, before at %s", socket2, socket)
	}
	until(t, "the plugin", func() bool { return h.Status()[0].State == Ready })
	open(t, h, "ok")
	stop()
	if err := again.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the gateway ended the process: %v", err)
	}
	if err := again.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = again.Wait() // killed by itself, see servePlugin
}
