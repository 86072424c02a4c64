package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/sdk/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var rewrite = flag.Bool("rewrite", false, "write what is found into the golden files")

type fakeGateway struct {
	streams []status.Stream
	plugins []status.Plugin

	names   []string // of targets
	changes int
	body    string // of the last change
	asked   string // the stream that was last asked for
}

func (f *fakeGateway) Streams() []status.Stream { return f.streams }
func (f *fakeGateway) Plugins() []status.Plugin { return f.plugins }

// The targets are those of the stream studio; a tag counts the changes.

func (f *fakeGateway) target(stream, name string) (int, error) {
	if stream == "ending" {
		return 0, status.ErrEnding
	}
	if stream != "studio" && stream != "a/targets/b" {
		return 0, status.ErrNoStream
	}
	n := slices.Index(f.names, name)
	if n < 0 {
		return 0, status.ErrNoTarget
	}
	return n, nil
}

func (f *fakeGateway) tag(name string) string {
	if slices.Contains(f.names, name) {
		return fmt.Sprintf("t%d", f.changes)
	}
	return ""
}

func (f *fakeGateway) Target(stream, name string) (status.Target, string, error) {
	f.asked = stream
	if _, err := f.target(stream, name); err != nil {
		return status.Target{}, "", err
	}
	return status.Target{Name: name, State: status.TargetIdle}, f.tag(name), nil
}

func (f *fakeGateway) PutTarget(stream, name string, definition []byte, check func(string) error) (bool, config.Diagnostics, error) {
	if _, err := f.target(stream, name); err != nil && !errors.Is(err, status.ErrNoTarget) {
		return false, nil, err
	}
	if err := check(f.tag(name)); err != nil {
		return false, nil, err
	}
	if !json.Valid(definition) {
		return false, nil, &status.InvalidTargetError{Diagnostics: config.Diagnostics{{Path: "url", Finding: "wrong", Remedy: "correct it"}}}
	}
	f.changes++
	f.body = string(definition)
	if f.tag(name) != "" {
		return false, nil, nil
	}
	f.names = append(f.names, name)
	return true, config.Diagnostics{{Path: "preset", Finding: "not verified", Warning: true}}, nil
}

func (f *fakeGateway) PatchTarget(stream, name string, patch []byte, check func(string) error) (config.Diagnostics, error) {
	if _, err := f.target(stream, name); err != nil {
		return nil, err
	}
	if err := check(f.tag(name)); err != nil {
		return nil, err
	}
	f.changes++
	f.body = string(patch)
	return nil, nil
}

func (f *fakeGateway) RemoveTarget(stream, name string, check func(string) error) error {
	n, err := f.target(stream, name)
	if err != nil {
		return err
	}
	if err := check(f.tag(name)); err != nil {
		return err
	}
	f.names = slices.Delete(f.names, n, n+1)
	return nil
}

var since = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func oneOfEach() *fakeGateway {
	retry := since.Add(time.Minute)
	return &fakeGateway{
		streams: []status.Stream{
			{Name: "empty", State: status.StreamIdle, Since: since,
				Source: &status.Source{Plugin: "ingest-rtsp", State: status.SourceWaiting, Since: since, Attempt: 3, NextRetry: &retry,
					LastError: &status.Error{Cause: "remote", Message: "connection refused", At: since}}},
			{Name: "studio", State: status.StreamLive, Since: since,
				Publisher: &status.Publisher{
					Plugin: "ingest-webrtc", Remote: "192.0.2.1:5000", Since: since, Silent: &retry, LimitBPS: 800_000,
					RTTSeconds: 0.04, BytesReceived: 2000, UnitsLost: 1,
					Values: map[string]float64{"rtp_packets_lost": 3}, Info: map[string]string{"ice_pair": "host/prflx"},
				},
				Tracks: []status.Track{{ID: 1, Codec: "h264", Width: 1280, Height: 720}, {ID: 2, Codec: "opus", Channels: 2},
					{ID: 3, Codec: "aac", Channels: 2, DerivedFrom: 2, Values: map[string]float64{"silent_seconds_total": 1.5}}},
				Targets: []status.Target{
					{Name: "a", State: status.TargetLive, Since: since, Attempt: 1, BytesSent: 1000, UnitsSent: 10,
						UnitsDropped: map[string]uint64{"lag": 3}, LagSeconds: 0.25, TracksLeftOut: 1,
						Preset: "twitch", Address: "rtmp://live.twitch.tv/...", OnBackup: true, ByAPI: true,
						VideoBPS: 2_500_000, AudioBPS: 128_000, FrameRate: 29.97, KeyframeIntervalSeconds: 4.1,
						Peer: &status.Peer{BytesAcknowledged: 900, BytesUnsent: 50, UnsentSeconds: 0.1, UnackedSeconds: 0.2, Retransmits: 3, DeliveryBPS: 8_000_000, RTTSeconds: 0.02,
							Values: map[string]float64{"rtmp_acknowledged_bytes": 900}},
						Warnings: []status.Warning{{Kind: "keyframe_interval", Finding: "twitch: keyframe interval 4.1 s, limit 2 s",
							Remedy: "set it to 2 s", Since: since}}},
					{Name: "b", State: status.TargetFailed, Since: since, Attempt: 4, NextRetry: &retry,
						LastError: &status.Error{Cause: "remote", Message: "the key was refused", At: since}},
					{Name: "off", State: status.TargetIdle, Disabled: true, Since: since},
				}},
		},
		plugins: []status.Plugin{{Name: "egress-rtmp", Process: "1", Version: "1", State: "ready", Since: since, PID: 12, Restarts: 2, Sessions: 1}},
	}
}

