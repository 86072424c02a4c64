package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/headgate/gateway/internal/clip"
	"github.com/headgate/gateway/internal/whipclient"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/test/peers"
)

// A request is something that a client should not have sent.
type request struct {
	name, method, url string
	header            map[string]string
	body              string
	want              []int // status codes
}

func (r request) do(client *http.Client) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, strings.NewReader(r.body))
	if err != nil {
		return nil, nil, err
	}
	for k, v := range r.header {
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp, b, err
}

// offer makes a session description that offers to send the given codecs.
func offer(t *testing.T, mimes ...string) string {
	t.Helper()
	m := &webrtc.MediaEngine{}
	var kinds []webrtc.RTPCodecType
	for i, mime := range mimes {
		c := webrtc.RTPCodecParameters{RTPCodecCapability: webrtc.RTPCodecCapability{MimeType: mime, ClockRate: 90000}, PayloadType: webrtc.PayloadType(96 + i)}
		kind := webrtc.RTPCodecTypeVideo
		if strings.HasPrefix(mime, "audio/") {
			c.ClockRate, c.Channels, kind = 48000, 2, webrtc.RTPCodecTypeAudio
		}
		switch mime {
		case webrtc.MimeTypeH264:
			c.SDPFmtpLine = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"
		case webrtc.MimeTypeOpus:
			c.SDPFmtpLine = "minptime=10;useinbandfec=1"
		case webrtc.MimeTypePCMU:
			c.ClockRate, c.Channels = 8000, 0
		}
		if err := m.RegisterCodec(c, kind); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	pc, err := webrtc.NewAPI(webrtc.WithMediaEngine(m)).NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pc.GracefulClose() }()
	for _, kind := range kinds {
		if _, err := pc.AddTransceiverFromKind(kind, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly}); err != nil {
			t.Fatal(err)
		}
	}
	o, err := pc.CreateOffer(nil)
	if err != nil {
		t.Fatal(err)
	}
	return o.SDP
}

// problem returns an error unless b is a problem document of the status.
func problem(resp *http.Response, b []byte) error {
	if ct := resp.Header.Get("Content-Type"); !strings.HasPrefix(ct, "application/problem+json") {
		return fmt.Errorf("content type %q, want application/problem+json: %s", ct, b)
	}
	var v struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("the problem document: %w: %s", err, b)
	}
	if v.Status != resp.StatusCode || v.Title == "" {
		return fmt.Errorf("the problem document says too little or something else than status %d: %s", resp.StatusCode, b)
	}
	return nil
}

