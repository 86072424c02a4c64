package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/gateway/core/status"
	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/test/camera"
	"github.com/headgate/gateway/test/peers"
)

// shown are the pictures that an RTMP server was sent.
type shown struct {
	addr string

	mu       sync.Mutex // guards the fields below
	sessions []uint64   // that published, oldest first
	pictures []shownPicture
}

// A shownPicture is one picture.
type shownPicture struct {
	session uint64
	at      time.Time
	key     bool
}

func receive(t *testing.T) *shown {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &shown{addr: l.Addr().String()}
	s := &rtmp.Server{Listener: l, OnMessage: a.message, OnPublish: func(p *rtmp.Publish) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.sessions = append(a.sessions, p.ID)
	}}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return a
}

func (a *shown) message(p *rtmp.Publish, m rtmp.Message, at time.Time) {
	if m.Type != rtmp.TypeVideo || len(m.Body) < 6 || m.Body[1] != 1 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pictures = append(a.pictures, shownPicture{p.ID, at, m.Body[0]>>4 == 1})
}

// since are the pictures that came after a moment.
func (a *shown) since(at time.Time) (list []shownPicture, sessions int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.pictures, func(p shownPicture) bool { return p.at.After(at) })
	if i < 0 {
		return nil, len(a.sessions)
	}
	return slices.Clone(a.pictures[i:]), len(a.sessions)
}

// fetches is a route that fetches a camera.
func fetches(name, from, target string) string {
	return fmt.Sprintf("  %s:\n    from: {%s}\n    to:\n      %s\n", name, from, target)
}

// rtspFirstPicture is what may pass from a camera's keyframe to the target.
const rtspFirstPicture = 300 * time.Millisecond

// TestCameraRestarts: the first picture is at the target soon after the camera's next
// keyframe, and a camera that was off for a while goes on in the same session of the
// target.
func TestCameraRestarts(t *testing.T) {
	sink := receive(t)
	c := camera.Start(t, peers.FreeAddr(t), camera.Script{User: "admin", Password: "CANARYpassword"})
	started := time.Now()
	g := startPlainGateway(t, fetches("gate", fmt.Sprintf("url: \"rtsp://admin:CANARYpassword@%s/stream\"", c.Addr),
		fmt.Sprintf(`cdn: {url: "rtmp://%s/live/x", interleave: low}`, sink.addr)))
	picture := func(what string, after time.Time) (took time.Duration) {
		t.Helper()
		var list []shownPicture
		peers.Wait(t, 60*time.Second, what, func() error {
			if list, _ = sink.since(after); len(list) < 40 {
				return fmt.Errorf("%d pictures", len(list))
			}
			return nil
		})
		if !list[0].key {
			t.Errorf("%s: the first one is no keyframe", what)
		}
		// The keyframe that it is: the newest one before it.
		for _, at := range slices.Backward(c.Keyframes()) {
			if at.Before(list[0].at) {
				return list[0].at.Sub(at)
			}
		}
		t.Errorf("%s: it comes before every keyframe of the camera", what)
		return 0
	}
	took := picture("the first pictures", started)
	t.Logf("first picture at the target %v after the camera sent its keyframe (at most %v)", took, rtspFirstPicture)
	if took > busyMachine*rtspFirstPicture {
		t.Errorf("the first picture took %v", took)
	}
	g.waitTarget(t, 30*time.Second, "gate", "cdn", status.TargetLive)

	c.Stop()
	off := time.Now()
	g.waitTarget(t, 30*time.Second, "gate", "cdn", status.TargetWaiting)
	peers.Run(t, 3*time.Second)
	on := time.Now()
	c.Again()
	took = picture("the pictures after the restart", on)
	list, sessions := sink.since(on)
	if sessions != 1 {
		t.Errorf("the target had %d sessions, want one", sessions)
	}
	t.Logf("camera off for %v: pictures again %v after it was on, %v after its keyframe, in the same session",
		on.Sub(off).Round(time.Millisecond), list[0].at.Sub(on).Round(time.Millisecond), took)
	if strings.Contains(g.Output(), "CANARY") {
		t.Error("the log holds the camera's password")
	}
}

// TestOnDemand: a source is fetched while a target is switched on, and not otherwise.
func TestOnDemand(t *testing.T) {
	sink := receive(t)
	c := camera.Start(t, peers.FreeAddr(t), camera.Script{})
	g := startPlainGateway(t, fetches("yard", fmt.Sprintf("url: \"rtsp://%s/stream\", on_demand: true", c.Addr),
		fmt.Sprintf(`cdn: {url: "rtmp://%s/live/x", enabled: false}`, sink.addr)))
	turn := func(on bool) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, "http://"+g.admin+"/v1/streams/yard/targets/cdn", bytes.NewReader(fmt.Appendf(nil, `{"enabled": %v}`, on)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("PATCH: %s", resp.Status)
		}
	}
	peers.Run(t, time.Second)
	if n := c.Watchers(); n != 0 {
		t.Errorf("%d sessions though nobody wants the stream", n)
	}
	turn(true)
	g.waitTarget(t, 30*time.Second, "yard", "cdn", status.TargetLive)
	turn(false)
	peers.Wait(t, 30*time.Second, "the end of the session", func() error {
		if n := c.Watchers(); n != 0 {
			return fmt.Errorf("%d sessions", n)
		}
		return nil
	})
}