// echo is a plugin's mount: it says what arrived.
func echo() []pluginhost.Mount {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d %v", r.Method, r.URL.Path, len(b), err)
	})
	return []pluginhost.Mount{{Prefix: "/whip/", Plugin: "ingest-webrtc", Handler: h}, {Prefix: "/publish/", Plugin: "ingest-webrtc", Handler: h}}
}

func newServer(g Gateway, token string, ready bool) *Server {
	c := make(chan struct{})
	if ready {
		close(c)
	}
	return New(Options{
		Config:  &config.Config{AdminToken: secret.New(token), Routes: []config.Route{{Name: "studio"}, {Name: "live/*"}}},
		Gateway: g, Mounts: echo, Ready: c, Version: "v1",
	})
}

func request(h http.Handler, method, target string, body io.Reader, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://127.0.0.1"+target, body)
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func wantProblem(t *testing.T, what string, w *httptest.ResponseRecorder, code int) {
	t.Helper()
	var p problemDocument
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != code || p.Status != code || p.Title == "" || p.Detail == "" ||
		w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: %d %s %q, want a problem document of %d", what, w.Code, w.Header().Get("Content-Type"), w.Body, code)
	}
}

// TestStreams holds the JSON that other programs read.
func TestStreams(t *testing.T) {
	w := request(newServer(oneOfEach(), "", true).Admin(), "GET", "/v1/streams", nil)
	var got bytes.Buffer
	if err := json.Indent(&got, w.Body.Bytes(), "", "  "); err != nil || w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%d %v %s", w.Code, err, w.Body)
	}
	if *rewrite {
		if err := os.WriteFile("testdata/streams.json", got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/streams.json")
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got\n%s", got.String())
	}
	w = request(newServer(&fakeGateway{}, "", true).Admin(), "GET", "/v1/streams", nil)
	if w.Body.String() != "{\"streams\":[]}\n" {
		t.Errorf("%s", w.Body)
	}
	w = request(newServer(&fakeGateway{}, "", true).Admin(), "GET", "/v1/plugins", nil)
	if w.Body.String() != "{\"plugins\":[]}\n" {
		t.Errorf("%s", w.Body)
	}
}

// What is told of a plugin that rests: why, and when it is tried again.
func TestRestingPlugin(t *testing.T) {
	retry := since.Add(time.Minute)
	g := &fakeGateway{plugins: []status.Plugin{{
		Name: "egress-x", Process: "1", State: "broken", Since: since, Restarts: 6, LastError: "exit status 3", RetryAt: &retry,
	}}}
	w := request(newServer(g, "", true).Admin(), "GET", "/v1/plugins", nil)
	const want = `{"plugins":[{"name":"egress-x","process":"1","version":"","state":"broken","since":"2026-01-02T03:04:05Z",` +
		`"restarts":6,"last_error":"exit status 3","sessions":0,"next_retry":"2026-01-02T03:05:05Z"}]}` + "\n"
	if w.Body.String() != want {
		t.Errorf("got  %swant %s", w.Body, want)
	}
}

