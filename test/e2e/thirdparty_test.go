package e2e

import (
	"bytes"
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
	cdn := peers.StartNginx(t)
	media := t.TempDir()
	program, plugin := pinned(t, media)
	g := startGatewayWith(t, plugin, route("studio",
		fmt.Sprintf(`disk: {url: "file://%s"}`, media),
		fmt.Sprintf(`cdn: {url: "%s"}`, cdn.URL("a", "x"))))
	p := g.publish(t, "studio")
	g.waitTarget(t, 30*time.Second, "studio", "disk", status.TargetLive)
	cdn.WaitPublisher(t, 30*time.Second, "a", "x")
	record(t, cdn, "a", "x", 4*time.Second)
	if code := p.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("the publisher ended with %d", code)
	}
	g.waitTarget(t, 30*time.Second, "studio", "disk", status.TargetIdle)
	waitUnpublished(t, 30*time.Second, cdn, "a", "x")
	if code := g.Interrupt(t, 30*time.Second); code != 0 {
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

	code, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, append(code, 0), 0o700); err != nil {
		t.Fatal(err)
	}
	other := startBinary(t, "run", g.file)
	if code := other.ExitCode(t, 30*time.Second); code == 0 || !strings.Contains(other.Output(), "egress-file") {
		t.Errorf("with another file in the plugin's place: exit code %d:\n%s", code, other.Output())
	}
}

// pinned is a copy of egress-file that may write to media, and what the configuration
// says of it.
func pinned(t *testing.T, media string) (program, plugin string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "egress-file")
	code, err := os.ReadFile(filepath.Join(bin, "egress-file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, code, 0o700); err != nil {
		t.Fatal(err)
	}
	pin := startBinary(t, "plugins", "pin", program)
	if code := pin.ExitCode(t, 30*time.Second); code != 0 {
		t.Fatalf("gateway plugins pin: exit code %d:\n%s", code, pin.Output())
	}
	_, plugin, _ = strings.Cut(pin.Output(), "plugins:\n")
	return program, plugin + fmt.Sprintf("    files: [%q]\n", media)
}

// firefoxPreferences let Firefox publish without a question, on loopback, and look for
// nothing elsewhere: it gets no H.264 then.
const firefoxPreferences = `user_pref("media.autoplay.default", 0);
user_pref("media.autoplay.blocking_policy", 0);
user_pref("media.peerconnection.ice.loopback", true);
user_pref("media.peerconnection.ice.obfuscate_host_addresses", false);
user_pref("media.gmp-manager.updateEnabled", false);
user_pref("media.gmp-provider.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("app.update.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("services.settings.server", "data:,");
user_pref("toolkit.telemetry.server", "");
`

// A browser without H.264 publishes AV1 where every target of the route takes that.
func TestFirefoxToDisk(t *testing.T) {
	peers.Need(t, "firefox-esr", "ffmpeg", "ffprobe")
	media := t.TempDir()
	_, plugin := pinned(t, media)
	g := startGatewayWith(t, plugin, route("studio", fmt.Sprintf(`disk: {url: "file://%s"}`, media)))
	profile := peers.Scratch(t)
	if err := os.WriteFile(filepath.Join(profile, "user.js"), []byte(firefoxPreferences), 0o600); err != nil {
		t.Fatal(err)
	}
	page := strings.Replace(g.page("studio", "canvas"), "source=canvas", "source=canvas&size=640x360&start=1", 1)
	firefox := peers.Start(t, peers.Command{
		Name: "firefox", Path: peers.Find(t, "firefox-esr"), Env: []string{"MOZ_HEADLESS=1", "HOME=" + profile},
		Args: []string{"--headless", "--no-remote", "--profile", profile, page},
	})
	const pictures = 30
	video := filepath.Join(media, "studio-1.av1")
	peers.Wait(t, 4*time.Minute, "pictures of Firefox on disk", func() error {
		s, err := g.stream("studio")
		if err != nil {
			return err
		}
		if got := s.Targets[0]; got.State != status.TargetLive {
			return fmt.Errorf("the target is %s: %+v; the publisher %+v", got.State, got.LastError, s.Publisher)
		}
		if s.Tracks[0].Codec != "av1" || s.Tracks[0].Width != 640 {
			return fmt.Errorf("tracks %+v", s.Tracks)
		}
		// Each begins with a temporal delimiter; by chance there are some more.
		b, err := os.ReadFile(video)
		if n := bytes.Count(b, []byte{0x12, 0}); err != nil || n < 2*pictures {
			return fmt.Errorf("%d pictures on disk: %w", n, err)
		}
		return nil
	})
	firefox.Kill()
	if code := g.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if err := peers.CheckDecodes(t, video); err != nil {
		t.Error(err)
	}
	if n := peers.Count(peers.Packets(t, video), "video"); n < pictures {
		t.Errorf("%d pictures on disk, want at least %d", n, pictures)
	}
}
