package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

const token = "a-token-of-the-tests"

// A gateway is the binary under test with a configuration file of its own.
type gateway struct {
	*peers.Process
	listen, admin string
	file          string
}

// startGateway runs `gateway run FILE` with the given routes (YAML, indented by
// two blanks) and waits until it is ready.
func startGateway(t *testing.T, routes string) *gateway {
	t.Helper()
	return startGatewayWith(t, "", routes)
}

// startGatewayWith is startGateway with further entries under plugins.
func startGatewayWith(t testing.TB, plugins, routes string) *gateway {
	t.Helper()
	return startGatewayOf(t, "gateway", plugins, routes)
}

// startPlainGateway is startGateway without the race detector, which takes more
// of a small machine than a browser's encoder leaves.
func startPlainGateway(t *testing.T, routes string) *gateway {
	t.Helper()
	return startGatewayOf(t, "gateway-plain", "", routes)
}

func startGatewayOf(t testing.TB, program, plugins, routes string, env ...string) *gateway {
	t.Helper()
	g := &gateway{listen: peers.FreeAddr(t), admin: peers.FreeAddr(t), file: filepath.Join(t.TempDir(), "gateway.yaml")}
	udp := peers.FreePort(t)
	text := fmt.Sprintf("listen: %s\nadmin: %s\nplugins:\n  ingest-webrtc: {options: {udp: \"127.0.0.1:%d\"}}\n%sroutes:\n%s", g.listen, g.admin, udp, plugins, routes)
	if err := os.WriteFile(g.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g.Process = startBinaryWith(t, peers.Command{Path: filepath.Join(bin, program), Args: []string{"run", g.file}, Env: env})
	g.waitReady(t)
	return g
}

// startBinary runs the binary under test. A data race in it, or in one of its
// plugins, fails the test.
func startBinary(t *testing.T, args ...string) *peers.Process {
	t.Helper()
	return startBinaryWith(t, peers.Command{Args: args})
}

func startBinaryWith(t testing.TB, c peers.Command) *peers.Process {
	t.Helper()
	c.Name = "gateway"
	if c.Path == "" {
		c.Path = filepath.Join(bin, "gateway")
	}
	c.Env = append([]string{"GATEWAY_LOG_LEVEL=debug"}, c.Env...)
	c.Env = append(c.Env, "STUDIO_TOKEN="+token, "XDG_STATE_HOME="+t.TempDir())
	var p *peers.Process
	t.Cleanup(func() {
		out := p.Output()
		if strings.Contains(out, "DATA RACE") || strings.Contains(out, "panic: ") {
			t.Errorf("a data race or a panic in the gateway:\n%s", out)
		}
		// At its most talkative, which it is in all of these tests, it tells no secret.
		for line := range strings.Lines(out) {
			if strings.Contains(line, token) || strings.Contains(line, "canary") {
				t.Errorf("a secret is told: %s", line)
			}
		}
	})
	p = peers.Start(t, c)
	return p
}

func (g *gateway) waitReady(t testing.TB) {
	t.Helper()
	g.WaitListening(t, 30*time.Second, g.listen)
	peers.Wait(t, 30*time.Second, "/readyz", func() error {
		code, body, err := get("http://" + g.listen + "/readyz")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d: %s", code, body)
		}
		return err
	})
}

func (g *gateway) whip(stream string) string { return "http://" + g.listen + "/whip/" + stream }

func (g *gateway) page(stream, source string) string {
	return "http://" + g.listen + "/publish/" + stream + "?source=" + source + "#token=" + token
}

func get(url string) (code int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	return resp.StatusCode, string(b), err
}

// stream asks the API for one stream.
func (g *gateway) stream(name string) (status.Stream, error) {
	code, body, err := get("http://" + g.admin + "/v1/streams")
	if err != nil {
		return status.Stream{}, err
	}
	if code != http.StatusOK {
		return status.Stream{}, fmt.Errorf("GET /v1/streams: %d: %s", code, body)
	}
	var v status.Streams
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		return status.Stream{}, fmt.Errorf("reading /v1/streams: %w", err)
	}
	for _, s := range v.Streams {
		if s.Name == name {
			return s, nil
		}
	}
	return status.Stream{}, fmt.Errorf("no stream %s in %s", name, body)
}

