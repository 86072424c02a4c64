package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/test/peers"
)

const faulty = `listen: 0.0.0.0:8080
lisen: 127.0.0.1:1
routes:
  studio:
    publish: {token: "${env:NOT_SET_ANYWHERE}"}
    to:
      youtube: {url: "rtmps://a.rtmps.youtube.com/live2", key: "${env:STUDIO_TOKEN}"}
      youtube: {url: "rtmp://127.0.0.1:1935/live/twice"}
      backup: {url: "rtmp://127.0.0.1:1935/live/canary", max_lag: "4"}
      typo: {url: "rtpm://127.0.0.1/live/canary"}
  open:
    to:
      one: {url: "rtmp://127.0.0.1:1935/live/canary-two", enabeld: true}
`

// Every fault of a file is reported at once, with its place and what to do, by
// validate and by run; nothing starts.
func TestFaultsOfConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	if err := os.WriteFile(file, []byte(faulty), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"validate", "run"} {
		p := startBinary(t, command, file)
		if code := p.ExitCode(t, 30*time.Second); code != 2 {
			t.Errorf("%s: exit code %d, want 2", command, code)
		}
		out := p.Output()
		for _, want := range []struct{ at, says string }{
			{":2:1: lisen:", `did you mean "listen"`},
			{":5:", "NOT_SET_ANYWHERE"},
			{":8:7: routes.studio.to.youtube:", "already"},
			{":9:", "duration"},
			{":10:", `did you mean rtmp://`},
			{":11:3: routes.open:", "token"},
			{":11:3: routes.open:", "publish: {open: true}"},
			{":13:", `did you mean "enabled"`},
		} {
			found := false
			for line := range strings.Lines(out) {
				found = found || (strings.Contains(line, file+want.at) && strings.Contains(line, want.says))
			}
			if !found {
				t.Errorf("%s: no line with %q that says %q:\n%s", command, want.at, want.says, out)
			}
		}
		if strings.Contains(out, "canary") || strings.Contains(out, token) {
			t.Errorf("%s: the output shows a stream key:\n%s", command, out)
		}
		if n := len(children(t, p.PID())); n > 0 {
			t.Errorf("%s: %d processes are left", command, n)
		}
	}
	if err := peers.Listening("127.0.0.1:1"); err == nil {
		t.Error("somebody listens on port 1")
	}
}

func TestFileThatIsNotThere(t *testing.T) {
	p := startBinary(t, "run", filepath.Join(t.TempDir(), "nothing.yaml"))
	if code := p.ExitCode(t, 30*time.Second); code == 0 {
		t.Error("exit code 0 without a configuration")
	}
	if !strings.Contains(p.Output(), "nothing.yaml") {
		t.Errorf("the output does not name the file:\n%s", p.Output())
	}
}

var reference = regexp.MustCompile(`\$\{env:([A-Za-z_][A-Za-z0-9_]*)`)

// Every configuration that we show validates.
func TestExamplesValidate(t *testing.T) {
	var files []string
	for _, pattern := range []string{"../../examples/*.yaml", "../../examples/*/*.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		t.Fatal("no examples")
	}
	plugin := filepath.Join(bin, "egress-file")
	executable, err := os.ReadFile(plugin)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var env []string
		for _, m := range reference.FindAllStringSubmatch(string(text), -1) {
			env = append(env, m[1]+"=something-set-by-the-test")
		}
		env = append(env, "EGRESS_FILE="+plugin, fmt.Sprintf("EGRESS_FILE_SHA256=%x", sha256.Sum256(executable)))
		p := startBinaryWith(t, peers.Command{Args: []string{"validate", filepath.Base(file)}, Dir: filepath.Dir(file), Env: env})
		if code := p.ExitCode(t, 30*time.Second); code != 0 {
			t.Errorf("%s: exit code %d:\n%s", file, code, p.Output())
		}
	}
}