func TestMetrics(t *testing.T) {
	g := oneOfEach()
	s := newServer(g, "", true)
	problems, err := testutil.GatherAndLint(s.registry())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	w := request(s.Admin(), "GET", "/metrics", nil)
	for _, line := range []string{
		`gateway_target_sent_bytes_total{stream="studio",target="a"} 1000`,
		`gateway_target_dropped_units_total{reason="lag",stream="studio",target="a"} 3`,
		`gateway_target_state{state="failed",stream="studio",target="b"} 1`,
		`gateway_target_state{state="live",stream="studio",target="b"} 0`,
		`gateway_target_value{stream="studio",target="a",value="rtmp_acknowledged_bytes"} 900`,
		`gateway_target_lag_seconds{stream="studio",target="a"} 0.25`,
		`gateway_stream_track_info{codec="aac",derived_from="2",stream="studio",track="3"} 1`,
		`gateway_source_state{plugin="ingest-rtsp",state="waiting",stream="empty"} 1`,
		`gateway_source_attempts_total{plugin="ingest-rtsp",stream="empty"} 3`,
		`gateway_stream_publisher{plugin="ingest-webrtc",stream="studio"} 1`,
		`gateway_publisher_silent{stream="studio"} 1`,
		`gateway_publisher_limit_bytes_per_second{stream="studio"} 100000`,
		`gateway_publisher_rtt_seconds{stream="studio"} 0.04`,
		`gateway_publisher_value{plugin="ingest-webrtc",stream="studio",value="rtp_packets_lost"} 3`,
		`gateway_publisher_info{name="ice_pair",plugin="ingest-webrtc",stream="studio",value="host/prflx"} 1`,
		`gateway_plugin_restarts_total{plugin="egress-rtmp",process="1"} 2`,
		`gateway_streams{state="live"} 1`,
	} {
		if !strings.Contains(w.Body.String(), line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
	for _, never := range []string{"192.0.2.1", "refused"} {
		if strings.Contains(w.Body.String(), never) {
			t.Errorf("%s is in a label", never)
		}
	}
}

// TestMetricsAreDocumented: docs/metrics.md has every series, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	g := oneOfEach()
	g.streams[1].UnitsDropped = map[string]uint64{"no_target": 1}
	families, err := newServer(g, "", true).registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, f := range families {
		if name := f.GetName(); strings.HasPrefix(name, "gateway_") {
			known[name] = true
			if !strings.Contains(string(text), "`"+name+"`") {
				t.Errorf("%s is not documented", name)
			}
		}
	}
	for _, m := range regexp.MustCompile("`(gateway_[a-z_]+)`").FindAllStringSubmatch(string(text), -1) {
		if !known[m[1]] {
			t.Errorf("%s is documented and does not exist", m[1])
		}
	}
}

// TestMetricsAreBounded: names that publishers choose do not make series without
// end, and those of the configuration have theirs always.
func TestMetricsAreBounded(t *testing.T) {
	g := &fakeGateway{}
	for i := range maxPatternStreams + 20 {
		g.streams = append(g.streams, status.Stream{Name: fmt.Sprintf("live/%04d", i), State: status.StreamLive, Since: since.Add(-time.Duration(i) * time.Second)})
	}
	g.streams = append(g.streams, status.Stream{Name: "studio", State: status.StreamIdle, Since: since.Add(time.Hour)})
	r := prometheus.NewRegistry()
	r.MustRegister(newCollector(g, configured(&config.Config{Routes: []config.Route{{Name: "studio"}, {Name: "live/*"}}})))
	n, err := testutil.GatherAndCount(r, "gateway_stream_state_timestamp_seconds")
	if err != nil || n != maxPatternStreams+1 {
		t.Errorf("%d series %v", n, err)
	}
	w := request(newServer(g, "", true).Admin(), "GET", "/metrics", nil).Body.String()
	if !strings.Contains(w, "gateway_streams_omitted 20\n") || !strings.Contains(w, fmt.Sprintf("gateway_streams{state=\"live\"} %d\n", maxPatternStreams+20)) ||
		!strings.Contains(w, `gateway_stream_state{state="idle",stream="studio"} 1`) {
		t.Error("the streams without series are not counted")
	}
}

func TestHealth(t *testing.T) {
	g := oneOfEach()
	starting := newServer(g, "", false)
	wantProblem(t, "starting", request(starting.Public(), "GET", "/readyz", nil), 503)
	starting.opt.Mounts = func() []pluginhost.Mount { return nil }
	wantProblem(t, "starting", request(starting.Public(), "POST", "/whip/studio", nil), 503)
	s := newServer(g, "", true)
	for _, h := range []http.Handler{s.Public(), s.Admin()} {
		for _, p := range []string{"/livez", "/readyz"} {
			if w := request(h, "GET", p, nil); w.Code != 200 {
				t.Errorf("%s: %d", p, w.Code)
			}
		}
	}
	g.plugins[0].State = "broken"
	wantProblem(t, "broken plugin", request(s.Public(), "GET", "/readyz", nil), 503)
	g.plugins[0].State = "backoff"
	if w := request(s.Public(), "GET", "/readyz", nil); w.Code != 200 {
		t.Errorf("restarting plugin: %d", w.Code)
	}
	s.Drain()
	wantProblem(t, "draining", request(s.Public(), "GET", "/readyz", nil), 503)
	if w := request(s.Public(), "GET", "/livez", nil); w.Code != 200 {
		t.Errorf("livez while draining: %d", w.Code)
	}
}

func TestMounts(t *testing.T) {
	h := newServer(oneOfEach(), "", true).Public()
	got := func(method, path string, body io.Reader) string {
		return request(h, method, path, body).Body.String()
	}
	if s := got("POST", "/whip/studio", strings.NewReader("v=0")); s != "POST /whip/studio 3 <nil>" {
		t.Error(s)
	}
	if s := got("GET", "/publish/live/a", nil); s != "GET /publish/live/a 0 <nil>" {
		t.Error(s)
	}
	if s := got("POST", "/whip/x", bytes.NewReader(make([]byte, maxBodyBytes))); s != "POST /whip/x 65536 <nil>" {
		t.Error(s)
	}
	wantProblem(t, "large", request(h, "POST", "/whip/x", bytes.NewReader(make([]byte, maxBodyBytes+1))), 413)
	// Of unknown length.
	wantProblem(t, "large", request(h, "POST", "/whip/x", io.MultiReader(bytes.NewReader(make([]byte, maxBodyBytes+1)))), 413)
	wantProblem(t, "broken", request(h, "POST", "/whip/x", io.MultiReader(strings.NewReader("v"), brokenReader{})), 400)
}

// TestForeignPages: what is open because nobody but this machine reaches it is
// not open to the pages that its browsers show.
func TestForeignPages(t *testing.T) {
	f := func(listen string, open bool, method, origin, auth string, want int) {
		t.Helper()
		cfg := &config.Config{Listen: listen, Routes: []config.Route{{Name: "studio"}, {Name: "party", Publish: config.Publish{Open: open}}}}
		s := New(Options{Config: cfg, Gateway: oneOfEach(), Mounts: echo})
		header := []string{"Authorization", auth}
		if origin != "" {
			header = append(header, "Origin", origin)
		}
		w := request(s.Public(), method, "/whip/studio", strings.NewReader("v=0"), header...)
		if w.Code != want {
			t.Errorf("%s from %q to %s: %d, want %d", method, origin, listen, w.Code, want)
		}
		if want == 401 {
			wantProblem(t, origin, w, 401)
		}
	}
	const here = "127.0.0.1:8080"
	f(here, false, "POST", "", "", 200) // OBS
	f(here, false, "POST", "http://localhost:8080", "", 200)
	f(here, false, "POST", "http://127.0.0.1:9000", "", 200)
	f(here, false, "POST", "http://[::1]:8080", "", 200)
	f(here, false, "POST", "https://evil.example", "", 401)
	f(here, false, "POST", "http://localhost.evil.example:8080", "", 401) // by a name that leads here
	f(here, false, "POST", "null", "", 401)
	f(here, false, "POST", "%", "", 401)
	f(here, false, "DELETE", "https://evil.example", "", 200) // of a session whose name nobody can guess
	f(here, false, "OPTIONS", "https://evil.example", "", 200)
	f(here, false, "POST", "https://studio.example", "Bearer t", 200) // the token decides
	f(here, true, "POST", "https://studio.example", "", 200)          // open to anyone, in words
	f("192.0.2.1:8080", false, "POST", "https://studio.example", "", 200)
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestAdminAsksWho(t *testing.T) {
	h := newServer(oneOfEach(), "let-me-in", true).Admin()
	for _, path := range []string{"/v1/streams", "/v1/plugins", "/metrics", "/debug/pprof/", "/debug/pprof/heap", "/nothing", "/"} {
		for _, auth := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "Bearer let-me-in-", "Basic let-me-in", "let-me-in"} {
			w := request(h, "GET", path, nil, "Authorization", auth)
			wantProblem(t, path+" "+auth, w, 401)
			if w.Header().Get("WWW-Authenticate") == "" {
				t.Error("no WWW-Authenticate")
			}
		}
	}
	for _, host := range []string{"127.0.0.1:8081", "gateway.example"} {
		if w := request(h, "GET", "/v1/streams", nil, "Authorization", "bearer let-me-in", "Host", host); w.Code != 200 {
			t.Errorf("with the token: %d", w.Code)
		}
	}
}

// TestAdminOnLoopback: without a token a page in a browser on this machine gets
// nothing, whatever its name resolves to.
func TestAdminOnLoopback(t *testing.T) {
	h := newServer(oneOfEach(), "", true).Admin()
	for _, host := range []string{"localhost", "localhost:8081", "127.0.0.1:8081", "[::1]:8081", "[::1]"} {
		if w := request(h, "GET", "/v1/streams", nil, "Host", host); w.Code != 200 {
			t.Errorf("%s: %d", host, w.Code)
		}
	}
	for _, host := range []string{"evil.example", "evil.example:8081", "127.0.0.1.evil.example", ""} {
		wantProblem(t, host, request(h, "GET", "/v1/streams", nil, "Host", host), 403)
	}
	wantProblem(t, "cross origin", request(h, "POST", "/v1/streams", nil, "Sec-Fetch-Site", "cross-site"), 403)
}

// TestGarbage: whatever is sent to whatever address, the answer is a problem
// document of 4xx, or 200 where reading is all that was asked.
func TestGarbage(t *testing.T) {
	s := newServer(oneOfEach(), "", true)
	s.opt.Mounts = func() []pluginhost.Mount { return nil }
	paths := []string{"/", "/livez", "/readyz", "/v1/streams", "/v1/plugins", "/metrics", "/debug/pprof/cmdline", "/v1/", "/v1", "/v2/streams", "/whip",
		"/whip/", "/whip//x", "/../x", "/%2e%2e/x", "/whip/%00", "/v1/streams/", "/debug/pprof/nothing", "/" + strings.Repeat("a", 5000)}
	for _, h := range []http.Handler{s.Public(), s.Admin()} {
		for _, p := range paths {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "BREW"} {
				w := request(h, method, p, strings.NewReader("\x00garbage{"), "Content-Type", "nonsense")
				if w.Code == 200 && (method == "GET" || method == "HEAD") {
					continue
				}
				if w.Code < 400 || w.Code >= 500 {
					t.Errorf("%s %s: %d", method, p, w.Code)
				}
				wantProblem(t, method+" "+p, w, w.Code)
			}
		}
	}
}