// target asks the API for one target.
func (g *gateway) target(stream, name string) (status.Target, error) {
	s, err := g.stream(stream)
	if err != nil {
		return status.Target{}, err
	}
	for _, t := range s.Targets {
		if t.Name == name {
			return t, nil
		}
	}
	return status.Target{}, fmt.Errorf("stream %s has no target %s", stream, name)
}

// waitTarget waits until a target has a state.
func (g *gateway) waitTarget(t testing.TB, d time.Duration, stream, name string, want status.TargetState) status.Target {
	t.Helper()
	var got status.Target
	peers.Wait(t, d, fmt.Sprintf("target %s of %s to be %s", name, stream, want), func() error {
		var err error
		if got, err = g.target(stream, name); err == nil && got.State != want {
			err = fmt.Errorf("it is %s, last error %+v", got.State, got.LastError)
		}
		return err
	})
	return got
}

// waitStream waits until a stream has a state.
func (g *gateway) waitStream(t *testing.T, d time.Duration, name string, want status.StreamState) {
	t.Helper()
	peers.Wait(t, d, fmt.Sprintf("stream %s to be %s", name, want), func() error {
		s, err := g.stream(name)
		if err == nil && s.State != want {
			err = fmt.Errorf("it is %s", s.State)
		}
		return err
	})
}

// children returns the processes whose parent is pid, with their command lines.
func children(t testing.TB, pid int) map[int]string {
	t.Helper()
	found := map[int]string{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // it has ended
		}
		// The name in brackets may contain blanks.
		_, rest, ok := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 2 || fields[1] != strconv.Itoa(pid) {
			continue
		}
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(line) == 0 {
			continue
		}
		child, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			t.Fatal(err)
		}
		found[child] = strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " ")
	}
	return found
}

// plugin returns the process id of a plugin.
func (g *gateway) plugin(t testing.TB, name string) int {
	t.Helper()
	all := children(t, g.PID())
	for pid, line := range all {
		if strings.HasSuffix(line, "plugin "+name) {
			return pid
		}
	}
	t.Fatalf("the gateway runs no plugin %s: %v", name, all)
	return 0
}

// killPlugin kills a plugin's process as a crash would.
func (g *gateway) killPlugin(t *testing.T, name string) {
	t.Helper()
	if err := syscall.Kill(g.plugin(t, name), syscall.SIGKILL); err != nil {
		t.Fatalf("killing plugin %s: %v", name, err)
	}
}

// gone returns nil once no process has the id.
func gone(pid int) error {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil //nolint:nilerr // there is no such process: that is what is asked
	}
	// Nobody may be there to reap it: a zombie runs no more.
	if _, rest, ok := strings.Cut(string(stat), ") "); ok && strings.HasPrefix(rest, "Z") {
		return nil
	}
	return fmt.Errorf("process %d is still there", pid)
}

// A publisher is test/publisher as a process.
type publisher struct{ *peers.Process }

// publish starts a publisher of the test card and waits until the gateway has
// accepted it.
func (g *gateway) publish(t *testing.T, stream string, flags ...string) publisher {
	t.Helper()
	args := append([]string{"-url", g.whip(stream), "-token-env", "STUDIO_TOKEN"}, flags...)
	p := publisher{peers.Start(t, peers.Command{Path: filepath.Join(bin, "publisher"), Args: args, Env: []string{"STUDIO_TOKEN=" + token}})}
	p.Match(t, 30*time.Second, `"event":"published"`)
	return p
}

// healthy returns an error if the publisher has ended or lost its connection.
func (p publisher) healthy() error {
	select {
	case <-p.Done():
		return errors.New("the publisher has ended")
	default:
	}
	if strings.Contains(p.Output(), `"event":"lost"`) {
		return errors.New("the publisher has lost its connection")
	}
	return nil
}

// route is the YAML of a route with a token whose targets are the lines given.
func route(name string, targets ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  %s:\n    publish: {token: \"${env:STUDIO_TOKEN}\"}\n    to:\n", name)
	for _, t := range targets {
		fmt.Fprintf(&b, "      %s\n", t)
	}
	return b.String()
}
