package session_test

import (
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

func post(t testing.TB, url, offer string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(offer))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/sdp")
	req.Header.Set("Authorization", "Bearer "+goodToken)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(b)
}

func remove(t testing.TB, url string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("DELETE: %s", res.Status)
	}
}

// steady puts words in place of what differs from run to run.
func steady(answer string) string {
	for _, r := range []struct{ pattern, with string }{
		{`(?m)^o=.*?\r$`, "o=ORIGIN\r"},
		{`a=ice-ufrag:\S+`, "a=ice-ufrag:UFRAG"},
		{`a=ice-pwd:\S+`, "a=ice-pwd:PWD"},
		{`a=fingerprint:\S+ \S+`, "a=fingerprint:FINGERPRINT"},
		{`a=candidate:\d+ (\d) (udp|tcp) \d+ (\S+) \d+ `, "a=candidate:N $1 $2 PRIORITY $3 PORT "},
		{`a=msid-semantic:.*`, "a=msid-semantic:WMS\r"},
		{` ufrag \S+`, " ufrag UFRAG"},
	} {
		answer = regexp.MustCompile(r.pattern).ReplaceAllString(answer, r.with)
	}
	return answer
}

var setupRole = regexp.MustCompile(`a=setup:\w+`)

// The answers to offers of real publishers, and to the same with another DTLS
// role, are what is written down. Those that are called reconstructed were not captured:
// they are what the sources of OBS (whip-output.cpp, and description.cpp of
// libdatachannel) and FFmpeg (libavformat/whip.c) write.
func TestAnswers(t *testing.T) {
	g := start(t)
	for _, name := range []string{"chromium-156-opus-h264", "chromium-156-simulcast-qhf", "firefox-esr-153-no-h264", "gstreamer-1.22", "reconstructed-obs-30", "reconstructed-ffmpeg-8"} {
		b, err := os.ReadFile(filepath.Join("..", "negotiate", "testdata", name+".sdp"))
		if err != nil {
			t.Fatal(err)
		}
		for setup, want := range map[string]string{"actpass": "passive", "active": "passive", "passive": "active"} {
			t.Run(name+" "+setup, func(t *testing.T) {
				status, header, answer := post(t, g.url+"-"+strings.ReplaceAll(t.Name(), "/", "-"), setupRole.ReplaceAllString(string(b), "a=setup:"+setup))
				if strings.HasPrefix(name, "firefox") {
					if status != http.StatusUnprocessableEntity || !strings.Contains(answer, "your browser offered VP8, VP9, AV1; this route needs H264") {
						t.Errorf("%d %s", status, answer)
					}
					return
				}
				if status != http.StatusCreated || !strings.HasPrefix(header.Get("Location"), "/whip/~/") || !strings.HasPrefix(answer, "v=0") {
					t.Fatalf("%d %s", status, answer)
				}
				if len(answer) >= 8192 || strings.Count(answer, "a=setup:"+want) != 2 {
					t.Errorf("%d bytes; want setup:%s in both sections", len(answer), want)
				}
				golden := filepath.Join("testdata", name+"."+setup+".golden")
				if *rewrite {
					if err := os.WriteFile(golden, []byte(steady(answer)), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				written, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if got := steady(answer); got != string(written) {
					t.Errorf("got:\n%s\nwant:\n%s", got, written)
				}
			})
		}
	}
}

// FFmpeg writes offers that are not quite right: they are taken all the same.
func TestFFmpegOffers(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "negotiate", "testdata", "reconstructed-ffmpeg-8.sdp"))
	if err != nil {
		t.Fatal(err)
	}
	g := start(t)
	offer := string(b)
	audio, video := strings.Index(offer, "m=audio"), strings.Index(offer, "m=video")
	for name, offer := range map[string]string{
		// It names both sections in the group, whichever are there.
		"picture alone": offer[:audio] + offer[video:],
		"sound alone":   offer[:video],
		// Of constrained baseline it prints three digits for two.
		"constrained baseline": strings.Replace(offer, "profile-level-id=42001f", "profile-level-id=422001f", 1),
	} {
		status, _, answer := post(t, g.url+"-"+strings.ReplaceAll(name, " ", "-"), offer)
		if status != 201 {
			t.Errorf("%s: %d %s", name, status, answer)
		}
		if n := strings.Count(answer, "\nm="); n != strings.Count(offer, "\nm=") || strings.Contains(answer, " 0 UDP/TLS") {
			t.Errorf("%s: the answer is\n%s", name, answer)
		}
	}
}