// Garbage to every endpoint is answered with a problem document, and leaves
// nothing behind: no goroutine, no file descriptor, no session.
func TestGarbageToHTTP(t *testing.T) {
	g := startGateway(t, route("studio", fmt.Sprintf(`first: {url: "rtmp://%s/live/x"}`, peers.FreeAddr(t)))+
		route(`"live/*"`, `first: {url: "rtmp://127.0.0.1:9/live", key: "${stream}"}`))
	public, admin := "http://"+g.listen, "http://"+g.admin
	sdp := map[string]string{"Content-Type": "application/sdp", "Authorization": "Bearer " + token}
	with := func(k, v string) map[string]string {
		h := map[string]string{k: v}
		for key, value := range sdp {
			if key != k {
				h[key] = value
			}
		}
		return h
	}
	good := offer(t, webrtc.MimeTypeH264, webrtc.MimeTypeOpus)
	cut, _, _ := strings.Cut(good, "a=rtpmap:")
	requests := []request{
		{"no token", "POST", g.whip("studio"), map[string]string{"Content-Type": "application/sdp"}, good, []int{401}},
		{"wrong token", "POST", g.whip("studio"), with("Authorization", "Bearer wrong"), good, []int{401, 403}},
		{"other scheme", "POST", g.whip("studio"), with("Authorization", "Basic dXNlcjpwYXNz"), good, []int{401, 403}},
		{"empty token", "POST", g.whip("studio"), with("Authorization", "Bearer "), good, []int{401, 403}},
		{"unknown stream", "POST", g.whip("nowhere"), sdp, good, []int{404}},
		{"unknown stream in depth", "POST", g.whip("a/b/c/d"), sdp, good, []int{404}},
		{"bad name", "POST", g.whip("a%20b"), sdp, good, []int{400, 404}},
		{"dots", "POST", g.whip("live/.."), sdp, good, []int{400, 404, 307, 301}},
		{"zero byte", "POST", g.whip("live/a%00b"), sdp, good, []int{400, 404}},
		{"encoded slash", "POST", g.whip("live%2f%2e%2e%2fstudio"), sdp, good, []int{400, 404}},
		{"long name", "POST", g.whip("live/" + strings.Repeat("x", 4000)), sdp, good, []int{400, 404, 414, 431}},
		{"no name", "POST", g.whip(""), sdp, good, []int{400, 404, 405}},
		{"content type", "POST", g.whip("studio"), with("Content-Type", "text/plain"), good, []int{415}},
		{"JSON", "POST", g.whip("studio"), with("Content-Type", "application/json"), `{"sdp":"x"}`, []int{415}},
		{"no body", "POST", g.whip("studio"), sdp, "", []int{400, 422}},
		{"no description", "POST", g.whip("studio"), sdp, "hello", []int{400, 422}},
		{"cut description", "POST", g.whip("studio"), sdp, cut, []int{400, 422}},
		{"binary", "POST", g.whip("studio"), sdp, "\x00\xff\xfe\x00", []int{400, 422}},
		{"oversized", "POST", g.whip("studio"), sdp, "v=0\r\n" + strings.Repeat("a=x\r\n", 1<<20), []int{413}},
		{"oversized without a token", "POST", g.whip("studio"), map[string]string{"Content-Type": "application/sdp"}, strings.Repeat("x", 4<<20), []int{401, 413}},
		{"no H.264", "POST", g.whip("studio"), sdp, offer(t, webrtc.MimeTypeVP8, webrtc.MimeTypeOpus), []int{422}},
		{"sound alone in PCMU", "POST", g.whip("studio"), sdp, offer(t, webrtc.MimeTypePCMU), []int{422}},
		{"PUT", "PUT", g.whip("studio"), sdp, good, []int{405}},
		{"odd method", "FOO", g.whip("studio"), sdp, good, []int{405, 501}},
		{"no session", "DELETE", g.whip("~/nothing"), sdp, "", []int{404}},
		{"no session to patch", "PATCH", g.whip("~/nothing"), with("Content-Type", "application/trickle-ice-sdpfrag"), "a=x", []int{404, 405}},
		{"page of an unknown stream", "POST", public + "/publish/studio", nil, "x=1", []int{405}},
		{"page of a stream without a route", "GET", public + "/publish/nosuch", nil, "", []int{404}},
		{"page of a bad name", "GET", public + "/publish/a%20b", nil, "", []int{400, 404}},
		{"unknown path", "GET", public + "/nothing", nil, "", []int{404}},
		{"admin on the public side", "GET", public + "/v1/streams", nil, "", []int{404}},
		{"metrics on the public side", "GET", public + "/metrics", nil, "", []int{404}},
		{"pprof on the public side", "GET", public + "/debug/pprof/", nil, "", []int{404}},
		{"POST to health", "POST", public + "/livez", nil, "x", []int{405}},
		{"unknown admin path", "GET", admin + "/v1/nothing", nil, "", []int{404}},
		{"POST to streams", "POST", admin + "/v1/streams", nil, "{}", []int{405}},
		{"whip on the admin side", "POST", admin + "/whip/studio", sdp, good, []int{404}},
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, r := range requests {
		resp, b, err := r.do(client)
		if err != nil {
			// A server may close on a body that is far too large.
			if !strings.HasPrefix(r.name, "oversized") {
				t.Errorf("%s: %v", r.name, err)
			}
			continue
		}
		if !contains(r.want, resp.StatusCode) {
			t.Errorf("%s: %s %.80s: status %d, want one of %v: %.300s", r.name, r.method, r.url, resp.StatusCode, r.want, b)
		} else if resp.StatusCode >= 400 {
			if err := problem(resp, b); err != nil {
				t.Errorf("%s: %v", r.name, err)
			}
		}
		if bytes.Contains(b, []byte(token)) {
			t.Errorf("%s: the answer contains the token", r.name)
		}
		if r.name == "no H.264" && !bytes.Contains(b, []byte("H264")) && !bytes.Contains(b, []byte("H.264")) {
			t.Errorf("%s: the answer does not say that H.264 is wanted: %s", r.name, b)
		}
	}
	if s, err := g.stream("studio"); err != nil || s.Publisher != nil {
		t.Errorf("stream %+v, error %v; want no publisher", s, err)
	}

	// The first round has warmed up pools; from here on the level must stay.
	before := g.footprint(t)
	random := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		for _, r := range requests {
			if strings.HasPrefix(r.name, "oversized") {
				continue
			}
			if random.IntN(2) == 0 {
				b := []byte(r.body)
				for range 1 + random.IntN(8) {
					if len(b) > 0 {
						b[random.IntN(len(b))] = byte(random.IntN(256))
					}
				}
				r.body = string(b)
			}
			resp, b, err := r.do(client)
			if err == nil && resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented {
				t.Errorf("%s: status %d: %s", r.name, resp.StatusCode, b)
			}
		}
	}
	for range 20 {
		garbageToTCP(t, g.listen, random)
		garbageToTCP(t, g.admin, random)
	}
	peers.Wait(t, 40*time.Second, "goroutines, descriptors and sessions as before", func() error {
		after := g.footprint(t)
		for what, n := range after {
			if n > before[what]+4 {
				return fmt.Errorf("%s: %d, was %d", what, n, before[what])
			}
		}
		return nil
	})
}