// TestEncoders: encoders come by rtsps and rtsp with the token in the URL or as their
// password. One with a wrong token is told so; who comes last has the stream, in the same
// session of the target; a client that does not trust the certificate is in the log.
func TestEncoders(t *testing.T) {
	peers.Need(t, "ffmpeg")
	sink := receive(t)
	cert, key := peers.NewCA(t).Issue(t, "127.0.0.1")
	plain, secured := peers.FreeAddr(t), peers.FreeAddr(t)
	g := startGatewayWith(t, fmt.Sprintf("  ingest-rtsp: {options: {listen: %q, listen_tls: %q, certificate: %q, certificate_key: %q}}\n", plain, secured, cert, key),
		route("studio", fmt.Sprintf(`cdn: {url: "rtmp://%s/live/x", interleave: low}`, sink.addr)))
	encode := func(url string) *peers.Process {
		return peers.Start(t, peers.Command{Name: "ffmpeg", Path: peers.Find(t, "ffmpeg"), Args: []string{"-nostdin", "-v", "error", "-re",
			"-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25", "-f", "lavfi", "-i", "sine=sample_rate=48000", "-pix_fmt", "yuv420p",
			"-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-c:a", "aac", "-f", "rtsp", "-rtsp_transport", "tcp", url}})
	}
	arrive := func(what string, after time.Time) {
		t.Helper()
		peers.Wait(t, 60*time.Second, what, func() error {
			if list, _ := sink.since(after); len(list) < 40 {
				return fmt.Errorf("%d pictures", len(list))
			}
			return nil
		})
	}
	refused := encode("rtsp://anybody:canary-wrong@" + plain + "/studio")
	if code := refused.ExitCode(t, 30*time.Second); code == 0 || !strings.Contains(refused.Output(), "401 Unauthorized") {
		t.Errorf("a wrong token: exit code %d\n%s", code, refused.Output())
	}
	first := encode("rtsps://anybody:" + token + "@" + secured + "/studio")
	arrive("pictures by rtsps", time.Time{})
	if _, err := tls.Dial("tcp", secured, peers.NewCA(t).ClientConfig()); err == nil {
		t.Error("a client that trusts another authority was content")
	}
	g.Match(t, 30*time.Second, "an encoder does not take the certificate.*bad certificate")

	encode("rtsp://" + plain + "/studio?token=" + token)
	if code := first.ExitCode(t, 30*time.Second); code == 0 {
		t.Errorf("the one before ended as if it was content\n%s", first.Output())
	}
	arrive("pictures of who came last", time.Now())
	if _, sessions := sink.since(time.Time{}); sessions != 1 {
		t.Errorf("the target had %d sessions, want one", sessions)
	}
	g.waitTarget(t, 30*time.Second, "studio", "cdn", status.TargetLive)
	if text := g.Output(); strings.Contains(text, token) || strings.Contains(text, "canary-wrong") {
		t.Error("the log holds a token")
	}
}

// TestCameraByTLS: a source's certificate is verified by the authority that the options
// name, and what is wrong with it is told.
func TestCameraByTLS(t *testing.T) {
	sink := receive(t)
	ca, other := peers.NewCA(t), peers.NewCA(t)
	pair, err := tls.LoadX509KeyPair(ca.Issue(t, "127.0.0.1"))
	must(t, err)
	stranger, err := tls.LoadX509KeyPair(other.Issue(t, "127.0.0.1"))
	must(t, err)
	misnamed, err := tls.LoadX509KeyPair(ca.Issue(t, "camera.example.com"))
	must(t, err)
	var routes strings.Builder
	for name, pair := range map[string]*tls.Certificate{"good": &pair, "stranger": &stranger, "misnamed": &misnamed} {
		c := camera.Start(t, peers.FreeAddr(t), camera.Script{TLS: pair})
		routes.WriteString(fetches(name, fmt.Sprintf("url: \"rtsps://%s/stream\"", c.Addr), fmt.Sprintf(`cdn: {url: "rtmp://%s/live/%s"}`, sink.addr, name)))
	}
	g := startGatewayWith(t, fmt.Sprintf("  ingest-rtsp: {options: {ca: %q}}\n", ca.File), routes.String())
	g.waitTarget(t, 30*time.Second, "good", "cdn", status.TargetLive)
	g.Match(t, 30*time.Second, "stream=stranger .*the source's certificate is not trusted")
	g.Match(t, 30*time.Second, "stream=misnamed .*the source's certificate is not trusted .*not 127.0.0.1|stream=misnamed .*doesn't contain any IP SANs")
}
