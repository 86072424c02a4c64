package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/test/peers"
)

// ownHost returns an address of the loopback network that no other test uses:
// commands without a file receive WebRTC on a fixed port of the host of --listen.
func ownHost() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.1", 1+pid>>8%200, pid%256)
}

// listenFlags are free addresses for a command without a file.
func listenFlags(t *testing.T) (flags []string, listen, admin string) {
	t.Helper()
	_, port, err := net.SplitHostPort(peers.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	listen, admin = net.JoinHostPort(ownHost(), port), peers.FreeAddr(t)
	return []string{"--listen", listen, "--admin", admin}, listen, admin
}

// `gateway run --to` needs no file: it prints where to publish, and a token. URLs
// come from the command line, the environment, a file or standard input, and
// their keys are never shown.
func TestRunWithoutFile(t *testing.T) {
	peers.Need(t, "nginx", "ffmpeg", "ffprobe")
	cdn := peers.StartNginx(t)
	flags, listen, _ := listenFlags(t)
	file := filepath.Join(t.TempDir(), "url.txt")
	if err := os.WriteFile(file, []byte(cdn.URL("live", "canary-file")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startBinaryWith(t, peers.Command{
		Args:  append([]string{"run", "--to", "-", "--to", "${env:CANARY}", "--to", "${file:" + file + "}"}, flags...),
		Env:   []string{"CANARY=" + cdn.URL("b", "canary-env")},
		Stdin: cdn.URL("a", "canary-stdin") + "\n",
	})
	whip := p.Match(t, 30*time.Second, `WHIP\s+(http://\S+)`)[1]
	made := p.Match(t, 30*time.Second, `token\s+(\S+)`)[1]
	page := p.Match(t, 30*time.Second, `(http://\S+/publish/\S+)`)[1]
	if !strings.HasPrefix(whip, "http://"+listen+"/whip/") || !strings.HasSuffix(page, "#token="+made) {
		t.Errorf("WHIP address %s, page %s, token %s", whip, page, made)
	}
	pub := publisher{peers.Start(t, peers.Command{Path: filepath.Join(bin, "publisher"), Args: []string{"-url", whip, "-token-env", "T"}, Env: []string{"T=" + made}})}
	cdn.WaitPublisher(t, 30*time.Second, "a", "canary-stdin")
	cdn.WaitPublisher(t, 30*time.Second, "b", "canary-env")
	cdn.WaitPublisher(t, 30*time.Second, "live", "canary-file")
	record(t, cdn, "a", "canary-stdin", 2*time.Second)
	if err := pub.healthy(); err != nil {
		t.Error(err)
	}
	if code := p.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if strings.Contains(p.Output(), "canary") {
		t.Errorf("a key is shown:\n%s", p.Output())
	}
	waitUnpublished(t, 30*time.Second, cdn, "a", "canary-stdin")
	checkRecording(t, oneRecording(t, cdn, "a"))
}

// The demo shows what really arrives at two receivers.
func TestDemo(t *testing.T) {
	flags, _, _ := listenFlags(t)
	p := startBinary(t, append([]string{"demo", "--test-source"}, flags...)...)
	for _, target := range []string{"cdn-a", "cdn-b"} {
		p.Match(t, 30*time.Second, target+` live: video h264 640x360 (2[89]|3[01])\.\d fps [1-9]\d+ kb/s, audio aac 48 kHz stereo [1-9]\d+ kb/s, sound \d+ ms later, lag \d+ ms`)
	}
	if code := p.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// `gateway sink rtmp` receives any stream, says what it is, and records it.
func TestSink(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe")
	addr, dir := peers.FreeAddr(t), t.TempDir()
	p := startBinary(t, "sink", "rtmp", "--listen", addr, "--record", dir)
	p.WaitListening(t, 30*time.Second, addr)
	peers.FFmpeg(t, "-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30", "-f", "lavfi", "-i", "sine=frequency=1000:sample_rate=48000",
		"-t", "4", "-c:v", "libx264", "-preset", "ultrafast", "-g", "30", "-c:a", "aac", "-ac", "2", "-f", "flv", "rtmp://"+addr+"/live/canary-key")
	for _, want := range []string{`(?i)h\.?264`, `320x180`, `(?i)aac`, `kb/s`} {
		p.Match(t, 30*time.Second, want)
	}
	if code := p.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.flv"))
	if err != nil || len(files) != 1 {
		t.Fatalf("recordings %q, error %v", files, err)
	}
	packets := checkRecording(t, files[0])
	if got := length(packets, "video"); got < 3500*time.Millisecond {
		t.Errorf("only %v of video", got)
	}
}

func TestVersionAndPlugins(t *testing.T) {
	p := startBinary(t, "version")
	if code := p.ExitCode(t, 30*time.Second); code != 0 || strings.TrimSpace(p.Output()) == "" {
		t.Errorf("version: exit code %d, output %q", code, p.Output())
	}
	p = startBinary(t, "plugins", "list", "-o", "json")
	if code := p.ExitCode(t, 30*time.Second); code != 0 {
		t.Fatalf("plugins list: exit code %d", code)
	}
	var v struct {
		Plugins []struct {
			Name  string   `json:"name"`
			Sends []string `json:"sends"`
		} `json:"plugins"`
	}
	if err := json.Unmarshal([]byte(p.Output()), &v); err != nil {
		t.Fatalf("plugins list: %v: %s", err, p.Output())
	}
	found := map[string]bool{}
	for _, pl := range v.Plugins {
		found[pl.Name] = true
	}
	for _, want := range []string{"egress-rtmp", "ingest-clip", "ingest-webrtc"} {
		if !found[want] {
			t.Errorf("plugins list lacks %s: %s", want, p.Output())
		}
	}
	for _, args := range [][]string{{"nothing"}, {"run"}, {"run", "--nothing"}, {"validate"}} {
		p := startBinary(t, args...)
		if code := p.ExitCode(t, 30*time.Second); code != 2 {
			t.Errorf("%q: exit code %d, want 2:\n%s", args, code, p.Output())
		}
	}
}

// A port that is in use is said at once, with what to do; nothing is left behind.
func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	p := startBinary(t, "run", "--to", "rtmp://127.0.0.1:9/live/x", "--listen", l.Addr().String(), "--admin", peers.FreeAddr(t))
	if code := p.ExitCode(t, 30*time.Second); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if !strings.Contains(p.Output(), l.Addr().String()) {
		t.Errorf("the output does not name the address:\n%s", p.Output())
	}
}

// What /v1/streams says is what /metrics says.
func TestStatusAndMetricsAgree(t *testing.T) {
	peers.Need(t, "nginx")
	cdn := peers.StartNginx(t)
	g := startGateway(t, route("studio", fmt.Sprintf(`first: {url: "%s"}`, cdn.URL("live", "canary"))))
	s, err := g.stream("studio")
	if err != nil {
		t.Fatal(err)
	}
	if s.State != "idle" || len(s.Targets) != 1 || s.Targets[0].State != "idle" {
		t.Errorf("before the publisher: %+v", s)
	}
	g.publish(t, "studio")
	cdn.WaitPublisher(t, 30*time.Second, "live", "canary")
	peers.Wait(t, 30*time.Second, "bytes sent in the API", func() error {
		s, err = g.stream("studio")
		if err == nil && (s.State != "live" || s.Publisher == nil || len(s.Tracks) != 3 || s.Targets[0].State != "live" || s.Targets[0].UnitsSent < 60) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	codecs := map[string]bool{}
	for _, tr := range s.Tracks {
		codecs[tr.Codec] = true
		if tr.Codec == "aac" && tr.DerivedFrom == 0 {
			t.Errorf("the AAC track is not derived: %+v", tr)
		}
		if tr.Codec == "h264" && (tr.Width != 640 || tr.Height != 360) {
			t.Errorf("video track %+v, want 640x360", tr)
		}
	}
	if !codecs["h264"] || !codecs["opus"] || !codecs["aac"] {
		t.Errorf("tracks %+v, want h264, opus and aac", s.Tracks)
	}
	code, body, err := get("http://" + g.admin + "/metrics")
	if err != nil || code != 200 {
		t.Fatalf("metrics: %d, %v", code, err)
	}
	if !regexp.MustCompile(`(?m)^gateway_target_\w*bytes\w*\{[^}]*stream="studio"[^}]*target="first"[^}]*\} [1-9]`).MatchString(body) {
		t.Errorf("no series of bytes sent to the target:\n%s", body)
	}
	if strings.Contains(body, "canary") || strings.Contains(body, token) {
		t.Error("the metrics show a key or a token")
	}
	if strings.Contains(g.Output(), "canary") || strings.Contains(g.Output(), token) {
		t.Errorf("the log shows a key or a token:\n%s", g.Output())
	}
}