func contains(list []int, n int) bool {
	for _, v := range list {
		if v == n {
			return true
		}
	}
	return false
}

// garbageToTCP writes bytes that are no HTTP, or the beginning of a request, and
// hangs up.
func garbageToTCP(t *testing.T, addr string, random *rand.Rand) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	switch random.IntN(3) {
	case 0:
		b := make([]byte, 1+random.IntN(2000))
		for i := range b {
			b[i] = byte(random.IntN(256))
		}
		_, _ = c.Write(append(b, "\r\n\r\n"...))
		_, _ = bufio.NewReader(c).ReadString('\n')
	case 1:
		_, _ = c.Write([]byte("POST /whip/studio HTTP/1.1\r\nHost: x\r\nContent-Type: application/sdp\r\nContent-Length: 100000\r\n\r\nv=0"))
	default:
		_, _ = c.Write([]byte("POST /whip/studio HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"))
		_, _ = bufio.NewReader(c).ReadString('\n')
	}
}

// footprint counts what must not grow: goroutines of the core, descriptors of
// all processes, sessions and publishers.
func (g *gateway) footprint(t *testing.T) map[string]int {
	t.Helper()
	counts := map[string]int{}
	code, body, err := get("http://" + g.admin + "/debug/pprof/goroutine?debug=1")
	m := regexp.MustCompile(`goroutine profile: total (\d+)`).FindStringSubmatch(body)
	if err != nil || code != http.StatusOK || m == nil {
		t.Fatalf("asking for goroutines: %d, %v: %.200s", code, err, body)
	}
	counts["goroutines of the core"], _ = strconv.Atoi(m[1])
	fds := func(pid int) int {
		list, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	counts["descriptors of the core"] = fds(g.PID())
	for pid, line := range children(t, g.PID()) {
		counts["descriptors of "+line[strings.LastIndexByte(line, ' ')+1:]] = fds(pid)
	}
	s, err := g.stream("studio")
	if err != nil {
		t.Fatal(err)
	}
	if s.Publisher != nil {
		counts["publishers"] = 100
	}
	return counts
}

// A publisher that was accepted and never connects, or vanishes at once, does
// not keep the name.
func TestPublisherThatNeverConnects(t *testing.T) {
	g := startGateway(t, route("studio", fmt.Sprintf(`first: {url: "rtmp://%s/live/x"}`, peers.FreeAddr(t))))
	card, err := clip.Load()
	if err != nil {
		t.Fatal(err)
	}
	p, err := whipclient.Publish(t.Context(), whipclient.Config{
		URL: g.whip("studio"), Token: secret.New(token),
		Video: &whipclient.Media{Track: card.Tracks[0], Units: card.Units(clip.VideoTrack)},
		Audio: &whipclient.Media{Track: card.Tracks[1], Units: card.Units(clip.AudioTrack)}, Length: clip.Duration,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Vanish()
	peers.Wait(t, 40*time.Second, "the vanished publisher to be given up", func() error {
		s, err := g.stream("studio")
		if err == nil && s.Publisher != nil {
			err = fmt.Errorf("still there: %+v", s.Publisher)
		}
		return err
	})
}

// WHIP's manners: preflight, Location, ETag, and DELETE that ends the session.
func TestWHIPManners(t *testing.T) {
	g := startGateway(t, route("studio", fmt.Sprintf(`first: {url: "rtmp://%s/live/x"}`, peers.FreeAddr(t))))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, _, err := request{method: "OPTIONS", url: g.whip("studio"), header: map[string]string{
		"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type",
	}}.do(client)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode/100 != 2 || resp.Header.Get("Access-Control-Allow-Origin") == "" || !strings.Contains(strings.ToLower(resp.Header.Get("Access-Control-Allow-Headers")), "authorization") {
		t.Errorf("preflight: %s %v", resp.Status, resp.Header)
	}
	resp, answer, err := request{method: "POST", url: g.whip("studio"), header: map[string]string{
		"Content-Type": "application/sdp", "Authorization": "Bearer " + token, "Origin": "https://elsewhere.example",
	}, body: offer(t, webrtc.MimeTypeVP8, webrtc.MimeTypeH264, webrtc.MimeTypeOpus)}.do(client)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusCreated || resp.Header.Get("ETag") == "" || resp.Header.Get("Content-Type") != "application/sdp" {
		t.Fatalf("POST: %s %v %s", resp.Status, resp.Header, answer)
	}
	exposed := strings.ToLower(resp.Header.Get("Access-Control-Expose-Headers"))
	if !strings.Contains(exposed, "location") {
		t.Errorf("exposed headers %q, want Location among them", exposed)
	}
	if !strings.Contains(string(answer), "stereo=1") || strings.Contains(string(answer), "VP8") {
		t.Errorf("the answer should ask for stereo and leave VP8 out:\n%s", answer)
	}
	location, err := resp.Request.URL.Parse(resp.Header.Get("Location"))
	if err != nil || !strings.HasPrefix(location.Path, "/whip/~/") {
		t.Fatalf("location %v, error %v", location, err)
	}
	resp, _, err = request{method: "DELETE", url: location.String(), header: map[string]string{"Authorization": "Bearer " + token}}.do(client)
	if err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("DELETE: %v, error %v", resp, err)
	}
	resp, b, err := request{method: "DELETE", url: location.String(), header: map[string]string{"Authorization": "Bearer " + token}}.do(client)
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("second DELETE: %v %s, error %v", resp, b, err)
	}
	if s, err := g.stream("studio"); err != nil || s.Publisher != nil {
		t.Errorf("stream %+v, error %v; want no publisher", s, err)
	}
}
