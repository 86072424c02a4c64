package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/test/peers"
)

// api sends a request about a target, and returns code, body and ETag.
func (g *gateway) api(t *testing.T, method, stream, target, body string, header ...string) (code int, text, tag string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+g.admin+"/v1/streams/"+stream+"/targets/"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header.Get("ETag")
}

// A target is given, gets another key and another server, is switched off and on,
// fails and is removed, over and over, while its sibling is on the air: the sibling
// loses nothing, in the one session that it has.
func TestTargetsChangeWhileTheSiblingIsLive(t *testing.T) {
	peers.Need(t, "nginx", "ffmpeg", "ffprobe")
	one, two, down := peers.StartNginx(t), peers.StartNginx(t), peers.NewNginx(t)
	g := startGateway(t, route("studio",
		fmt.Sprintf(`sibling: {url: "%s"}`, one.URL("a", "x")),
		fmt.Sprintf(`other: {url: "rtmp://%s/b", key: canary-one}`, two.RTMPAddr)))
	p := g.publish(t, "studio")
	before, _ := one.WaitPublisher(t, 30*time.Second, "a", "x")
	two.WaitPublisher(t, 30*time.Second, "b", "canary-one")
	want := func(code int, method, body string, header ...string) string {
		t.Helper()
		got, text, tag := g.api(t, method, "studio", "other", body, header...)
		if got != code {
			t.Fatalf("%s %s: %d %s, want %d", method, body, got, text, code)
		}
		if strings.Contains(text, "canary") {
			t.Errorf("%s tells a key: %s", method, text)
		}
		return tag
	}
	first := want(200, "GET", "")
	for round := range 3 {
		key := fmt.Sprintf("canary-two-%d", round)
		tag := want(200, "PATCH", fmt.Sprintf(`{"key": %q}`, key), "If-Match", want(200, "GET", ""))
		want(412, "PATCH", `{"enabled": false}`, "If-Match", first)
		two.WaitPublisher(t, 30*time.Second, "b", key)
		g.waitTarget(t, 30*time.Second, "studio", "other", status.TargetLive)

		want(200, "PATCH", `{"enabled": false}`, "If-Match", tag)
		waitUnpublished(t, 30*time.Second, two, "b", key)
		g.waitTarget(t, 30*time.Second, "studio", "other", status.TargetIdle)
		want(200, "PATCH", `{"enabled": true}`)
		two.WaitPublisher(t, 30*time.Second, "b", key)

		// To a server that is down, and removed while it waits for the next try.
		want(200, "PUT", fmt.Sprintf(`{"url": "rtmp://%s/b", "key": "canary"}`, down.RTMPAddr), "If-Match", "*")
		g.waitTarget(t, 30*time.Second, "studio", "other", status.TargetWaiting)
		want(204, "DELETE", "")
		want(404, "GET", "")

		// Inside of this machine's network it is not let.
		want(201, "PUT", `{"url": "rtmp://169.254.169.254/latest", "key": "canary"}`, "If-None-Match", "*")
		if got := g.waitTarget(t, 30*time.Second, "studio", "other", status.TargetFailed); got.LastError == nil || got.LastError.Cause != "config" ||
			!strings.Contains(got.LastError.Message, "metadata") {
			t.Errorf("%+v", got.LastError)
		}
		want(412, "PUT", `{"url": "rtmp://127.0.0.1/app", "key": "k"}`, "If-None-Match", "*")
		want(428, "PUT", `{"url": "rtmp://127.0.0.1/app", "key": "k"}`)
		want(200, "PUT", fmt.Sprintf(`{"url": "rtmp://%s/b", "key": "canary-back"}`, two.RTMPAddr), "If-Match", "*")
		two.WaitPublisher(t, 30*time.Second, "b", "canary-back")
		g.waitTarget(t, 30*time.Second, "studio", "other", status.TargetLive)

		// A backup: the server goes, the backup has the stream.
		want(200, "PATCH", fmt.Sprintf(`{"url": "rtmp://%s/b", "backup": "rtmp://%s/b", "mode": null}`, down.RTMPAddr, two.RTMPAddr))
		peers.Wait(t, 30*time.Second, "the backup", func() error {
			got, err := g.target("studio", "other")
			if err == nil && (got.State != status.TargetLive || !got.OnBackup) {
				err = fmt.Errorf("%+v", got)
			}
			return err
		})
		want(200, "PATCH", fmt.Sprintf(`{"url": "rtmp://%s/b", "backup": null}`, two.RTMPAddr))
		g.waitTarget(t, 30*time.Second, "studio", "other", status.TargetLive)
	}
	want(422, "PATCH", `{"max_lag": "5h", "kee": "canary"}`)
	want(422, "PATCH", `{"bind": "canary"}`) // says the plugin
	if code, text, _ := g.api(t, "GET", "nothing", "other", ""); code != 404 {
		t.Errorf("%d %s", code, text)
	}
	got, err := g.target("studio", "sibling")
	if err != nil || got.State != status.TargetLive || got.Attempt != 1 || len(got.UnitsDropped) > 0 {
		t.Errorf("the sibling: %+v %v", got, err)
	}
	if now, _, err := one.Publisher("a", "x"); err != nil || now.ID != before.ID {
		t.Errorf("the sibling's connection was %d and is %d: %v", before.ID, now.ID, err)
	}
	if err := p.healthy(); err != nil {
		t.Error(err)
	}
	if code := p.Interrupt(t, 30*time.Second); code != 0 {
		t.Errorf("the publisher ended with %d", code)
	}
	waitUnpublished(t, 30*time.Second, one, "a", "x")
	if err := checkUnbroken(checkRecording(t, oneRecording(t, one, "a"))); err != nil {
		t.Error(err)
	}
	if out := g.Output(); strings.Contains(out, "canary") {
		t.Errorf("the log tells a key:\n%s", out)
	}
}

