package webrtc

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A peer is a publisher that is a program of its own, in a process group that ends
// with the test.
type peer struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (p *peer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *peer) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func startPeer(t *testing.T, env []string, name string, args ...string) *peer {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, "needs "+name)
	}
	p := &peer{}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = p, p
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended by itself
		_ = cmd.Wait()
		if t.Failed() {
			out := p.output()
			t.Logf("output of %s:\n%s", name, out[max(0, len(out)-8000):])
		}
	})
	return p
}

// missing skips the test, or fails where all peers are required.
func missing(t *testing.T, message string) {
	t.Helper()
	if os.Getenv("HEADGATE_TEST_PEERS") == "required" {
		t.Fatal(message)
	}
	t.Skip(message)
}

// GStreamer's webrtcbin publishes picture and sound.
func TestGStreamer(t *testing.T) {
	const python = "/usr/bin/python3" // Debian's, which has Debian's bindings
	if err := exec.Command(python, "-c", `import gi; gi.require_version("GstWebRTC", "1.0")`).Run(); err != nil {
		missing(t, "needs python3-gi and gir1.2-gst-plugins-bad-1.0: "+err.Error())
	}
	g, url := serve(t)
	p := startPeer(t, nil, python, filepath.Join("testdata", "gstreamer.py"), url+"/whip/studio", "abc")
	until(t, "the publication", 30*time.Second, func() bool {
		if strings.Contains(p.output(), "REFUSED") {
			t.Fatal("refused")
		}
		return g.publication(0) != nil
	})
	pub := g.publication(0)
	until(t, "picture and sound", 30*time.Second, func() bool {
		v, a := pub.counts()
		return v >= 90 && a >= 150
	})
	pub.mu.Lock()
	defer pub.mu.Unlock()
	t.Logf("%d pictures (%d key) of %v, %d packets of sound (%d stereo); %+v", pub.video, pub.keys, pub.sizes, pub.audio, pub.stereo, pub.stats)
	if pub.back > 0 || len(pub.sizes) != 1 || pub.sizes[0] != "640x360" || pub.stereo != pub.audio {
		t.Errorf("%d units went back in time; sizes %v; %d of %d packets are stereo", pub.back, pub.sizes, pub.stereo, pub.audio)
	}
	if name := os.Getenv("GATEWAY_TEST_OFFERS"); name != "" { // to write a fixture anew
		_, offer, _ := strings.Cut(p.output(), "OFFER ")
		offer, _, _ = strings.Cut(offer, "\n")
		t.Log(os.WriteFile(filepath.Join(name, "gstreamer.txt"), []byte(offer), 0o600))
	}
}

// firefoxPreferences let Firefox publish without a question, on loopback.
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

func startFirefox(t *testing.T, url string) {
	t.Helper()
	profile := t.TempDir()
	if err := os.WriteFile(filepath.Join(profile, "user.js"), []byte(firefoxPreferences), 0o600); err != nil {
		t.Fatal(err)
	}
	startPeer(t, []string{"MOZ_HEADLESS=1", "HOME=" + profile}, "firefox-esr", "--headless", "--no-remote", "--profile", profile, url)
}

// Firefox from Debian has no H.264: the page tells its user what it offered and what
// is needed.
func TestFirefoxWithoutH264(t *testing.T) {
	if _, err := exec.LookPath("firefox-esr"); err != nil {
		missing(t, "needs firefox-esr")
	}
	type answer struct {
		status int
		body   string
		agent  string
	}
	answers := make(chan answer, 10)
	g, handler := serveHandler(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			handler.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, r)
		select {
		case answers <- answer{rec.Code, rec.Body.String(), r.UserAgent()}:
		default:
		}
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
	}))
	defer web.Close()
	startFirefox(t, web.URL+"/publish/studio?source=canvas&start=1#token=abc")
	select {
	case a := <-answers:
		t.Logf("%s: %d %s", a.agent, a.status, a.body)
		if !strings.Contains(a.agent, "Firefox/") || a.status != http.StatusUnprocessableEntity || !strings.Contains(a.body, "this route needs H264") {
			t.Errorf("%s: %d %s", a.agent, a.status, a.body)
		}
	case <-time.After(90 * time.Second):
		t.Fatal("Firefox posted no offer")
	}
	if p := g.publication(0); p != nil {
		if v, a := p.counts(); v+a > 0 {
			t.Errorf("%d pictures and %d packets of sound came all the same", v, a)
		}
	}
}