func TestPanicIsAnswered(t *testing.T) {
	s := newServer(oneOfEach(), "", true)
	s.opt.Mounts = func() []pluginhost.Mount {
		return []pluginhost.Mount{{Prefix: "/whip/", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("x") })}}
	}
	wantProblem(t, "panic", request(s.Public(), "GET", "/whip/x", nil), 500)
}

// TestLandingScript: the policy of the page allows the script that is in it.
func TestLandingScript(t *testing.T) {
	_, rest, _ := strings.Cut(string(landing), "<script>")
	script, _, _ := strings.Cut(rest, "</script>")
	sum := sha256.Sum256([]byte(script))
	if got := base64.StdEncoding.EncodeToString(sum[:]); got != landingScriptHash {
		t.Errorf("landingScriptHash must be %s", got)
	}
	w := request(newServer(oneOfEach(), "", true).Public(), "GET", "/", nil)
	if !strings.Contains(w.Header().Get("Content-Security-Policy"), landingScriptHash) || !strings.Contains(w.Body.String(), "/whip/NAME") {
		t.Error(w.Header())
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestRun: both listeners answer until the context ends, which is no error; long
// headers are refused.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	public, admin := listen(t), listen(t)
	done := make(chan error, 1)
	go func() { done <- newServer(oneOfEach(), "", true).Run(ctx, public, admin) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, url := range []string{"http://" + public.Addr().String() + "/readyz", "http://" + admin.Addr().String() + "/v1/streams"} {
		resp, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: %s", url, resp.Status)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+public.Addr().String()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Long", strings.Repeat("x", maxHeaderBytes))
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("16 KiB of headers: %s", resp.Status)
	}
	// A client that sends nothing does not hold the end up.
	idle, err := net.Dial("tcp", public.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = idle.Close() }()
	cancel()
	started := time.Now()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if d := time.Since(started); d > 3*time.Second {
		t.Errorf("the end took %v", d)
	}
	if _, err := net.Dial("tcp", admin.Addr().String()); err == nil {
		t.Error("the admin listener is still there")
	}
}

// TestRunSaysWhyNot: a listener that fails is an error.
func TestRunSaysWhyNot(t *testing.T) {
	public, admin := listen(t), listen(t)
	_ = admin.Close()
	if err := newServer(oneOfEach(), "", true).Run(t.Context(), public, admin); err == nil {
		t.Error("no error")
	}
}

func writePair(t *testing.T, dir string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "gateway"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTLS: the public listener speaks TLS with the pair of the configuration, and
// takes a renewed one without a restart.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, 1)
	s := newServer(oneOfEach(), "", true)
	s.opt.Config.TLS = &config.TLS{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	ctx, cancel := context.WithCancel(t.Context())
	public, admin := listen(t), listen(t)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, public, admin) }()
	conn, err := tls.Dial("tcp", public.Addr().String(), &tls.Config{InsecureSkipVerify: true}) // the test made it itself
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("%v %v", resp, err)
	}
	if err == nil {
		_ = resp.Body.Close()
	}
	_ = conn.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}

	c, err := newCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), s.log)
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		c.checked = time.Time{}
		pair, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.SerialNumber.Int64()
	}
	if n := serial(); n != 1 {
		t.Errorf("serial %d", n)
	}
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := serial(); n != 1 {
		t.Errorf("a broken renewal replaced the certificate: %d", n)
	}
	writePair(t, dir, 2)
	if n := serial(); n != 2 {
		t.Errorf("serial %d after renewal", n)
	}
}