// Both addresses of one target have the stream, and one that fails does not touch
// the other.
func TestBothAddresses(t *testing.T) {
	peers.Need(t, "nginx", "ffmpeg", "ffprobe")
	one, two := peers.StartNginx(t), peers.StartNginx(t)
	g := startGateway(t, route("studio", fmt.Sprintf(`cdn: {url: "rtmp://%s/a", key: x, backup: "rtmp://%s/a?backup=1", mode: both}`, one.RTMPAddr, two.RTMPAddr)))
	p := g.publish(t, "studio")
	one.WaitPublisher(t, 30*time.Second, "a", "x")
	before, _ := two.WaitPublisher(t, 30*time.Second, "a", "x")
	g.waitTarget(t, 30*time.Second, "studio", "cdn", status.TargetLive)
	got := g.waitTarget(t, 30*time.Second, "studio", "cdn~backup", status.TargetLive)
	if want := "rtmp://" + two.RTMPAddr + "/..."; got.Address != want {
		t.Errorf("the backup is at %s, want %s", got.Address, want)
	}
	record(t, two, "a", "x", 2*time.Second)
	if err := one.DropPublisher("a", "x"); err != nil {
		t.Fatal(err)
	}
	one.WaitPublisher(t, 30*time.Second, "a", "x")
	if now, _, err := two.Publisher("a", "x"); err != nil || now.ID != before.ID {
		t.Errorf("the backup's connection was %d and is %d: %v", before.ID, now.ID, err)
	}
	record(t, two, "a", "x", 2*time.Second)
	var all status.Streams
	_, text, err := get("http://" + g.admin + "/v1/streams")
	if err != nil || json.Unmarshal([]byte(text), &all) != nil || len(all.Streams[0].Targets) != 2 {
		t.Errorf("%v %s", err, text)
	}
	_ = p.Interrupt(t, 30*time.Second)
	waitUnpublished(t, 30*time.Second, two, "a", "x")
	if err := checkUnbroken(checkRecording(t, oneRecording(t, two, "a"))); err != nil {
		t.Error(err)
	}
}
