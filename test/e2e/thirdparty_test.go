package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

// A plugin of somebody else, pinned by its SHA-256, receives the stream beside
// ours. Another file in its place is not started.
func TestThirdPartyPlugin(t *testing.T) {
	peers.Need(t, "ffmpeg", "ffprobe", "nginx")
	dir := t.TempDir()
	program := filepath.Join(dir, "egress-file")
	code, err := os.ReadFile(filepath.Join(bin, "egress-file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, code, 0o700); err != nil {
		t.Fatal(err)
	}
	cdn := peers.StartNginx(t)
	media := t.TempDir()
	pin := startBinary(t, "plugins", "pin", program)
	if code := pin.ExitCode(t, 10*time.Second); code != 0 {
		t.Fatalf("gateway plugins pin: exit code %d:\n%s", code, pin.Output())
	}
	_, plugin, _ := strings.Cut(pin.Output(), "plugins:\n")
	plugin += fmt.Sprintf("    files: [%q]\n", media)
	g := startGatewayWith(t, plugin, route("studio",
		fmt.Sprintf(`disk: {url: "file://%s"}`, media),
		fmt.Sprintf(`cdn: {url: "%s"}`, cdn.URL("a", "x"))))
	p := g.publish(t, "studio")
	g.waitTarget(t, 15*time.Second, "studio", "disk", status.TargetLive)
	cdn.WaitPublisher(t, 15*time.Second, "a", "x")
	record(t, cdn, "a", "x", 4*time.Second)
	if code := p.Interrupt(t, 10*time.Second); code != 0 {
		t.Errorf("the publisher ended with %d", code)
	}
	g.waitTarget(t, 5*time.Second, "studio", "disk", status.TargetIdle)
	waitUnpublished(t, 5*time.Second, cdn, "a", "x")
	if code := g.Interrupt(t, 5*time.Second); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	videos, err := filepath.Glob(filepath.Join(media, "*.h264"))
	if err != nil || len(videos) != 1 {
		t.Fatalf("videos on disk %q, error %v", videos, err)
	}
	if err := peers.CheckDecodes(t, videos[0]); err != nil {
		t.Error(err)
	}
	if n := peers.Count(peers.Packets(t, videos[0]), "video"); n < 110 {
		t.Errorf("%d pictures on disk, want those of 4 s", n)
	}

	if err := os.WriteFile(program, append(code, 0), 0o700); err != nil {
		t.Fatal(err)
	}
	other := startBinary(t, "run", g.file)
	if code := other.ExitCode(t, 10*time.Second); code == 0 || !strings.Contains(other.Output(), "egress-file") {
		t.Errorf("with another file in the plugin's place: exit code %d:\n%s", code, other.Output())
	}
}