// TestStatusPage: the page is for browsers, lets only its own script run, and needs
// no token, since it shows nothing by itself.
func TestStatusPage(t *testing.T) {
	f := func(token string, header ...string) *httptest.ResponseRecorder {
		return request(newServer(oneOfEach(), token, true).Admin(), "GET", "/", nil, header...)
	}
	const html = "text/html,application/xhtml+xml"
	w := f("", "Accept", html)
	policy := w.Header().Get("Content-Security-Policy")
	if w.Code != 200 || !strings.HasPrefix(w.Body.String(), "<!doctype html>") || !strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "unsafe") {
		t.Errorf("%d %s", w.Code, policy)
	}
	for _, element := range []string{"style", "script"} {
		m := regexp.MustCompile(`(?s)<`+element+`>(.*?)</`+element+`>`).FindAllSubmatch(w.Body.Bytes(), -1)
		if len(m) != 1 {
			t.Fatalf("%d elements %s", len(m), element)
		}
		sum := sha256.Sum256(m[0][1])
		if !strings.Contains(policy, element+"-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
			t.Errorf("the policy does not let the %s of the page run", element)
		}
	}
	if strings.Contains(w.Body.String(), "innerHTML") || regexp.MustCompile(`\son[a-z]+=`).Match(w.Body.Bytes()) {
		t.Error("the page puts text in as markup")
	}
	if w := f("secret", "Accept", html); w.Code != 200 || strings.Contains(w.Body.String(), "studio") {
		t.Errorf("%d", w.Code)
	}
	wantProblem(t, "a page of a foreign name", f("", "Accept", html, "Host", "evil.example"), 403)
	wantProblem(t, "without a token", f("secret"), 401)
	if w := f(""); w.Code != 200 || !strings.HasPrefix(w.Body.String(), "Headgate, admin address") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
