package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/headgate/gateway/core/status"
)

var topNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func someStreams() status.Streams {
	retry := topNow.Add(42 * time.Second)
	return status.Streams{Streams: []status.Stream{
		{Name: "studio", State: status.StreamLive, Publisher: &status.Publisher{Plugin: "ingest-webrtc", Remote: "192.0.2.1:5000", Since: topNow.Add(-time.Hour)},
			Tracks: []status.Track{{ID: 1, Codec: "h264", Width: 1280, Height: 720}, {ID: 2, Codec: "opus"}, {ID: 3, Codec: "aac", DerivedFrom: 2}},
			Targets: []status.Target{
				{Name: "youtube", State: status.TargetLive, Attempt: 1, VideoBPS: 2_500_000, AudioBPS: 128_000, FrameRate: 29.97,
					KeyframeIntervalSeconds: 2, LagSeconds: 0.035, UnitsDropped: map[string]uint64{"lag": 3, "disposable": 4}},
				{Name: "twitch", State: status.TargetLive, Attempt: 2, OnBackup: true, Address: "rtmp://b.example/...", VideoBPS: 1, FrameRate: 30, KeyframeIntervalSeconds: 4.1,
					Warnings: []status.Warning{{Kind: "keyframe_interval", Finding: "twitch: keyframe interval 4.1 s, limit 2 s", Remedy: "set the keyframe interval of the publisher's encoder to 2 s"}}},
				{Name: "refused", State: status.TargetFailed, Attempt: 7, NextRetry: &retry,
					LastError: &status.Error{Cause: "config", Message: "key \x1b[31mrefused"}},
				{Name: "off", State: status.TargetIdle, Disabled: true, LastError: &status.Error{Cause: "remote", Message: "old"}},
			}},
		{Name: "camera", State: status.StreamHolding, Source: &status.Source{Plugin: "ingest-rtsp", State: status.SourceWaiting, Attempt: 3, NextRetry: &retry,
			LastError: &status.Error{Cause: "remote", Message: "connection refused"}}},
		{Name: "asleep", State: status.StreamIdle, Source: &status.Source{Plugin: "ingest-rtsp", State: status.SourceIdle}},
		{Name: "empty", State: status.StreamIdle, Source: &status.Source{State: status.SourceLive, LastError: &status.Error{Message: "old"}}},
	}}
}

func TestTopTable(t *testing.T) {
	f := func(st status.Streams, failure error, width int, want string) {
		t.Helper()
		lines := topTable("127.0.0.1:8081", st, failure, topNow, width, false)
		for _, l := range lines {
			if utf8.RuneCountInString(l) > width {
				t.Errorf("wider than %d: %s", width, l)
			}
		}
		if got := strings.Join(lines, "\n"); got != strings.TrimPrefix(want, "\n") {
			t.Errorf("got\n%s", got)
		}
	}
	f(someStreams(), nil, 80, `
gateway 127.0.0.1:8081  4 streams, 3 targets: 2 live, 1 failed  03:04:05

STREAM, TARGET  STATE     FPS  KEYFRAME  KB/S    LAG  DROPPED  TRIES
studio          live     h264 1280x720, opus, from 192.0.2.1:5000 for 1 h 0 min
  youtube       live     30.0     2.0 s  2628  35 ms        7      1
  twitch        live     30.0     4.1 s     0   0 ms        0      2
      on its backup, rtmp://b.example/...
      twitch: keyframe interval 4.1 s, limit 2 s; set the keyframe interval of
      the publisher's encoder to 2 s
  refused       failed                                      0      7
      again in 42 s: config: key ?[31mrefused
  off           off                                         0      0
camera          holding
      source waiting, tries 3, again in 42 s: remote: connection refused
asleep          idle
empty           idle`)
	f(status.Streams{}, nil, 80, `
gateway 127.0.0.1:8081  0 streams, 0 targets  03:04:05

STREAM, TARGET  STATE  FPS  KEYFRAME  KB/S  LAG  DROPPED  TRIES
no stream`)
	f(status.Streams{}, errors.New("no answer"), 80, `
no answer; trying again

STREAM, TARGET  STATE  FPS  KEYFRAME  KB/S  LAG  DROPPED  TRIES
no stream`)
	for width := 1; width < 120; width++ {
		for _, l := range topTable("127.0.0.1:8081", someStreams(), nil, topNow, width, false) {
			if utf8.RuneCountInString(l) > width {
				t.Fatalf("wider than %d: %s", width, l)
			}
		}
	}
	colored := strings.Join(topTable("x", someStreams(), nil, topNow, 80, true), "\n")
	if strings.Count(colored, "\x1b[") != 2*strings.Count(colored, plain) || !strings.Contains(colored, green+"live"+plain) || !strings.Contains(colored, red+"failed"+plain) {
		t.Errorf("%q", colored)
	}
}

func TestTopPlain(t *testing.T) {
	got := strings.Join(topPlain(someStreams(), topNow), "\n")
	want := `studio/youtube live, 30.0 fps, keyframe 2.0 s, 2628 kb/s, lag 35 ms, dropped 7, tries 1
studio/twitch live, 30.0 fps, keyframe 4.1 s, 0 kb/s, lag 0 ms, dropped 0, tries 2; on its backup, rtmp://b.example/...; twitch: keyframe interval 4.1 s, limit 2 s; set the keyframe interval of the publisher's encoder to 2 s
studio/refused failed, dropped 0, tries 7; again in 42 s: config: key ?[31mrefused
studio/off off, dropped 0, tries 0
camera source waiting, tries 3, again in 42 s: remote: connection refused
camera holding, no target
asleep idle, no target
empty idle, no target`
	if got != want {
		t.Errorf("got\n%s", got)
	}
	if got := topPlain(status.Streams{}, topNow); len(got) != 1 || got[0] != "no stream" {
		t.Errorf("%q", got)
	}
}

// TestTop asks a gateway that wants a token, and one that is not there.
func TestTop(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer canary" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(someStreams())
	}))
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	t.Setenv(adminVariable, addr)
	f := func(want int, in string, args ...string) string {
		t.Helper()
		code, out, stderr := gateway(t, "", append([]string{"top"}, args...)...)
		if code != want || !strings.Contains(out+stderr, in) || strings.Contains(out+stderr, "canary") {
			t.Errorf("%q: exit %d, want %d with %q:\n%s%s", args, code, want, in, out, stderr)
		}
		return out
	}
	f(1, "wants its admin_token", "--once")
	t.Setenv(adminTokenVariable, "canary")
	f(0, "studio/youtube live", "--once")
	var st status.Streams
	out := f(0, "{", "--once", "-o", "json")
	if err := json.Unmarshal([]byte(out), &st); err != nil || len(st.Streams) != 4 || strings.Count(out, "\n") != 1 {
		t.Errorf("%v %s", err, out)
	}
	f(1, "is the gateway running", "--admin", "127.0.0.1:1")
	f(2, "want text or json", "-o", "yaml")
	f(2, "at least 100ms", "--interval", "1ms")
	f(2, "takes one configuration", "a.yaml", "b.yaml")
	f(2, "no file", "--once", "nothing.yaml")
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) })
	f(1, "no gateway", "--once")
}
